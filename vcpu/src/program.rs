// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The vCPU process as the coordinator sees it: control requests onto a [`Guest`].
//!
//! `Configure` maps and checks the inherited descriptors; `Load` makes the machine, at reset or from saved state;
//! `Arm` starts its threads, parked, and `Go` opens the gate. Objects shared with a device are found by its name in
//! the configuration: one that is missing, or named twice, is refused.

use super::engine::{Engine, EngineParts};
use super::function_link::{FunctionLink, Lives};
use super::guest::{Guest, Parts};
use super::health::Health;
use super::interrupts::board::Board;
use super::interrupts::intx::{Pin, Pins};
use super::interrupts::thread::Wire;
use super::interrupts::vectors::Vectors;
use super::remote::{self, RemoteDevice};
use super::saved::SavedMachine;
use super::windows::Windows;
use ipc::hello::Role;
use ipc::instance::InstanceId;
use ipc::protocol::control::{
    DirtyLogOp, DirtyLogState, Event, Exactness, Failure, Quiescence, RoleConfig, StreamReplay,
};
use ipc::protocol::inspect::Inspect;
use ipc::protocol::vcpu::VcpuConfig;
use ipc::shm::dirty_log::DirtyLog;
use ipc::shm::guest_memory;
use ipc::shm::msi_board::{BOARD_LEN, MsiBoard};
use ipc::shm::region::Region;
use ipc::slot::{Slot, SlotKind};
use machine::layout::{MACHINE_NAME, SPI_BASE, SPI_COUNT, VCPU_COUNT_MAX};
use process::{Configured, Context, Program, Source, read_units};
use sandbox::Inherited;
use std::io::Write;
use std::marker::PhantomData;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// The machine's parts, opened and checked.
pub struct Ready<E: Engine> {
    parts: Parts<E>,
    /// Where CPU 0 starts.
    entry: u64,
    /// Where the device tree lies.
    fdt: u64,
}

/// The machine and its threads, which end with it.
pub struct Armed<E: Engine>(Guest<E>);

/// A vCPU program.
pub struct VcpuProgram<E>(PhantomData<E>);

impl<E: Engine> Drop for Armed<E> {
    fn drop(&mut self) {
        self.0.quit();
    }
}

impl<E: Engine> Program for VcpuProgram<E> {
    const ROLE: Role = Role::Vcpu;
    const WHAT: &'static str = "the machine";
    type Given = Inherited;
    type Config = VcpuConfig;
    type Ready = Ready<E>;
    type Loaded = Guest<E>;
    type Armed = Armed<E>;

    fn accept(config: RoleConfig) -> Result<VcpuConfig, Failure> {
        let RoleConfig::Vcpu(config) = config else {
            return Err(Failure::new("configure the vCPU process", "the configuration is for another role"));
        };
        Ok(config)
    }

    fn configure(config: VcpuConfig, mut given: Inherited, context: &Context) -> Result<Ready<E>, Failure> {
        let parts = open_parts(&config, &mut given, context)?;
        context.events.tell(Event::Features(E::features_of_host()));
        context.events.tell(Event::Features(SavedMachine::<E::Saved>::versions()));
        Ok(Ready { parts, entry: config.entry.0, fdt: config.fdt.0 })
    }

    fn load(ready: Ready<E>, source: Source, context: &Context) -> Result<Guest<E>, Failure> {
        let Ready { parts, entry, fdt } = ready;
        let guest = match source {
            Source::Reset => {
                let guest = Guest::new(parts, None)?;
                guest.power_on(entry, fdt)?;
                guest
            }
            Source::Checkpoint => return Err(process::no_checkpoint()),
            Source::Failed => return Err(process::cannot_have_failed()),
            Source::Units(stream) => {
                let saved = SavedMachine::decode(&read_units(stream)?, parts.engine.vcpu_count)
                    .map_err(|error| Failure::new("read the machine's state", error))?;
                Guest::new(parts, Some(&saved))?
            }
        };
        context.events.tell(Event::Features(guest.features()?));
        Ok(guest)
    }

    fn arm(guest: Guest<E>, context: &Context) -> Result<Armed<E>, Failure> {
        let launched = guest.launch(&context.events);
        launched.map_err(|error| Failure::new("start the machine's threads", error))?;
        Ok(Armed(guest))
    }

    fn replay(_armed: &Armed<E>) -> Result<Option<Vec<StreamReplay>>, Failure> {
        Ok(None)
    }

    fn go(armed: &Armed<E>, context: &Context) {
        if let Err(failure) = armed.0.begin() {
            context.events.fatal(format!("{}: {}", failure.what, failure.why));
        }
    }

    fn begin_paused(armed: &Armed<E>) -> Result<(), Failure> {
        armed.0.begin_paused()
    }

    fn pause(armed: &Armed<E>) -> Result<(), Failure> {
        armed.0.pause()
    }

    fn resume(armed: &Armed<E>) -> Result<(), Failure> {
        armed.0.resume()
    }

    /// Devices pause after the CPUs: what they signal until then waits here, and comes along in the state. Requests in
    /// flight are the devices' to finish.
    fn in_flight(armed: &Armed<E>) -> Quiescence {
        armed.0.in_flight()
    }

    fn check_save(_armed: &Armed<E>) -> Result<(), Failure> {
        Ok(())
    }

    fn save(armed: &Armed<E>, into: &mut dyn Write) -> Result<(), Failure> {
        let fail = |why: &dyn ToString| Failure::new("write the machine's state", why.to_string());
        let units = armed.0.save()?.encode().map_err(|error| fail(&error))?;
        into.write_all(&units).map_err(|error| fail(&error))
    }

    fn dirty_log(configured: Configured<'_, Self>, op: DirtyLogOp) -> Result<DirtyLogState, Failure> {
        let log = match configured {
            Configured::Loaded(guest) | Configured::Armed(Armed(guest)) => return guest.dirty_log(op),
            Configured::Ready(Ready { parts, .. }) => &parts.engine.dirty,
        };
        // Nothing writes guest memory yet; producers made later read the log's state.
        log.follow(op);
        Ok(log.state(Exactness::Exact))
    }

    fn dma_ended(_configured: Configured<'_, Self>, device: InstanceId) -> Result<(), Failure> {
        process::no_device_behind(device)
    }

    fn hold_cpus(armed: &Armed<E>, held: bool) -> Result<(), Failure> {
        armed.0.hold_cpus(held);
        Ok(())
    }

    fn throttle(armed: &Armed<E>, percent: u8) -> Result<(), Failure> {
        armed.0.throttle(percent)
    }

    /// Of its channels, those with the processes of functions can be exchanged.
    fn rewire(armed: &Armed<E>, peer: InstanceId, epoch: u32, channel: OwnedFd) -> Result<(), Failure> {
        let fail =
            |why: &dyn ToString| Failure::new(format!("take a new channel to {peer}"), why.to_string());
        let link = armed.0.link_of(peer).ok_or_else(|| fail(&"it is no function of the guest's"))?;
        let channel = link.expect(channel, epoch).map_err(|why| fail(&why))?;
        link.follow(channel).map_err(|why| fail(&why))
    }

    fn inspect(configured: Configured<'_, Self>, inspect: &mut Inspect) {
        match configured {
            Configured::Loaded(guest) | Configured::Armed(Armed(guest)) => guest.inspect(inspect),
            Configured::Ready(_) => {}
        }
    }
}

/// Opens RAM, log, console and devices, and checks each against the configuration.
fn open_parts<E: Engine>(
    config: &VcpuConfig,
    fds: &mut Inherited,
    context: &Context,
) -> Result<Parts<E>, Failure> {
    let Context { generation, spin, .. } = *context;
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
    let mut take = |slot: Slot| fds.take(slot).map_err(|error| fail("take an inherited descriptor", &error));
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
        let memory = Arc::new(Windows::new(function, E::MAPS_WINDOWS, generation));
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
        links.push((function.peer, memory, health, channel, device_id, intid));
        let board = Region::from_fd(take(SlotKind::MsiBoard.of(function.peer))?, BOARD_LEN)
            .and_then(|region| MsiBoard::attach(&region))
            .map_err(|error| fail("map an MSI board", &error))?;
        let doorbell = take(SlotKind::MsiDoorbell.of(function.peer))?.into();
        boards.push(Board { board, doorbell, device_id });
    }
    let pins = Arc::new(Pins::new(pins));
    let vectors = Arc::new(Vectors::new(E::LISTENS_TO_VECTORS));
    let mut serving = Vec::new();
    for (peer, windows, health, channel, device_id, intid) in links {
        let (pins, vectors, lives) = (Arc::clone(&pins), Arc::clone(&vectors), Lives::default());
        let events = context.events.clone();
        let link = FunctionLink { peer, windows, health, pins, vectors, device_id, intid, lives, events };
        let link = Arc::new(link);
        let begun = link.expect(channel, generation).and_then(|channel| link.follow(channel));
        begun.map_err(|why| fail("begin to serve a function link", &why))?;
        serving.push(link);
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
        links: serving,
    })
}
