// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The engine of software CPUs: `soft_cpu`'s vCPUs, GIC and clock, on any host.

mod dirty;
mod mmio;
mod saved;
mod slot;

use self::dirty::{CpuLog, GicMemory};
use self::mmio::GuestMmio;
pub use self::saved::SavedSoft;
use self::slot::CpuSlot;
use super::bus::Bus;
use super::engine::{COUNTER_FREQUENCY, Engine, EngineParts, Exit, GIC_PRIORITY_BITS, PAGE_SIZE};
use super::interrupts::controller::{InterruptController, ResampledLine};
use super::window_memory::Mapper;
use ipc::addr::PAGE_LEN;
use ipc::protocol::control::{DirtyLogOp, DirtyLogState, Exactness, Failure};
use ipc::protocol::features::Feature;
use ipc::protocol::inspect::Inspect;
use ipc::shm::dirty_log::DirtyLog;
use ipc::shm::guest_memory::GuestMemory;
use machine::layout::SPI_COUNT;
use sandbox::Inherited;
use soft_cpu::clock::{COUNTER_HZ, Clock};
use soft_cpu::cluster::Cluster;
use soft_cpu::gic::{Gic, GicConfig, PRIORITY_BITS};
use soft_cpu::ram::GuestRam;
use soft_cpu::saved::ClockV1;
use soft_cpu::{Vcpu, VcpuParts, identification};
use std::sync::Arc;
use std::time::Duration;

/// The GIC, and what it shares with the CPUs.
pub struct SoftController {
    gic: Arc<Gic>,
    cluster: Arc<Cluster>,
    clock: Arc<Clock>,
}

impl InterruptController for SoftController {
    fn pulse(&self, intid: u32) {
        self.gic.pulse(intid);
    }

    fn set_level(&self, intid: u32, high: bool) {
        self.gic.set_level(intid, high);
    }

    fn signal_msi(&self, device_id: u32, event_id: u32) {
        // An event that no device table maps is ignored, as the ITS does.
        let _ = self.gic.signal_msi(device_id, event_id);
    }

    fn resampled(&self) -> &[ResampledLine] {
        &[]
    }

    fn loses_ends(&self) -> bool {
        false
    }

    fn kick_vcpus(&self) {}
}

/// Software CPUs.
pub struct Soft {
    controller: Arc<SoftController>,
    mmio: Arc<GuestMmio>,
    dirty: Arc<DirtyLog>,
    slots: Vec<CpuSlot>,
}

impl Engine for Soft {
    type Host = ();
    type Controller = SoftController;
    type Saved = SavedSoft;
    const LISTENS_TO_VECTORS: bool = false;

    const MAPS_WINDOWS: bool = false;

    fn take_host(_fds: &mut Inherited) -> Result<(), Failure> {
        Ok(())
    }

    fn features_of_host() -> Vec<Feature> {
        let identification =
            identification().map(|(name, value)| Feature::new(name, format_args!("{value:#018x}")));
        let features = [
            Feature::new(COUNTER_FREQUENCY, format_args!("{COUNTER_HZ} Hz")),
            Feature::new(GIC_PRIORITY_BITS, PRIORITY_BITS),
            Feature::new(PAGE_SIZE, format_args!("{PAGE_LEN} bytes")),
        ];
        features.into_iter().chain(identification).collect()
    }

    fn features(&self) -> Result<Vec<Feature>, Failure> {
        Ok(Vec::new())
    }

    fn mapper(_controller: &Arc<SoftController>) -> Option<Arc<dyn Mapper>> {
        None
    }

    fn controller(
        (): (),
        parts: &EngineParts,
        saved: Option<&SavedSoft>,
    ) -> Result<Arc<SoftController>, Failure> {
        let clock = saved.map_or(ClockV1 { ticks: 0 }, |saved| saved.clock.clone());
        let cluster = Cluster::new(parts.vcpu_count);
        let config = GicConfig { vcpu_count: parts.vcpu_count, spi_count: SPI_COUNT, its: true };
        let memory = GuestMemory::new(Arc::clone(&parts.ram), Arc::clone(&parts.dirty));
        let memory = Arc::new(GicMemory(memory));
        let cpus = Arc::clone(&cluster);
        let on_irq = Box::new(move |vcpu| {
            if let Some(handle) = cpus.handle(vcpu) {
                handle.wake();
            }
        });
        let gic = match saved {
            None => Gic::new(config, memory, on_irq),
            Some(saved) => Gic::restore(config, memory, on_irq, &saved.gic, saved.its.as_ref()),
        };
        let gic = gic.map_err(|error| Failure::new("build the interrupt controller", error))?;
        let pins = Arc::clone(&parts.pins);
        let intids = pins.intids();
        let gic = Arc::new(gic.with_resampled(intids, Box::new(move |intid| pins.ended(intid))));
        Ok(Arc::new(SoftController { gic, cluster, clock: Arc::new(Clock::restore(&clock)) }))
    }

    fn new(
        parts: EngineParts,
        controller: Arc<SoftController>,
        bus: Arc<Bus>,
        saved: Option<&SavedSoft>,
    ) -> Result<Self, Failure> {
        let fail = |why: &dyn ToString| Failure::new("build the vCPUs", why.to_string());
        let EngineParts { vcpu_count, pmu: _, ram, register_pages, dirty, pins: _, vectors: _ } = parts;
        let mmio = Arc::new(GuestMmio::new(Arc::clone(&controller.gic), bus));
        let cpu_parts = VcpuParts {
            ram: GuestRam::new(ram, register_pages).map_err(|error| fail(&error))?,
            interrupts: Arc::clone(&controller.gic) as Arc<_>,
            mmio: Arc::clone(&mmio) as Arc<_>,
            dirty: Arc::new(CpuLog(Arc::clone(&dirty))),
            clock: Arc::clone(&controller.clock),
            cluster: Arc::clone(&controller.cluster),
        };
        let slots = (0..vcpu_count)
            .map(|index| {
                let vcpu = match saved {
                    None => Vcpu::new(index, cpu_parts.clone()),
                    Some(saved) => restore_vcpu(index, &cpu_parts, saved)?,
                };
                let handle = controller.cluster.handle(index);
                Ok(CpuSlot::new(vcpu, handle.ok_or_else(|| fail(&"a vCPU is outside the cluster"))?))
            })
            .collect::<Result<_, Failure>>()?;
        Ok(Self { controller, mmio, dirty, slots })
    }

    fn vcpu_count(&self) -> usize {
        self.slots.len()
    }

    fn power_on(&self, entry: u64, fdt: u64) -> Result<(), Failure> {
        let boot =
            self.slots.first().ok_or_else(|| Failure::new("switch the boot vCPU on", "there is none"))?;
        boot.vcpu().start(entry, fdt);
        Ok(())
    }

    fn run(&self, index: usize) -> Exit {
        let slot = self.slots.get(index).map(CpuSlot::run);
        match slot {
            None => Exit::Fatal("there is no such vCPU".into()),
            Some(soft_cpu::Exit::Kicked) => Exit::Kicked,
            Some(soft_cpu::Exit::PowerOff) => Exit::PowerOff,
            Some(soft_cpu::Exit::Reset) => Exit::Reset,
        }
    }

    fn kick(&self) {
        self.slots.iter().for_each(|slot| slot.handle.kick());
    }

    fn resume(&self) -> Result<(), Failure> {
        self.controller.clock.resume();
        Ok(())
    }

    fn pause(&self) -> Result<(), Failure> {
        self.controller.clock.pause();
        Ok(())
    }

    fn limit_time(&self, span: Option<Duration>) -> Result<(), Failure> {
        self.controller.clock.limit(span);
        Ok(())
    }

    fn save(&self) -> Result<SavedSoft, Failure> {
        Ok(SavedSoft {
            clock: self.controller.clock.save(),
            gic: self.controller.gic.save(),
            its: self.controller.gic.save_its(),
            vcpus: self.slots.iter().map(|slot| slot.vcpu().save()).collect(),
        })
    }

    fn dirty_log(&self, op: DirtyLogOp) -> Result<DirtyLogState, Failure> {
        self.dirty.follow(op);
        // Pages in a write TLB were marked when they entered it, or while the log was off.
        self.slots.iter().for_each(|slot| slot.handle.flush_write_tlb());
        Ok(self.dirty.state(Exactness::Exact))
    }

    fn waiting_vectors(&self) -> u64 {
        0
    }

    fn inspect(&self, inspect: &mut Inspect) {
        for (index, slot) in self.slots.iter().enumerate() {
            inspect.counter(format!("vcpu{index}.instructions"), slot.retired());
        }
        inspect.counter("mmio.gic", self.mmio.gic_accesses());
    }
}

#[cfg(test)]
impl Soft {
    /// Guest time, whoever holds the vCPUs.
    pub fn time(&self) -> Duration {
        Duration::from_secs(1)
            .mul_f64(self.controller.clock.ticks() as f64 / soft_cpu::clock::COUNTER_HZ as f64)
    }
}

fn restore_vcpu(index: usize, parts: &VcpuParts, saved: &SavedSoft) -> Result<Vcpu, Failure> {
    let fail = |why: String| Failure::new(format!("restore vCPU {index}"), why);
    let state = saved.vcpus.get(index).ok_or_else(|| fail("it was not saved".into()))?;
    Vcpu::restore(index, parts.clone(), state).map_err(|error| fail(error.to_string()))
}
