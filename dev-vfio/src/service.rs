// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The process: control requests of the coordinator onto a [`Function`] and its threads.
//!
//! `Configure` opens what the descriptors hold; `Start` begins to open the device, on a thread of its own
//! ([`crate::opening`]), and is answered at once. A device that cannot be opened is one that has failed: the process
//! serves on, the guest finds an empty slot, and the reason is an event and in `Inspect`. No request waits for the
//! device's server but `Pause` and `Resume`, which stop the device and let it go on; `Inspect` never blocks on a peer.

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
use ipc::shm::msi_board::{BOARD_LEN, MsiBoard};
use ipc::shm::region::Region;
use ipc::shm::ring::{self, Responder};
use ipc::slot::SlotKind;
use sandbox::{Inherited, InheritedError, Locked};

use crate::backend::Backend;
use crate::function::{Function, InterruptTarget, Links};
use crate::function_link::FunctionLink;
use crate::iommu::HostIommu;
use crate::opening::{Opening, Ready, Serving};
use crate::report::Report;
use crate::stage1_link::Stage1Link;

/// The coordinator greets at once: it has just started us.
const HELLO_DEADLINE: Duration = Duration::from_secs(10);

/// Exit status after the vCPU process broke the ring's rules.
const EXIT_VIOLATION: i32 = 3;

/// What the process was given at exec, besides channel, crash page and log.
#[derive(Debug)]
pub struct Descriptors<B: Backend> {
    /// Guest RAM.
    pub ram: OwnedFd,
    /// The dirty log of this process.
    pub dirty_log: OwnedFd,
    /// The MMIO ring.
    pub ring: OwnedFd,
    /// The stage 1 channel to the vSMMU.
    pub stage1: OwnedFd,
    /// What the program's back end is given.
    pub given: B::Given,
    /// The board of pending MSIs.
    pub msi_board: OwnedFd,
    /// Says to look at it.
    pub msi_doorbell: Ringer,
    /// The function link to the vCPU process.
    pub link: OwnedFd,
    /// Says that the INTx pin is asserted.
    pub intx: Ringer,
    /// Tells that the guest has ended that interrupt.
    pub intx_end: Doorbell,
}

impl<B: Backend> Descriptors<B> {
    /// Takes what both programs have in common; what the back end is given is each program's own.
    ///
    /// # Errors
    /// If one is not there.
    pub fn take(fds: &mut Inherited, given: B::Given) -> Result<Descriptors<B>, InheritedError> {
        Ok(Descriptors {
            ram: fds.take(SlotKind::Ram)?,
            dirty_log: fds.take(SlotKind::DirtyLog)?,
            ring: fds.take(SlotKind::Ring)?,
            stage1: fds.take(SlotKind::Stage1)?,
            given,
            msi_board: fds.take(SlotKind::MsiBoard)?,
            msi_doorbell: fds.take(SlotKind::MsiDoorbell)?.into(),
            link: fds.take(SlotKind::FunctionLink)?,
            intx: fds.take(SlotKind::Intx)?.into(),
            intx_end: fds.take(SlotKind::IntxEnd)?.into(),
        })
    }
}

/// Greets the coordinator, says what is enforced, and serves until told to quit. `locked` is the proof that this
/// process is sealed; `spin` is how long to look for a request before sleeping.
///
/// # Errors
/// The channel's.
pub fn run<B: Backend>(
    locked: &Locked,
    generation: u32,
    control: OwnedFd,
    descriptors: Descriptors<B>,
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

enum Stage<B: Backend> {
    Unconfigured(Box<Descriptors<B>>),
    Ready(Box<Ready<B>>),
    Started(Opening<B>),
    /// A step failed halfway: only `Quit` is left.
    Spent,
}

/// The process as the coordinator sees it.
pub struct VfioProcess<B: Backend> {
    generation: u32,
    spin: Duration,
    log: Option<Arc<DirtyLog>>,
    report: Report,
    stage: Stage<B>,
}

impl<B: Backend> VfioProcess<B> {
    /// An unconfigured one. What becomes of its device goes to `report`, and that the ring had to be closed.
    pub fn new(
        descriptors: Descriptors<B>,
        generation: u32,
        spin: Duration,
        report: Report,
    ) -> VfioProcess<B> {
        let stage = Stage::Unconfigured(Box::new(descriptors));
        VfioProcess { generation, spin, log: None, report, stage }
    }

    fn open(&mut self, config: VfioConfig, given: Descriptors<B>) -> Result<(), Failure> {
        let fail = |what: &str, why: &dyn ToString| Failure::new(what.to_owned(), why.to_string());
        let Descriptors {
            ram,
            dirty_log,
            ring,
            stage1,
            given,
            msi_board,
            msi_doorbell,
            link,
            intx,
            intx_end,
        } = given;
        let ram = Region::from_fd(ram, config.ram.file_len())
            .map_err(|error| fail("open the RAM that DMA reaches", &error))?;
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
        let (iommu, unopened) = B::configure(given, &ram, &log, &config)?;
        let links = Links {
            stage1: Stage1Link::new(stage1, self.generation),
            vcpu: FunctionLink::new(link, self.generation),
            report: self.report.clone(),
        };
        let msi = InterruptTarget { doorbell: config.doorbell, board, ringer: msi_doorbell, pin: intx };
        self.log = Some(log);
        let ready = Ready { config, iommu, unopened, links, msi, intx_end, responder };
        self.stage = Stage::Ready(Box::new(ready));
        Ok(())
    }
}

impl<B: Backend> VfioProcess<B> {
    /// The function and its threads, once the device is open, or cannot be opened.
    fn serving(&self, what: &'static str) -> Result<&Serving<B>, Failure> {
        match &self.stage {
            Stage::Started(opening) => {
                opening.serving().ok_or_else(|| Failure::new(what, "it is being opened"))
            }
            _ => Err(Failure::new(what, "it has not been started")),
        }
    }

    fn function(&self) -> Option<&Function<B>> {
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
            function.gather_dirty(log);
        }
    }
}

impl<B: Backend> Process for VfioProcess<B> {
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
            DirtyLogOp::Rearm => {}
        }
        // In time for the next harvest; and once more when the device is paused.
        self.gather_dirty();
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
