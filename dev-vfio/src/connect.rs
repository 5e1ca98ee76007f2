// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Connecting a device's interrupts, when it is opened: eventfds for what it has, and who listens to them.
//!
//! They are connected as the guest enables them ([`crate::connected`]). A real device's vectors are offered to the vCPU
//! process, which may be able to let the kernel carry them to the guest. Called once, before any thread runs.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use ipc::doorbell::Doorbell;
use rustix::event::{EventfdFlags, eventfd};

use crate::bus_link::BusLink;
use crate::client::Opened;
use crate::end::DeviceEnd;
use crate::pci::config_space::ConfigSpace;
use crate::threads::Interrupts;

/// Connects them, and shows the guest the pin if there is one. What the error says is why the device cannot be used.
pub fn interrupts(
    end: &mut DeviceEnd,
    space: ConfigSpace,
    opened: &Opened,
    bus: &BusLink,
    name: &str,
    intx_end: Doorbell,
) -> Result<(ConfigSpace, Interrupts), String> {
    let vectors: Arc<[OwnedFd]> = (0..space.msix.len()).map(|_| new_eventfd()).collect::<Result<_, _>>()?;
    let mut intx = opened.intx.map(|_| new_eventfd()).transpose()?.map(Arc::new);
    let refused = match end {
        DeviceEnd::Server(client) => {
            let refused = client.offer_interrupts(&vectors, intx.as_ref()).map_err(|error| cannot(&error))?;
            refused.map(|error| error.to_string())
        }
        DeviceEnd::Real(device) => {
            let refused = device.interrupts_mut().offer(&vectors, intx.as_ref());
            offer(&vectors, bus, name);
            refused.map_err(|error| cannot(&error))?.map(|error| error.to_string())
        }
    };
    if let Some(why) = refused {
        intx = None;
        ipc::log::warn!("{name}: it has no INTx beside MSI-X: {why}");
    }
    if vectors.is_empty() && intx.is_none() {
        ipc::log::warn!("{name}: it has neither MSI-X nor a pin: it has no interrupt");
    }
    let pin = opened.intx.filter(|_| intx.is_some());
    let space = match pin {
        Some(pin) => space.with_intx(pin, &opened.config),
        None => space,
    };
    Ok((space, Interrupts { vectors, intx, intx_end }))
}

/// Offers a real device's vectors to the vCPU process; if it refuses one it has a reason to refuse all.
fn offer(vectors: &[OwnedFd], bus: &BusLink, name: &str) {
    for eventfd in vectors {
        if let Err(why) = bus.add_vector(eventfd) {
            ipc::log::info!("{name}: its messages are brought by its own process: {why}");
            return;
        }
    }
}

fn new_eventfd() -> Result<OwnedFd, String> {
    let made = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
    made.map_err(|errno| format!("no eventfd for an interrupt: {errno}"))
}

fn cannot(error: &dyn std::fmt::Display) -> String {
    format!("its interrupts cannot be connected: {error}")
}
