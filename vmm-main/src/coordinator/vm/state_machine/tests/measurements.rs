// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Stories of measurements: the dirty logs of all who write, on for a while, and harvested once.

use std::time::Duration;

use ipc::protocol::control::{DirtyLogOp, Event as Report};

use super::stories::{asked, running};
use super::world::{SMMU0, VCPU, VFIO0, VFIO1, World};
use crate::coordinator::vm::action::{RequestKind, Success};
use crate::coordinator::vm::event::{Command, ProcessEvent, Timer};

/// A measurement that waits for its time to be over.
fn measuring(world: &mut World) -> (u64, Timer) {
    let ticket = world.command(Command::DirtyRate(Duration::from_secs(1)));
    world.settle();
    let timer = world.timers.keys().copied().find(|timer| matches!(timer, Timer::DirtyRate(_)));
    (ticket, timer.expect("it waits"))
}

#[test]
fn measurement_enables_rearms_harvests_and_disables_the_logs_of_all_who_write() {
    let mut world = running(false);
    let (ticket, timer) = measuring(&mut world);
    let epoch = 1;
    assert_eq!(
        asked(&world, RequestKind::DirtyLog(DirtyLogOp::Enable { epoch })),
        [VCPU, SMMU0, VFIO0, VFIO1]
    );
    assert!(asked(&world, RequestKind::DirtyLog(DirtyLogOp::Rearm)).is_empty() && world.harvests == 0);
    world.run_out(timer);
    assert_eq!(world.harvests, 0, "not before everyone has flipped its log");
    world.settle();
    assert_eq!(world.harvests, 1);
    assert_eq!(asked(&world, RequestKind::DirtyLog(DirtyLogOp::Disable)).len(), 4);
    assert_eq!(world.answers[&ticket], Ok(Success::DirtyRateMeasured));
    // The next one logs in another name.
    let (_, timer) = measuring(&mut world);
    assert_eq!(timer, Timer::DirtyRate(2));
}

#[test]
fn measurement_that_one_process_refuses_is_given_up_and_nobody_logs_any_more() {
    let mut world = running(false);
    let (ticket, timer) = measuring(&mut world);
    world.run_out(timer);
    world.refuse(world.life(SMMU0));
    world.settle();
    assert_eq!(world.harvests, 0);
    assert!(world.answers[&ticket].is_err());
    assert_eq!(asked(&world, RequestKind::DirtyLog(DirtyLogOp::Disable)).len(), 4);
    assert!(world.machine.is_idle());
}

#[test]
fn measurement_waits_for_no_process_that_has_died_and_no_guest_waits_for_it() {
    let mut world = running(false);
    let (ticket, timer) = measuring(&mut world);
    world.run_out(timer);
    world.depart(world.life(VFIO1), true);
    world.settle();
    assert_eq!((world.harvests, &world.answers[&ticket]), (1, &Ok(Success::DirtyRateMeasured)));
    let (ticket, _) = measuring(&mut world);
    world.process(world.life(VCPU), ProcessEvent::Reported(Report::GuestReset));
    world.settle();
    assert_eq!((world.harvests, &world.answers[&ticket]), (2, &Ok(Success::DirtyRateMeasured)));
    assert_eq!(world.machine.reset_count(), 1);
}

#[test]
fn guest_is_not_moved_while_its_writes_are_logged() {
    let mut world = running(false);
    let (measurement, timer) = measuring(&mut world);
    let refused = world.command(Command::SaveRestore);
    assert!(world.answers[&refused].is_err());
    world.run_out(timer);
    world.settle();
    assert_eq!((world.harvests, &world.answers[&measurement]), (1, &Ok(Success::DirtyRateMeasured)));
    let moved = world.command(Command::SaveRestore);
    world.settle();
    assert!(world.answers[&moved].is_ok());
}

#[test]
fn paused_guest_is_not_measured() {
    let mut world = running(false);
    world.command(Command::Pause);
    world.settle();
    let ticket = world.command(Command::DirtyRate(Duration::from_secs(1)));
    assert!(world.answers[&ticket].is_err());
    assert!(world.machine.is_idle());
}
