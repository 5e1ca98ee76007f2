// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Stories of a guest that is leaving and still runs: its CPUs are slowed down, and its processes die and come back.

use ipc::protocol::control::DirtyLogOp;

use super::migrations::{is_moved, leaving, migrate};
use super::recoveries::assert_logs_before_it_begins;
use super::world::{SMMU0, VCPU, VFIO0, World};
use crate::coordinator::vm::action::{RequestKind, Success};
use crate::coordinator::vm::event::{Command, LifeId};
use crate::lifecycle::Phase;
use crate::migration::convergence::{Limits, Otherwise};
use crate::migration::message::Message;

#[test]
fn cpus_are_slowed_down_while_rounds_do_not_shrink_and_have_their_time_again_if_the_guest_stays() {
    let begun = |otherwise, owed_len| {
        let mut world = World::new(false);
        world.settle();
        let Command::Migrate(to, limits) = migrate() else { unreachable!("it is one") };
        let ticket = world
            .command(Command::Migrate(to, Limits { throttle: true, rounds_max: 4, otherwise, ..limits }));
        world.migration.owed_len = owed_len;
        world.settle();
        (world, ticket)
    };
    // The first round has nothing to be compared with, and behind the last it is decided.
    let (world, ticket) = begun(Otherwise::SwitchOver, 1 << 30);
    assert_eq!(
        (&world.answers[&ticket], &world.migration.throttles[..]),
        (&Ok(Success::Migrated), &[20, 40][..])
    );
    let (world, ticket) = begun(Otherwise::GiveUp, 1 << 30);
    assert!(world.answers[&ticket].is_err());
    assert_eq!((world.machine.phase(), &world.migration.throttles[..]), (&Phase::Running, &[20, 40, 0][..]));
    // Nor is one that converges slowed down, or one that was not to be.
    assert_eq!(begun(Otherwise::SwitchOver, 0).0.migration.throttles, [0; 0]);
    let (mut world, _) = leaving();
    world.migration.owed_len = 1 << 30;
    world.settle();
    assert_eq!(world.migration.throttles, [0; 0]);
}

/// Behind that the states are on their way: a life that goes on from a checkpoint is none that was saved.
#[test]
fn guest_leaves_though_a_process_dies_and_comes_back_at_any_step_before_its_state_is_saved() {
    let mut deaths = [0, 0];
    for (instance, seen) in [SMMU0, VFIO0].into_iter().zip(&mut deaths) {
        for steps in 0.. {
            let mut world = World::with_restarts();
            world.settle();
            let ticket = world.command(migrate());
            for _ in 0..steps {
                world.turn();
            }
            if world.migration.is_elsewhere {
                break;
            }
            let is_saved = world.requests.iter().any(|(_, request)| *request == RequestKind::Save);
            let logs = world.processes[&world.life(VCPU)].logging;
            let next = LifeId { generation: world.machine.last_generation + 1, instance };
            world.depart(world.life(instance), true);
            world.settle();
            let left = world.answers[&ticket] == Ok(Success::Migrated);
            assert_eq!(left, !is_saved, "{instance}, {steps} steps: {:?}", world.answers[&ticket]);
            if left {
                assert!(is_moved(&world) && world.processes.is_empty());
                *seen += 1;
            } else {
                assert_eq!((world.machine.phase(), world.machine.is_idle()), (&Phase::Running, true));
            }
            // Others log already, and it is not asked beside them.
            if left && logs == Some(DirtyLogOp::Rearm) {
                assert_logs_before_it_begins(&world, next, 1);
            }
        }
    }
    assert!(deaths.iter().all(|count| *count > 15), "{deaths:?}");
}

#[test]
fn guest_that_is_paused_and_leaves_stays_if_a_process_dies() {
    let mut world = World::with_restarts();
    world.settle();
    world.command(Command::Pause);
    world.settle();
    let ticket = world.command(migrate());
    world.until_said(|message| matches!(message, Message::Offer(_)));
    world.depart(world.life(VFIO0), true);
    world.settle();
    assert!(world.answers[&ticket].is_err());
    assert_eq!((world.machine.phase(), world.machine.is_idle()), (&Phase::Paused, true));
}
