// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The process: control requests of the coordinator onto a [`Function`] and its threads.
//!
//! `Configure` opens what the descriptors hold; `Start` begins to open the device, on a thread of its own
//! ([`crate::opening`]), and is answered at once. A device that cannot be opened is one that has failed: the process
//! serves on, the guest finds an empty slot, and the reason is an event and in `Inspect`. No request waits for the
//! device's server but `Pause` and `Resume`, which stop the device and let it go on; `Inspect` waits for nobody.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use ipc::channel::Channel;
use ipc::deadline::Deadline;
use ipc::doorbell::{Doorbell, Ringer};
use ipc::hello::{Hello, Role};
use ipc::protocol::control::{DirtyLogOp, Event, Failure, RoleConfig};
use ipc::protocol::inspect::Inspect;
use ipc::protocol::probe::{Probe, ProbeOutcome};
use ipc::protocol::vfio::VfioConfig;
use ipc::service::{self, Process};
use ipc::shm::dirty_log::DirtyLog;
use ipc::shm::guest_memory;
use ipc::shm::msi_board::{BOARD_LEN, MsiBoard};
use ipc::shm::region::Region;
use ipc::shm::ring::{self, Responder};
use sandbox::{Inherited, InheritedError, Locked};

use crate::bus_link::BusLink;
use crate::direct::Direct;
use crate::function::{Function, InterruptTarget, Links};
use crate::iommu::HostIommu;
use crate::iommu::engine::Engine;
use crate::iommu::software::SoftIommu;
use crate::opening::{self, Opening, Ready, Serving, Source};
use crate::report::Report;
use crate::stage1_link::Stage1Link;

/// The coordinator greets at once: it has just started us.
const HELLO_DEADLINE: Duration = Duration::from_secs(10);

/// Exit status after the vCPU process broke the ring's rules.
const EXIT_VIOLATION: i32 = 3;

/// What the process was given at exec, besides channel, crash page and log.
#[derive(Debug)]
pub struct Descriptors {
    /// Guest RAM.
    pub ram: OwnedFd,
    /// The dirty log of this process.
    pub dirty_log: OwnedFd,
    /// The MMIO ring.
    pub ring: OwnedFd,
    /// The stage 1 channel to the vSMMU.
    pub stage1: OwnedFd,
    /// What is behind the function.
    pub behind: Behind,
    /// The board of pending MSIs.
    pub msi_board: OwnedFd,
    /// Says to look at it.
    pub msi_doorbell: Ringer,
    /// The bus channel to the vCPU process.
    pub bus: OwnedFd,
    /// Says that the INTx pin is asserted.
    pub intx: Ringer,
    /// Tells that the guest has ended that interrupt.
    pub intx_end: Doorbell,
}

impl Descriptors {
    /// Takes them by the numbers that both programs' rows have in common; what is behind is each program's own.
    ///
    /// # Errors
    /// If one is not there.
    pub fn take(fds: &mut Inherited, behind: Behind) -> Result<Descriptors, InheritedError> {
        Ok(Descriptors {
            ram: fds.take(3)?,
            dirty_log: fds.take(4)?,
            ring: fds.take(5)?,
            stage1: fds.take(6)?,
            behind,
            msi_board: fds.take(8)?,
            msi_doorbell: fds.take(9)?.into(),
            bus: fds.take(10)?,
            intx: fds.take(11)?.into(),
            intx_end: fds.take(12)?.into(),
        })
    }
}

/// What is behind the function.
#[derive(Debug)]
pub enum Behind {
    /// The connection to a vfio-user server.
    Server(OwnedFd),
    /// A real device.
    Real {
        /// Its character device.
        cdev: OwnedFd,
        /// An iommufd of its own.
        iommu: OwnedFd,
    },
}

/// Greets the coordinator, says what is enforced, and serves until told to quit. `locked` is the proof that this
/// process is sealed; `spin` is how long to look for a request before sleeping.
///
/// # Errors
/// The channel's.
pub fn run(
    locked: &Locked,
    generation: u32,
    control: OwnedFd,
    descriptors: Descriptors,
    spin: Duration,
) -> Result<(), ipc::error::Error> {
    let channel = Arc::new(Channel::from_fd(control, Hello::new(Role::Vfio, generation)));
    channel.hello(Role::Coordinator, Deadline::after(HELLO_DEADLINE))?;
    service::tell(&channel, &Event::Sealed(locked.enforced().lines()));
    let told = Arc::clone(&channel);
    let report = Report::new(move |event| {
        service::tell(&told, &event);
        if let Event::Fatal(reason) = event {
            ipc::log::error!("vfio: {reason}");
            // The guest's only way to the device is closed: the supervisor decides what becomes of the VM.
            std::process::exit(EXIT_VIOLATION);
        }
    });
    let mut process = VfioProcess::new(descriptors, generation, spin, report);
    service::serve(&channel, &mut process)
}

enum Stage {
    Unconfigured(Box<Descriptors>),
    Ready(Box<Ready>),
    Started(Opening),
    /// A step failed halfway: only `Quit` is left.
    Spent,
}

/// The process as the coordinator sees it.
pub struct VfioProcess {
    generation: u32,
    spin: Duration,
    log: Option<Arc<DirtyLog>>,
    report: Report,
    stage: Stage,
}

impl VfioProcess {
    /// An unconfigured one. What becomes of its device goes to `report`, and that the ring had to be closed.
    pub fn new(descriptors: Descriptors, generation: u32, spin: Duration, report: Report) -> VfioProcess {
        let stage = Stage::Unconfigured(Box::new(descriptors));
        VfioProcess { generation, spin, log: None, report, stage }
    }

    fn open(&mut self, config: VfioConfig, given: Descriptors) -> Result<(), Failure> {
        let fail = |what: &str, why: &dyn ToString| Failure::new(what.to_owned(), why.to_string());
        let Descriptors {
            ram,
            dirty_log,
            ring,
            stage1,
            behind,
            msi_board,
            msi_doorbell,
            bus,
            intx,
            intx_end,
        } = given;
        let ram = Region::from_fd(ram, config.ram.file_len())
            .map_err(|error| fail("take the RAM that DMA reaches", &error))?;
        let log = Region::from_fd(dirty_log, DirtyLog::region_len(&config.ram))
            .and_then(|region| DirtyLog::attach(&region, &config.ram))
            .map_err(|error| fail("map the DMA's dirty log", &error))?;
        // An earlier life of this process may have died in the middle of a write.
        log.adopt();
        let responder = Region::from_fd(ring, ring::RING_LEN)
            .and_then(|region| Responder::attach(&region, self.generation, self.spin))
            .map_err(|error| fail("map the function's MMIO ring", &error))?;
        let board = Region::from_fd(msi_board, BOARD_LEN)
            .and_then(|region| MsiBoard::attach(&region))
            .map_err(|error| fail("map the MSI board", &error))?;
        let log = Arc::new(log);
        let (iommu, direct, source) = match behind {
            Behind::Server(server) => {
                let direct = config
                    .direct_dma
                    .then(|| Direct::new(Arc::clone(ram.file()), config.ram.clone(), Arc::clone(&log)));
                let ram = guest_memory::map(&ram, &config.ram)
                    .map_err(|error| fail("map the RAM that DMA reaches", &error))?;
                let ram = guest_memory::GuestMemory::new(Arc::new(ram), Arc::clone(&log));
                let iommu = SoftIommu::new(config.model, ram, config.stream);
                (Engine::Software(Box::new(iommu)), direct, Source::Server(server))
            }
            // A host that cannot carry the device is found out now: no guest is started to find it missing.
            Behind::Real { cdev, iommu } => {
                let (iommu, source) = opening::take_device(cdev, iommu, &ram, &config)
                    .map_err(|error| fail("assign the device", &error))?;
                (iommu, None, source)
            }
        };
        let links = Links {
            stage1: Stage1Link::new(stage1, self.generation),
            bus: BusLink::new(bus, self.generation),
            report: self.report.clone(),
        };
        let msi = InterruptTarget { doorbell: config.doorbell, board, ringer: msi_doorbell, pin: intx };
        self.log = Some(log);
        let ready = Ready { config, iommu, direct, links, source, msi, intx_end, responder };
        self.stage = Stage::Ready(Box::new(ready));
        Ok(())
    }
}

impl VfioProcess {
    /// The function and its threads, once the device is open, or cannot be opened.
    fn serving(&self, what: &'static str) -> Result<&Serving, Failure> {
        match &self.stage {
            Stage::Started(opening) => {
                opening.serving().ok_or_else(|| Failure::new(what, "it is being opened"))
            }
            _ => Err(Failure::new(what, "it has not been started")),
        }
    }

    fn function(&self) -> Option<&Function> {
        match &self.stage {
            Stage::Started(opening) => opening.serving().map(|serving| &*serving.function),
            _ => None,
        }
    }

    fn log_writes(&self, enabled: bool) {
        if let Some(function) = self.function() {
            function.iommu().set_dirty_tracking(enabled);
        }
    }

    fn gather_dirty(&self) {
        if let (Some(function), Some(log)) = (self.function(), &self.log) {
            function.iommu().gather_dirty(log);
        }
    }
}

impl Process for VfioProcess {
    fn configure(&mut self, config: RoleConfig) -> Result<(), Failure> {
        let what = "configure the device";
        let RoleConfig::Vfio(config) = config else {
            return Err(Failure::new(what, "the configuration is for a process of another role"));
        };
        match std::mem::replace(&mut self.stage, Stage::Spent) {
            Stage::Unconfigured(descriptors) => self.open(config, *descriptors),
            other => {
                self.stage = other;
                Err(Failure::new(what, "the device is configured already"))
            }
        }
    }

    fn start(&mut self) -> Result<(), Failure> {
        match std::mem::replace(&mut self.stage, Stage::Spent) {
            // How long the device's server takes is no matter of this answer: what became of it is an event.
            Stage::Ready(ready) => {
                let opening = Opening::begin(*ready);
                let opening =
                    opening.map_err(|error| Failure::new("start the device's first thread", error))?;
                self.stage = Stage::Started(opening);
                Ok(())
            }
            other => {
                self.stage = other;
                self.resume()
            }
        }
    }

    fn pause(&mut self) -> Result<(), Failure> {
        let Serving { function, ring } = self.serving("pause the device")?;
        // Accesses first: they may wait for the device, and the device for the gate.
        if !ring.drain() {
            return Err(Failure::new("pause the device", "its ring was not emptied in time"));
        }
        // Then the device, with the gate open for what it still has to read and write.
        function.set_running(false);
        function.mark_direct();
        function.gate.close();
        self.gather_dirty();
        Ok(())
    }

    fn resume(&mut self) -> Result<(), Failure> {
        let Serving { function, .. } = self.serving("resume the device")?;
        function.gate.open();
        function.set_running(true);
        Ok(())
    }

    fn save(&mut self) -> Result<Vec<u8>, Failure> {
        Err(Failure::new("save the device", "assigned devices cannot be saved yet"))
    }

    fn restore(&mut self, _stream: &[u8]) -> Result<(), Failure> {
        Err(Failure::new("restore the device", "assigned devices cannot be restored yet"))
    }

    fn dirty_log(&mut self, op: DirtyLogOp) -> Result<(), Failure> {
        let Some(log) = &self.log else {
            return Err(Failure::new("switch the DMA's dirty log", "the process has none open"));
        };
        match op {
            DirtyLogOp::Enable => {
                log.set_enabled(true);
                self.log_writes(true);
            }
            DirtyLogOp::Disable => {
                self.log_writes(false);
                log.set_enabled(false);
            }
            // In software every write is marked as it happens. What the host has noted comes over now, in time for the
            // next harvest, and once more when the device is paused.
            DirtyLogOp::Rearm => self.gather_dirty(),
        }
        if let Some(function) = self.function() {
            function.mark_direct();
        }
        Ok(())
    }

    fn inspect(&self) -> Inspect {
        let mut inspect = Inspect::new();
        match self.function() {
            Some(function) => function.inspect(&mut inspect),
            None if matches!(self.stage, Stage::Started(_)) => inspect.text("state", "opening"),
            None => {}
        }
        inspect
    }

    fn probe(&mut self, probe: Probe) -> Result<ProbeOutcome, Failure> {
        probe.make(sandbox::by_name::attempt)
    }
}
