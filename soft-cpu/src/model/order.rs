// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Message passing, store buffering and IRIW over the fences of `order.rs`, and each of these again without one of
//! them.
//!
//! The checker knows the language's memory model, under which IRIW is forbidden with full fences only; with
//! load-acquires it is the hosts' multi-copy atomicity that forbids it. And it makes loads in program order, so it
//! cannot show load buffering. Both are judged by `order/tests.rs`.

use loom::sync::Arc;
use loom::sync::atomic::AtomicU64;
use loom::thread;

use super::check;
use crate::order::{Barrier, Fences, Host, Order};
use crate::sync::Ordering::Relaxed;

/// The host without the barrier of this number.
struct Without<const BARRIER: u8>;

impl<const BARRIER: u8> Fences for Without<BARRIER> {
    const UPDATE_IS_FENCE: bool = Host::UPDATE_IS_FENCE;

    fn fence(barrier: Barrier) {
        if barrier as u8 != BARRIER {
            Host::fence(barrier);
        }
    }
}

type Location = Arc<AtomicU64>;
type Body<F> = fn(&mut Order<F>, &AtomicU64, &AtomicU64) -> u64;

/// Whether `forbidden` is the result of any interleaving of `threads`, each of which gets its order and both locations.
fn seen<F: Fences + 'static>(
    preemptions: usize,
    threads: &[Body<F>],
    forbidden: impl Fn(&[u64]) -> bool + Sync + Send + 'static,
) -> bool {
    let threads = threads.to_vec();
    let found = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let mark = std::sync::Arc::clone(&found);
    check(preemptions, move || {
        let (x, y): (Location, Location) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let spawned: Vec<_> = threads
            .iter()
            .copied()
            .map(|body| {
                let (x, y) = (Arc::clone(&x), Arc::clone(&y));
                thread::spawn(move || body(&mut Order::new(), &x, &y))
            })
            .collect();
        let results: Vec<u64> = spawned.into_iter().map(|thread| thread.join().unwrap()).collect();
        if forbidden(&results) {
            mark.store(true, Relaxed);
        }
    });
    found.load(Relaxed)
}

fn load_acquire<F: Fences>(order: &mut Order<F>, location: &AtomicU64) -> u64 {
    order.before_load_acquire();
    let value = location.load(Relaxed);
    order.after_load_acquire();
    value
}

fn store_release<F: Fences>(order: &mut Order<F>, location: &AtomicU64) {
    order.before_store_release();
    location.store(1, Relaxed);
    order.after_store_release();
}

fn message_passing<F: Fences + 'static>() -> bool {
    seen::<F>(
        3,
        &[
            |order, x, y| {
                x.store(1, Relaxed);
                store_release(order, y);
                0
            },
            |order, x, y| load_acquire(order, y) << 1 | x.load(Relaxed),
        ],
        |results| results[1] == 2,
    )
}

fn message_passing_by_barriers<F: Fences + 'static>() -> bool {
    seen::<F>(
        3,
        &[
            |order, x, y| {
                x.store(1, Relaxed);
                order.barrier(Barrier::Stores);
                y.store(1, Relaxed);
                0
            },
            |order, x, y| {
                let flag = y.load(Relaxed);
                order.barrier(Barrier::Loads);
                flag << 1 | x.load(Relaxed)
            },
        ],
        |results| results[1] == 2,
    )
}

fn store_buffering<F: Fences + 'static>() -> bool {
    seen::<F>(
        3,
        &[
            |order, x, y| {
                store_release(order, x);
                load_acquire(order, y)
            },
            |order, x, y| {
                store_release(order, y);
                load_acquire(order, x)
            },
        ],
        |results| results == [0, 0],
    )
}

fn store_buffering_by_barriers<F: Fences + 'static>() -> bool {
    seen::<F>(
        3,
        &[
            |order, x, y| {
                x.store(1, Relaxed);
                order.barrier(Barrier::Full);
                y.load(Relaxed)
            },
            |order, x, y| {
                y.store(1, Relaxed);
                order.barrier(Barrier::Full);
                x.load(Relaxed)
            },
        ],
        |results| results == [0, 0],
    )
}

/// Read-modify-writes with acquire and release, then plain loads.
fn store_buffering_by_updates<F: Fences + 'static>() -> bool {
    fn update<F: Fences>(order: &mut Order<F>, location: &AtomicU64) {
        order.before_update(true);
        location.swap(1, crate::sync::Ordering::SeqCst);
        order.after_update(true, true);
    }
    seen::<F>(
        3,
        &[
            |order, x, y| {
                update(order, x);
                y.load(Relaxed)
            },
            |order, x, y| {
                update(order, y);
                x.load(Relaxed)
            },
        ],
        |results| results == [0, 0],
    )
}

fn iriw<F: Fences + 'static>() -> bool {
    fn both<F: Fences>(order: &mut Order<F>, first: &AtomicU64, second: &AtomicU64) -> u64 {
        let value = first.load(Relaxed);
        order.barrier(Barrier::Full);
        value << 1 | second.load(Relaxed)
    }
    seen::<F>(
        2,
        &[
            |_, x, _| {
                x.store(1, Relaxed);
                0
            },
            |_, _, y| {
                y.store(1, Relaxed);
                0
            },
            |order, x, y| both(order, x, y),
            |order, x, y| both(order, y, x),
        ],
        |results| results[2..] == [2, 2],
    )
}

#[test]
fn message_passing_is_ordered_and_misses_each_of_its_fences() {
    assert!(!message_passing::<Host>() && !message_passing_by_barriers::<Host>());
    assert!(message_passing::<Without<{ Barrier::BeforeStoreRelease as u8 }>>());
    assert!(message_passing::<Without<{ Barrier::AfterLoadAcquire as u8 }>>());
    assert!(message_passing_by_barriers::<Without<{ Barrier::Stores as u8 }>>());
    assert!(message_passing_by_barriers::<Without<{ Barrier::Loads as u8 }>>());
}

#[test]
fn store_buffering_is_ordered_and_misses_each_of_its_fences() {
    assert!(!store_buffering::<Host>() && !store_buffering_by_barriers::<Host>());
    assert!(!store_buffering_by_updates::<Host>());
    assert!(store_buffering::<Without<{ Barrier::ReleaseToAcquire as u8 }>>());
    assert!(store_buffering_by_barriers::<Without<{ Barrier::Full as u8 }>>());
    assert!(store_buffering_by_updates::<Without<{ Barrier::AfterUpdate as u8 }>>());
}

#[test]
fn reads_of_independent_writes_agree_and_miss_their_fence() {
    assert!(!iriw::<Host>());
    assert!(iriw::<Without<{ Barrier::Full as u8 }>>());
}
