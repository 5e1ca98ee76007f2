// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The process: control requests of the coordinator onto the device and its ring thread.
//!
//! Blocking threads, one for each peer: this one on the control channel, one on the MMIO ring, one on the stage-1
//! channel of each device behind. The life of the process is `process`'s; here is what each step of it does to an SMMU.
//! `configure` opens what the descriptors hold and makes a device out of reset, `load` perhaps replaces it, `arm`
//! starts the threads, and from then on the device belongs to both the control thread and the ring's.

use crate::checkpoint::Keeper;
use crate::cmdq;
use crate::device::{Device, InFlight};
use crate::devices::Devices;
use crate::host::{GuestRam, Wires};
use crate::link::Link;
use crate::saved::{SmmuV1, SmmuV2};
use crate::smmu::Smmu;
use ipc::hello::Role;
use ipc::instance::InstanceId;
use ipc::protocol::budget;
use ipc::protocol::control::{
    DirtyLogOp, DirtyLogState, Event, Exactness, Failure, Quiescence, RoleConfig, StreamReplay,
};
use ipc::protocol::features::Feature;
use ipc::protocol::inspect::Inspect;
use ipc::protocol::smmu::{SmmuConfig, SmmuDevice};
use ipc::saved::{Reader, Writer};
use ipc::shm::checkpoint::{CHECKPOINT_LEN, Checkpoint};
use ipc::shm::dirty_log::DirtyLog;
use ipc::shm::guest_memory;
use ipc::shm::region::Region;
use ipc::shm::register_page::RegisterPage;
use ipc::shm::ring::{self, Access, Responder};
use ipc::slot::{IrqLine, SlotKind};
use process::ring_thread::{Mode, Notes, RingDevice, RingThread, Step};
use process::{Configured, Context, Events, Program, Source, read_units};
use sandbox::{Inherited, InheritedError};
use smmu_arch::Model;
use smmu_arch::spec::registers::REGISTER_FILE_LEN;
use std::collections::BTreeMap;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

/// How long a pause may take: a full queue of commands (4096) at a generous microsecond each, and devices that are slow
/// to take theirs.
const MODE_SPAN: Duration = budget::smmu::MODE_CHANGE;
/// How long a pause, a save and a replay wait for the devices.
const ANSWER_SPAN: Duration = budget::smmu::ANSWERS;

/// What the process was given at exec, besides channel, crash page and log.
#[derive(Debug)]
pub struct Descriptors {
    /// Guest RAM.
    pub ram: OwnedFd,
    /// The dirty log of this process.
    pub dirty_log: OwnedFd,
    /// What its next life finds if it dies, and what it finds of the one before.
    pub checkpoint: OwnedFd,
    /// The MMIO ring.
    pub ring: OwnedFd,
    /// The page of registers that the guest reads without an exit.
    pub register_page: OwnedFd,
    /// The interrupts.
    pub wires: Wires,
    /// The channels to the devices behind it.
    pub stage1: BTreeMap<InstanceId, OwnedFd>,
}

impl Descriptors {
    /// Takes them by their names.
    ///
    /// # Errors
    /// If one is not there.
    pub fn take(fds: &mut Inherited) -> Result<Descriptors, InheritedError> {
        // What is called after no process cannot be asked for.
        let stage1 = fds.take_each(SlotKind::Stage1).into_iter();
        let stage1 = stage1.filter_map(|(peer, channel)| Some((peer.parse().ok()?, channel))).collect();
        Ok(Descriptors {
            ram: fds.take(SlotKind::Ram)?,
            dirty_log: fds.take(SlotKind::DirtyLog)?,
            checkpoint: fds.take(SlotKind::Checkpoint)?,
            ring: fds.take(SlotKind::Ring)?,
            register_page: fds.take(SlotKind::RegisterPage)?,
            wires: Wires {
                event_queue: fds.take(SlotKind::Irq(IrqLine::EventQueue))?.into(),
                global_error: fds.take(SlotKind::Irq(IrqLine::GlobalError))?.into(),
                command_sync: fds.take(SlotKind::Irq(IrqLine::CommandSync))?.into(),
            },
            stage1,
        })
    }
}

/// What `arm` needs.
pub struct Ready {
    model: Model,
    log: Arc<DirtyLog>,
    device: Device,
    responder: Responder,
    links: Vec<Arc<Link>>,
}

/// The threads at work.
pub struct Serving {
    log: Arc<DirtyLog>,
    device: Arc<SharedDevice>,
    ring: RingThread,
    events: Events,
}

/// The device, which the control thread and the ring's share.
struct SharedDevice {
    device: Mutex<Device>,
    /// The ring thread's, to have itself look again.
    notes: OnceLock<Notes>,
}

/// The vSMMU's program.
pub struct SmmuProgram;

impl SharedDevice {
    /// The device, between two requests. A holder never panics while it holds it.
    fn lock(&self) -> MutexGuard<'_, Device> {
        self.device.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RingDevice for SharedDevice {
    fn access(&self, access: Access) -> u64 {
        self.lock().access(access)
    }

    /// Registers take an access twice: a next life does again what was not answered.
    fn taken(&self, _sequence: u64) {}

    fn answered(&self) {}

    fn step(&self) -> Step {
        let mut device = self.lock();
        let step = device.step();
        if device.has_work()
            && let Some(notes) = self.notes.get()
        {
            // Faults are recorded in another turn of the thread, which looks for a change of mode first.
            notes.wake();
        }
        match step {
            cmdq::Step::More => Step::More,
            // A CMD_SYNC that waits for devices is looked at again when one of them wakes the thread.
            cmdq::Step::Idle | cmdq::Step::AwaitSync => Step::Idle,
        }
    }

    fn emptied(&self, _notes: u32) {}
}

impl Serving {
    /// Starts the thread that listens to one life of a device's process.
    fn listen(&self, link: Arc<Link>) -> std::io::Result<()> {
        let (notes, events) = (self.ring.notes(), self.events.clone());
        let failed = move |name: &str, why| events.tell(Event::PeerFailed { name: name.to_owned(), why });
        let thread = std::thread::Builder::new().name(link.name.clone());
        thread.spawn(move || link.listen(|| notes.wake(), failed)).map(drop)
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.ring.end();
    }
}

impl Program for SmmuProgram {
    const ROLE: Role = Role::Smmu;
    const WHAT: &'static str = "the SMMU";
    type Given = Descriptors;
    type Config = SmmuConfig;
    type Ready = Ready;
    type Loaded = Ready;
    type Armed = Serving;

    fn accept(config: RoleConfig) -> Result<SmmuConfig, Failure> {
        let what = "configure the SMMU";
        let RoleConfig::Smmu(config) = config else {
            return Err(Failure::new(what, "the configuration is for another role"));
        };
        if config.len != REGISTER_FILE_LEN {
            let why = format!("{:#x} bytes of registers, an SMMUv3 has {REGISTER_FILE_LEN:#x}", config.len);
            return Err(Failure::new(what, why));
        }
        Ok(config)
    }

    /// Opens everything and makes the device, out of reset.
    fn configure(config: SmmuConfig, given: Descriptors, context: &Context) -> Result<Ready, Failure> {
        let fail = |what: &str, why: &dyn ToString| Failure::new(what.to_owned(), why.to_string());
        let Descriptors { ram, dirty_log, checkpoint, ring, register_page, wires, mut stage1 } = given;
        let ram = Region::from_fd(ram, config.ram.file_len())
            .and_then(|region| guest_memory::map(&region, &config.ram))
            .map_err(|error| fail("map guest RAM", &error))?;
        let log = Region::from_fd(dirty_log, DirtyLog::region_len(&config.ram))
            .and_then(|region| DirtyLog::attach(&region, &config.ram))
            .map_err(|error| fail("map the dirty log", &error))?;
        let checkpoint = Region::from_fd(checkpoint, CHECKPOINT_LEN)
            .and_then(|region| Checkpoint::attach(&region))
            .map_err(|error| fail("map the checkpoint", &error))?;
        let page = Region::from_fd(register_page, REGISTER_FILE_LEN)
            .and_then(|region| RegisterPage::attach(&region))
            .map_err(|error| fail("map the register page", &error))?;
        let responder = Region::from_fd(ring, ring::RING_LEN)
            .and_then(|region| Responder::attach(&region, context.generation, context.spin))
            .map_err(|error| fail("map the MMIO ring", &error))?;
        let log = Arc::new(log);
        let ram = GuestRam(guest_memory::GuestMemory::new(Arc::new(ram), Arc::clone(&log)));
        let mut links = Vec::new();
        for SmmuDevice { peer, stream } in &config.devices {
            let none = || fail("find a stage 1 channel", &format!("none to {peer} was given"));
            let channel = stage1.remove(peer).ok_or_else(none)?;
            links.push(Arc::new(Link::new(*peer, *stream, channel, context.generation)));
        }
        context.events.tell(Event::Features(vec![Feature::state::<SmmuV2>()]));
        let devices = Devices::new(&links);
        let (smmu, keeper) = (Smmu::new(config.model), Keeper::new(checkpoint));
        let device = Device::new(smmu, keeper, page, ram, wires, config.region, devices);
        Ok(Ready { model: config.model, log, device, responder, links })
    }

    fn load(mut ready: Ready, source: Source, _context: &Context) -> Result<Ready, Failure> {
        let what = "restore the SMMU";
        let stream = match source {
            Source::Reset => return Ok(ready),
            Source::Failed => return Err(process::cannot_have_failed()),
            Source::Checkpoint => {
                ready.device.revive().map_err(|error| Failure::new(what, error))?;
                return Ok(ready);
            }
            Source::Units(stream) => stream,
        };
        let units = read_units(stream)?;
        let mut reader = Reader::new(&units).map_err(|error| Failure::new(what, error))?;
        let saved = reader.take_or_previous::<SmmuV2, SmmuV1>().map_err(|error| Failure::new(what, error))?;
        reader.finish().map_err(|error| Failure::new(what, error))?;
        let streams: Vec<_> = ready.links.iter().map(|link| link.stream).collect();
        let faults = saved.faults(&streams).map_err(|error| Failure::new(what, error))?;
        let smmu = Smmu::restore(ready.model, &saved.registers).map_err(|error| Failure::new(what, error))?;
        ready.device.replace(smmu, faults);
        Ok(ready)
    }

    fn arm(ready: Ready, context: &Context) -> Result<Serving, Failure> {
        let Ready { model: _, log, device, responder, links } = ready;
        let device = Arc::new(SharedDevice { device: Mutex::new(device), notes: OnceLock::new() });
        let fatal = context.events.clone();
        let on_violation = move |violation: &_| {
            // The guest's only way to the device is closed.
            fatal.fatal(format!("smmu: the vCPU process broke the MMIO ring's contract: {violation}"));
        };
        let fail = |error| Failure::new("start the SMMU's threads", error);
        let ring =
            RingThread::start(Arc::clone(&device), responder, MODE_SPAN, on_violation).map_err(fail)?;
        let _ = device.notes.set(ring.notes());
        let serving = Serving { log, device, ring, events: context.events.clone() };
        links.into_iter().try_for_each(|link| serving.listen(link)).map_err(fail)?;
        Ok(serving)
    }

    /// Every device is armed by now. One that has not greeted does not do its part: it is named, so that no guest waits
    /// for it.
    fn replay(armed: &Serving) -> Result<Option<Vec<StreamReplay>>, Failure> {
        let mut device = armed.device.lock();
        let streams = device.replay(ANSWER_SPAN);
        for name in device.devices().give_up_ungreeted() {
            let why = "it has not greeted the SMMU".to_owned();
            armed.events.tell(Event::PeerFailed { name, why });
        }
        Ok(Some(streams))
    }

    fn go(armed: &Serving, _context: &Context) {
        armed.log.adopt();
        armed.device.lock().begin();
        armed.ring.go();
    }

    fn pause(armed: &Serving) -> Result<(), Failure> {
        armed.device.lock().freeze(false);
        armed.ring.set_mode(Mode::Paused).map_err(|error| Failure::new("pause the SMMU", error))?;
        let mut device = armed.device.lock();
        device.settle(ANSWER_SPAN);
        device.freeze(true);
        Ok(())
    }

    fn resume(armed: &Serving) -> Result<(), Failure> {
        {
            let mut device = armed.device.lock();
            device.devices_mut().settle_lives();
            device.freeze(false);
        }
        armed.ring.set_mode(Mode::Running).map_err(|error| Failure::new("resume the SMMU", error))
    }

    fn in_flight(armed: &Serving) -> Quiescence {
        // Faults that wait while it holds still are in its state unit.
        let InFlight { stage1_requests, faults: _ } = armed.device.lock().in_flight();
        Quiescence { stage1_requests, ..Quiescence::NONE }
    }

    fn check_save(_armed: &Serving) -> Result<(), Failure> {
        Ok(())
    }

    fn save(armed: &Serving, into: &mut dyn Write) -> Result<(), Failure> {
        let what = "save the SMMU";
        let mut device = armed.device.lock();
        // Faults that devices reported since the pause may still be in their channels.
        device.await_answers(ANSWER_SPAN);
        let InFlight { stage1_requests, faults: _ } = device.in_flight();
        if stage1_requests != 0 {
            return Err(Failure::new(
                what,
                format!("devices have not answered {stage1_requests} stage-1 requests"),
            ));
        }
        let saved = SmmuV2::new(device.smmu().save(), device.faults());
        let mut writer = Writer::new();
        writer.append(&saved).map_err(|error| Failure::new(what, error))?;
        into.write_all(&writer.finish()).map_err(|error| Failure::new("write the SMMU's state", error))
    }

    fn dirty_log(configured: Configured<'_, Self>, op: DirtyLogOp) -> Result<DirtyLogState, Failure> {
        let log = match configured {
            Configured::Ready(ready) | Configured::Loaded(ready) => &ready.log,
            Configured::Armed(serving) => &serving.log,
        };
        // Every write is marked as it happens: there is no note of a page marked already.
        log.follow(op);
        Ok(log.state(Exactness::Exact))
    }

    fn dma_ended(configured: Configured<'_, Self>, device: InstanceId) -> Result<(), Failure> {
        let is_behind = match configured {
            Configured::Ready(ready) | Configured::Loaded(ready) => ready.device.devices().end_dma(device),
            Configured::Armed(serving) => {
                let is_behind = serving.device.lock().devices().end_dma(device);
                // What waited for it can complete.
                serving.ring.notes().wake();
                is_behind
            }
        };
        if is_behind { Ok(()) } else { process::no_device_behind(device) }
    }

    /// Of its channels, those with the processes of devices can be exchanged.
    fn rewire(armed: &Serving, peer: InstanceId, epoch: u32, channel: OwnedFd) -> Result<(), Failure> {
        let fail =
            |why: &dyn ToString| Failure::new(format!("take a new channel to {peer}"), why.to_string());
        let link = armed.device.lock().devices_mut().expect(peer, channel, epoch);
        armed.listen(link.map_err(|why| fail(&why))?).map_err(|error| fail(&error))
    }

    fn turns(armed: &Serving) -> Option<u64> {
        armed.ring.turns()
    }

    fn inspect(configured: Configured<'_, Self>, inspect: &mut Inspect) {
        let mut show = |device: &Device| {
            device.smmu().counters().each(|name, value| inspect.counter(name, value));
            inspect.counter("ring.foreign_requests", device.foreign_requests());
            device.each_device(|name, value| inspect.counter(name, value));
            device.smmu().each_register(|name, value| inspect.hex(name, value));
        };
        match configured {
            Configured::Ready(ready) | Configured::Loaded(ready) => show(&ready.device),
            Configured::Armed(serving) => show(&serving.device.lock()),
        }
    }
}
