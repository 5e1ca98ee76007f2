// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The VM as the machine's engine.

use super::cpu::Cpu;
use super::saved::SavedKvm;
use super::sys;
use super::vm::Vm;
use crate::bus::Bus;
use crate::engine::{COUNTER_FREQUENCY, Engine, EngineParts, Exit, GIC_PRIORITY_BITS, PAGE_SIZE};
use crate::window_memory::Mapper;
use ipc::protocol::control::{DirtyLogOp, DirtyLogState, Failure};
use ipc::protocol::features::Feature;
use ipc::protocol::inspect::Inspect;
use ipc::slot::SlotKind;
use sandbox::Inherited;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

/// The host's CPUs.
pub struct Kvm {
    vm: Arc<Vm>,
    bus: Arc<Bus>,
}

impl Engine for Kvm {
    type Host = OwnedFd;
    type Controller = Vm;
    type Saved = SavedKvm;
    const LISTENS_TO_VECTORS: bool = true;

    const MAPS_WINDOWS: bool = true;

    fn take_host(fds: &mut Inherited) -> Result<OwnedFd, Failure> {
        fds.take(SlotKind::Kvm).map_err(|error| Failure::new("take the descriptor of /dev/kvm", error))
    }

    fn controller(host: OwnedFd, parts: &EngineParts, saved: Option<&SavedKvm>) -> Result<Arc<Vm>, Failure> {
        let vm = Arc::new(Vm::new(host, parts, saved)?);
        parts.vectors.connect(Arc::<Vm>::downgrade(&vm));
        Ok(vm)
    }

    fn new(
        _parts: EngineParts,
        controller: Arc<Vm>,
        bus: Arc<Bus>,
        _saved: Option<&SavedKvm>,
    ) -> Result<Self, Failure> {
        // The VM was built and restored as a whole, since KVM's controller needs its vCPUs.
        Ok(Self { vm: controller, bus })
    }

    fn features_of_host() -> Vec<Feature> {
        vec![
            Feature::new(COUNTER_FREQUENCY, format_args!("{} Hz", sys::counter_hz())),
            Feature::new(PAGE_SIZE, format_args!("{} bytes", sys::page_len())),
        ]
    }

    /// KVM says so of a VM only.
    fn features(&self) -> Result<Vec<Feature>, Failure> {
        Ok(vec![Feature::new(GIC_PRIORITY_BITS, self.vm.priority_bits()?)])
    }

    fn mapper(controller: &Arc<Vm>) -> Option<Arc<dyn Mapper>> {
        Some(Arc::clone(&controller.window_slots) as Arc<dyn Mapper>)
    }

    fn vcpu_count(&self) -> usize {
        self.vm.cpus.len()
    }

    fn power_on(&self, entry: u64, fdt: u64) -> Result<(), Failure> {
        let boot =
            self.vm.cpus.first().ok_or_else(|| Failure::new("start the boot vCPU", "there is none"))?;
        boot.start_at(entry, fdt)
    }

    fn run(&self, index: usize) -> Exit {
        match self.vm.cpus.get(index) {
            Some(cpu) => cpu.run(&self.bus),
            None => Exit::Fatal("the VM has no such vCPU".into()),
        }
    }

    fn kick(&self) {
        self.vm.cpus.iter().for_each(Cpu::kick);
    }

    fn resume(&self) -> Result<(), Failure> {
        self.vm.resume()
    }

    fn pause(&self) -> Result<(), Failure> {
        self.vm.pause()
    }

    fn limit_time(&self, span: Option<Duration>) -> Result<(), Failure> {
        if span == Some(Duration::ZERO) {
            self.vm.hold_time();
            return Ok(());
        }
        self.vm.release_time()
    }

    fn save(&self) -> Result<SavedKvm, Failure> {
        self.vm.save()
    }

    fn dirty_log(&self, op: DirtyLogOp) -> Result<DirtyLogState, Failure> {
        self.vm.dirty_log(op)
    }

    fn waiting_vectors(&self) -> u64 {
        self.vm.waiting_vectors()
    }

    fn inspect(&self, inspect: &mut Inspect) {
        self.vm.inspect(inspect);
    }
}
