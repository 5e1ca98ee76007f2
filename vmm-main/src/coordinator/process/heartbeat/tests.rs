// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A process that makes progress is never given up, whoever is stopped meanwhile; one that does not always is, in time.

use std::time::Duration;

use ipc::hello::Role;
use ipc::protocol::budget;
use proptest::prelude::*;
use tokio::time::Instant;

use super::{BEATS, Beat, Hang, Heartbeat, LATE};

const DEADLINE: Duration = Duration::from_secs(10);

/// A process, as far as its heartbeat is concerned.
#[derive(Debug, Default)]
struct Process {
    turns: u64,
    asked: bool,
    control_hangs: bool,
    ring_hangs: bool,
}

impl Process {
    /// Both threads do what they can; the answer, if a question is open.
    fn run(&mut self, heartbeat: &mut Heartbeat) -> Result<(), Hang> {
        if !self.asked || self.control_hangs {
            return Ok(());
        }
        self.asked = false;
        let turns = self.turns;
        self.turns += u64::from(!self.ring_hangs);
        heartbeat.answered(Some(turns))
    }
}

/// Makes the next beat, this late; then the process runs, if it does. The moment, and how it hangs.
fn beat(
    heartbeat: &mut Heartbeat,
    process: &mut Process,
    late: Duration,
    is_busy: bool,
    runs: bool,
) -> (Instant, Option<Hang>) {
    let now = heartbeat.due() + late;
    match heartbeat.beat(now, is_busy) {
        Beat::Ask => process.asked = true,
        Beat::Rest => {}
        Beat::Hung(hang) => return (now, Some(hang)),
    }
    (now, if runs { process.run(heartbeat).err() } else { None })
}

/// How long after it begins to hang, just behind a beat, a process is given up, and as what.
fn noticed(role: Role, hangs: impl Fn(&mut Process)) -> (Duration, Hang) {
    let mut heartbeat = Heartbeat::new(role, DEADLINE, Instant::now());
    let mut process = Process::default();
    let mut hanging_since = None;
    for round in 0..1000 {
        let (now, hang) = beat(&mut heartbeat, &mut process, Duration::ZERO, false, true);
        if let Some(hang) = hang {
            return (now - hanging_since.expect("it hangs"), hang);
        }
        if round == 10 {
            hanging_since = Some(now);
            hangs(&mut process);
        }
    }
    panic!("it was never given up");
}

#[test]
fn process_that_does_not_answer_is_given_up_at_the_deadline() {
    let (after, hang) = noticed(Role::Smmu, |process| process.control_hangs = true);
    assert_eq!((after, hang), (DEADLINE, Hang::Silent(DEADLINE)));
    assert_eq!(noticed(Role::Vfio, |process| process.control_hangs = true).0, DEADLINE);
}

#[test]
fn ring_thread_without_progress_is_given_up_at_the_deadline_and_one_access_later() {
    let (after, hang) = noticed(Role::Smmu, |process| process.ring_hangs = true);
    assert_eq!((after, hang), (DEADLINE, Hang::Stalled(DEADLINE)));
    // It may wait for its server.
    assert_eq!(
        noticed(Role::Vfio, |process| process.ring_hangs = true).0,
        DEADLINE + budget::turn(Role::Vfio)
    );
}

#[test]
fn process_without_a_ring_is_not_expected_to_take_turns() {
    let mut heartbeat = Heartbeat::new(Role::Nvme, DEADLINE, Instant::now());
    for _ in 0..100 {
        assert_eq!(heartbeat.beat(heartbeat.due(), false), Beat::Ask);
        assert_eq!(heartbeat.answered(None), Ok(()));
    }
}

#[test]
fn process_at_a_request_is_not_asked_nor_counted() {
    let mut heartbeat = Heartbeat::new(Role::Smmu, DEADLINE, Instant::now());
    assert_eq!(heartbeat.beat(heartbeat.due(), false), Beat::Ask);
    for _ in 0..100 {
        assert_eq!(heartbeat.beat(heartbeat.due(), true), Beat::Rest);
    }
    // The question is still open: counted from now on.
    for _ in 0..BEATS - 2 {
        assert_eq!(heartbeat.beat(heartbeat.due(), false), Beat::Rest);
    }
    assert_eq!(heartbeat.beat(heartbeat.due(), false), Beat::Hung(Hang::Silent(DEADLINE)));
}

#[test]
fn coordinator_that_is_late_itself_counts_no_beat() {
    let mut heartbeat = Heartbeat::new(Role::Smmu, DEADLINE, Instant::now());
    assert_eq!(heartbeat.beat(heartbeat.due(), false), Beat::Ask);
    for _ in 0..100 {
        assert_eq!(heartbeat.beat(heartbeat.due() + 2 * LATE, false), Beat::Rest);
    }
    // The same for a ring thread: what it had done before is forgotten.
    for _ in 0..100 {
        assert_eq!(heartbeat.answered(Some(7)), Ok(()));
        assert_eq!(heartbeat.beat(heartbeat.due() + 2 * LATE, false), Beat::Ask);
    }
}

/// One beat of a run.
#[derive(Debug, Clone)]
struct Round {
    late: Duration,
    is_busy: bool,
    /// Whether the process runs before the next one.
    runs: bool,
}

fn rounds(len: std::ops::Range<usize>) -> impl Strategy<Value = Vec<Round>> {
    let late = prop_oneof![3 => 0_u64..1000, 1 => 1001_u64..60_000].prop_map(Duration::from_millis);
    let round = (late, prop::bool::weighted(0.2), any::<bool>());
    proptest::collection::vec(round.prop_map(|(late, is_busy, runs)| Round { late, is_busy, runs }), len)
}

proptest! {
    /// It may miss some beats, but never as many as a deadline has; whoever is stopped, whatever it is asked to do.
    #[test]
    fn process_that_gets_on_is_never_given_up(rounds in rounds(1..200)) {
        let mut heartbeat = Heartbeat::new(Role::Smmu, DEADLINE, Instant::now());
        let mut process = Process::default();
        let mut idle = 0;
        for Round { late, is_busy, runs } in rounds {
            // What counts as missed: a beat of a coordinator that was on time.
            idle = if runs { 0 } else { idle + 1 };
            let runs = runs || idle > BEATS - 2;
            idle = if runs { 0 } else { idle };
            let (_, hang) = beat(&mut heartbeat, &mut process, late, is_busy, runs);
            prop_assert_eq!(hang, None);
        }
    }

    /// All are stopped together, as often and as long as one likes, between any two beats.
    #[test]
    fn processes_that_are_stopped_with_their_coordinator_are_not_given_up(
        stops in proptest::collection::vec((2000_u64..1_000_000, 1_usize..8), 1..50),
    ) {
        let mut heartbeat = Heartbeat::new(Role::Smmu, DEADLINE, Instant::now());
        let mut process = Process::default();
        for (stopped, beats) in stops {
            // The question of the beat before is not answered: the process was stopped first.
            prop_assert_eq!(beat(&mut heartbeat, &mut process, Duration::ZERO, false, false).1, None);
            let stopped = Duration::from_millis(stopped);
            prop_assert_eq!(beat(&mut heartbeat, &mut process, stopped, false, true).1, None);
            for _ in 0..beats {
                prop_assert_eq!(beat(&mut heartbeat, &mut process, Duration::ZERO, false, true).1, None);
            }
        }
    }

    /// Whatever came before: within a deadline of the coordinator's own time in which no request was open.
    #[test]
    fn process_that_hangs_is_given_up(rounds in rounds(0..50), control in any::<bool>()) {
        let mut heartbeat = Heartbeat::new(Role::Smmu, DEADLINE, Instant::now());
        let mut process = Process::default();
        for Round { late, is_busy, runs: _ } in rounds {
            prop_assert_eq!(beat(&mut heartbeat, &mut process, late, is_busy, true).1, None);
        }
        (process.control_hangs, process.ring_hangs) = (control, !control);
        let beats = (1..).find(|_| beat(&mut heartbeat, &mut process, Duration::ZERO, false, true).1.is_some());
        prop_assert!(beats.is_some_and(|beats| beats <= BEATS), "{:?}", beats);
    }
}
