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
    assert_eq!((msix.read_pending(0), msix.read_pending(4)), (0b010, 0));
    msix.write_table(16 + 12, 0);
    assert_eq!(msix.released(), [MESSAGE]);
    assert_eq!((msix.released(), msix.read_pending(0)), (vec![], 0));
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
        assert_eq!((msix.read_table(offset), msix.read_pending(offset)), (0, 0));
    }
}

#[test]
fn reset_masks_everything_and_forgets_what_was_pending() {
    let mut msix = programmed();
    msix.set_control(CONTROL_ENABLE | CONTROL_MASK);
    msix.signal(1);
    msix.reset();
    assert_eq!((msix.control(), msix.read_pending(0), msix.read_table(16 + 8)), (0, 0, 0));
    assert_eq!(msix.read_table(12), 1);
}
