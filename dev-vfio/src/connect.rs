// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Connecting a device's interrupts when it is opened: an eventfd for each vector and the pin, and who polls it.
//!
//! They are connected as the guest enables them ([`crate::connected`]). Called once, before any thread runs. A
//! restored device is not tried with both kinds again: it may signal as soon as it is connected, and that must not be
//! lost.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::event::{EventfdFlags, eventfd};

use crate::backend::{Eventfds, Interrupts, Opened};
use crate::function_link::FunctionLink;
use crate::pci::config_space::ConfigSpace;
use crate::saved::FunctionV1;

/// Connects them, and shows the guest the pin if there is one. The error is the reason why the device cannot be used.
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
        offered.map_err(|error| format!("connecting its interrupts failed: {error}"))?
    };
    if let Some(why) = refused {
        eventfds.intx = None;
        ipc::log::warn!("{name}: the device's INTx is not usable, MSI-X only: {why}");
    }
    if eventfds.vectors.is_empty() && eventfds.intx.is_none() {
        ipc::log::warn!(
            "{name}: the device has neither MSI-X nor INTx: the guest gets no interrupts from it"
        );
    }
    let space = match opened.intx.filter(|_| eventfds.intx.is_some()) {
        Some(pin) => space.with_intx(pin, &opened.config),
        None => space,
    };
    Ok((space, eventfds))
}

fn new_eventfd() -> Result<OwnedFd, String> {
    let made = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
    made.map_err(|errno| format!("eventfd for an interrupt: {errno}"))
}
