// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The seam between what executes guest code and the machine around it.
//!
//! An [`Engine`] is the guest's CPUs with their timers and its interrupt controller: software ones
//! ([`super::soft`]) or those of the host by KVM (`super::kvm`). Everything else is the same under both. Threads
//! call [`Engine::run`]; all other calls come from the control thread, while no vCPU runs unless said otherwise.

use super::bus::Bus;
use super::interrupts::controller::InterruptController;
use super::interrupts::intx::Pins;
use super::interrupts::vectors::Vectors;
use super::saved::Units;
use super::window_memory::Mapper;
use ipc::protocol::control::{DirtyLogOp, DirtyLogState, Failure};
use ipc::protocol::inspect::Inspect;
use ipc::shm::dirty_log::DirtyLog;
use sandbox::Inherited;
use std::sync::Arc;
use vm_memory::GuestMemoryMmap;

/// What an engine is made from.
pub struct EngineParts {
    /// Number of vCPUs.
    pub vcpu_count: usize,
    /// Whether they have performance monitors. Software CPUs always do.
    pub pmu: bool,
    /// Guest RAM.
    pub ram: Arc<GuestMemoryMmap>,
    /// Register pages that the guest reads without leaving, and cannot write.
    pub register_pages: Option<Arc<GuestMemoryMmap>>,
    /// This process' dirty log.
    pub dirty: Arc<DirtyLog>,
    /// The pins of PCI functions, to be told when the guest ends their interrupt.
    pub pins: Arc<Pins>,
    /// The vectors of physical devices, for a controller that listens to them by itself.
    pub vectors: Arc<Vectors>,
}

/// Why [`Engine::run`] returned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exit {
    /// [`Engine::kick`] was called.
    Kicked,
    /// The guest switched the machine off.
    PowerOff,
    /// The guest asked for a reset of the machine.
    Reset,
    /// The host cannot go on with this vCPU; why.
    Fatal(String),
}

/// CPUs and interrupt controller of one machine.
pub trait Engine: Sized + Send + Sync + 'static {
    /// What it needs of the host besides memory.
    type Host: Send;
    /// Its interrupt controller: made first, for devices are wired to it and CPUs reach devices.
    type Controller: InterruptController;
    /// Its state.
    type Saved: Units;

    /// Whether it makes memory slots of windows: then [`Engine::mapper`] has who does.
    const MAPS_WINDOWS: bool;
    /// Whether its controller listens to vectors of physical devices by itself.
    const LISTENS_TO_VECTORS: bool;

    /// Takes what it needs of the host out of the inherited table.
    fn take_host(fds: &mut Inherited) -> Result<Self::Host, Failure>;

    /// The interrupt controller, at reset or as it was saved.
    fn controller(
        host: Self::Host,
        parts: &EngineParts,
        saved: Option<&Self::Saved>,
    ) -> Result<Arc<Self::Controller>, Failure>;

    /// The CPUs, at reset or as they were saved; accesses outside memory go to `bus`.
    fn new(
        parts: EngineParts,
        controller: Arc<Self::Controller>,
        bus: Arc<Bus>,
        saved: Option<&Self::Saved>,
    ) -> Result<Self, Failure>;

    /// Who makes memory slots of windows.
    fn mapper(controller: &Arc<Self::Controller>) -> Option<Arc<dyn Mapper>>;

    /// How many vCPUs there are.
    fn vcpu_count(&self) -> usize;

    /// Switches the boot vCPU on, at `entry` with `fdt` in x0.
    fn power_on(&self, entry: u64, fdt: u64) -> Result<(), Failure>;

    /// Runs guest code of vCPU `index` on the calling thread until there is a reason to stop.
    fn run(&self, index: usize) -> Exit;

    /// Makes every vCPU leave guest code, or not enter it. From any thread; may be repeated.
    fn kick(&self);

    /// The guest is about to run: its time goes on from where it stopped.
    fn resume(&self) -> Result<(), Failure>;

    /// Every vCPU's thread is parked: guest time stops, and what the guest wrote is in the dirty log.
    fn pause(&self) -> Result<(), Failure>;

    /// All state, what vectors have signalled meanwhile included. Writes no guest memory: that was harvested and copied already.
    fn save(&self) -> Result<Self::Saved, Failure>;

    /// A step of the dirty log, also while vCPUs run. After switching it on, and after flipping it, the next store to any page is
    /// marked anew.
    fn dirty_log(&self, op: DirtyLogOp) -> Result<DirtyLogState, Failure>;

    /// Signals of vectors that its controller listens to by itself and has not seen: while the guest is paused they wait.
    fn waiting_vectors(&self) -> u64;

    /// Counters for people and tests.
    fn inspect(&self, inspect: &mut Inspect);
}
