// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The VM in KVM: memory, vCPUs and interrupt controller, and the interrupt inputs for the rest of the machine.
//!
//! While the machine is paused no interrupt is injected: irqfds are deassigned, so that a signal waits in its eventfd
//! for the process that runs the guest next, and MSIs are queued here, since the ITS's tables are in guest memory
//! already.

use super::cpu::{self, Cpu};
use super::gic::Gic;
use super::held_time::HeldTime;
use super::level_ends;
use super::memslots::{self, Kind, Slot};
use super::needs;
use super::registers::VIRTUAL_COUNTER;
use super::routes::Routes;
use super::saved::{KvmClockV1, KvmItsV1, KvmMessageV1, SavedKvm};
use super::sys;
use super::window_slots::WindowSlots;
use crate::engine::EngineParts;
use crate::interrupts::controller::{InterruptController, ResampledLine};
use crate::interrupts::intx::Pins;
use crate::interrupts::vectors::{Vector, Vectors};
use ipc::addr::Gpa;
use ipc::doorbell;
use ipc::protocol::control::{DirtyLogOp, DirtyLogState, Exactness, Failure};
use ipc::protocol::function_link::VECTORS_MAX;
use ipc::protocol::inspect::Inspect;
use ipc::shm::dirty_log::DirtyLog;
use kvm_bindings::{
    KVM_ARM_IRQ_TYPE_SHIFT, KVM_ARM_IRQ_TYPE_SPI, KVM_CAP_ARM_NISV_TO_USER,
    KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, KVM_MSI_VALID_DEVID, kvm_enable_cap, kvm_msi,
};
use kvm_ioctls::VmFd;
use machine::layout::{GITS_TRANSLATER, IPA_BITS, PCI_SLOT_COUNT, SPI_BASE};
use rustix::event::{EventfdFlags, eventfd};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use vm_memory::{GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};
use vmm_sys_util::errno::Error as Errno;

/// Queued MSIs of one device at most: several times its number of vectors. Only a faulty device exceeds that, and
/// loses its own.
const LATE_MESSAGES_OF_DEVICE: usize = 8 * VECTORS_MAX as usize;
/// Queued MSIs of all devices at most.
const LATE_MESSAGES_MAX: usize = LATE_MESSAGES_OF_DEVICE * PCI_SLOT_COUNT as usize;

/// The part of a second that a kicked vCPU has to leave guest code: the interrupt of another CPU, a hundred times over.
const LEAVING_PER_S: u64 = 100;
/// How often KVM may refuse an offset of the counter because a vCPU is in KVM_RUN, and the pause behind each.
const RELEASE_ATTEMPTS_MAX: u32 = 100;
const RELEASE_PAUSE: Duration = Duration::from_millis(1);

/// The VM.
pub struct Vm {
    /// The vCPUs, in order.
    pub cpus: Vec<Cpu>,
    /// Memory slots of windows.
    pub window_slots: Arc<WindowSlots>,
    gic: Gic,
    fd: Arc<VmFd>,
    /// Each memory slot with its memory, which stays mapped as long as the VM.
    slots: Vec<(Slot, Arc<GuestMemoryMmap>)>,
    dirty: Arc<DirtyLog>,
    page_len: u64,
    /// The pins of PCI functions, and their lines.
    pins: Arc<Pins>,
    lines: Vec<ResampledLine>,
    /// KVM may lose the end of a level interrupt on them.
    loses_ends: bool,
    /// One for each line, never signalled: KVM accepts a resamplefd only together with an irqfd's eventfd.
    unused: Vec<OwnedFd>,
    /// The vectors of physical devices. Locked before the state.
    vectors: Arc<Vectors>,
    /// MSIs that came through this process (not by irqfd).
    messages: AtomicU64,
    state: Mutex<State>,
}

struct State {
    running: bool,
    /// Offset of the guest's counter from the host's, in ticks.
    counter_offset: u64,
    /// The machine runs and its vCPUs are held.
    held: HeldTime,
    /// The guest's counter while guest time is stopped.
    clock: KvmClockV1,
    /// MSIs that came during the pause.
    late: Vec<KvmMessageV1>,
    /// The interrupt routes in KVM.
    routes: Routes,
    /// How many vectors are on an irqfd.
    connected: u64,
}

impl State {
    /// Queues an MSI until the guest resumes. One that is queued already is dropped: an LPI has one pending bit.
    fn keep(&mut self, message: KvmMessageV1) {
        let of_device = self.late.iter().filter(|late| late.device_id == message.device_id);
        if of_device.count() < LATE_MESSAGES_OF_DEVICE && !self.late.contains(&message) {
            self.late.push(message);
        }
    }
}

/// The vectors with a route and a signal in their eventfd, and their routes.
fn signalled(vectors: &[Vector]) -> impl Iterator<Item = (&Vector, u32)> {
    let routed = vectors.iter().filter_map(|vector| Some((vector, vector.event?)));
    routed.filter(|(vector, _)| doorbell::is_readable(&vector.eventfd))
}

fn fail(what: &'static str) -> impl FnOnce(Errno) -> Failure {
    move |errno| Failure::new(what, errno)
}

impl Vm {
    /// How many bits of an interrupt's priority its vCPUs have.
    pub fn priority_bits(&self) -> Result<u32, Failure> {
        self.gic.priority_bits(0)
    }

    /// A VM at reset, or as it was saved, paused.
    pub fn new(device: OwnedFd, parts: &EngineParts, saved: Option<&SavedKvm>) -> Result<Self, Failure> {
        let kvm = sys::kvm(device);
        let page_len = sys::page_len();
        let (mut lines, mut unused) = (Vec::new(), Vec::new());
        for intid in parts.pins.intids() {
            lines.push(ResampledLine { fell: new_eventfd("create the eventfds of an INTx line")?, intid });
            unused.push(new_eventfd("create the eventfds of an INTx line")?);
        }
        // Before this VM has its descriptors: those of the probe are closed again by then.
        let loses_ends = match (lines.first(), unused.first()) {
            (Some(line), Some(unused)) => {
                level_ends::are_lost(&kvm, line, unused, page_len).unwrap_or_else(|failure| {
                    // If in doubt, kick: unnecessary kicks only cost time.
                    let Failure { what, why } = failure;
                    ipc::log::warn!("probing ends of level interrupts failed, vCPUs are kicked for them: cannot {what}: {why}");
                    true
                })
            }
            _ => false,
        };
        let fd = kvm
            .create_vm_with_ipa_size(IPA_BITS)
            .map_err(fail("create a VM with 40-bit guest addresses (KVM_CREATE_VM)"))?;
        needs::check(parts.pmu, |capability| fd.check_extension_raw(capability.into()))?;
        let enable = |cap, first| {
            let mut request = kvm_enable_cap { cap, ..Default::default() };
            request.args = [first, 0, 0, 0];
            fd.enable_cap(&request)
        };
        enable(KVM_CAP_ARM_NISV_TO_USER, 0).map_err(fail("enable KVM_CAP_ARM_NISV_TO_USER"))?;
        enable(KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, 1)
            .map_err(fail("enable KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2"))?;
        let slots = add_memory(&fd, parts, page_len)?;
        let cpus = (0..parts.vcpu_count)
            .map(|index| Cpu::new(&fd, index, parts.pmu))
            .collect::<Result<Vec<_>, _>>()?;
        let vcpu_count = u32::try_from(parts.vcpu_count).unwrap_or(u32::MAX);
        let gic = Gic::new(&fd, vcpu_count)?;
        if parts.pmu {
            cpus.iter().try_for_each(Cpu::set_up_pmu)?;
        }
        // With a known offset a read of the guest's counter gives the host's.
        sys::set_counter_offset(&fd, 0)
            .map_err(fail("set the counter offset (KVM_ARM_SET_COUNTER_OFFSET)"))?;
        let state = State {
            running: false,
            counter_offset: 0,
            held: HeldTime::default(),
            clock: KvmClockV1 { ticks: 0, hz: sys::counter_hz() },
            late: Vec::new(),
            routes: Routes::default(),
            connected: 0,
        };
        let (dirty, pins) = (Arc::clone(&parts.dirty), Arc::clone(&parts.pins));
        // vCPUs' writes are in KVM's dirty log until it is read.
        dirty.set_unmarked_writes(true);
        let (vectors, messages, state) = (Arc::clone(&parts.vectors), AtomicU64::new(0), Mutex::new(state));
        let fd = Arc::new(fd);
        let first_free = slots.iter().map(|(slot, _)| slot.number + 1).max().unwrap_or(0);
        let window_slots = Arc::new(WindowSlots::new(Arc::clone(&fd), first_free, page_len));
        let vm = Self {
            cpus,
            window_slots,
            gic,
            fd,
            slots,
            dirty,
            page_len,
            pins,
            lines,
            loses_ends,
            unused,
            vectors,
            messages,
            state,
        };
        if let Some(saved) = saved {
            vm.restore(saved)?;
        }
        Ok(vm)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn restore(&self, saved: &SavedKvm) -> Result<(), Failure> {
        let SavedKvm { clock, vcpus, gic, its: KvmItsV1 { registers, late_messages } } = saved;
        if late_messages.len() > LATE_MESSAGES_MAX {
            let why = format!("{} of them, at most {LATE_MESSAGES_MAX} fit", late_messages.len());
            return Err(Failure::new("restore the messages of devices", why));
        }
        let hz = sys::counter_hz();
        if clock.hz != hz {
            let why = format!("it counts at {} Hz, this host's counter at {hz} Hz", clock.hz);
            return Err(Failure::new("restore the guest's time", why));
        }
        for (cpu, saved) in self.cpus.iter().zip(vcpus) {
            cpu.restore(saved)?;
        }
        self.gic.restore(gic)?;
        self.gic.restore_its(registers)?;
        let mut state = self.state();
        state.clock = clock.clone();
        state.late.clone_from(late_messages);
        Ok(())
    }

    /// All state of the paused VM, including signals of vectors during the pause: no other process reads their
    /// eventfds.
    pub fn save(&self) -> Result<SavedKvm, Failure> {
        let vectors = self.vectors.list();
        let mut state = self.state();
        if !state.running {
            for (vector, event_id) in signalled(&vectors) {
                if doorbell::take_eventfd(&vector.eventfd) {
                    state.keep(KvmMessageV1 { device_id: vector.device_id, event_id });
                }
            }
        }
        Ok(SavedKvm {
            clock: state.clock.clone(),
            vcpus: self.cpus.iter().map(Cpu::save).collect::<Result<_, _>>()?,
            gic: self.gic.save()?,
            its: KvmItsV1 { registers: self.gic.save_its()?, late_messages: state.late.clone() },
        })
    }

    /// The guest's counter as KVM returns it now.
    fn ticks(&self) -> Result<u64, Failure> {
        let boot = self.cpus.first().ok_or_else(|| Failure::new("read the guest's counter", "no vCPU"))?;
        boot.register(VIRTUAL_COUNTER)
    }

    /// Resumes guest time where it stopped, and assigns irqfds.
    pub fn resume(&self) -> Result<(), Failure> {
        let vectors = self.vectors.list();
        let mut state = self.state();
        let host = self.ticks()?.wrapping_add(state.counter_offset);
        let offset = host.wrapping_sub(state.clock.ticks);
        sys::set_counter_offset(&self.fd, offset).map_err(fail("set the counter offset at resume"))?;
        state.counter_offset = offset;
        state.held.begin_anew(sys::counter());
        for message in std::mem::take(&mut state.late) {
            self.signal(message);
        }
        self.connect(&mut state, &vectors, true)?;
        state.running = true;
        Ok(())
    }

    /// Stops guest time and deassigns irqfds; no vCPU runs any more. The ITS's tables are written to guest memory,
    /// and KVM's dirty log is merged into the shared one.
    pub fn pause(&self) -> Result<(), Failure> {
        let vectors = self.vectors.list();
        let mut state = self.state();
        if !state.running {
            return Ok(());
        }
        state.clock.ticks = self.ticks()?.wrapping_sub(state.held.ticks(sys::counter()));
        self.connect(&mut state, &vectors, false)?;
        state.running = false;
        drop((state, vectors));
        self.gic.write_tables()?;
        self.harvest()
    }

    /// Stops guest time of vCPUs that are held and were kicked.
    pub fn hold_time(&self) {
        let leaving = sys::counter_hz() / LEAVING_PER_S;
        self.state().held.begin(sys::counter(), leaving);
    }

    /// Lets guest time go on; vCPUs are still held. One may be in KVM_RUN for a moment, to complete an access: KVM
    /// refuses the offset meanwhile.
    pub fn release_time(&self) -> Result<(), Failure> {
        for attempt in 1.. {
            let mut state = self.state();
            if state.running && state.held.is_held() {
                let offset = state.counter_offset.wrapping_add(state.held.ticks(sys::counter()));
                match sys::set_counter_offset(&self.fd, offset) {
                    Err(errno) if errno.errno() == libc::EBUSY && attempt < RELEASE_ATTEMPTS_MAX => {
                        drop(state);
                        std::thread::sleep(RELEASE_PAUSE);
                        continue;
                    }
                    Err(errno) => {
                        state.held.end();
                        return Err(Failure::new("set the counter offset behind a hold", errno));
                    }
                    Ok(()) => state.counter_offset = offset,
                }
            }
            state.held.end();
            break;
        }
        Ok(())
    }

    /// Assigns or deassigns the irqfds of all lines and vectors.
    fn connect(&self, state: &mut State, vectors: &[Vector], assign: bool) -> Result<(), Failure> {
        self.connect_vectors(state, vectors, assign)?;
        for (line, unused) in self.lines.iter().zip(&self.unused) {
            // KVM's GSIs of wired interrupts begin at the first SPI.
            let (gsi, fell) = (line.intid.saturating_sub(SPI_BASE), Some(line.fell.as_fd()));
            sys::irqfd(&self.fd, unused.as_fd(), fell, gsi, assign)
                .map_err(fail("assign the irqfd of an INTx line"))?;
            if assign {
                // Deassigning lowers a line: functions that still assert it raise it again.
                self.pins.ended(line.intid);
            }
        }
        Ok(())
    }

    /// KVM's ITS ignores one that no table maps.
    fn signal(&self, message: KvmMessageV1) {
        let KvmMessageV1 { device_id, event_id } = message;
        let [low, high] = translater();
        self.messages.fetch_add(1, Ordering::Relaxed);
        let _ = self.fd.signal_msi(kvm_msi {
            address_lo: low,
            address_hi: high,
            data: event_id,
            flags: KVM_MSI_VALID_DEVID,
            devid: device_id,
            ..Default::default()
        });
    }

    /// A dirty-log operation for vCPUs' writes. KVM's log is merged into the shared one before that is flipped.
    pub fn dirty_log(&self, op: DirtyLogOp) -> Result<DirtyLogState, Failure> {
        match op {
            DirtyLogOp::Enable { epoch } => {
                self.dirty.enable(epoch);
                self.log_slots(true)?;
            }
            DirtyLogOp::Disable => {
                self.log_slots(false)?;
                self.dirty.disable();
            }
            DirtyLogOp::Rearm => {
                self.harvest()?;
                self.dirty.flip();
            }
        }
        Ok(self.dirty.state(Exactness::Exact))
    }

    fn log_slots(&self, log: bool) -> Result<(), Failure> {
        for (slot, memory) in self.ram() {
            sys::set_memory(&self.fd, slot, memory, log).map_err(fail("switch the dirty log"))?;
        }
        Ok(())
    }

    /// Moves the pages that KVM logged since the last time into the shared log; the next write to any page is logged
    /// again.
    ///
    /// KVM logs a page before the write, and it is write-protected again here: a write that had not happened by then
    /// is logged once more.
    pub fn harvest(&self) -> Result<(), Failure> {
        if !self.dirty.is_enabled() {
            return Ok(());
        }
        for (slot, _) in self.ram() {
            let len = usize::try_from(slot.len).map_err(|_| {
                Failure::new("read KVM's dirty log", "a slot is larger than an address space")
            })?;
            let mut bitmap = self.fd.get_dirty_log(slot.number, len).map_err(fail("read KVM's dirty log"))?;
            sys::clear_dirty(&self.fd, slot, self.page_len, &mut bitmap)
                .map_err(fail("clear KVM's dirty log"))?;
            for (first, len) in memslots::runs(&bitmap) {
                let gpa = slot.gpa.saturating_add(first.saturating_mul(self.page_len));
                self.dirty.mark(Gpa(gpa), len.saturating_mul(self.page_len));
            }
        }
        Ok(())
    }

    /// Signals pending in vectors' eventfds.
    pub fn waiting_vectors(&self) -> u64 {
        let vectors = self.vectors.list();
        let running = self.state().running;
        // While the VM runs, KVM reads the eventfds.
        if running { 0 } else { signalled(&vectors).map(|_| 1).sum() }
    }

    /// Counters for `inspect` and tests.
    pub fn inspect(&self, inspect: &mut Inspect) {
        cpu::inspect_counters(&self.cpus, inspect);
        self.cpus.iter().for_each(|cpu| cpu.inspect(inspect));
        inspect.counter("irqfd.vectors", self.state().connected);
        inspect.counter("msi.signalled", self.messages.load(Ordering::Relaxed));
    }

    fn ram(&self) -> impl Iterator<Item = (&Slot, &GuestMemoryMmap)> {
        self.slots.iter().filter(|(slot, _)| slot.kind == Kind::Ram).map(|(slot, memory)| (slot, &**memory))
    }
}

impl InterruptController for Vm {
    fn pulse(&self, intid: u32) {
        // Edge-triggered: the rising edge makes it pending.
        self.set_level(intid, true);
        self.set_level(intid, false);
    }

    fn set_level(&self, intid: u32, high: bool) {
        // The line is one of this machine's, so KVM does not refuse it.
        let _ = self.fd.set_irq_line(KVM_ARM_IRQ_TYPE_SPI << KVM_ARM_IRQ_TYPE_SHIFT | intid, high);
    }

    fn signal_msi(&self, device_id: u32, event_id: u32) {
        let message = KvmMessageV1 { device_id, event_id };
        let mut state = self.state();
        if state.running {
            drop(state);
            self.signal(message);
        } else {
            state.keep(message);
        }
    }

    fn resampled(&self) -> &[ResampledLine] {
        &self.lines
    }

    fn loses_ends(&self) -> bool {
        self.loses_ends
    }

    fn kick_vcpus(&self) {
        self.cpus.iter().for_each(Cpu::kick);
    }
}

/// The halves of the doorbell address, GITS_TRANSLATER.
fn translater() -> [u32; 2] {
    [GITS_TRANSLATER & 0xffff_ffff, GITS_TRANSLATER >> 32].map(|half| u32::try_from(half).unwrap_or(0))
}

fn new_eventfd(what: &'static str) -> Result<OwnedFd, Failure> {
    eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(|errno| Failure::new(what, errno))
}

/// Makes memory slots of RAM and register pages.
fn add_memory(
    fd: &VmFd,
    parts: &EngineParts,
    page_len: u64,
) -> Result<Vec<(Slot, Arc<GuestMemoryMmap>)>, Failure> {
    let memories = [(Kind::Ram, Some(&parts.ram)), (Kind::ReadOnly, parts.register_pages.as_ref())];
    let regions: Vec<_> = memories
        .into_iter()
        .filter_map(|(kind, memory)| Some((kind, memory?)))
        .flat_map(|(kind, memory)| {
            memory.iter().map(move |region| (kind, region.start_addr().0, region.len(), Arc::clone(memory)))
        })
        .collect();
    let plan = memslots::plan(regions.iter().map(|(kind, gpa, len, _)| (*kind, *gpa, *len)), page_len)
        .map_err(|error| Failure::new("plan the memory slots", error))?;
    let mut slots = Vec::new();
    for (slot, (.., memory)) in plan.into_iter().zip(regions) {
        // Logging may have been switched on before there was a VM.
        sys::set_memory(fd, &slot, &memory, parts.dirty.is_enabled())
            .map_err(fail("add a memory slot (KVM_SET_USER_MEMORY_REGION)"))?;
        slots.push((slot, memory));
    }
    Ok(slots)
}

mod vectors;

#[cfg(test)]
mod tests;
