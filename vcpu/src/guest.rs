// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! All that runs the guest: an engine (CPUs and interrupt controller), devices, and their threads.
//!
//! Built at reset or from saved state by the same steps; nothing runs before [`Guest::launch`]. While the gate is
//! closed no state here changes, which makes [`Guest::save`] a consistent snapshot.

use super::bus::{Bus, Counters};
use super::command_hold::CommandHold;
use super::console::Console;
use super::cpu_hold::CpuHold;
use super::cpu_thread;
use super::engine::{Engine, EngineParts};
use super::function_link::FunctionLink;
use super::gate::Gate;
use super::interrupts::board::Board;
use super::interrupts::controller::{InterruptController, Spi};
use super::interrupts::intx::Pins;
use super::interrupts::thread::{InterruptThread, Wire};
use super::remote::RemoteDevice;
use super::rtc::Rtc;
use super::saved::SavedMachine;
use super::throttle::Throttle;
use super::uart::Uart;
use ipc::instance::InstanceId;
use ipc::protocol::budget;
use ipc::protocol::control::{DirtyLogOp, DirtyLogState, Failure, Quiescence};
use ipc::protocol::features::Feature;
use ipc::protocol::inspect::Inspect;
use ipc::shm::dirty_log::DirtyLog;
use machine::layout::{SPI_BASE, spi};
use process::Events;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

/// How long vCPUs and helper threads may take to park: a vCPU stops within a slice of guest code, unless it waits for
/// a device, which fails after [`ipc::shm::ring::ANSWER_SPAN`]; plus slack for a loaded host.
pub const PARK_DEADLINE: Duration = budget::vcpu::PARK;

/// What a machine is made from: all that outlives a reset.
pub struct Parts<E: Engine> {
    /// Inputs of the engine.
    pub engine: EngineParts,
    /// The engine's host resources.
    pub host: E::Host,
    /// The console's socket.
    pub console: OwnedFd,
    /// Devices in other processes.
    pub remotes: Vec<RemoteDevice>,
    /// Their interrupts.
    pub wires: Vec<Wire>,
    /// The boards of their MSIs.
    pub boards: Vec<Board>,
    /// The links of those that are PCI functions.
    pub links: Vec<Arc<FunctionLink>>,
}

/// A guest's machine.
pub struct Guest<E: Engine> {
    gate: Arc<Gate>,
    engine: Arc<E>,
    bus: Arc<Bus>,
    console: Arc<Console>,
    console_socket: Arc<OwnedFd>,
    interrupts: Arc<InterruptThread>,
    pins: Arc<Pins>,
    dirty: Arc<DirtyLog>,
    links: Vec<Arc<FunctionLink>>,
    cpus: Arc<CpuHold<E>>,
    throttle: Arc<Throttle<E>>,
    /// Of a machine with an SMMU.
    hold: Option<Arc<CommandHold<E>>>,
    /// It was saved and not resumed since.
    is_loaded: AtomicBool,
}

/// Limit for flushing the guest's last output; less than the coordinator waits for this process to end.
const FLUSH_DEADLINE: Duration = budget::vcpu::FLUSH;

impl<E: Engine> Guest<E> {
    /// A machine at reset, or as it was saved.
    pub fn new(parts: Parts<E>, saved: Option<&SavedMachine<E::Saved>>) -> Result<Self, Failure> {
        let fail = |why: &dyn ToString| Failure::new("build the machine", why.to_string());
        let Parts { engine: parts, host, console: socket, remotes, wires, boards, links } = parts;
        let gate = Arc::new(Gate::default());
        let (pins, dirty) = (Arc::clone(&parts.pins), Arc::clone(&parts.dirty));
        let controller = E::controller(host, &parts, saved.map(|saved| &saved.engine))?;
        let devices = Arc::clone(&controller) as Arc<dyn InterruptController>;
        pins.connect(&devices);
        if let Some(mapper) = E::mapper(&controller) {
            remotes.iter().for_each(|remote| remote.connect(&mapper));
        }
        let console = Console::new().map_err(|errno| fail(&errno))?;
        let irq = Spi::new(Arc::clone(&devices), SPI_BASE + spi::UART);
        let uart = match saved {
            None => Uart::new(Arc::clone(&console), Arc::clone(&gate), irq),
            Some(saved) => Uart::restore(Arc::clone(&console), Arc::clone(&gate), irq, &saved.uart)
                .map_err(|error| fail(&error))?,
        };
        let alarm = Spi::new(Arc::clone(&devices), SPI_BASE + spi::RTC);
        let rtc = Rtc::new(alarm, saved.map(|saved| &saved.rtc));
        let interrupts = Arc::new(InterruptThread::new(devices, wires, boards, Arc::clone(&pins))?);
        let bus = Arc::new(Bus {
            uart: Arc::new(uart),
            rtc,
            remotes,
            gate: Arc::clone(&gate),
            counters: Counters::default(),
        });
        let engine = E::new(parts, controller, Arc::clone(&bus), saved.map(|saved| &saved.engine))?;
        let engine = Arc::new(engine);
        let cpus = Arc::new(CpuHold::new(Arc::clone(&engine), Arc::clone(&gate)));
        let throttle = Arc::new(Throttle::new(Arc::clone(&cpus)));
        let hold = bus.remotes.iter().find_map(|remote| {
            let queue = remote.commands()?.clone();
            let hold = Arc::new(CommandHold::new(queue, Arc::clone(&cpus), Arc::clone(&gate)));
            // The bus belongs to the engine, which must not belong to the bus.
            let told = Arc::downgrade(&hold);
            remote.on_command(Box::new(move || {
                if let Some(hold) = told.upgrade() {
                    hold.written();
                }
            }));
            Some(hold)
        });
        Ok(Self {
            gate,
            engine,
            bus,
            console,
            console_socket: Arc::new(socket),
            interrupts,
            pins,
            dirty,
            links,
            cpus,
            throttle,
            hold,
            is_loaded: AtomicBool::new(saved.is_some()),
        })
    }

    /// What the guest can tell of its CPUs, besides what is the host's.
    pub fn features(&self) -> Result<Vec<Feature>, Failure> {
        self.engine.features()
    }

    /// Starts the threads, all parked at the gate.
    pub fn launch(&self, events: &Events) -> io::Result<()> {
        self.bus.remotes.iter().for_each(|remote| remote.health().connect(events));
        for index in 0..self.engine.vcpu_count() {
            let (engine, gate, events) = (Arc::clone(&self.engine), Arc::clone(&self.gate), events.clone());
            let hold = self.hold.clone();
            let serve = move || cpu_thread::serve(&*engine, index, &gate, hold.as_deref(), &events);
            self.spawn(format!("vcpu{index}"), serve)?;
        }
        if let Some(hold) = &self.hold {
            // No pause waits for it: it only reads, and holds.
            let hold = Arc::clone(hold);
            thread::Builder::new().name("commands".into()).spawn(move || hold.serve())?;
        }
        // Nor for this one, which lets go of those that have parked.
        let throttle = Arc::clone(&self.throttle);
        thread::Builder::new().name("throttle".into()).spawn(move || throttle.serve())?;
        let (console, socket) = (Arc::clone(&self.console), Arc::clone(&self.console_socket));
        let (bus, gate) = (Arc::clone(&self.bus), Arc::clone(&self.gate));
        self.spawn("console".into(), move || console.serve(&socket, &bus.uart, &gate))?;
        let (bus, gate) = (Arc::clone(&self.bus), Arc::clone(&self.gate));
        self.spawn("rtc".into(), move || bus.rtc.serve(&gate))?;
        let (interrupts, gate) = (Arc::clone(&self.interrupts), Arc::clone(&self.gate));
        self.spawn("irq".into(), move || interrupts.serve(&gate))
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
    pub fn power_on(&self, entry: u64, fdt: u64) -> Result<(), Failure> {
        self.engine.power_on(entry, fdt)
    }

    /// Opens the gate the first time: no earlier life of this process runs any more.
    pub fn begin(&self) -> Result<(), Failure> {
        self.dirty.adopt();
        self.resume()
    }

    /// Begins with the gate closed, as it was since the threads started: no CPU has run, and guest time stands still.
    pub fn begin_paused(&self) -> Result<(), Failure> {
        self.dirty.adopt();
        let parked = self.gate.wait_parked(PARK_DEADLINE);
        parked.map_err(|error| Failure::new("begin the machine paused", error))
    }

    /// Opens the gate.
    pub fn resume(&self) -> Result<(), Failure> {
        if !self.gate.is_running() {
            // A function whose process was restarted is that of its next life before the guest sees it.
            self.links.iter().for_each(|link| link.settle());
            self.engine.resume()?;
            self.interrupts.drain();
            if self.is_loaded.swap(false, Ordering::Relaxed) {
                self.pins.ask_all();
            }
            self.gate.run();
        }
        Ok(())
    }

    /// Stops the guest; once this returns no guest state changes, its clock included. After an error it still runs,
    /// or the error says why it cannot.
    pub fn pause(&self) -> Result<(), Failure> {
        self.gate.request_pause();
        self.engine.kick();
        self.console.wake();
        self.bus.rtc.wake();
        self.interrupts.wake();
        if let Err(error) = self.gate.wait_parked(PARK_DEADLINE) {
            // Threads that have parked are released: the guest runs as before, and its clock was not stopped.
            self.gate.run();
            return Err(Failure::new("pause the machine", error));
        }
        // Doorbells rung before the threads parked may not have been handled by the interrupt thread.
        self.interrupts.drain();
        self.engine.pause().or_else(|failure| {
            // First the engine is resumed; if that fails the guest stays stopped.
            self.engine.resume()?;
            self.gate.run();
            Err(failure)
        })
    }

    /// Holds the CPUs of a running machine, and guest time, or lets both go on.
    pub fn hold_cpus(&self, held: bool) {
        self.cpus.by_order(held);
    }

    /// Flushes the guest's output, then ends all threads without waiting for them.
    pub fn quit(&self) {
        self.gate.quit();
        self.engine.kick();
        self.hold.iter().for_each(|hold| hold.end());
        self.throttle.end();
        self.console.flush(&self.console_socket, FLUSH_DEADLINE);
    }

    /// Takes so many percent of their time from the CPUs.
    pub fn throttle(&self, percent: u8) -> Result<(), Failure> {
        self.throttle.set(percent)
    }

    /// All state of a paused machine.
    pub fn save(&self) -> Result<SavedMachine<E::Saved>, Failure> {
        // Devices pause after the CPUs: signals in between belong to the saved state.
        self.interrupts.drain();
        Ok(SavedMachine { uart: self.bus.uart.save(), rtc: self.bus.rtc.save(), engine: self.engine.save()? })
    }

    /// The link of the function that this process is of.
    pub fn link_of(&self, peer: InstanceId) -> Option<&Arc<FunctionLink>> {
        self.links.iter().find(|link| link.peer == peer)
    }

    /// Signals of devices that the interrupt controller does not have yet.
    pub fn in_flight(&self) -> Quiescence {
        let vectors = self.interrupts.waiting_messages().saturating_add(self.engine.waiting_vectors());
        Quiescence { vectors, pins: self.interrupts.waiting_wires(), ..Quiescence::NONE }
    }

    /// A dirty-log operation.
    pub fn dirty_log(&self, op: DirtyLogOp) -> Result<DirtyLogState, Failure> {
        self.engine.dirty_log(op)
    }

    /// Counters for `inspect` and tests.
    pub fn inspect(&self, inspect: &mut Inspect) {
        inspect.text("state", if self.gate.is_running() { "running" } else { "paused" });
        self.engine.inspect(inspect);
        let Counters { local, remote, unassigned } = &self.bus.counters;
        for (name, counter) in [("local", local), ("remote", remote), ("unassigned", unassigned)] {
            inspect.counter(format!("mmio.{name}"), counter.load(Ordering::Relaxed));
        }
        self.interrupts.inspect(inspect);
        self.hold.iter().for_each(|hold| hold.inspect(inspect));
        self.throttle.inspect(inspect);
        inspect.counter("vectors.waiting", self.engine.waiting_vectors());
        for device in &self.bus.remotes {
            device.inspect(inspect);
        }
    }
}

#[cfg(test)]
mod tests;
