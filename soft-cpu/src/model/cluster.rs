// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Requests between CPUs: no invalidation is missed, and no wake-up is lost.
//!
//! The guest unmaps a page and, once its DSB is complete, reuses it: the other CPU may neither use the old
//! translation any more, nor may an earlier store through it become visible later.

use std::sync::Arc;

use loom::sync::atomic::AtomicU64;
use loom::thread;

use super::check;
use crate::cluster::{Cluster, Maintenance};
use crate::sync::Ordering::Relaxed;

/// What the two CPUs share in guest memory.
struct Memory {
    /// The entry of the translation table: zero while the page is mapped.
    table: AtomicU64,
    page: AtomicU64,
    /// The guest uses the page for something else.
    reused: AtomicU64,
}

/// A CPU with one translation, which it has cached.
struct Translation {
    cached: bool,
    stores: u64,
}

impl Translation {
    /// A store, by the cached translation or by a walk; none if the page is not mapped any more.
    fn store(&mut self, memory: &Memory) {
        if self.cached || memory.table.load(Relaxed) == 0 {
            assert_eq!(memory.reused.load(Relaxed), 0, "the old translation is used after the DSB");
            self.stores += 1;
            memory.page.store(self.stores, Relaxed);
        }
    }

    fn apply(&mut self, what: Maintenance) {
        assert_eq!(what, Maintenance::TlbAll);
        self.cached = false;
    }
}

/// Changes the entry, has the other CPU forget it, and waits as DSB does; what is in the page then.
fn unmap(cluster: &Cluster, memory: &Memory) -> u64 {
    memory.table.store(1, Relaxed);
    let ticket = cluster.cpu(1).ask(Maintenance::TlbAll);
    while !cluster.cpu(1).is_done(ticket) {
        thread::yield_now();
    }
    memory.reused.store(1, Relaxed);
    memory.page.load(Relaxed)
}

fn invalidation(body: fn(&Cluster, &mut Translation, &Memory)) {
    check(3, move || {
        let cluster = Cluster::new(2);
        let zero = || AtomicU64::new(0);
        let memory = Arc::new(Memory { table: zero(), page: zero(), reused: zero() });
        let other = {
            let (cluster, memory) = (Arc::clone(&cluster), Arc::clone(&memory));
            thread::spawn(move || unmap(&cluster, &memory))
        };
        let mut translation = Translation { cached: true, stores: 0 };
        body(&cluster, &mut translation, &memory);
        // Its end: out of guest code.
        cluster.cpu(1).step_outside();
        assert_eq!(other.join().unwrap(), translation.stores, "a store came after the DSB");
    });
}

#[test]
fn invalidation_reaches_a_cpu_between_its_slices() {
    invalidation(|cluster, translation, memory| {
        let own = cluster.cpu(1);
        own.step_inside(|what| translation.apply(what));
        for _ in 0..2 {
            translation.store(memory);
            own.look(|what| translation.apply(what));
        }
        translation.store(memory);
    });
}

#[test]
fn invalidation_reaches_a_cpu_that_comes_back_from_outside() {
    invalidation(|cluster, translation, memory| {
        let own = cluster.cpu(1);
        own.step_inside(|what| translation.apply(what));
        translation.store(memory);
        own.step_outside();
        own.step_inside(|what| translation.apply(what));
        translation.store(memory);
    });
}

#[test]
fn two_cpus_that_wait_for_each_other_both_go_on() {
    check(2, || {
        let cluster = Cluster::new(2);
        let barrier = |cluster: &Cluster, own: usize| {
            cluster.cpu(own).step_inside(|_| ());
            let ticket = cluster.cpu(1 - own).ask(Maintenance::TlbAll);
            cluster.cpu(own).step_outside();
            while !cluster.cpu(1 - own).is_done(ticket) {
                thread::yield_now();
            }
            cluster.cpu(own).step_inside(|_| ());
            cluster.cpu(own).step_outside();
        };
        let other = {
            let cluster = Arc::clone(&cluster);
            thread::spawn(move || barrier(&cluster, 1))
        };
        barrier(&cluster, 0);
        other.join().unwrap();
    });
}

#[test]
fn event_is_never_lost_on_a_sleeper() {
    check(3, || {
        let cluster = Cluster::new(1);
        let sleeper = {
            let cluster = Arc::clone(&cluster);
            thread::spawn(move || {
                // Parks without a time: a lost wake-up is a deadlock, which the checker reports.
                while !cluster.cpu(0).take_event() {
                    cluster.cpu(0).park(true, None);
                }
            })
        };
        cluster.cpu(0).send_event();
        sleeper.join().unwrap();
    });
}

#[test]
fn kick_is_never_lost_on_a_sleeper() {
    check(3, || {
        let cluster = Cluster::new(1);
        let sleeper = {
            let cluster = Arc::clone(&cluster);
            thread::spawn(move || {
                while !cluster.cpu(0).look(|_| ()) {
                    cluster.cpu(0).park(false, None)
                }
            })
        };
        if let Some(handle) = cluster.handle(0) {
            handle.kick();
        }
        sleeper.join().unwrap();
    });
}
