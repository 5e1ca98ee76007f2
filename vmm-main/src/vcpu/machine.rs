// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The whole of what runs the guest: CPUs, interrupt controller, devices, and the threads that move them.
//!
//! Built at reset or from saved state by the same steps; nothing runs before [`Machine::launch`]. While the
//! gate is shut everything here stands still, which is what makes [`Machine::save`] a snapshot.

use super::bus::{Bus, Counters};
use super::console::Console;
use super::cpu_thread::{self, CpuSlot};
use super::dirty::{CpuLog, GicMemory};
use super::gate::{Gate, PauseTimeout};
use super::intx::Pins;
use super::irq::{Msi, Spi, Wire, Wires};
use super::remote::{RemoteDevice, RemoteMsi, RemoteWire};
use super::rtc::Rtc;
use super::saved::SavedMachine;
use super::uart::Uart;
use crate::machine::layout::{SPI_BASE, SPI_COUNT, spi};
use ipc::channel::Channel;
use ipc::protocol::control::Failure;
use ipc::protocol::inspect::Inspect;
use ipc::shm::dirty_log::DirtyLog;
use ipc::shm::guest_memory::GuestMemory;
use soft_cpu::clock::Clock;
use soft_cpu::cluster::Cluster;
use soft_cpu::gic::{Gic, GicConfig};
use soft_cpu::ram::GuestRam;
use soft_cpu::saved::ClockV1;
use soft_cpu::{Vcpu, VcpuParts};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;
use vm_memory::GuestMemoryMmap;

/// How long vCPUs and helpers may take to stand still: a vCPU stops within a slice of guest code, unless it
/// waits for a device, and a device that takes seconds is as good as dead.
const PARK_DEADLINE: Duration = Duration::from_secs(10);

/// What a machine is made from: everything that outlives a reset.
pub struct Parts {
    /// Number of vCPUs.
    pub vcpu_count: usize,
    /// Guest RAM.
    pub ram: Arc<GuestMemoryMmap>,
    /// Register pages that the guest reads without leaving.
    pub register_pages: Option<Arc<GuestMemoryMmap>>,
    /// This process' dirty log.
    pub dirty: Arc<DirtyLog>,
    /// The console's socket.
    pub console: OwnedFd,
    /// Devices in other processes.
    pub remotes: Vec<RemoteDevice>,
    /// Their interrupts.
    pub wires: Vec<RemoteWire>,
    /// And those that are messages.
    pub msis: Vec<RemoteMsi>,
    /// And those that are INTx pins.
    pub pins: Arc<Pins>,
}

/// A guest's machine.
pub struct Machine {
    gate: Arc<Gate>,
    clock: Arc<Clock>,
    bus: Arc<Bus>,
    console: Arc<Console>,
    console_socket: Arc<OwnedFd>,
    slots: Arc<[CpuSlot]>,
    wires: Arc<Wires>,
    dirty: Arc<DirtyLog>,
}

/// For the guest's last output to find a reader; less than the coordinator waits for this process to end.
const FLUSH_DEADLINE: Duration = Duration::from_millis(1500);

impl Machine {
    /// A machine at reset, or as it was saved.
    pub fn new(parts: Parts, saved: Option<&SavedMachine>) -> Result<Self, Failure> {
        let fail = |why: &dyn ToString| Failure::new("build the machine", why.to_string());
        let Parts { vcpu_count, ram, register_pages, dirty, console: socket, remotes, wires, msis, pins } =
            parts;
        let gate = Arc::new(Gate::default());
        let cluster = Cluster::new(vcpu_count);
        let clock =
            Arc::new(Clock::restore(&saved.map_or(ClockV1 { ticks: 0 }, |saved| saved.clock.clone())));

        let gic = build_gic(vcpu_count, &ram, &dirty, &cluster, saved).map_err(|error| fail(&error))?;
        let ended = Arc::clone(&pins);
        let gic = gic.with_resampled(pins.intids(), Box::new(move |intid| ended.ended(intid)));
        let gic = Arc::new(gic);
        pins.connect(&gic);
        let console = Console::new().map_err(|errno| fail(&errno))?;
        let irq = Spi::new(Arc::clone(&gic), SPI_BASE + spi::UART);
        let uart = match saved {
            None => Uart::new(Arc::clone(&console), Arc::clone(&gate), irq),
            Some(saved) => Uart::restore(Arc::clone(&console), Arc::clone(&gate), irq, &saved.uart)
                .map_err(|error| fail(&error))?,
        };
        let rtc = saved.map_or_else(Rtc::default, |saved| Rtc::restore(&saved.rtc));
        let wires = wires
            .into_iter()
            .map(|RemoteWire { eventfd, spi }| Wire {
                eventfd,
                spi: Spi::new(Arc::clone(&gic), SPI_BASE + spi),
            })
            .collect();
        let msis = msis.into_iter().map(|source| Msi { source, gic: Arc::clone(&gic) }).collect();
        let wires = Arc::new(Wires::new(wires, msis, pins).map_err(|errno| fail(&errno))?);
        let bus = Arc::new(Bus {
            gic: Arc::clone(&gic),
            uart: Arc::new(uart),
            rtc,
            remotes,
            gate: Arc::clone(&gate),
            counters: Counters::default(),
        });

        let cpu_parts = VcpuParts {
            ram: GuestRam::new(ram, register_pages).map_err(|error| fail(&error))?,
            interrupts: gic,
            mmio: Arc::clone(&bus) as Arc<_>,
            dirty: Arc::new(CpuLog(Arc::clone(&dirty))),
            clock: Arc::clone(&clock),
            cluster: Arc::clone(&cluster),
        };
        let slots = (0..vcpu_count)
            .map(|index| {
                let vcpu = match saved {
                    None => Vcpu::new(index, cpu_parts.clone()),
                    Some(saved) => restore_vcpu(index, &cpu_parts, saved)?,
                };
                let handle = cluster.handle(index).ok_or_else(|| fail(&"a vCPU is outside the cluster"))?;
                Ok(CpuSlot::new(vcpu, handle))
            })
            .collect::<Result<Arc<[CpuSlot]>, Failure>>()?;
        Ok(Self { gate, clock, bus, console, console_socket: Arc::new(socket), slots, wires, dirty })
    }

    /// Starts the threads, all parked at the gate.
    pub fn launch(&self, channel: &Arc<Channel>) -> io::Result<()> {
        for index in 0..self.slots.len() {
            let (slots, gate, channel) =
                (Arc::clone(&self.slots), Arc::clone(&self.gate), Arc::clone(channel));
            self.spawn(format!("vcpu{index}"), move || cpu_thread::serve(&slots, index, &gate, &channel))?;
        }
        let (console, socket) = (Arc::clone(&self.console), Arc::clone(&self.console_socket));
        let (bus, gate) = (Arc::clone(&self.bus), Arc::clone(&self.gate));
        self.spawn("console".into(), move || console.serve(&socket, &bus.uart, &gate))?;
        let (wires, gate) = (Arc::clone(&self.wires), Arc::clone(&self.gate));
        self.spawn("irq".into(), move || wires.serve(&gate))
    }

    fn spawn(&self, name: String, body: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let gate = Arc::clone(&self.gate);
        self.gate.register();
        let started = thread::Builder::new().name(name).spawn(move || {
            body();
            gate.leave();
        });
        if started.is_err() {
            self.gate.leave();
        }
        started.map(drop)
    }

    /// Switches the boot vCPU on: `entry` and x0 as the boot protocol wants them.
    pub fn power_on(&self, entry: u64, fdt: u64) {
        if let Some(boot) = self.slots.first() {
            boot.vcpu().start(entry, fdt);
        }
    }

    /// Lets the guest run.
    pub fn resume(&self) {
        self.clock.resume();
        self.gate.run();
    }

    /// Stops the guest; once this returns nothing of it moves, its clock included.
    pub fn pause(&self) -> Result<(), PauseTimeout> {
        self.gate.request_pause();
        self.slots.iter().for_each(|slot| slot.handle.kick());
        self.console.wake();
        self.wires.wake();
        self.gate.wait_parked(PARK_DEADLINE)?;
        self.clock.pause();
        Ok(())
    }

    /// Ends all threads; they are not waited for. What the guest has printed is delivered first.
    pub fn quit(&self) {
        self.gate.quit();
        self.slots.iter().for_each(|slot| slot.handle.kick());
        self.console.flush(&self.console_socket, FLUSH_DEADLINE);
    }

    /// All state of a paused machine.
    pub fn save(&self) -> SavedMachine {
        // Devices were paused after the CPUs: what they signalled in between is state of the guest.
        self.wires.deliver_msis();
        SavedMachine {
            clock: self.clock.save(),
            gic: self.bus.gic.save(),
            its: self.bus.gic.save_its(),
            uart: self.bus.uart.save(),
            rtc: self.bus.rtc.save(),
            vcpus: self.slots.iter().map(|slot| slot.vcpu().save()).collect(),
        }
    }

    /// Switches the dirty log; after switching on, the next store to any page is marked.
    pub fn set_dirty_log(&self, enabled: bool) {
        self.dirty.set_enabled(enabled);
        self.rearm_dirty_log();
    }

    /// Makes every vCPU mark the pages it writes anew.
    pub fn rearm_dirty_log(&self) {
        self.slots.iter().for_each(|slot| slot.handle.flush_write_tlb());
    }

    /// Counters for people and tests.
    pub fn inspect(&self, inspect: &mut Inspect) {
        inspect.text("state", if self.gate.is_running() { "running" } else { "paused" });
        for (index, slot) in self.slots.iter().enumerate() {
            inspect.counter(format!("vcpu{index}.instructions"), slot.retired());
        }
        let Counters { local, remote, unassigned } = &self.bus.counters;
        for (name, counter) in [("local", local), ("remote", remote), ("unassigned", unassigned)] {
            inspect.counter(format!("mmio.{name}"), counter.load(Ordering::Relaxed));
        }
        for device in &self.bus.remotes {
            device.inspect(inspect);
        }
    }
}

fn build_gic(
    vcpu_count: usize,
    ram: &Arc<GuestMemoryMmap>,
    dirty: &Arc<DirtyLog>,
    cluster: &Arc<Cluster>,
    saved: Option<&SavedMachine>,
) -> Result<Gic, soft_cpu::gic::GicError> {
    let config = GicConfig { vcpu_count, spi_count: SPI_COUNT, its: true };
    let memory = Arc::new(GicMemory(GuestMemory::new(Arc::clone(ram), Arc::clone(dirty))));
    let cluster = Arc::clone(cluster);
    let on_irq = Box::new(move |vcpu| {
        if let Some(handle) = cluster.handle(vcpu) {
            handle.wake();
        }
    });
    match saved {
        None => Gic::new(config, memory, on_irq),
        Some(saved) => Gic::restore(config, memory, on_irq, &saved.gic, saved.its.as_ref()),
    }
}

fn restore_vcpu(index: usize, parts: &VcpuParts, saved: &SavedMachine) -> Result<Vcpu, Failure> {
    let fail = |why: String| Failure::new(format!("restore vCPU {index}"), why);
    let state = saved.vcpus.get(index).ok_or_else(|| fail("it was not saved".into()))?;
    Vcpu::restore(index, parts.clone(), state).map_err(|error| fail(error.to_string()))
}
