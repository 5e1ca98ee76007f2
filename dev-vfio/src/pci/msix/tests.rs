// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Masks, pending bits, garbage.

use super::*;

fn programmed() -> Msix {
    let mut msix = Msix::new(3);
    for (field, value) in [(0, 0x0821_0043), (4, 0xff), (8, 17), (12, 0)] {
        msix.write_table(16 + field, value);
    }
    msix
}

fn nothing(_: usize) -> bool {
    false
}

const MESSAGE: Message = Message { address: 0xff_0821_0040, data: 17 };

#[test]
fn an_open_vector_sends_its_message() {
    let mut msix = programmed();
    assert_eq!(msix.signal(1), None, "MSI-X is disabled");
    msix.set_control(CONTROL_ENABLE);
    assert_eq!(msix.released(), [], "what was signalled while disabled is not late but lost");
    assert_eq!(msix.signal(1), Some(MESSAGE));
    assert_eq!(msix.signal(0), None, "vector 0 is masked out of reset");
    assert_eq!(msix.signal(3), None, "there is no vector 3");
}

#[test]
fn a_masked_vector_is_pending_until_it_is_unmasked() {
    let mut msix = programmed();
    msix.set_control(CONTROL_ENABLE);
    msix.write_table(16 + 12, 0xffff_ffff);
    assert_eq!(msix.read_table(16 + 12), 1, "only the mask bit exists");
    assert_eq!((msix.signal(1), msix.signal(1)), (None, None));
    assert_eq!((msix.read_pending(0, nothing), msix.read_pending(4, nothing)), (0b010, 0));
    msix.write_table(16 + 12, 0);
    assert_eq!(msix.released(), [MESSAGE]);
    assert_eq!((msix.released(), msix.read_pending(0, nothing)), (vec![], 0));
}

#[test]
fn a_masked_function_holds_every_vector() {
    let mut msix = programmed();
    msix.set_control(CONTROL_ENABLE | CONTROL_MASK);
    assert_eq!((msix.signal(1), msix.released()), (None, vec![]));
    msix.set_control(CONTROL_ENABLE);
    assert_eq!(msix.released(), [MESSAGE]);
}

#[test]
fn accesses_beyond_the_table_do_nothing() {
    let mut msix = Msix::new(u16::MAX);
    assert_eq!(msix.len(), usize::from(VECTORS_MAX));
    for offset in [u64::from(VECTORS_MAX) * ENTRY_LEN, u64::MAX, u64::MAX - 3] {
        msix.write_table(offset, 0x1234);
        assert_eq!((msix.read_table(offset), msix.read_pending(offset, nothing)), (0, 0));
    }
}

#[test]
fn reset_masks_everything_and_forgets_what_was_pending() {
    let mut msix = programmed();
    msix.set_control(CONTROL_ENABLE | CONTROL_MASK);
    msix.signal(1);
    msix.reset();
    assert_eq!((msix.control(), msix.read_pending(0, nothing), msix.read_table(16 + 8)), (0, 0, 0));
    assert_eq!(msix.read_table(12), 1);
}

#[test]
fn a_signal_that_waits_in_its_eventfd_is_pending_while_its_message_must_wait() {
    let mut msix = programmed();
    let waits = |index| index != 2;
    assert_eq!(msix.read_pending(0, waits), 0, "with MSI-X disabled nothing is late");
    msix.set_control(CONTROL_ENABLE | CONTROL_MASK);
    assert_eq!(msix.read_pending(0, waits), 0b011);
    assert_eq!(msix.messages().collect::<Vec<_>>(), [None; 3]);
    msix.set_control(CONTROL_ENABLE);
    assert_eq!(msix.read_pending(0, waits), 0b001, "vector 1 is open: its signal is on its way");
    assert_eq!(msix.messages().collect::<Vec<_>>(), [None, Some(MESSAGE), None]);
    msix.hold(true);
    assert_eq!(msix.read_pending(0, waits), 0b011, "no bus master: no message");
    assert_eq!(msix.messages().collect::<Vec<_>>(), [None; 3]);
    assert_eq!(Msix::new(40).read_pending(4, waits), 0);
    let mut many = Msix::new(40);
    many.set_control(CONTROL_ENABLE);
    assert_eq!(many.read_pending(4, |index| index == 33), 0b10);
}
