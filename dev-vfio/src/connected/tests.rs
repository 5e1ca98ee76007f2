// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
use std::cell::RefCell;
use std::sync::Arc;

use rustix::event::{EventfdFlags, eventfd};

use super::*;

fn new() -> OwnedFd {
    eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap()
}

/// These vectors, and a pin.
fn eventfds(vectors: &Arc<[OwnedFd]>) -> Eventfds {
    Eventfds { vectors: Arc::clone(vectors), intx: Some(Arc::new(new())) }
}

#[test]
fn kinds_take_turns_and_never_meet() {
    let asked = RefCell::new(Vec::new());
    let set = |index: u32, fds: &[&OwnedFd]| {
        asked.borrow_mut().push((index, fds.len()));
        Ok::<_, ()>(())
    };
    let vectors: Arc<[OwnedFd]> = Arc::new([new(), new()]);
    let mut connected = Connected::default();
    assert_eq!(connected.offer(&eventfds(&vectors), set), Ok(None));
    assert!(connected.is_intx(), "out of reset");
    assert_eq!(asked.take(), [(PCI_MSIX_IRQ, 2), (PCI_MSIX_IRQ, 0), (PCI_INTX_IRQ, 1)]);
    assert_eq!(connected.switch(false, set), Ok(false));
    rustix::io::write(&vectors[1], &1_u64.to_ne_bytes()).unwrap();
    assert_eq!(connected.switch(true, set), Ok(true));
    assert_eq!((asked.take(), connected.is_intx()), (vec![(PCI_INTX_IRQ, 0), (PCI_MSIX_IRQ, 2)], false));
    assert_eq!(connected.switch(false, set), Ok(true));
    assert!(rustix::io::read(&vectors[1], &mut [0; 8]).is_err(), "gone with MSI-X");
}

#[test]
fn a_refused_pin_is_no_pin_beside_vectors_and_an_error_alone() {
    let no_pin = |index: u32, _: &[&OwnedFd]| if index == PCI_INTX_IRQ { Err("no pin") } else { Ok(()) };
    let [one, none]: [Arc<[OwnedFd]>; 2] = [Arc::new([new()]), Arc::new([])];
    let mut connected = Connected::default();
    assert_eq!(connected.offer(&eventfds(&one), no_pin), Ok(Some("no pin")));
    assert_eq!((connected.switch(false, no_pin), connected.is_intx()), (Ok(false), false));
    assert_eq!(connected.switch(true, no_pin), Ok(true));
    let mut connected = Connected::default();
    assert_eq!(connected.offer(&eventfds(&none), no_pin), Err("no pin"));
}
