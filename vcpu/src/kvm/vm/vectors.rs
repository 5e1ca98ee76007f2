// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Vectors of physical devices on irqfds: KVM turns VFIO's signal into the guest's MSI.
//!
//! A vector's irqfd is assigned while it has a route and the machine runs. While deassigned, a signal stays in the
//! eventfd; when assigned, KVM polls it and injects what is pending. A route that changes under an assigned irqfd
//! applies to the next signal (Linux, virt/kvm/eventfd.c).

use super::{State, Vm, fail, translater};
use crate::interrupts::vectors::{Listener, Vector};
use crate::kvm::routes::{Route, Routes};
use crate::kvm::sys;
use ipc::protocol::control::Failure;
use kvm_bindings::{
    KVM_IRQ_ROUTING_IRQCHIP, KVM_IRQ_ROUTING_MSI, KVM_MSI_VALID_DEVID, KvmIrqRouting, kvm_irq_routing_entry,
    kvm_irq_routing_entry__bindgen_ty_1, kvm_irq_routing_irqchip, kvm_irq_routing_msi,
    kvm_irq_routing_msi__bindgen_ty_1,
};
use std::os::fd::AsFd;

impl Listener for Vm {
    fn route(&self, vectors: &[Vector], place: usize, before: Option<u32>) -> Result<(), Failure> {
        let mut state = self.state();
        let Some(vector) = vectors.get(place).filter(|_| state.running) else {
            // Routed and assigned at resume.
            return Ok(());
        };
        let done = match vector.event {
            None => Ok(()),
            Some(event) => self.route_to(&mut state.routes, place, vector.device_id, event),
        };
        match (before.is_some(), done.is_ok() && vector.event.is_some()) {
            (false, true) => self.listen(&mut state, place, vector, true),
            (true, false) => done.and(self.listen(&mut state, place, vector, false)),
            _ => done,
        }
    }
}

impl Vm {
    /// Assigns or deassigns the irqfd of every vector that has a route.
    pub(super) fn connect_vectors(
        &self,
        state: &mut State,
        vectors: &[Vector],
        assign: bool,
    ) -> Result<(), Failure> {
        for (place, vector) in vectors.iter().enumerate() {
            let Some(event) = vector.event else { continue };
            if assign {
                self.route_to(&mut state.routes, place, vector.device_id, event)?;
            }
            self.listen(state, place, vector, assign)?;
        }
        Ok(())
    }

    fn listen(&self, state: &mut State, place: usize, vector: &Vector, assign: bool) -> Result<(), Failure> {
        sys::irqfd(&self.fd, vector.eventfd.as_fd(), None, Routes::gsi(place), assign)
            .map_err(fail("assign the irqfd of a vector"))?;
        state.connected =
            if assign { state.connected.saturating_add(1) } else { state.connected.saturating_sub(1) };
        Ok(())
    }

    /// Sets the vector's route in KVM's table.
    fn route_to(
        &self,
        routes: &mut Routes,
        place: usize,
        device_id: u32,
        event_id: u32,
    ) -> Result<(), Failure> {
        if !routes.set(place, device_id, event_id) {
            return Ok(());
        }
        let entries: Vec<_> = routes.all().map(|(gsi, route)| entry(gsi, route)).collect();
        let given = KvmIrqRouting::from_entries(&entries)
            .map_err(|error| Failure::new("list the interrupt routes", format!("{error:?}")))
            .and_then(|table| {
                self.fd.set_gsi_routing(&table).map_err(fail("route a vector (KVM_SET_GSI_ROUTING)"))
            });
        if given.is_err() {
            routes.forget(place);
        }
        given
    }
}

fn entry(gsi: u32, route: Route) -> kvm_irq_routing_entry {
    let (type_, flags, u) = match route {
        Route::Wire(pin) => {
            let irqchip = kvm_irq_routing_irqchip { irqchip: 0, pin };
            (KVM_IRQ_ROUTING_IRQCHIP, 0, kvm_irq_routing_entry__bindgen_ty_1 { irqchip })
        }
        Route::Message { device_id, event_id } => {
            let [address_lo, address_hi] = translater();
            let msi = kvm_irq_routing_msi {
                address_lo,
                address_hi,
                data: event_id,
                __bindgen_anon_1: kvm_irq_routing_msi__bindgen_ty_1 { devid: device_id },
            };
            (KVM_IRQ_ROUTING_MSI, KVM_MSI_VALID_DEVID, kvm_irq_routing_entry__bindgen_ty_1 { msi })
        }
    };
    kvm_irq_routing_entry { gsi, type_, flags, pad: 0, u }
}
