// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The queue arithmetic against a counter that never wraps.
#![expect(clippy::cast_possible_truncation, reason = "counters are cut to pointers on purpose")]

use super::Queue;
use proptest::prelude::*;

proptest! {
    /// Positions are counted without wrapping; the pointers must agree with them at every size.
    #[test]
    fn pointers_follow_an_unbounded_counter(log2_size in 0u32..=19, start in any::<u32>(), ahead in 0u64..=1 << 19) {
        let queue = Queue::new(0x8000_0000, log2_size, 16);
        let capacity = u64::from(queue.capacity());
        let cons = u64::from(start);
        let prod = cons + ahead.min(capacity);
        let at = |count: u64| queue.pointer((count % (capacity * 2)) as u32);
        prop_assert_eq!(queue.is_empty(at(prod), at(cons)), prod == cons);
        prop_assert_eq!(queue.is_full(at(prod), at(cons)), prod - cons == capacity);
        prop_assert_eq!(queue.len(at(prod), at(cons)), Some((prod - cons) as u32));
        prop_assert_eq!(queue.next(at(cons)), at(cons + 1));
        let entry = queue.entry_address(at(cons));
        prop_assert_eq!(entry, 0x8000_0000 + (cons % capacity) * 16);
    }

    /// Whatever a guest writes, an entry lies inside the queue and stays aligned to its size.
    #[test]
    fn entry_address_stays_inside(base in 0u64..1 << 52, log2_size in any::<u32>(), bits in any::<u32>(), wide: bool) {
        let entry_len = if wide { 32 } else { 16 };
        let queue = Queue::new(base, log2_size, entry_len);
        let bytes = u64::from(queue.capacity()) * entry_len;
        let address = queue.entry_address(queue.pointer(bits));
        prop_assert!(address >= base & !(bytes.max(32) - 1));
        prop_assert!(address + entry_len <= (base & !(bytes.max(32) - 1)) + bytes);
        prop_assert_eq!(address % entry_len, 0);
    }

    #[test]
    fn a_pair_past_the_size_has_no_len(log2_size in 0u32..19, cons in any::<u32>(), excess in any::<u32>()) {
        let queue = Queue::new(0, log2_size, 16);
        let capacity = queue.capacity();
        // For capacity 1 there is no such pair: two positions are either equal or full.
        prop_assume!(capacity > 1);
        let ahead = capacity + 1 + excess % (capacity - 1);
        let prod = queue.pointer(queue.pointer(cons).bits() + ahead);
        prop_assert_eq!(queue.len(prod, queue.pointer(cons)), None);
        prop_assert!(!queue.is_full(prod, queue.pointer(cons)));
        prop_assert!(!queue.is_empty(prod, queue.pointer(cons)));
    }
}

#[test]
fn one_entry_queue_is_all_wrap_flag() {
    let queue = Queue::new(0x40, 0, 16);
    let (zero, one) = (queue.pointer(0), queue.pointer(1));
    assert!(queue.is_full(one, zero) && queue.is_full(zero, one));
    assert_eq!(queue.next(one), zero);
    assert_eq!(queue.entry_address(one), 0x40);
    assert_eq!(queue.pointer(0xffff_ffff).bits(), 1);
}

#[test]
fn small_queue_is_aligned_to_32_bytes() {
    assert_eq!(Queue::new(0x5f, 0, 16).entry_address(Queue::new(0, 0, 16).pointer(0)), 0x40);
}
