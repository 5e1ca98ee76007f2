// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Connecting a device's interrupts, when it is opened: eventfds for what it has, and who listens to them.
//!
//! They are connected as the guest enables them ([`crate::connected`]). Called once, before any thread runs. A restored device
//! has been tried before; what it signals as soon as it is connected must not be lost in another try.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::event::{EventfdFlags, eventfd};

use crate::backend::{Eventfds, Interrupts, Opened};
use crate::function_link::FunctionLink;
use crate::pci::config_space::ConfigSpace;
use crate::saved::FunctionV1;

/// Connects them, and shows the guest the pin if there is one. What the error says is why the device cannot be used.
pub fn interrupts(
    device: &mut impl Interrupts,
    space: ConfigSpace,
    opened: &Opened,
    link: &FunctionLink,
    name: &str,
    saved: Option<&FunctionV1>,
) -> Result<(ConfigSpace, Eventfds), String> {
    let vectors = (0..space.msix.len()).map(|_| new_eventfd()).collect::<Result<_, _>>()?;
    let had_none = saved.is_some_and(|state| state.intx.is_none());
    let intx = opened.intx.filter(|_| !had_none).map(|_| new_eventfd()).transpose()?.map(Arc::new);
    let mut eventfds = Eventfds { vectors, intx };
    let refused = if saved.is_some() {
        device.adopt_interrupts(&eventfds);
        None
    } else {
        let offered = device.offer_interrupts(&eventfds, link, name);
        offered.map_err(|error| format!("its interrupts cannot be connected: {error}"))?
    };
    if let Some(why) = refused {
        eventfds.intx = None;
        ipc::log::warn!("{name}: it has no INTx beside MSI-X: {why}");
    }
    if eventfds.vectors.is_empty() && eventfds.intx.is_none() {
        ipc::log::warn!("{name}: it has neither MSI-X nor a pin: it has no interrupt");
    }
    let space = match opened.intx.filter(|_| eventfds.intx.is_some()) {
        Some(pin) => space.with_intx(pin, &opened.config),
        None => space,
    };
    Ok((space, eventfds))
}

fn new_eventfd() -> Result<OwnedFd, String> {
    let made = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
    made.map_err(|errno| format!("no eventfd for an interrupt: {errno}"))
}
