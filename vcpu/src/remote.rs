// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Accesses of the guest to a device in another process.
//!
//! Reads of a device with a register page never come here: the page is mapped into the guest. A write to a register
//! that only the guest changes is stored in the page and posted, so the guest reads its own write back; every other
//! write waits for the device's answer. A function that does not answer in time, or is gone, has failed
//! ([`super::health`]): the vCPU reads all ones, and a pause waits for no device longer than that. A device of the
//! machine itself (the vSMMU), or a function that the configuration says so of, may be started anew by the coordinator:
//! it is waited for, for as long as the guest is not ended, and a report goes to the coordinator when that takes long.
//! Its ring outlives its process. Accesses to a shown window do not go through the ring; while a function has any
//! shown, none of its writes is posted, because an access to the window would overtake it. An access to a device
//! without a register page takes no lock.

use super::gate::Gate;
use super::health::Health;
use super::pci_host;
use super::window_memory::Mapper;
use super::windows::Windows;
use ipc::deadline::Deadline;
use ipc::hello::Role;
use ipc::protocol::control::Failure;
use ipc::protocol::inspect::Inspect;
use ipc::protocol::vcpu::{FunctionWindow, RemoteFunction, RemoteMmio};
use ipc::protocol::vfio::{AREA32_REGION, AREA64_REGION};
use ipc::shm::command_queue::CommandQueue;
use ipc::shm::region::Region;
use ipc::shm::register_page::{self, GuestOwned, RegisterPage};
use ipc::shm::ring;
use ipc::shm::ring::{ANSWER_SPAN, Interrupt, Requester, RingError};
use machine::layout::SMMU0;
use std::fmt;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};
use vm_memory::mmap::MmapRegionBuilder;
use vm_memory::{FileOffset, GuestAddress, GuestMemoryMmap, GuestRegionMmap};

/// How long one wait lasts before the gate is checked again, for quit.
const WAIT_SLICE: Duration = Duration::from_millis(100);

/// How much of one wait counts towards the timeout. While the whole VM was stopped (host suspend, SIGSTOP) the device
/// was stopped as well.
const WAIT_COUNTED_MAX: Duration = Duration::from_millis(200);

/// Is told that commands of the guest may have begun to wait.
pub type OnCommand = Box<dyn Fn() + Send + Sync>;

/// A device in another process, reached through its ring.
pub struct RemoteDevice {
    health: Arc<Health>,
    windows: Vec<Window>,
    requester: Requester,
    /// For a device with a register page. Locked from the store to the post, so that page and ring have two vCPUs'
    /// writes in the same order.
    guest_owned: Option<Mutex<GuestOwned>>,
    posted: Vec<u64>,
    /// Of an SMMU, its Command queue.
    commands: Option<CommandQueue>,
    /// Told when commands may have begun to wait in that.
    on_command: OnceLock<OnCommand>,
    /// Its process may be followed by another life: it is waited for.
    has_next_life: bool,
    /// The machine is none without it.
    is_of_machine: bool,
    /// A PCI function's windows.
    memory: Option<Arc<Windows>>,
    counters: Counters,
}

/// One range of guest addresses that belongs to the device.
#[derive(Debug)]
struct Window {
    region: u16,
    base: u64,
    len: u64,
    /// Writes are posted, as writes to PCI memory are.
    posted: bool,
}

/// What an access to the device hits.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    gpa: u64,
    region: u16,
    offset: u64,
    posted: bool,
}

#[derive(Debug, Default)]
struct Counters {
    reads: AtomicU64,
    writes: AtomicU64,
    posts: AtomicU64,
}

impl fmt::Debug for RemoteDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteDevice").field("health", &self.health).finish_non_exhaustive()
    }
}

impl RemoteDevice {
    /// Opens ring and page; the page's region goes into the guest's memory map.
    pub fn open(
        config: &RemoteMmio,
        ring: OwnedFd,
        page: Option<OwnedFd>,
        spin: Duration,
    ) -> Result<(Self, Option<GuestRegionMmap>), Failure> {
        let window = Window { region: config.region, base: config.base.0, len: config.len, posted: false };
        let mut device = Self::attach(Health::new(&config.peer.to_string()), vec![window], ring, spin)?;
        (device.has_next_life, device.is_of_machine) = (true, true);
        let (Some(page), Some(rules)) = (page, &config.page) else { return Ok((device, None)) };
        let fail = |why: String| Failure::new(format!("open the register page of {}", config.peer), why);
        if config.len != SMMU0.len {
            return Err(fail(format!("{:#x} bytes of registers, a page has {:#x}", config.len, SMMU0.len)));
        }
        let page = Region::from_fd(page, register_page::PAGE_LEN).map_err(|error| fail(error.to_string()))?;
        let image = RegisterPage::attach(&page).map_err(|error| fail(error.to_string()))?;
        device.commands = (config.peer.role == Role::Smmu).then(|| CommandQueue::new(image.clone()));
        let owned = GuestOwned::new(image, rules.guest_owned.iter().copied());
        device.guest_owned = Some(Mutex::new(owned));
        device.posted = rules.posted.iter().copied().map(u64::from).collect();
        let region = map_for_guest(&page, config.base.0).map_err(fail)?;
        Ok((device, Some(region)))
    }

    /// Opens the ring of a PCI function.
    pub fn open_function(
        config: &RemoteFunction,
        ring: OwnedFd,
        spin: Duration,
        memory: Arc<Windows>,
        health: Arc<Health>,
    ) -> Result<Self, Failure> {
        let window = |FunctionWindow { region, range }: &FunctionWindow| Window {
            region: *region,
            base: range.start().0,
            len: range.len(),
            // Writes to configuration and I/O space are non-posted.
            posted: matches!(*region, AREA32_REGION | AREA64_REGION),
        };
        let windows = config.windows.iter().map(window).collect();
        let mut device = Self::attach(health, windows, ring, spin)?;
        device.has_next_life = config.has_next_life;
        device.memory = Some(memory);
        Ok(device)
    }

    fn attach(
        health: Arc<Health>,
        windows: Vec<Window>,
        ring: OwnedFd,
        spin: Duration,
    ) -> Result<Self, Failure> {
        let requester = Region::from_fd(ring, ring::RING_LEN)
            .and_then(|ring| Requester::attach(&ring, spin))
            .map_err(|error| Failure::new(format!("open the ring of {}", health.name()), error))?;
        Ok(Self {
            health,
            windows,
            requester,
            guest_owned: None,
            posted: Vec::new(),
            commands: None,
            on_command: OnceLock::new(),
            has_next_life: false,
            is_of_machine: false,
            memory: None,
            counters: Counters::default(),
        })
    }

    /// From now on `mapper` makes memory slots of its windows.
    pub fn connect(&self, mapper: &Arc<dyn Mapper>) {
        if let Some(memory) = &self.memory {
            memory.connect(Arc::clone(mapper));
        }
    }

    /// The Command queue of an SMMU.
    pub const fn commands(&self) -> Option<&CommandQueue> {
        self.commands.as_ref()
    }

    /// From now on `told` hears of each write after which commands may wait: of CMDQ_PROD, when the page shows it and
    /// nothing was posted; of another register (CR0 enables the queue, GERRORN lets it go on), when it was answered.
    pub fn on_command(&self, told: OnCommand) {
        let _ = self.on_command.set(told);
    }

    /// Whether it works.
    pub fn health(&self) -> &Health {
        &self.health
    }

    /// Its windows, if it is a PCI function.
    pub fn memory(&self) -> Option<&Windows> {
        self.memory.as_deref()
    }

    /// What `gpa` hits, if it belongs to the device.
    pub fn place_of(&self, gpa: u64) -> Option<Place> {
        self.windows.iter().find_map(|window| {
            let offset = gpa.checked_sub(window.base).filter(|offset| *offset < window.len)?;
            Some(Place { gpa, region: window.region, offset, posted: window.posted })
        })
    }

    /// A guest read that the device has to answer.
    pub fn read(&self, place: Place, size: u8, gate: &Gate) -> u64 {
        let Place { gpa, region, offset, .. } = place;
        if let Some(value) = self.memory.as_ref().and_then(|memory| memory.read(gpa, size)) {
            return value;
        }
        count(&self.counters.reads);
        let interrupt = Interrupt::new();
        let read = || self.requester.read(region, offset, size, &interrupt, slice());
        self.finish(gate, read).unwrap_or_else(|| pci_host::read(size))
    }

    /// A guest write.
    pub fn write(&self, place: Place, size: u8, value: u64, gate: &Gate) {
        let Place { gpa, region, offset, posted } = place;
        if self.memory.as_ref().is_some_and(|memory| memory.write(gpa, size, value)) {
            return;
        }
        let posted = posted && !self.memory.as_ref().is_some_and(|memory| memory.any_shown());
        let interrupt = Interrupt::new();
        let post = || self.requester.post(region, offset, size, value, &interrupt, slice()).map(|()| 0);
        let owned = self.guest_owned.as_ref();
        let owned = owned.map(|page| page.lock().unwrap_or_else(PoisonError::into_inner));
        let [a, b, c, d, ..] = value.to_le_bytes();
        let stored = size == 4
            && owned.as_ref().is_some_and(|page| page.store_u32(offset, u32::from_le_bytes([a, b, c, d])));
        if stored && CommandQueue::is_prod(offset) {
            self.tell_of_commands();
        }
        if posted || stored || self.posted.contains(&offset) {
            count(&self.counters.posts);
            self.finish(gate, post);
            return;
        }
        drop(owned);
        count(&self.counters.writes);
        let write = || self.requester.write(region, offset, size, value, &interrupt, slice()).map(|()| 0);
        self.finish(gate, write);
        self.tell_of_commands();
    }

    fn tell_of_commands(&self) {
        if self.commands.is_some()
            && let Some(told) = self.on_command.get()
        {
            told();
        }
    }

    /// Sends a request and waits until the device has answered. `None`: the device has failed, or the guest has ended.
    /// Retries only while the ring is full, so no request is sent twice.
    fn finish(&self, gate: &Gate, ask: impl Fn() -> Result<u64, RingError>) -> Option<u64> {
        if self.health.failure().is_some() {
            return None;
        }
        let mut waited = Duration::ZERO;
        let mut begun = Instant::now();
        let mut asked = ask();
        loop {
            let unfinished = match asked {
                Ok(value) => return Some(value),
                Err(error @ (RingError::Size { .. } | RingError::Violation(_))) => {
                    if self.is_of_machine {
                        self.health.fail_machine(error.to_string());
                    } else {
                        self.health.fail(error.to_string());
                    }
                    return None;
                }
                Err(
                    unfinished @ (RingError::Unfinished { .. }
                    | RingError::NotQueued { .. }
                    | RingError::NoLane),
                ) => unfinished,
            };
            waited = match gate.are_accesses_held() {
                // Its process is gone, and comes back when somebody orders it.
                true => Duration::ZERO,
                false => waited.saturating_add(begun.elapsed().min(WAIT_COUNTED_MAX)),
            };
            // Earlier accesses may have used up part of the time that the same pause allows for all of them.
            if waited.max(gate.pausing()) >= ANSWER_SPAN {
                let why = format!("it has not answered within {} s", ANSWER_SPAN.as_secs());
                if self.has_next_life {
                    self.health.complain(why, ANSWER_SPAN);
                } else {
                    self.health.fail(why);
                }
            }
            if gate.is_ended() || self.health.failure().is_some() {
                return None;
            }
            begun = Instant::now();
            asked = match unfinished {
                RingError::Unfinished { pending, .. } => {
                    self.requester.wait(pending, &Interrupt::new(), slice())
                }
                _ => ask(),
            };
        }
    }

    /// The access as sent to the device.
    pub fn inspect(&self, inspect: &mut Inspect) {
        let (name, Counters { reads, writes, posts }) = (self.health.name(), &self.counters);
        for (what, counter) in [("reads", reads), ("writes", writes), ("posts", posts)] {
            inspect.counter(format!("{name}.{what}"), counter.load(Ordering::Relaxed));
        }
        // After a protocol error or timeout the device fails; the machine goes on.
        let unanswered = self.requester.outstanding().unwrap_or(0);
        let unanswered = if self.health.failure().is_some() { 0 } else { unanswered };
        inspect.counter(format!("{name}.unanswered"), unanswered);
        if let Some(why) = self.health.failure() {
            inspect.text(format!("{name}.failure"), why);
        }
        if let Some(memory) = &self.memory {
            memory.inspect(inspect);
        }
    }
}

fn slice() -> Deadline {
    Deadline::after(WAIT_SLICE)
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// The page's mapping at the guest address where the CPU reads it. Read-only: the vCPU process stores through
/// [`GuestOwned`] only.
fn map_for_guest(page: &Region, base: u64) -> Result<GuestRegionMmap, String> {
    const PROT_READ: i32 = 1;
    const MAP_SHARED: i32 = 1;
    let len = usize::try_from(page.len()).map_err(|error| error.to_string())?;
    let mapping = MmapRegionBuilder::new(len)
        .with_mmap_prot(PROT_READ)
        .with_mmap_flags(MAP_SHARED)
        .with_file_offset(FileOffset::from_arc(Arc::clone(page.file()), 0))
        .build()
        .map_err(|error| error.to_string())?;
    GuestRegionMmap::new(mapping, GuestAddress(base))
        .ok_or_else(|| "the register page's address overflows".into())
}

/// All register pages as one memory map, or none.
pub fn register_pages(mut pages: Vec<GuestRegionMmap>) -> Result<Option<Arc<GuestMemoryMmap>>, Failure> {
    if pages.is_empty() {
        return Ok(None);
    }
    pages.sort_by_key(|page| vm_memory::GuestMemoryRegion::start_addr(page).0);
    GuestMemoryMmap::from_regions(pages)
        .map(|map| Some(Arc::new(map)))
        .map_err(|error| Failure::new("map the register pages", error))
}

#[cfg(test)]
mod tests;
