// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! KVM's interrupt routing table: what each GSI that an irqfd names is at the interrupt controller.
//!
//! KVM's default table has the SPIs, and KVM_SET_GSI_ROUTING replaces it: so our table has the SPIs as well, each
//! under its own GSI, followed by one MSI for each vector that ever had a route. (Linux,
//! Documentation/virt/kvm/api.rst, KVM_SET_GSI_ROUTING.)

use ipc::protocol::function_link::VECTORS_MAX;
use machine::layout::{PCI_SLOT_COUNT, SPI_COUNT};

/// The most routes that KVM accepts (KVM_MAX_IRQ_ROUTES of Linux on arm64).
const ROUTES_MAX: usize = 4096;

// As many functions as the bus has slots, each with all the vectors it may have.
const _: () = assert!(SPI_COUNT as usize + PCI_SLOT_COUNT as usize * VECTORS_MAX as usize <= ROUTES_MAX);

/// The target of one GSI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// An SPI, as INTID - 32.
    Wire(u32),
    /// A message to the ITS.
    Message {
        /// DeviceID.
        device_id: u32,
        /// EventID.
        event_id: u32,
    },
}

/// The table as last set in KVM.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Routes {
    /// By the vector's index.
    messages: Vec<Option<Route>>,
}

impl Routes {
    /// The GSI of the vector at `place`.
    pub fn gsi(place: usize) -> u32 {
        u32::try_from(place).unwrap_or(u32::MAX).saturating_add(SPI_COUNT)
    }

    /// Records a vector's route. True: the table in KVM has to be set.
    pub fn set(&mut self, place: usize, device_id: u32, event_id: u32) -> bool {
        if self.messages.len() <= place {
            self.messages.resize(place.saturating_add(1), None);
        }
        let wanted = Some(Route::Message { device_id, event_id });
        let Some(noted) = self.messages.get_mut(place) else { return false };
        std::mem::replace(noted, wanted) != wanted
    }

    /// KVM refused the route recorded last for this vector.
    pub fn forget(&mut self, place: usize) {
        if let Some(noted) = self.messages.get_mut(place) {
            *noted = None;
        }
    }

    /// Every route with its GSI.
    pub fn all(&self) -> impl Iterator<Item = (u32, Route)> {
        let wires = (0..SPI_COUNT).map(|spi| (spi, Route::Wire(spi)));
        let message = |(place, route): (usize, &Option<Route>)| Some((Self::gsi(place), (*route)?));
        wires.chain(self.messages.iter().enumerate().filter_map(message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_have_every_wire_and_behind_them_the_messages_that_were_set() {
        let mut routes = Routes::default();
        assert!(routes.set(2, 8, 3));
        let all: Vec<_> = routes.all().collect();
        assert_eq!(all.len(), usize::try_from(SPI_COUNT).unwrap() + 1);
        assert!(
            (0..SPI_COUNT).all(|spi| all.contains(&(spi, Route::Wire(spi)))),
            "INTx and the UART among them"
        );
        assert_eq!(all.last(), Some(&(SPI_COUNT + 2, Route::Message { device_id: 8, event_id: 3 })));
        let mut numbers: Vec<u32> = all.iter().map(|(gsi, _)| *gsi).collect();
        numbers.dedup();
        assert_eq!(numbers.len(), all.len(), "no number has two routes");
    }

    #[test]
    fn routes_are_given_to_kvm_only_when_they_change() {
        let mut routes = Routes::default();
        assert!(routes.set(0, 8, 3) && !routes.set(0, 8, 3), "unmasking is no change");
        assert!(routes.set(0, 8, 4), "another CPU's, or another interrupt's event");
        routes.forget(0);
        assert!(routes.set(0, 8, 4), "KVM did not take it");
        routes.forget(7);
        assert_eq!(routes.all().count(), usize::try_from(SPI_COUNT).unwrap() + 1);
    }
}
