// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The interface between what executes guest code and the machine around it.
//!
//! An [`Engine`] is the guest's CPUs with their timers and its interrupt controller: software ones ([`super::soft`])
//! or those of the host by KVM (`super::kvm`). Everything else is the same under both. vCPU threads call
//! [`Engine::run`]; all other calls come from the control thread, and while no vCPU runs unless noted.

use super::bus::Bus;
use super::interrupts::controller::InterruptController;
use super::interrupts::intx::Pins;
use super::interrupts::vectors::Vectors;
use super::saved::Units;
use super::window_memory::Mapper;
use ipc::protocol::control::{DirtyLogOp, DirtyLogState, Failure};
use ipc::protocol::features::Feature;
use ipc::protocol::inspect::Inspect;
use ipc::shm::dirty_log::DirtyLog;
use sandbox::Inherited;
use std::sync::Arc;
use std::time::Duration;
use vm_memory::GuestMemoryMmap;

/// The feature that is CNTFRQ_EL0.
pub const COUNTER_FREQUENCY: &str = "counter frequency";
/// The feature that is ICC_CTLR_EL1.PRIbits + 1.
pub const GIC_PRIORITY_BITS: &str = "GIC priority bits";
/// The feature that is the granule in which guest memory is mapped.
pub const PAGE_SIZE: &str = "page size";

/// What an engine is made from.
pub struct EngineParts {
    /// Number of vCPUs.
    pub vcpu_count: usize,
    /// Whether they have performance monitors. Software CPUs always do.
    pub pmu: bool,
    /// Guest RAM.
    pub ram: Arc<GuestMemoryMmap>,
    /// Register pages that the guest reads without an exit and cannot write.
    pub register_pages: Option<Arc<GuestMemoryMmap>>,
    /// This process' dirty log.
    pub dirty: Arc<DirtyLog>,
    /// The INTx pins of PCI functions, to be notified at the end of their interrupts.
    pub pins: Arc<Pins>,
    /// The MSI-X vectors of physical devices, for a controller with irqfds.
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
    /// The vCPU cannot be run any more; why.
    Fatal(String),
}

/// CPUs and interrupt controller of one machine.
pub trait Engine: Sized + Send + Sync + 'static {
    /// Host resources it needs besides memory.
    type Host: Send;
    /// Its interrupt controller: made first, because devices are wired to it, and CPUs to devices.
    type Controller: InterruptController;
    /// Its state.
    type Saved: Units;

    /// Whether windows become memory slots: then [`Engine::mapper`] returns a mapper.
    const MAPS_WINDOWS: bool;
    /// Whether its controller takes vectors of physical devices by irqfd.
    const LISTENS_TO_VECTORS: bool;

    /// Takes its host resources from the inherited descriptors.
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

    /// What a guest can tell of its CPUs, as far as this program knows without any.
    fn features_of_host() -> Vec<Feature>;

    /// The rest of it.
    ///
    /// # Errors
    /// If the host does not say.
    fn features(&self) -> Result<Vec<Feature>, Failure>;

    /// What makes memory slots of windows.
    fn mapper(controller: &Arc<Self::Controller>) -> Option<Arc<dyn Mapper>>;

    /// How many vCPUs there are.
    fn vcpu_count(&self) -> usize;

    /// Switches the boot vCPU on, at `entry` with `fdt` in x0.
    fn power_on(&self, entry: u64, fdt: u64) -> Result<(), Failure>;

    /// Runs guest code of vCPU `index` on the calling thread until it exits for one of the reasons of [`Exit`].
    fn run(&self, index: usize) -> Exit;

    /// Makes every vCPU leave guest code, or not enter it. From any thread; may be repeated.
    fn kick(&self);

    /// Called before the guest runs: guest time continues from where it stopped.
    fn resume(&self) -> Result<(), Failure>;

    /// Called when every vCPU thread is parked: stops guest time, and merges the guest's writes into the dirty log.
    fn pause(&self) -> Result<(), Failure>;

    /// Guest time goes on for at most `span` from now, and stands then; or, without one, goes on from where it stands.
    /// An engine whose CPUs read the host's counter stops it for a span of zero only, when vCPUs are held and kicked,
    /// and lets it go on for any other while they are held still.
    fn limit_time(&self, span: Option<Duration>) -> Result<(), Failure>;

    /// All state, including signals of vectors during the pause. Writes no guest memory, whose last harvest is over.
    fn save(&self) -> Result<Self::Saved, Failure>;

    /// A dirty-log operation; vCPUs may run. After switching it on, and after flipping it, the next store to any page
    /// is marked again.
    fn dirty_log(&self, op: DirtyLogOp) -> Result<DirtyLogState, Failure>;

    /// Signals pending in eventfds of vectors with an irqfd: they wait there while the guest is paused.
    fn waiting_vectors(&self) -> u64;

    /// Counters for `inspect` and tests.
    fn inspect(&self, inspect: &mut Inspect);
}
