// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A migration whose connections are cut at a random byte, or have a bit changed there, in the clear and over TLS; one
//! whose disk somebody else locks at the moment at which it belongs to neither host. Certificates that are no good:
//! [`network`](crate::network).

use std::collections::BTreeMap;
use std::fs::File;

use rustix::fs::{FlockOperation, flock};
use tests::disk::{self, busy};
use tests::draw::Draw;
use tests::vm::Vm;
use tests::{in_run, processes};

use crate::matrix::{Outcome, answer_of, begin, busy_guest, goes_on, next_host, row, settle, socket_of};
use crate::network::Files;
use crate::phases::{End, Held, PHASES};
use crate::relay::{Harm, Relay, Sender};
use crate::support::COMMAND;

const MIB: u64 = 32;
/// How often each is done, and in a long run.
const TURNS: usize = 1;
const TURNS_LONG: usize = 12;

/// Once `Commit` may have been sent, the source cannot know.
const EXPECTED: [Outcome; 3] = [Outcome::Stays, Outcome::PausedHere, Outcome::PausedRunsThere];

/// How the two hosts know each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wire {
    Clear,
    Tls,
}

impl Wire {
    /// The flags of source and destination.
    fn flags(self, files: &Files) -> [Vec<String>; 2] {
        match self {
            Self::Clear => [vec![], vec![]],
            Self::Tls => {
                [("host-a", "host-b"), ("host-b", "host-a")].map(|(own, peer)| files.flags("ca", own, peer))
            }
        }
    }
}

/// TLS says at the end that it closes: what is harmed in that has come too late. Lengths of signatures differ by a few.
const CLOSING_LEN: u64 = 32;

#[test]
fn connection_that_is_cut_or_damaged_at_any_byte_costs_the_migration_and_not_the_guest() {
    let folder = tempfile::tempdir().unwrap();
    let image = disk::image(&folder, MIB).unwrap();
    let Some(mut vm) = busy_guest("damage", &image) else { return };
    let files = Files::new();
    let mut draw = Draw::by_seed();
    for wire in [Wire::Clear, Wire::Tls] {
        for (harm, from) in [
            (Harm::Flip, Sender::Source),
            (Harm::Flip, Sender::Destination),
            (Harm::Cut, Sender::Source),
            (Harm::Cut, Sender::Destination),
        ] {
            let mut outcomes = BTreeMap::<Outcome, Vec<String>>::new();
            // How much this side sends: behind that there is no byte to be harmed, and the guest moves.
            let (moved, sent) = measured(vm, from, wire.flags(&files));
            vm = moved;
            for _ in 0..in_run(TURNS, TURNS_LONG) {
                let at = draw.byte(if wire == Wire::Tls { sent.saturating_sub(CLOSING_LEN) } else { sent });
                let case = format!("{wire:?}, {harm:?} of byte {at} of {sent} from the {from:?}");
                println!("{case}");
                let outcome;
                (vm, outcome) = harmed(vm, from, at, harm, wire.flags(&files), &case);
                outcomes.entry(outcome).or_default().push(at.to_string());
            }
            println!(
                "COUNTED: migration, {harm:?} at a byte from the {from:?}, {wire:?}: {}",
                row(&outcomes)
            );
        }
    }
    busy::end_unnoticed(&mut vm.console, COMMAND).unwrap();
    vm.finish(COMMAND).unwrap();
}

fn words(flags: &[String]) -> Vec<&str> {
    flags.iter().map(String::as_str).collect()
}

/// Moves the guest, and counts what one side sends meanwhile.
fn measured(mut vm: Vm, from: Sender, [here, there]: [Vec<String>; 2]) -> (Vm, u64) {
    let next = next_host(&vm, &there);
    let folder = tempfile::tempdir().unwrap();
    let relay = Relay::harming(folder.path(), &socket_of(&next), from, u64::MAX, Harm::Cut);
    let answer = answer_of(begin(&vm, &relay.address(), &words(&here)));
    assert!(answer.status.success(), "{answer:?}");
    assert!(vm.console.wait_exit(COMMAND).unwrap().success());
    (next, relay.sent(from))
}

/// A migration with harm to a byte.
fn harmed(
    vm: Vm,
    from: Sender,
    at: u64,
    harm: Harm,
    [here, there]: [Vec<String>; 2],
    case: &str,
) -> (Vm, Outcome) {
    let next = next_host(&vm, &there);
    let folder = tempfile::tempdir().unwrap();
    let relay = Relay::harming(folder.path(), &socket_of(&next), from, at, harm);
    let answer = answer_of(begin(&vm, &relay.address(), &words(&here)));
    relay.step_aside();
    let (outcome, left) = settle(vm, next, &answer, None);
    // A guest that has written less this time has moved before.
    let is_fine = EXPECTED.contains(&outcome) || outcome == Outcome::Moved && !relay.has_harmed();
    assert!(is_fine, "{case}: {outcome:?}: {answer:?}");
    (goes_on(left.unwrap(), outcome, case), outcome)
}

#[test]
fn disk_that_somebody_else_has_locked_meanwhile_costs_the_migration_and_the_guest_waits_for_it() {
    let folder = tempfile::tempdir().unwrap();
    let image = disk::image(&folder, MIB).unwrap();
    let Some(mut vm) = busy_guest("locked", &image) else { return };
    // The source has let go of its disks, and the destination has not been told to take them.
    let phase = PHASES.iter().find(|phase| (phase.end, phase.state) == (End::Source, "awaiting-ready"));
    // Both ends wait for it as long as a host may take to end its processes: that is for a long run.
    for is_given_back in in_run(vec![true], vec![true, false]) {
        let next = next_host(&vm, &[]);
        let relays = tempfile::tempdir().unwrap();
        let mut held = Held::new(phase.unwrap(), &vm, relays.path(), &socket_of(&next));
        let migration = begin(&vm, &held.relay.address(), &[]);
        held.reach(&vm);
        let other = File::open(&image).unwrap();
        flock(&other, FlockOperation::NonBlockingLockExclusive).unwrap();
        if is_given_back {
            // The destination is not there any more to take it.
            let coordinator = processes::named(next.console.pid(), "coordinator").unwrap();
            processes::signal(coordinator, rustix::process::Signal::KILL);
        }
        held.let_go();
        if is_given_back {
            std::thread::sleep(std::time::Duration::from_millis(500));
            drop(other);
            let answer = answer_of(migration);
            drop(held);
            let (outcome, left) = settle(vm, next, &answer, Some((End::Destination, "coordinator")));
            assert_eq!(outcome, Outcome::Stays);
            vm = goes_on(left.unwrap(), outcome, "a disk that was locked for a moment");
            continue;
        }
        let answer = answer_of(migration);
        drop(held);
        assert!(!answer.status.success());
        let said = String::from_utf8_lossy(&answer.stderr).into_owned();
        assert!(said.contains("in use by another host or process") && said.contains("paused"), "{said}");
        assert!(!vm.control("resume", &[""; 0]).unwrap().status.success(), "it runs without its disk");
        drop(other);
        assert!(vm.control("resume", &[""; 0]).unwrap().status.success());
        let (outcome, left) = settle(vm, next, &answer, None);
        assert_eq!(outcome, Outcome::Stays);
        vm = goes_on(left.unwrap(), outcome, "a disk that was locked for long");
    }
    busy::end_unnoticed(&mut vm.console, COMMAND).unwrap();
    vm.finish(COMMAND).unwrap();
}
