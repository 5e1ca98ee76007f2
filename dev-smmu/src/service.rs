// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The process: control requests of the coordinator onto the device and its ring thread.
//!
//! Blocking threads, one for each peer: this one on the control channel, one on the MMIO ring, one on the stage-1 channel of
//! each device behind. The state
//! machine of the requests is `ipc::service`'s; here is what each of them does to an SMMU. `Configure`
//! opens what the descriptors hold and makes a device out of reset, `Restore` replaces it, `Start` starts
//! the ring thread, and from then on the device belongs to both threads. A coordinator that breaks the
//! contract, or is gone, ends the loop and with it the process.

use crate::device::Device;
use crate::devices::{Devices, Link};
use crate::host::{GuestRam, Wires};
use crate::ring_thread::{Mode, RingThread};
use crate::saved::SmmuV1;
use crate::smmu::Smmu;
use ipc::channel::Channel;
use ipc::deadline::Deadline;
use ipc::hello::{Hello, Role};
use ipc::instance::InstanceId;
use ipc::protocol::control::{DirtyLogOp, Event, Failure, RoleConfig};
use ipc::protocol::inspect::Inspect;
use ipc::protocol::probe::{Probe, ProbeOutcome};
use ipc::protocol::smmu::{SmmuConfig, SmmuDevice};
use ipc::saved::{Reader, SavedState, UnitKind, Writer};
use ipc::service::{self, Process};
use ipc::shm::dirty_log::DirtyLog;
use ipc::shm::guest_memory;
use ipc::shm::region::Region;
use ipc::shm::register_page::RegisterPage;
use ipc::shm::ring::{self, Responder};
use sandbox::Locked;
use smmu_arch::Model;
use smmu_arch::spec::registers::REGISTER_FILE_LEN;
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

/// The coordinator greets at once: it has just started us.
const HELLO_DEADLINE: Duration = Duration::from_secs(10);

impl SavedState for SmmuV1 {
    const KIND: UnitKind = UnitKind::new("smmu");
    const VERSION: u16 = 1;
}

/// What the process was given at exec, besides channel, crash page and log.
#[derive(Debug)]
pub struct Descriptors {
    /// Guest RAM.
    pub ram: OwnedFd,
    /// The dirty log of this process.
    pub dirty_log: OwnedFd,
    /// The MMIO ring.
    pub ring: OwnedFd,
    /// The register page.
    pub register_page: OwnedFd,
    /// The interrupts.
    pub wires: Wires,
    /// The channels to the devices behind it.
    pub stage1: BTreeMap<InstanceId, OwnedFd>,
}

/// Greets the coordinator, says what is enforced, and serves until told to quit. `locked` is the proof that
/// this process is sealed; `spin` is how long to look for a request before sleeping.
pub fn run(
    locked: &Locked,
    generation: u32,
    control: OwnedFd,
    descriptors: Descriptors,
    spin: Duration,
) -> Result<(), ipc::error::Error> {
    let channel = Arc::new(Channel::from_fd(control, Hello::new(Role::Smmu, generation)));
    channel.hello(Role::Coordinator, Deadline::after(HELLO_DEADLINE))?;
    service::tell(&channel, &Event::Sealed(locked.enforced().lines()));
    let fatal = Arc::clone(&channel);
    let told = Arc::clone(&channel);
    let fatal = move |reason| {
        ipc::log::error!("smmu: {reason}");
        service::tell(&fatal, &Event::Fatal(reason));
        // The guest's only way to the device is closed: the supervisor decides what becomes of the VM.
        std::process::exit(EXIT_VIOLATION);
    };
    let failed =
        move |name: &str, why| service::tell(&told, &Event::PeerFailed { name: name.to_owned(), why });
    let mut process = SmmuProcess::new(descriptors, generation, spin, fatal, failed);
    service::serve(&channel, &mut process)
}

/// Exit status after the vCPU process broke the ring's rules.
const EXIT_VIOLATION: i32 = 3;

type Fatal = Box<dyn FnOnce(String) + Send>;
type Failed = Arc<dyn Fn(&str, String) + Send + Sync>;

/// What `Start` needs.
struct Ready {
    device: Device,
    responder: Responder,
    links: Vec<Arc<Link>>,
    fatal: Fatal,
}

enum Stage {
    Unconfigured(Box<Descriptors>, Fatal),
    Ready(Box<Ready>),
    Serving(RingThread),
    /// A step failed halfway: only `Quit` is left.
    Spent,
}

/// The process as the coordinator sees it.
pub struct SmmuProcess {
    generation: u32,
    spin: Duration,
    model: Option<Model>,
    log: Option<Arc<DirtyLog>>,
    failed: Failed,
    stage: Stage,
}

impl SmmuProcess {
    /// An unconfigured one. `fatal` is called, from the ring thread, if the ring has to be closed; `failed`, from the thread of a
    /// device, with its name and the reason, if it lives and does not do its part.
    pub fn new(
        descriptors: Descriptors,
        generation: u32,
        spin: Duration,
        fatal: impl FnOnce(String) + Send + 'static,
        failed: impl Fn(&str, String) + Send + Sync + 'static,
    ) -> SmmuProcess {
        let stage = Stage::Unconfigured(Box::new(descriptors), Box::new(fatal));
        SmmuProcess { generation, spin, model: None, log: None, failed: Arc::new(failed), stage }
    }

    fn order(&self, mode: Mode) -> Result<(), Failure> {
        match &self.stage {
            Stage::Serving(thread) => {
                thread.order(mode).map_err(|error| Failure::new(format!("become {mode:?}"), error))
            }
            _ => Err(Failure::new(format!("become {mode:?}"), "the SMMU has not been started")),
        }
    }

    /// Opens everything and makes the device, out of reset.
    fn open(&mut self, config: &SmmuConfig, given: Descriptors, fatal: Fatal) -> Result<(), Failure> {
        let fail = |what: &str, why: &dyn ToString| Failure::new(what.to_owned(), why.to_string());
        let Descriptors { ram, dirty_log, ring, register_page, wires, mut stage1 } = given;
        let ram = Region::from_fd(ram, config.ram.file_len())
            .and_then(|region| guest_memory::map(&region, &config.ram))
            .map_err(|error| fail("map guest RAM", &error))?;
        let log = Region::from_fd(dirty_log, DirtyLog::region_len(&config.ram))
            .and_then(|region| DirtyLog::attach(&region, &config.ram))
            .map_err(|error| fail("map the dirty log", &error))?;
        // An earlier life of this process may have died in the middle of a write.
        log.adopt();
        let page = Region::from_fd(register_page, REGISTER_FILE_LEN)
            .and_then(|region| RegisterPage::attach(&region))
            .map_err(|error| fail("map the register page", &error))?;
        let responder = Region::from_fd(ring, ring::RING_LEN)
            .and_then(|region| Responder::attach(&region, self.generation, self.spin))
            .map_err(|error| fail("map the MMIO ring", &error))?;
        let log = Arc::new(log);
        let ram = GuestRam(guest_memory::GuestMemory::new(Arc::new(ram), Arc::clone(&log)));
        let mut links = Vec::new();
        for SmmuDevice { peer, stream } in &config.devices {
            let none = || fail("find a stage 1 channel", &format!("none to {peer} was given"));
            let channel = stage1.remove(peer).ok_or_else(none)?;
            links.push(Arc::new(Link::new(peer.to_string(), *stream, channel, self.generation)));
        }
        let devices = Devices::new(&links);
        let device = Device::new(Smmu::new(config.model), page, ram, wires, config.region, devices);
        self.model = Some(config.model);
        self.log = Some(log);
        self.stage = Stage::Ready(Box::new(Ready { device, responder, links, fatal }));
        Ok(())
    }
}

impl Process for SmmuProcess {
    fn configure(&mut self, config: RoleConfig) -> Result<(), Failure> {
        let what = "configure the SMMU";
        let RoleConfig::Smmu(config) = config else {
            return Err(Failure::new(what, "the configuration is for another role"));
        };
        if config.len != REGISTER_FILE_LEN {
            let why = format!("{:#x} bytes of registers, an SMMUv3 has {REGISTER_FILE_LEN:#x}", config.len);
            return Err(Failure::new(what, why));
        }
        match std::mem::replace(&mut self.stage, Stage::Spent) {
            Stage::Unconfigured(descriptors, fatal) => self.open(&config, *descriptors, fatal),
            other => {
                self.stage = other;
                Err(Failure::new(what, "it is configured already"))
            }
        }
    }

    fn start(&mut self) -> Result<(), Failure> {
        match std::mem::replace(&mut self.stage, Stage::Spent) {
            Stage::Ready(ready) => {
                let Ready { device, responder, links, fatal } = *ready;
                let on_violation = |violation: &_| {
                    fatal(format!("the vCPU process broke the MMIO ring's contract: {violation}"));
                };
                let failed = Arc::clone(&self.failed);
                let on_failed = move |name: &str, why| failed(name, why);
                let thread = RingThread::start(device, responder, links, on_violation, on_failed);
                let thread = thread.map_err(|error| Failure::new("start the ring thread", error))?;
                self.stage = Stage::Serving(thread);
                Ok(())
            }
            other => {
                self.stage = other;
                self.order(Mode::Running)
            }
        }
    }

    fn pause(&mut self) -> Result<(), Failure> {
        self.order(Mode::Paused)
    }

    fn resume(&mut self) -> Result<(), Failure> {
        self.order(Mode::Running)
    }

    fn save(&mut self) -> Result<Vec<u8>, Failure> {
        let Stage::Serving(thread) = &self.stage else {
            return Err(Failure::new("save the SMMU", "it has not been started"));
        };
        let saved = thread.device().smmu().save();
        let mut writer = Writer::new();
        writer.append(&saved).map_err(|error| Failure::new("save the SMMU", error))?;
        Ok(writer.finish())
    }

    fn restore(&mut self, stream: &[u8]) -> Result<(), Failure> {
        let what = "restore the SMMU";
        let (Stage::Ready(ready), Some(model)) = (&mut self.stage, self.model) else {
            return Err(Failure::new(what, "it is not configured, or has been started"));
        };
        let mut reader = Reader::new(stream).map_err(|error| Failure::new(what, error))?;
        let saved: SmmuV1 = reader.take().map_err(|error| Failure::new(what, error))?;
        reader.finish().map_err(|error| Failure::new(what, error))?;
        let smmu = Smmu::restore(model, &saved).map_err(|error| Failure::new(what, error))?;
        ready.device.replace(smmu);
        Ok(())
    }

    fn dirty_log(&mut self, op: DirtyLogOp) -> Result<(), Failure> {
        let Some(log) = &self.log else {
            return Err(Failure::new("switch the dirty log", "the process has none open"));
        };
        match op {
            DirtyLogOp::Enable => log.set_enabled(true),
            DirtyLogOp::Disable => log.set_enabled(false),
            // Every write is marked as it happens: there is no note of a page marked already.
            DirtyLogOp::Rearm => {}
        }
        Ok(())
    }

    fn inspect(&self) -> Inspect {
        let mut inspect = Inspect::new();
        let mut show = |device: &Device| {
            device.smmu().counters().each(|name, value| inspect.counter(name, value));
            inspect.counter("ring.foreign_requests", device.foreign_requests());
            device.each_device(|name, value| inspect.counter(name, value));
            device.smmu().each_register(|name, value| inspect.hex(name, value));
        };
        match &self.stage {
            Stage::Ready(ready) => show(&ready.device),
            Stage::Serving(thread) => show(&thread.device()),
            Stage::Unconfigured(..) | Stage::Spent => {}
        }
        inspect
    }

    fn probe(&mut self, probe: Probe) -> Result<ProbeOutcome, Failure> {
        probe.make(sandbox::by_name::attempt)
    }
}
