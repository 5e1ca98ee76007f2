// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Numbers and losses.

use ipc::addr::StreamId;

use super::*;

const FAULT: Fault = Fault::Aborted { stream: StreamId(8) };

#[test]
fn a_full_queue_marks_its_losses_at_the_end() {
    let mut queue = FaultQueue::new(2);
    for _ in 0..5 {
        queue.push(FAULT);
    }
    let mut losses = Losses::default();
    let mut read = Vec::new();
    while let Some(entry) = queue.pop() {
        read.push((entry.sequence, entry.fault.is_some(), losses.before(&entry)));
    }
    assert_eq!(read, [(0, true, 0), (1, true, 0), (4, false, 3)]);
    queue.push(FAULT);
    let entry = queue.pop().unwrap();
    assert_eq!((entry.sequence, losses.before(&entry)), (5, 0));
    assert!(queue.is_empty());
}

#[test]
fn numbers_wrap_below_the_sign_bit_without_a_loss() {
    let mut queue = FaultQueue::new(8);
    queue.next = SEQUENCES - 1;
    let mut losses = Losses { expected: SEQUENCES - 1 };
    queue.push(FAULT);
    queue.push(FAULT);
    let (last, first) = (queue.pop().unwrap(), queue.pop().unwrap());
    assert_eq!((last.sequence, first.sequence), (0x7fff_ffff, 0));
    assert_eq!((losses.before(&last), losses.before(&first)), (0, 0));
}
