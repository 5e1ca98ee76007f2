// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The vCPU process as the coordinator sees it: control requests onto a [`Guest`].
//!
//! `Configure` opens what the fds hold and checks that they fit; the machine itself is made at `Start` (from
//! reset) or at `Restore`. What is shared with a device is taken out of the inherited table by the device's name in the
//! configuration: one that is not there, or named twice, is refused.

use super::engine::{Engine, EngineParts};
use super::function_link::FunctionLink;
use super::guest::{Guest, Parts};
use super::health::Health;
use super::interrupts::board::Board;
use super::interrupts::intx::{Pin, Pins};
use super::interrupts::thread::Wire;
use super::interrupts::vectors::Vectors;
use super::remote::{self, RemoteDevice};
use super::saved::SavedMachine;
use super::windows::Windows;
use ipc::channel::Channel;
use ipc::deadline::Deadline;
use ipc::hello::Hello;
use ipc::hello::Role;
use ipc::protocol::control::{DirtyLogOp, Event, Failure, RoleConfig};
use ipc::protocol::inspect::Inspect;
use ipc::protocol::probe::{Probe, ProbeOutcome};
use ipc::protocol::vcpu::VcpuConfig;
use ipc::service::{self, Process};
use ipc::shm::dirty_log::DirtyLog;
use ipc::shm::guest_memory;
use ipc::shm::msi_board::{BOARD_LEN, MsiBoard};
use ipc::shm::region::Region;
use ipc::slot::{Slot, SlotKind};
use machine::layout::{MACHINE_NAME, SPI_BASE, SPI_COUNT, VCPU_COUNT_MAX};
use sandbox::{Inherited, Locked};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

/// The coordinator greets at once; it started us.
const HELLO_DEADLINE: Duration = Duration::from_secs(10);

/// Where the process stands besides the lifecycle state that [`ipc::service`] keeps.
enum Stage<E: Engine> {
    Unconfigured(Inherited),
    Configured {
        parts: Parts<E>,
        entry: u64,
        fdt: u64,
    },
    Built(Guest<E>),
    /// A failed step took the parts along: only `Quit` is left.
    Spent,
}

/// The process.
pub struct VcpuProcess<E: Engine> {
    channel: Arc<Channel>,
    spin: Duration,
    stage: Stage<E>,
}

/// Greets the coordinator, says what is enforced, and serves until told to quit.
///
/// `locked` is the proof that this process is sealed; `fds` is the rest of the inherited table; `spin` is how
/// long to spin for a device's answer.
pub fn run<E: Engine>(
    locked: &Locked,
    generation: u32,
    control: OwnedFd,
    fds: Inherited,
    spin: Duration,
) -> Result<(), ipc::error::Error> {
    let channel = Arc::new(Channel::from_fd(control, Hello::new(Role::Vcpu, generation)));
    channel.hello(Role::Coordinator, Deadline::after(HELLO_DEADLINE))?;
    service::tell(&channel, &Event::Sealed(locked.enforced().lines()));
    let mut process =
        VcpuProcess::<E> { channel: Arc::clone(&channel), spin, stage: Stage::Unconfigured(fds) };
    let end = service::serve(&channel, &mut process);
    if let Stage::Built(guest) = &process.stage {
        guest.quit();
    }
    end
}

impl<E: Engine> VcpuProcess<E> {
    fn guest(&self) -> Result<&Guest<E>, Failure> {
        match &self.stage {
            Stage::Built(guest) => Ok(guest),
            _ => Err(Failure::new("reach the guest", "it is not built yet")),
        }
    }

    /// Makes the machine out of the configured parts, threads parked.
    fn build(&mut self, stream: Option<&[u8]>) -> Result<(), Failure> {
        let (parts, entry, fdt) = match std::mem::replace(&mut self.stage, Stage::Spent) {
            Stage::Configured { parts, entry, fdt } => (parts, entry, fdt),
            other => {
                self.stage = other;
                return Err(Failure::new("build the machine", "it is not configured, or built already"));
            }
        };
        let saved = stream
            .map(|stream| SavedMachine::decode(stream, parts.engine.vcpu_count))
            .transpose()
            .map_err(|error| Failure::new("read the machine's state", error))?;
        let guest = Guest::new(parts, saved.as_ref())?;
        if saved.is_none() {
            guest.power_on(entry, fdt)?;
        }
        guest.launch(&self.channel).map_err(|error| Failure::new("start the machine's threads", error))?;
        self.stage = Stage::Built(guest);
        Ok(())
    }
}

impl<E: Engine> Process for VcpuProcess<E> {
    fn configure(&mut self, config: RoleConfig) -> Result<(), Failure> {
        let RoleConfig::Vcpu(config) = config else {
            return Err(Failure::new("configure the vCPU process", "the configuration is for another role"));
        };
        let Stage::Unconfigured(fds) = &mut self.stage else {
            return Err(Failure::new("configure the vCPU process", "it is configured already"));
        };
        let parts = open_parts(&config, fds, self.spin, self.channel.local().generation)?;
        self.stage = Stage::Configured { parts, entry: config.entry.0, fdt: config.fdt.0 };
        Ok(())
    }

    fn start(&mut self) -> Result<(), Failure> {
        if matches!(self.stage, Stage::Configured { .. }) {
            self.build(None)?;
        }
        self.guest()?.resume()
    }

    fn pause(&mut self) -> Result<(), Failure> {
        self.guest()?.pause()
    }

    fn resume(&mut self) -> Result<(), Failure> {
        self.guest()?.resume()
    }

    fn save(&mut self) -> Result<Vec<u8>, Failure> {
        self.guest()?.save()?.encode().map_err(|error| Failure::new("write the machine's state", error))
    }

    fn restore(&mut self, stream: &[u8]) -> Result<(), Failure> {
        self.build(Some(stream))
    }

    fn dirty_log(&mut self, op: DirtyLogOp) -> Result<(), Failure> {
        match (&self.stage, op) {
            (Stage::Built(guest), DirtyLogOp::Enable) => guest.set_dirty_log(true)?,
            (Stage::Built(guest), DirtyLogOp::Disable) => guest.set_dirty_log(false)?,
            (Stage::Built(guest), DirtyLogOp::Rearm) => guest.rearm_dirty_log()?,
            (Stage::Configured { parts, .. }, DirtyLogOp::Enable) => parts.engine.dirty.set_enabled(true),
            (Stage::Configured { parts, .. }, DirtyLogOp::Disable) => parts.engine.dirty.set_enabled(false),
            // Nothing has written yet, so there is nothing to forget.
            (_, DirtyLogOp::Rearm) => {}
            (Stage::Unconfigured(_) | Stage::Spent, _) => {
                return Err(Failure::new("switch the dirty log", "the process has none open"));
            }
        }
        Ok(())
    }

    fn inspect(&self) -> Inspect {
        let mut inspect = Inspect::default();
        if let Stage::Built(guest) = &self.stage {
            guest.inspect(&mut inspect);
        }
        inspect
    }

    fn probe(&mut self, probe: Probe) -> Result<ProbeOutcome, Failure> {
        probe.make(sandbox::by_name::attempt)
    }
}

/// Opens RAM, log, console and devices, and checks each against the configuration.
fn open_parts<E: Engine>(
    config: &VcpuConfig,
    fds: &mut Inherited,
    spin: Duration,
    generation: u32,
) -> Result<Parts<E>, Failure> {
    let fail = |what: &str, why: &dyn ToString| Failure::new(what.to_owned(), why.to_string());
    if config.machine != MACHINE_NAME {
        return Err(fail(
            "build the machine",
            &format!("this program has {MACHINE_NAME}, not {:?}", config.machine),
        ));
    }
    if config.vcpu_count == 0 || config.vcpu_count > VCPU_COUNT_MAX {
        return Err(fail(
            "build the machine",
            &format!("{} vCPUs, 1 to {VCPU_COUNT_MAX} possible", config.vcpu_count),
        ));
    }
    let vcpu_count = usize::try_from(config.vcpu_count).unwrap_or(1);
    let host = E::take_host(fds)?;
    let mut take = |slot: Slot| fds.take(slot).map_err(|error| fail("open what was given", &error));
    let ram = Region::from_fd(take(SlotKind::Ram.into())?, config.ram.file_len())
        .and_then(|region| guest_memory::map(&region, &config.ram))
        .map_err(|error| fail("map guest RAM", &error))?;
    let log = Region::from_fd(take(SlotKind::DirtyLog.into())?, DirtyLog::region_len(&config.ram))
        .and_then(|region| DirtyLog::attach(&region, &config.ram))
        .map_err(|error| fail("map the dirty log", &error))?;
    let console = take(SlotKind::Console.into())?;
    let mut remotes = Vec::new();
    let mut wires = Vec::new();
    let mut pages = Vec::new();
    for device in &config.devices {
        let ring = take(SlotKind::Ring.of(device.peer))?;
        let page = match &device.page {
            Some(_) => Some(take(SlotKind::RegisterPage.of(device.peer))?),
            None => None,
        };
        let (remote, region) = RemoteDevice::open(device, ring, page, spin)?;
        remotes.push(remote);
        pages.extend(region);
        for irq in &device.irqs {
            wires.push(Wire {
                doorbell: take(SlotKind::Irq(irq.line).of(device.peer))?.into(),
                intid: SPI_BASE.saturating_add(irq.spi),
            });
        }
    }
    let (mut boards, mut pins, mut links) = (Vec::new(), Vec::new(), Vec::new());
    for function in &config.functions {
        let ring = take(SlotKind::Ring.of(function.peer))?;
        let memory = Arc::new(Windows::new(function, E::MAPS_WINDOWS));
        let health = Health::new(&function.peer.to_string());
        remotes.push(RemoteDevice::open_function(
            function,
            ring,
            spin,
            Arc::clone(&memory),
            Arc::clone(&health),
        )?);
        let channel = take(SlotKind::FunctionLink.of(function.peer))?;
        if function.intx_spi >= SPI_COUNT {
            return Err(fail("wire an INTx pin", &format!("there is no SPI {}", function.intx_spi)));
        }
        let intid = SPI_BASE + function.intx_spi;
        let raised = take(SlotKind::Intx.of(function.peer))?.into();
        let ended = take(SlotKind::IntxEnd.of(function.peer))?.into();
        pins.push(Pin { raised, ended, intid });
        let device_id = function.bdf.0.into();
        links.push((memory, health, channel, device_id, intid));
        let board = Region::from_fd(take(SlotKind::MsiBoard.of(function.peer))?, BOARD_LEN)
            .and_then(|region| MsiBoard::attach(&region))
            .map_err(|error| fail("map an MSI board", &error))?;
        let doorbell = take(SlotKind::MsiDoorbell.of(function.peer))?.into();
        boards.push(Board { board, doorbell, device_id });
    }
    let pins = Arc::new(Pins::new(pins));
    let vectors = Arc::new(Vectors::new(E::LISTENS_TO_VECTORS));
    for (windows, health, channel, device_id, intid) in links {
        let (pins, vectors) = (Arc::clone(&pins), Arc::clone(&vectors));
        let link = FunctionLink { windows, health, pins, vectors, device_id, intid };
        std::thread::Builder::new()
            .name("function link".to_owned())
            .spawn(move || link.serve(channel, generation))
            .map_err(|error| fail("start the thread of a function link", &error))?;
    }
    Ok(Parts {
        engine: EngineParts {
            vcpu_count,
            pmu: config.pmu,
            ram: Arc::new(ram),
            register_pages: remote::register_pages(pages)?,
            dirty: Arc::new(log),
            pins,
            vectors,
        },
        host,
        console,
        remotes,
        wires,
        boards,
    })
}
