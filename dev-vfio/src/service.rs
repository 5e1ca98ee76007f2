// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The process: control requests of the coordinator onto a [`Function`] and its threads.
//!
//! `Configure` opens what the descriptors hold; `Arm` begins to open the device, on a thread of its own
//! ([`crate::opening`]), and is answered at once. A device that cannot be opened has failed: the process goes on, the
//! guest finds an empty slot, and the reason is in an event and in `Inspect`. Only `Pause`, `Save`, `Resume` and
//! `Go`, which stop the device, save its state and resume it, wait for the device's server; `Inspect` never blocks on
//! a peer.

use std::io::Write;
use std::marker::PhantomData;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ipc::doorbell::{Doorbell, Ringer};
use ipc::hello::Role;
use ipc::instance::InstanceId;
use ipc::protocol::control::{
    DirtyLogOp, DirtyLogState, Event, Exactness, Failure, Quiescence, RoleConfig, StreamReplay,
};
use ipc::protocol::features::Feature;
use ipc::protocol::inspect::Inspect;
use ipc::protocol::vfio::VfioConfig;
use ipc::shm::dirty_log::DirtyLog;
use ipc::shm::msi_board::{BOARD_LEN, MsiBoard};
use ipc::shm::region::Region;
use ipc::shm::ring::{self, Responder};
use ipc::slot::SlotKind;
use process::ring_thread::Mode;
use process::{Configured, Context, Program, Source};
use sandbox::{Inherited, InheritedError};

use crate::backend::{Backend, Units};
use crate::function::{Function, InterruptTarget, Links};
use crate::function_link::FunctionLink;
use crate::opening::{Opening, Ready, Saved, Serving};
use crate::saved::{DataEndV1, FunctionV1};
use crate::stage1_link::Stage1Link;
use crate::threads;

/// The descriptors inherited at exec, besides channel, crash page and log.
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
    /// Doorbell of the board.
    pub msi_doorbell: Ringer,
    /// The function link to the vCPU process.
    pub link: OwnedFd,
    /// Doorbell: the INTx pin is asserted.
    pub intx: Ringer,
    /// Doorbell: the guest has ended the INTx interrupt.
    pub intx_end: Doorbell,
}

impl<B: Backend> Descriptors<B> {
    /// Takes the descriptors common to both programs; those of the back end differ.
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

/// Configured, and not armed.
pub struct Configuration<B: Backend> {
    log: Arc<DirtyLog>,
    ready: Ready<B>,
}

/// Armed: the device is being opened, or has been.
pub struct Begun<B: Backend> {
    log: Arc<DirtyLog>,
    /// Which the function has, too.
    iommu: Arc<Mutex<B::Iommu>>,
    opening: Opening<B>,
}

/// The program of an assigned device, over one back end.
pub struct VfioProgram<B>(PhantomData<B>);

impl<B: Backend> Begun<B> {
    /// The function and its threads, once the device is open, or cannot be opened.
    fn serving(&self, what: &'static str) -> Result<&Serving<B>, Failure> {
        self.opening.serving().ok_or_else(|| Failure::new(what, "it is being opened"))
    }

    /// What translates the device's DMA, locked.
    pub fn iommu(&self) -> MutexGuard<'_, B::Iommu> {
        self.iommu.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn function(&self) -> Option<&Function<B>> {
        self.opening.serving().map(|serving| &*serving.function)
    }
}

impl<B: Backend> Program for VfioProgram<B> {
    const ROLE: Role = Role::Vfio;
    const WHAT: &'static str = "the device";
    type Given = Descriptors<B>;
    type Config = VfioConfig;
    type Ready = Configuration<B>;
    type Loaded = Configuration<B>;
    type Armed = Begun<B>;

    fn accept(config: RoleConfig) -> Result<VfioConfig, Failure> {
        let RoleConfig::Vfio(config) = config else {
            let why = "the configuration is for a process of another role";
            return Err(Failure::new("configure the device", why));
        };
        Ok(config)
    }

    fn configure(
        config: VfioConfig,
        given: Descriptors<B>,
        context: &Context,
    ) -> Result<Configuration<B>, Failure> {
        let states =
            [Feature::state::<FunctionV1>(), Feature::state::<B::Unit>(), Feature::state::<DataEndV1>()];
        context.events.tell(Event::Features(states.to_vec()));
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
        let responder = Region::from_fd(ring, ring::RING_LEN)
            .and_then(|region| Responder::attach(&region, context.generation, context.spin))
            .map_err(|error| fail("map the function's MMIO ring", &error))?;
        let board = Region::from_fd(msi_board, BOARD_LEN)
            .and_then(|region| MsiBoard::attach(&region))
            .map_err(|error| fail("map the MSI board", &error))?;
        let log = Arc::new(log);
        let (iommu, unopened) = B::configure(given, &ram, &log, &config)?;
        let links = Links {
            stage1: Stage1Link::new(stage1, context.generation),
            vcpu: FunctionLink::new(link, context.generation),
            events: context.events.clone(),
        };
        let msi = InterruptTarget { doorbell: config.doorbell, board, ringer: msi_doorbell, pin: intx };
        let iommu = Arc::new(Mutex::new(iommu));
        let ready = Ready {
            config,
            iommu,
            unopened,
            links,
            msi,
            intx_end,
            responder,
            saved: None,
            is_revived: false,
        };
        Ok(Configuration { log, ready })
    }

    /// The server's state comes last in the stream, and is read once the server can take it.
    fn load(
        ready: Configuration<B>,
        source: Source,
        _context: &Context,
    ) -> Result<Configuration<B>, Failure> {
        let Configuration { log, ready } = ready;
        let is_revived = matches!(source, Source::Checkpoint);
        let saved = match source {
            Source::Reset => None,
            Source::Failed => return Err(process::cannot_have_failed()),
            Source::Checkpoint => {
                let (function, device) = B::revive(&ready.unopened)?;
                Some(Saved { function, device })
            }
            Source::Units(stream) => {
                let mut units = Units::new(stream);
                let function = units.next_of();
                let function = function.map_err(|error| Failure::new("read the function's state", error))?;
                Some(Saved { function, device: B::load(&ready.unopened, units)? })
            }
        };
        Ok(Configuration { log, ready: Ready { saved, is_revived, ..ready } })
    }

    /// Does not wait for the device's server: the outcome is reported as an event.
    fn arm(loaded: Configuration<B>, _context: &Context) -> Result<Begun<B>, Failure> {
        let Configuration { log, ready } = loaded;
        let iommu = Arc::clone(&ready.iommu);
        let opening = Opening::begin(ready);
        let opening = opening.map_err(|error| Failure::new("start the device's first thread", error))?;
        Ok(Begun { log, iommu, opening })
    }

    fn replay(_armed: &Begun<B>) -> Result<Option<Vec<StreamReplay>>, Failure> {
        Ok(None)
    }

    /// Its ring is answered from `arm` on; everything else waits for `go`.
    fn go(armed: &Begun<B>, _context: &Context) {
        armed.log.adopt();
        armed.opening.go();
    }

    fn pause(armed: &Begun<B>) -> Result<(), Failure> {
        let Serving { function, ring, signals } = armed.serving("pause the device")?;
        // Accesses first: they may wait for the device, and the device for the gate.
        ring.set_mode(Mode::Paused).map_err(|error| Failure::new("pause the device", error))?;
        function.events.progress();
        // Then the device, with the gate open for the DMA that it still has to finish.
        function.stop().map_err(|why| Failure::new("stop the device", why))?;
        // Pending signals go to the guest or into the function's state, as do notes that the interrupt thread left
        // for the ring's.
        function.events.progress();
        if let Some(signals) = signals {
            signals.park(function);
        }
        ring.set_mode(Mode::Paused).map_err(|error| Failure::new("pause the device", error))?;
        function.events.progress();
        function.gate.close();
        function.tell_faults();
        Ok(())
    }

    fn resume(armed: &Begun<B>) -> Result<(), Failure> {
        // Its ring is answered also while paused and queues no work, so it needs no resume.
        let Serving { function, signals, .. } = armed.serving("resume the device")?;
        function.go_on();
        if let Some(signals) = signals {
            signals.unpark();
        }
        Ok(())
    }

    fn in_flight(armed: &Begun<B>) -> Quiescence {
        let Some(Serving { function, signals, .. }) = armed.opening.serving() else {
            return Quiescence::NONE;
        };
        let (vectors, pins) = signals.as_ref().map_or((0, 0), |signals| signals.waiting(function));
        Quiescence { vectors, pins, ..function.in_flight() }
    }

    fn check_save(armed: &Begun<B>) -> Result<(), Failure> {
        let what = "save the device";
        armed.serving(what)?.function.check_save().map_err(|why| Failure::new(what, why))
    }

    fn save(armed: &Begun<B>, into: &mut dyn Write) -> Result<(), Failure> {
        let what = "save the device";
        armed.serving(what)?.function.save(into).map_err(|why| Failure::new(what, why))
    }

    fn dirty_log(configured: Configured<'_, Self>, op: DirtyLogOp) -> Result<DirtyLogState, Failure> {
        let (log, iommu, device) = match configured {
            Configured::Ready(Configuration { log, ready })
            | Configured::Loaded(Configuration { log, ready }) => (log, &ready.iommu, None),
            Configured::Armed(begun) => {
                (&begun.log, &begun.iommu, begun.function().and_then(Function::opened))
            }
        };
        // The lock is never held while waiting for a peer; available whether the device is open or not.
        let mut iommu = iommu.lock().unwrap_or_else(PoisonError::into_inner);
        let exact = match op {
            DirtyLogOp::Enable { epoch } => {
                log.enable(epoch);
                B::set_dirty_tracking(&mut iommu, true);
                Exactness::Exact
            }
            DirtyLogOp::Disable => {
                B::set_dirty_tracking(&mut iommu, false);
                log.disable();
                Exactness::Exact
            }
            DirtyLogOp::Rearm => {
                let exact = B::gather_dirty(device, &mut iommu, log);
                log.flip();
                exact
            }
        };
        Ok(log.state(exact))
    }

    fn dma_ended(_configured: Configured<'_, Self>, device: InstanceId) -> Result<(), Failure> {
        process::no_device_behind(device)
    }

    /// Of the channels that it has, the one with the vSMMU can be exchanged.
    fn rewire(armed: &Begun<B>, peer: InstanceId, epoch: u32, channel: OwnedFd) -> Result<(), Failure> {
        let what = || format!("take a new channel to {peer}");
        if peer.role != Role::Smmu {
            return Err(Failure::new(what(), "only the one to its vSMMU can be exchanged"));
        }
        let Serving { function, .. } = armed.serving("take a new channel")?;
        let channel = function.stage1.exchange(channel, epoch);
        let channel = channel.map_err(|why| Failure::new(what(), why))?;
        threads::follow(function, channel).map_err(|error| Failure::new(what(), error))
    }

    fn turns(armed: &Begun<B>) -> Option<u64> {
        armed.opening.serving().and_then(|serving| serving.ring.turns())
    }

    fn inspect(configured: Configured<'_, Self>, inspect: &mut Inspect) {
        let Configured::Armed(begun) = configured else { return };
        match begun.function() {
            Some(function) => function.inspect(inspect),
            None => inspect.text("state", "opening"),
        }
    }
}
