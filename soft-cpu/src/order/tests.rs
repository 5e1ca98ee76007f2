// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The translation of guest order to host fences, held against axiomatic models (Arm ARM B2.3.3; TSO for x86-64).
//!
//! A program is a handful of instructions for two to four CPUs. Every candidate execution (which store each load reads,
//! which store comes last) that a host would allow to the translated program must be one that the architecture allows
//! to the guest's. The programs hold message passing, load and store buffering, R, S, 2+2W and IRIW with every kind of
//! access and barrier, and every fence of the translation is taken away once: then some program must be executed
//! wrongly.

mod program;

use std::cell::{Cell, RefCell};

use super::{Barrier, Fences, Order};
use program::{Event, Kind, Model, Program};

thread_local! {
    static MADE: RefCell<Vec<Barrier>> = const { RefCell::new(Vec::new()) };
    static LEFT_OUT: Cell<Option<Barrier>> = const { Cell::new(None) };
}

fn record(barrier: Barrier) {
    if LEFT_OUT.get() != Some(barrier) {
        MADE.with_borrow_mut(|made| made.push(barrier));
    }
}

/// An arm64 host, whose read-modify-write may be a loop of exclusives.
struct Arm;

impl Fences for Arm {
    const UPDATE_IS_FENCE: bool = false;

    fn fence(barrier: Barrier) {
        record(barrier);
    }
}

struct X86;

impl Fences for X86 {
    const UPDATE_IS_FENCE: bool = true;

    fn fence(barrier: Barrier) {
        record(barrier);
    }
}

/// What a guest can say.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Instruction {
    Ldr,
    Ldar,
    Ldapr,
    Str,
    Stlr,
    /// SWP with acquire and release.
    Swp(bool, bool),
    Dmb,
    DmbLoads,
    DmbStores,
    /// A branch that depends on all loads so far, and ISB.
    BranchIsb,
    /// Addresses depend on all loads so far.
    Dependency,
}

use Instruction::{BranchIsb, Dependency, Dmb, DmbLoads, DmbStores, Ldapr, Ldar, Ldr, Stlr, Str, Swp};

/// The instruction's events by the architecture.
fn of_guest(instruction: Instruction, location: usize, events: &mut Vec<Event>) {
    let read = |acquire, rcpc| Event { acquire, rcpc, ..Event::read(location) };
    let write = |release| Event { release, ..Event::write(location) };
    match instruction {
        Ldr => events.push(read(false, false)),
        Ldar => events.push(read(true, false)),
        Ldapr => events.push(read(false, true)),
        Str => events.push(write(false)),
        Stlr => events.push(write(true)),
        Swp(acquire, release) => {
            events.push(Event { update: true, ..read(acquire, false) });
            events.push(Event { update: true, ..write(release) });
        }
        Dmb => events.push(Event::fence(Kind::Full)),
        DmbLoads => events.push(Event::fence(Kind::Loads)),
        DmbStores => events.push(Event::fence(Kind::Stores)),
        BranchIsb => events.push(Event::fence(Kind::BranchIsb)),
        Dependency => events.push(Event::fence(Kind::Dependency)),
    }
}

/// The events of the host: plain accesses, and the fences that `Order` makes around them.
fn of_host<F: Fences>(
    instruction: Instruction,
    location: usize,
    order: &mut Order<F>,
    events: &mut Vec<Event>,
) {
    let fences = |events: &mut Vec<Event>| {
        for barrier in MADE.take() {
            let kind = match (barrier.ordering(), F::UPDATE_IS_FENCE) {
                (crate::sync::Ordering::SeqCst, _) => Kind::Full,
                // The compiler alone obeys.
                (_, true) => continue,
                (crate::sync::Ordering::Acquire, false) => Kind::Loads,
                // DMB ISH: a release fence orders loads too.
                _ => Kind::Full,
            };
            events.push(Event::fence(kind));
        }
    };
    match instruction {
        Ldr => events.push(Event::read(location)),
        Ldar | Ldapr => {
            if instruction == Ldar {
                order.before_load_acquire();
            }
            fences(events);
            events.push(Event::read(location));
            order.after_load_acquire();
        }
        Str => events.push(Event::write(location)),
        Stlr => {
            order.before_store_release();
            fences(events);
            events.push(Event::write(location));
            order.after_store_release();
        }
        Swp(acquire, release) => {
            order.before_update(acquire);
            fences(events);
            // Sequentially consistent: on arm64, acquire and release.
            events.push(Event { update: true, acquire: true, ..Event::read(location) });
            events.push(Event { update: true, release: true, ..Event::write(location) });
            order.after_update(acquire, release);
        }
        Dmb => order.barrier(Barrier::Full),
        DmbLoads => order.barrier(Barrier::Loads),
        DmbStores => order.barrier(Barrier::Stores),
        BranchIsb => {
            events.push(Event::fence(Kind::Branch));
            order.barrier(Barrier::Instruction);
        }
        Dependency => events.push(Event::fence(Kind::Dependency)),
    }
    fences(events);
}

type Thread = Vec<(Instruction, usize)>;

fn guest(threads: &[&Thread]) -> Program {
    Program::new(threads.iter().map(|thread| {
        let mut events = Vec::new();
        thread.iter().for_each(|(instruction, location)| of_guest(*instruction, *location, &mut events));
        events
    }))
}

fn host<F: Fences>(threads: &[&Thread]) -> Program {
    Program::new(threads.iter().map(|thread| {
        let (mut order, mut events) = (Order::<F>::new(), Vec::new());
        for (instruction, location) in thread.iter() {
            of_host(*instruction, *location, &mut order, &mut events);
        }
        events
    }))
}

/// Whether the host allows an execution that the guest's architecture forbids.
fn is_wrong<F: Fences>(threads: &[&Thread]) -> bool {
    let (guest, host) = (guest(threads), host::<F>(threads));
    let model = if F::UPDATE_IS_FENCE { Model::X86 } else { Model::ArmExclusives };
    host.executions().any(|execution| host.allows(model, &execution) && !guest.allows(Model::Arm, &execution))
}

/// All shapes of one CPU's part: an access to `locations[0]`, something, an access to `locations[1]`.
fn parts(locations: [usize; 2], private: usize) -> Vec<Thread> {
    const PLAIN: [Instruction; 5] = [Ldr, Ldar, Str, Stlr, Swp(true, true)];
    const MORE: [Instruction; 4] = [Ldapr, Swp(false, false), Swp(true, false), Swp(false, true)];
    const BARRIERS: [Instruction; 5] = [Dmb, DmbLoads, DmbStores, BranchIsb, Dependency];
    let all: Vec<_> = PLAIN.into_iter().chain(MORE).collect();
    let mut parts = Vec::new();
    let middles = [None, Some(Str), Some(Swp(false, false)), Some(Swp(true, true))];
    for first in &all {
        for last in &all {
            for middle in middles {
                let middle = middle.map(|access| (access, private));
                parts.push([Some((*first, locations[0])), middle, Some((*last, locations[1]))]);
            }
        }
    }
    for first in PLAIN {
        for last in PLAIN {
            for barrier in BARRIERS {
                parts.push([Some((first, locations[0])), Some((barrier, 0)), Some((last, locations[1]))]);
            }
        }
    }
    parts.into_iter().map(|part| part.into_iter().flatten().collect()).collect()
}

/// The first program of two CPUs that goes wrong: they access two locations in opposite or in the same order.
fn wrong_pair<F: Fences>(step: usize) -> Option<String> {
    let ones = parts([0, 1], 2);
    for others in [parts([1, 0], 3), parts([0, 1], 3)] {
        for (index, one) in ones.iter().enumerate() {
            // With a step, another tenth of the pairs for each: all meet all in the full run.
            for other in others.iter().skip(index % step).step_by(step) {
                if is_wrong::<F>(&[one, other]) {
                    return Some(format!("{one:?} beside {other:?}"));
                }
            }
        }
    }
    None
}

/// The same of independent reads of independent writes.
fn wrong_iriw<F: Fences>() -> Option<String> {
    let mut readers = Vec::new();
    for first in [Ldr, Ldar, Ldapr] {
        for middle in [None, Some(Dmb), Some(DmbLoads), Some(BranchIsb), Some(Dependency)] {
            for last in [Ldr, Ldar, Ldapr] {
                let reader = |from: usize, to: usize| -> Thread {
                    let parts = [Some((first, from)), middle.map(|middle| (middle, 0)), Some((last, to))];
                    parts.into_iter().flatten().collect()
                };
                readers.push((reader(0, 1), reader(1, 0)));
            }
        }
    }
    for write in [Str, Stlr, Swp(true, true)] {
        for (one, _) in &readers {
            for (_, other) in &readers {
                let threads = [&vec![(write, 0)], &vec![(write, 1)], one, other];
                if is_wrong::<F>(&threads) {
                    return Some(format!("{threads:?}"));
                }
            }
        }
    }
    None
}

#[test]
fn translation_allows_nothing_that_the_architecture_forbids() {
    let step = if std::env::var_os("BULKHEAD_FULL_RUN").is_some() { 1 } else { 7 };
    assert_eq!(wrong_pair::<Arm>(step), None, "on arm64");
    assert_eq!(wrong_pair::<X86>(step), None, "on x86-64");
    assert_eq!(wrong_iriw::<Arm>(), None, "on arm64");
    assert_eq!(wrong_iriw::<X86>(), None, "on x86-64");
}

#[test]
fn translation_without_any_one_of_its_fences_is_wrong() {
    for barrier in [
        Barrier::AfterLoadAcquire,
        Barrier::BeforeStoreRelease,
        Barrier::ReleaseToAcquire,
        Barrier::AfterUpdate,
        Barrier::Loads,
        Barrier::Stores,
        Barrier::Full,
        Barrier::Instruction,
    ] {
        LEFT_OUT.set(Some(barrier));
        assert!(wrong_pair::<Arm>(1).is_some(), "nothing misses {barrier:?} on arm64");
        let needed_on_x86 =
            barrier.ordering() == crate::sync::Ordering::SeqCst && barrier != Barrier::AfterUpdate;
        assert!(!needed_on_x86 || wrong_pair::<X86>(1).is_some(), "nothing misses {barrier:?} on x86-64");
    }
}

#[test]
fn known_shapes_are_judged_as_the_manual_has_them() {
    // Threads, and whether the outcome that gives the shape its name is allowed; found as an execution in which the
    // reads and final values are these: (the write that each read reads from, the last write), by number of access.
    let shape = |one: &[(Instruction, usize)],
                 other: &[(Instruction, usize)],
                 reads: &[Option<usize>],
                 last: Option<(usize, usize)>| {
        let (one, other) = (one.to_vec(), other.to_vec());
        let program = guest(&[&one, &other]);
        program.executions().any(|execution| {
            let fits = execution.read_from == reads
                && last.is_none_or(|(location, writer)| execution.last_writer(location) == Some(writer));
            fits && program.allows(Model::Arm, &execution)
        })
    };
    let message = |write: Instruction, read: Instruction| {
        shape(&[(Str, 0), (write, 1)], &[(read, 1), (Ldr, 0)], &[Some(1), None], None)
    };
    assert!(message(Str, Ldr) && message(Stlr, Ldr) && message(Str, Ldar), "message passing half ordered");
    assert!(!message(Stlr, Ldar) && !message(Stlr, Ldapr), "message passing");
    let buffers = |write: Instruction, read: Instruction| {
        shape(&[(write, 0), (read, 1)], &[(write, 1), (read, 0)], &[None, None], None)
    };
    assert!(buffers(Str, Ldr) && buffers(Stlr, Ldapr) && buffers(Str, Ldar), "store buffering");
    assert!(!buffers(Stlr, Ldar), "store buffering, ordered");
    let loads = |read: Instruction, write: Instruction| {
        shape(&[(read, 0), (write, 1)], &[(read, 1), (write, 0)], &[Some(3), Some(1)], None)
    };
    assert!(loads(Ldr, Str), "load buffering");
    assert!(!loads(Ldar, Str) && !loads(Ldr, Stlr) && !loads(Ldapr, Str), "load buffering, ordered");
    let r = |write: Instruction, read: Instruction| {
        shape(&[(Str, 0), (write, 1)], &[(write, 1), (read, 0)], &[None], Some((1, 2)))
    };
    assert!(r(Str, Ldr) && !r(Stlr, Ldar), "R");
}
