// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Opening the device behind a function, on a thread of its own: a slow server blocks no other thread.
//!
//! Opening as a whole has one deadline ([`budget::vfio::OPENING`]), each answer its own. The outcome is reported
//! once, as [`Event::DeviceOpened`] or [`Event::DeviceFailed`]; the coordinator starts no guest before. Either way
//! the guest's accesses are answered from then on: by the device, or as those of an empty slot. Before `Go` the gate
//! is closed, and a restored device is stopped.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;

use ipc::deadline::Deadline;
use ipc::doorbell::Doorbell;
use ipc::error::Violation;
use ipc::protocol::budget;
use ipc::protocol::control::Event;
use ipc::protocol::features::Feature;
use ipc::protocol::function_link::DeviceWindow;
use ipc::protocol::vfio::VfioConfig;
use ipc::shm::ring::Responder;
use process::ring_thread::RingThread;

use crate::backend::{Backend, Opened};
use crate::connect;
use crate::function::{Function, InterruptTarget, Links};
use crate::pci::config_space::ConfigSpace;
use crate::pci::windows;
use crate::saved::FunctionV1;
use crate::threads::{self, InterruptSources, Signals};

/// What opening needs.
pub struct Ready<B: Backend> {
    pub config: VfioConfig,
    pub iommu: Arc<Mutex<B::Iommu>>,
    pub unopened: B::Unopened,
    pub links: Links,
    pub msi: InterruptTarget,
    pub intx_end: Doorbell,
    pub responder: Responder,
    /// The saved state, or none for a function out of reset.
    pub saved: Option<Saved<B>>,
    /// It is what the life before has left, which died: the guest runs.
    pub is_revived: bool,
}

/// The state that a function is restored from.
pub struct Saved<B: Backend> {
    pub function: FunctionV1,
    pub device: B::Saved,
}

/// The function, with or without a device behind it, and the thread that answers the guest.
pub struct Serving<B: Backend> {
    pub function: Arc<Function<B>>,
    pub ring: RingThread,
    /// The device's eventfds, if it has a device.
    pub signals: Option<Arc<Signals>>,
}

/// A device while it is opened, and after.
pub struct Opening<B: Backend>(Arc<Slot<B>>);

struct Slot<B: Backend> {
    serving: OnceLock<Serving<B>>,
    /// The device was restored, and is stopped.
    restored: bool,
    /// `Go` was received.
    begun: Mutex<bool>,
}

impl<B: Backend> Slot<B> {
    fn begun(&self) -> MutexGuard<'_, bool> {
        // A single word: a poisoned lock is harmless.
        self.begun.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<B: Backend> Opening<B> {
    /// Begins.
    ///
    /// # Errors
    /// If the thread cannot be started.
    pub fn begin(ready: Ready<B>) -> io::Result<Opening<B>> {
        let restored = ready.saved.is_some();
        let slot = Arc::new(Slot { serving: OnceLock::new(), restored, begun: Mutex::new(false) });
        let theirs = Arc::clone(&slot);
        let span = if restored { budget::vfio::RESTORING } else { budget::vfio::OPENING };
        let until = Deadline::after(span);
        let events = ready.links.events.clone();
        thread::Builder::new().name("open".to_owned()).spawn(move || {
            if let Err(error) = open(ready, until, &theirs) {
                // Without the threads the guest's accesses would time out.
                events.fatal(format!("vfio: the device's threads cannot be started: {error}"));
            }
        })?;
        Ok(Opening(slot))
    }

    /// What serves the guest; none while the outcome is open.
    pub fn serving(&self) -> Option<&Serving<B>> {
        self.0.serving.get()
    }

    /// Starts the function: now, or as soon as the device is open.
    pub fn go(&self) {
        let mut begun = self.0.begun();
        if std::mem::replace(&mut *begun, true) {
            return;
        }
        if let Some(serving) = self.serving() {
            serving.go(self.0.restored);
        }
    }
}

impl<B: Backend> Serving<B> {
    fn go(&self, restored: bool) {
        self.ring.go();
        self.function.begin(restored);
    }
}

/// Opens the device, has the function answer the guest, and reports the outcome.
fn open<B: Backend>(ready: Ready<B>, until: Deadline, slot: &Slot<B>) -> io::Result<()> {
    let Ready { config, iommu, unopened, links, msi, intx_end, responder, saved, is_revived } = ready;
    if is_revived {
        // The CPUs may wait for this function, and their process for them.
        links.vcpu.greet_later()?;
    }
    let opened = open_device::<B>(unopened, saved, &config, &links, intx_end, is_revived, until);
    let mut later = Vec::new();
    let (opened, sources, outcome) = match opened {
        Ok((opened, sources, windows)) => {
            later = windows;
            (Ok(opened), Some(sources), Event::DeviceOpened)
        }
        Err(reason) => (Err(reason.clone()), None, Event::DeviceFailed(reason)),
    };
    let areas = config.areas;
    let events = links.events.clone();
    let function = Arc::new(Function::new(config.id.to_string(), opened, iommu, links, areas, msi));
    function.gate.close();
    let fatal = events.clone();
    let on_violation = move |violation: &Violation| {
        // The guest's only path to the device is closed.
        let what = "vfio: the vCPU process broke the contract of the function's ring";
        fatal.fatal(format!("{what}: {violation}"));
    };
    if slot.restored {
        function.arm();
    }
    if is_revived {
        // The guest's accesses are answered from here on.
        function.begin_keeping();
        function.ring_board();
    }
    let is_armed = function.failure().is_none() || matches!(outcome, Event::DeviceFailed(_));
    let ring = RingThread::start(Arc::clone(&function), responder, budget::vfio::DRAIN, on_violation)?;
    let signals = sources.map(Signals::new).map(Arc::new);
    // Held until all threads are started, so that it starts once.
    let begun = slot.begun();
    let serving = slot.serving.get_or_init(|| Serving { function, ring, signals });
    // Before any thread can report the device failed: the first event is the outcome of opening. A device that failed
    // while being armed has been reported already.
    if is_armed {
        events.tell(outcome);
    }
    threads::start_helpers(&serving.function, serving.signals.as_ref(), &serving.ring)?;
    if let Some(signals) = serving.signals.as_ref().filter(|_| is_revived) {
        threads::introduce(&serving.function, signals, later)?;
    }
    if *begun {
        serving.go(slot.restored);
    }
    Ok(())
}

/// What a guest can tell of the device, whatever its state is.
fn features(opened: &Opened) -> Vec<Feature> {
    let Opened { config, bar_lens, vectors, intx, mappables: _ } = opened;
    let id = |offset: usize| match config.get(offset..).and_then(<[u8]>::first_chunk) {
        Some(bytes) => u16::from_le_bytes(*bytes),
        None => u16::MAX,
    };
    let bars = bar_lens.iter().enumerate().filter(|(_, len)| **len != 0);
    let bars = bars.map(|(bar, len)| Feature::new(format!("BAR {bar}"), format_args!("{len:#x} bytes")));
    let others = [
        Feature::new("vendor and device ID", format_args!("{:04x}:{:04x}", id(0), id(2))),
        Feature::new("MSI-X vectors", vectors),
        Feature::new("INTx pin", if intx.is_some() { "yes" } else { "no" }),
    ];
    others.into_iter().chain(bars).collect()
}

/// Windows, each with the file to map it from.
pub type Windows = Vec<(DeviceWindow, Arc<OwnedFd>)>;

/// Says hello to the vCPU process, opens the device and connects its interrupts. Returns the windows that the vCPU
/// process is to be told of later. An error is the reason why the device cannot be used; the process goes on.
fn open_device<B: Backend>(
    unopened: B::Unopened,
    saved: Option<Saved<B>>,
    config: &VfioConfig,
    links: &Links,
    intx_end: Doorbell,
    is_revived: bool,
    until: Deadline,
) -> Result<((B, ConfigSpace), InterruptSources, Windows), String> {
    let Links { vcpu: link, events, stage1: _ } = links;
    // One answer of the vCPU process, which is there: what is slow is the device.
    if !is_revived {
        let greeted = link.greet(until.min(Deadline::after(budget::vfio::GATE)));
        greeted.map_err(|error| format!("hello on the function link failed: {error}"))?;
    }
    events.progress();
    let (state, saved) = saved.map(|Saved { function, device }| (function, device)).unzip();
    let (mut device, opened) = B::open(unopened, saved, until).map_err(|error| error.to_string())?;
    events.progress();
    let space = ConfigSpace::new(&opened.config, opened.bar_lens, opened.vectors, &config.areas)
        .map_err(|error| error.to_string())?;
    events.tell(Event::Features(features(&opened)));
    let (mut space, eventfds) =
        connect::interrupts(&mut device, space, &opened, link, &config.id.to_string(), state.as_ref())?;
    if let Some(state) = &state {
        space.restore(state).map_err(|error| error.to_string())?;
    }
    let mut later = Windows::new();
    for (offered, file) in &opened.mappables {
        for window in windows::cut(&space, offered, config.areas.memory()) {
            if until.has_passed() {
                return Err("the vCPU process did not map its windows in time".to_owned());
            }
            events.progress();
            if is_revived {
                later.push((window, Arc::clone(file)));
                continue;
            }
            // Its accesses come through the ring then: slower, but correct.
            if let Err(why) = link.add_window(window, file) {
                ipc::log::info!("{}: BAR {} is not mapped into the guest: {why}", config.id, offered.bar);
            }
        }
    }
    Ok(((device, space), InterruptSources { eventfds, intx_end }, later))
}
