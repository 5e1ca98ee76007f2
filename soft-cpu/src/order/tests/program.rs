// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Executions of small parallel programs, and which of them a memory model allows.
//!
//! Accesses are numbered through all threads, fences are not, so the guest's program and the host's have the same
//! numbers. A relation is a row of bits for each access. Of the architecture's dependencies only those that a program
//! here can express are known.

/// What an event is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Read,
    Write,
    Full,
    Loads,
    Stores,
    Branch,
    BranchIsb,
    Dependency,
}

/// One event of a thread.
#[derive(Clone, Copy, Debug)]
pub struct Event {
    pub kind: Kind,
    pub location: usize,
    pub acquire: bool,
    /// LDAPR.
    pub rcpc: bool,
    pub release: bool,
    /// One half of a read-modify-write; its other half is next to it.
    pub update: bool,
}

impl Event {
    pub fn fence(kind: Kind) -> Event {
        Event { kind, location: usize::MAX, acquire: false, rcpc: false, release: false, update: false }
    }

    pub fn read(location: usize) -> Event {
        Event { location, ..Event::fence(Kind::Read) }
    }

    pub fn write(location: usize) -> Event {
        Event { location, ..Event::fence(Kind::Write) }
    }
}

/// Whose rules.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Model {
    /// Read-modify-writes are single instructions.
    Arm,
    /// They are loops of exclusives.
    ArmExclusives,
    /// Total store order; read-modify-writes are locked.
    X86,
}

/// A program with its accesses by number.
pub struct Program {
    /// Thread and event of each access.
    accesses: Vec<(usize, Event)>,
    /// Fences between each pair of accesses of a thread that follow each other anywhere: by (earlier, later).
    between: Vec<Vec<Vec<Kind>>>,
    location_count: usize,
}

/// Which write each read reads from, and the order of the writes to each location.
#[derive(Clone, Debug)]
pub struct Execution {
    /// For each read in order, the write; none for the initial value.
    pub read_from: Vec<Option<usize>>,
    /// For each location, its writes in order.
    coherence: Vec<Vec<usize>>,
}

impl Execution {
    pub fn last_writer(&self, location: usize) -> Option<usize> {
        self.coherence[location].last().copied()
    }
}

const ACCESSES_MAX: usize = 16;
type Relation = [u16; ACCESSES_MAX];

fn is_cyclic(mut relation: Relation) -> bool {
    for middle in 0..ACCESSES_MAX {
        for from in 0..ACCESSES_MAX {
            if relation[from] >> middle & 1 == 1 {
                relation[from] |= relation[middle];
            }
        }
    }
    (0..ACCESSES_MAX).any(|access| relation[access] >> access & 1 == 1)
}

impl Program {
    pub fn new(threads: impl Iterator<Item = Vec<Event>>) -> Program {
        let mut accesses = Vec::new();
        let mut fences: Vec<(usize, usize, Kind)> = Vec::new();
        for (thread, events) in threads.enumerate() {
            for event in events {
                if matches!(event.kind, Kind::Read | Kind::Write) {
                    accesses.push((thread, event));
                } else {
                    fences.push((thread, accesses.len(), event.kind));
                }
            }
        }
        assert!(accesses.len() <= ACCESSES_MAX);
        let between = (0..accesses.len())
            .map(|from| {
                (0..accesses.len())
                    .map(|to| {
                        let inside = fences
                            .iter()
                            .filter(|(thread, at, _)| *thread == accesses[from].0 && from < *at && *at <= to);
                        inside.map(|(_, _, kind)| *kind).collect()
                    })
                    .collect()
            })
            .collect();
        let location_count = accesses.iter().map(|(_, event)| event.location + 1).max().unwrap_or(0);
        Program { accesses, between, location_count }
    }

    fn of_kind(&self, kind: Kind, location: Option<usize>) -> Vec<usize> {
        let fits = |event: &Event| event.kind == kind && location.is_none_or(|it| it == event.location);
        (0..self.accesses.len()).filter(|access| fits(&self.accesses[*access].1)).collect()
    }

    /// Every candidate, sensible or not.
    pub fn executions(&self) -> impl Iterator<Item = Execution> {
        let mut all = vec![Execution { read_from: Vec::new(), coherence: Vec::new() }];
        for read in self.of_kind(Kind::Read, None) {
            let writes = self.of_kind(Kind::Write, Some(self.accesses[read].1.location));
            // Not from what comes later in the same thread.
            let own_future =
                |write: &usize| self.accesses[*write].0 == self.accesses[read].0 && *write > read;
            let sources: Vec<_> = std::iter::once(None)
                .chain(writes.into_iter().filter(|write| !own_future(write)).map(Some))
                .collect();
            all = all
                .into_iter()
                .flat_map(|execution| {
                    sources.iter().map(move |source| {
                        let mut execution = execution.clone();
                        execution.read_from.push(*source);
                        execution
                    })
                })
                .collect();
        }
        for location in 0..self.location_count {
            let orders = permutations(&self.of_kind(Kind::Write, Some(location)));
            all = all
                .into_iter()
                .flat_map(|execution| {
                    orders.iter().map(move |order| {
                        let mut execution = execution.clone();
                        execution.coherence.push(order.clone());
                        execution
                    })
                })
                .collect();
        }
        all.into_iter()
    }

    pub fn allows(&self, model: Model, execution: &Execution) -> bool {
        let (mut internal, mut external) = ([0; ACCESSES_MAX], [0; ACCESSES_MAX]);
        let mut relate = |from: usize, to: usize, always: bool| {
            internal[from] |= 1 << to;
            if always || self.accesses[from].0 != self.accesses[to].0 {
                external[from] |= 1 << to;
            }
        };
        let total = model == Model::X86;
        for order in &execution.coherence {
            for (place, from) in order.iter().enumerate() {
                order[place + 1..].iter().for_each(|to| relate(*from, *to, total));
            }
        }
        let reads = self.of_kind(Kind::Read, None);
        for (read, source) in reads.iter().zip(&execution.read_from) {
            let order = &execution.coherence[self.accesses[*read].1.location];
            let place = source.and_then(|source| order.iter().position(|write| *write == source));
            if let Some(source) = source {
                relate(*source, *read, false);
            }
            let later = &order[place.map_or(0, |place| place + 1)..];
            if self.accesses[*read].1.update && later.first() != Some(&(read + 1)) {
                // Another write came between the halves.
                return false;
            }
            later.iter().filter(|write| **write != read + 1 || !self.accesses[*read].1.update).for_each(
                |write| {
                    relate(*read, *write, total);
                },
            );
            if let Some(source) = source
                && self.accesses[*source].1.update
                && (self.accesses[*read].1.acquire || self.accesses[*read].1.rcpc)
            {
                relate(*source, *read, true);
            }
        }
        for from in 0..self.accesses.len() {
            for to in from + 1..self.accesses.len() {
                let ((thread, one), (other_thread, other)) = (&self.accesses[from], &self.accesses[to]);
                if thread != other_thread {
                    continue;
                }
                if one.location == other.location {
                    internal[from] |= 1 << to;
                }
                let ordered =
                    if total { self.ordered_by_x86(from, to) } else { self.ordered_by_arm(model, from, to) };
                if ordered {
                    external[from] |= 1 << to;
                }
            }
        }
        !is_cyclic(internal) && !is_cyclic(external)
    }

    fn ordered_by_arm(&self, model: Model, from: usize, to: usize) -> bool {
        let (one, other) = (&self.accesses[from].1, &self.accesses[to].1);
        let (reads, writes) = (one.kind == Kind::Read, other.kind == Kind::Write);
        let fenced = self.between[from][to].iter().any(|fence| match fence {
            Kind::Full => true,
            Kind::Loads | Kind::BranchIsb | Kind::Dependency => reads,
            Kind::Stores => !reads && writes,
            Kind::Branch => reads && writes,
            Kind::Read | Kind::Write => false,
        });
        let halves = one.update && other.update && reads && writes && to == from + 1;
        // A whole read-modify-write between them, with acquire and release.
        let passed = model == Model::Arm
            && (from + 1..to.saturating_sub(1)).any(|read| {
                let (first, second) = (&self.accesses[read].1, &self.accesses[read + 1].1);
                first.update && second.update && first.acquire && second.release
            });
        fenced
            || halves
            || passed
            || one.acquire
            || one.rcpc
            || other.release
            || (one.release && other.acquire)
    }

    fn ordered_by_x86(&self, from: usize, to: usize) -> bool {
        let (one, other) = (&self.accesses[from].1, &self.accesses[to].1);
        let locked = (from..=to).any(|access| self.accesses[access].1.update);
        let fenced = self.between[from][to].contains(&Kind::Full);
        !(one.kind == Kind::Write && other.kind == Kind::Read) || locked || fenced
    }
}

fn permutations(items: &[usize]) -> Vec<Vec<usize>> {
    if items.is_empty() {
        return vec![Vec::new()];
    }
    let mut all = Vec::new();
    for (index, first) in items.iter().enumerate() {
        let mut rest = items.to_vec();
        rest.remove(index);
        for mut tail in permutations(&rest) {
            tail.insert(0, *first);
            all.push(tail);
        }
    }
    all
}
