// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Every process of a machine, stopped or killed at any of its messages, from the first of its start on.
//!
//! A whole life is counted first: boot, I/O of both devices, inspect, pause, resume. Then it is run again with one
//! process that is stopped, or killed, at one of its messages. The failure policy of the system table must hold: the
//! process of a device costs that device, another one ends the machine with a report, and a request to stop is obeyed
//! whichever it is.
//!
//! A few moments are drawn each time, by a seed that is printed; `BULKHEAD_SEED` sets it. The full run draws more, and
//! `BULKHEAD_EVERY_MESSAGE=K` takes every K-th of them, which takes hours for 1.

use std::env;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::RecvTimeoutError;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tests::{FULL_RUN, SEEN, draw::Draw, vm::Controller};

use crate::machine::Machine;
use crate::tracer::{Counts, Plan, Tracer, under};

/// What is drawn for each process and each way to be lost.
const DRAWN: u64 = 1;
const DRAWN_IN_FULL: u64 = 3;
/// An answer that waits for no process, on a busy machine.
const AT_ONCE: Duration = Duration::from_secs(20);
/// How long a stop may take (`bulkhead stop` promises 13 s), on a busy machine.
const STOP: Duration = Duration::from_secs(30);

/// How a process is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Loss {
    Stopped,
    Killed,
}

/// The processes of a device cost that device.
pub fn devices() {
    each_point(&["vfio1", "nvme1"], |mut machine, process, loss, tracer| {
        let controller = machine.controller();
        let lost = thread::scope(|scope| {
            let life = scope.spawn(|| live(&mut machine));
            let lost = lose(tracer, loss, || life.is_finished());
            if lost.is_some() {
                answers(&controller, "inspect", AT_ONCE);
            }
            life.join().unwrap();
            lost
        });
        if lost.is_some() {
            machine.neighbour_works();
            assert!(machine.victim_is_lost(), "{process}");
            machine.neighbour_works();
            machine.await_report("vfio1", &["is lost"]);
            machine.can_be_looked_at();
        }
        machine.end();
        lost.is_some()
    });
}

/// Any other process ends the machine; but the vSMMU's, which comes back once it has begun.
pub fn machines() {
    each_point(&["vcpu", "smmu0", "coordinator"], |mut machine, process, loss, tracer| {
        let controller = machine.controller();
        let mut lives = false;
        let lost = thread::scope(|scope| {
            // The guest's driver stops at the first surprise: here, the end of its machine.
            let life = scope.spawn(|| catch_unwind(AssertUnwindSafe(|| live(&mut machine))));
            let lost = lose(tracer, loss, || life.is_finished());
            if lost.is_some() && loss == Loss::Stopped {
                answers(&controller, "inspect", AT_ONCE);
                let (stopped, said) = answers(&controller, "stop", STOP);
                if process == "coordinator" {
                    // The coordinator, which would obey, is stopped. Its launcher is not.
                    assert!(!stopped, "{said}");
                    let advice = said.split("`kill ").nth(1).and_then(|rest| rest.split('`').next());
                    let launcher = advice.unwrap_or_else(|| panic!("{said}")).parse().unwrap();
                    kill(Pid::from_raw(launcher), Signal::SIGTERM).unwrap();
                }
            }
            // Its outcome is how far it came.
            lives = life.join().unwrap().is_ok();
            lost
        });
        if lost.is_none() {
            machine.end();
            return false;
        }
        if process == "smmu0" && loss == Loss::Killed && lives {
            machine.neighbour_works();
            machine.await_report("smmu0", &["is started anew"]);
            machine.can_be_looked_at();
            machine.end();
            return true;
        }
        let (code, said) = machine.ended();
        let report = said.lines().last().unwrap_or_default();
        println!("{code:?}: {report}");
        match (loss, code) {
            // The request to stop came first.
            (Loss::Stopped, Some(0)) if process != "coordinator" => {}
            (Loss::Stopped, _) if process == "coordinator" => {
                assert!(report.contains("was killed"), "{said}")
            }
            (_, Some(3)) => assert!(report.contains(process), "{said}"),
            _ => panic!("{code:?}: {said}"),
        }
        true
    });
}

/// Boot, I/O of both devices, and what a user asks for meanwhile. The second device may be lost at any moment.
fn live(machine: &mut Machine) {
    machine.boot();
    machine.neighbour_works();
    machine.victim_works();
    machine.can_be_looked_at();
    machine.victim_works();
    machine.neighbour_works();
}

/// Waits until the process is stopped at its message, and kills it if it is to be. None: it did not come that far, and
/// is not stopped any more.
fn lose(tracer: &Tracer, loss: Loss, is_over: impl Fn() -> bool) -> Option<Pid> {
    let mut is_last = false;
    loop {
        match tracer.stopped.recv_timeout(Duration::from_millis(if is_last { 500 } else { 20 })) {
            Ok(process) => {
                if loss == Loss::Killed {
                    kill(process, Signal::SIGKILL).unwrap();
                }
                return Some(process);
            }
            Err(RecvTimeoutError::Timeout) if !is_last => {
                is_last = is_over();
                if is_last {
                    tracer.give_up();
                }
            }
            Err(_) => return None,
        }
    }
}

/// Runs `bulkhead TASK`: whether it succeeds, and what it says, which it does within that time.
fn answers(controller: &Controller, task: &str, limit: Duration) -> (bool, String) {
    let begun = Instant::now();
    let output = controller.command::<&str>(task, &[]).output().unwrap();
    let said =
        [output.stdout, output.stderr].map(|part| String::from_utf8_lossy(&part).into_owned()).concat();
    assert!(begun.elapsed() < limit, "{task} took {:?}: {said}", begun.elapsed());
    println!("{task} after {:?}: {}", begun.elapsed(), said.lines().next().unwrap_or_default());
    (output.status.success(), said)
}

/// Counts a life's messages, and runs it again for each point that is drawn. `check` says whether it was reached.
fn each_point(processes: &[&'static str], check: impl Fn(Machine, &str, Loss, &Tracer) -> bool) {
    let Some(counts) = count() else { return };
    let mut draw = Draw::by_seed();
    let (mut lives, mut lost) = (0, 0);
    for process in processes {
        let count = counts[&((*process).to_owned(), 1)];
        for loss in [Loss::Killed, Loss::Stopped] {
            for message in points(&mut draw, count) {
                println!("{process} {loss:?} at message {message} of {count}");
                let plan = Plan::Stop { process, generation: 1, message };
                let machine = Machine::launch(&format!("{process}-{message}"), None, under).unwrap();
                let tracer = Tracer::start(machine.launcher_file(), plan);
                lost += u32::from(check(machine, process, loss, &tracer));
                tracer.finish();
                lives += 1;
            }
        }
    }
    println!("{SEEN}{lost} of {lives} lives lost a process at a message; a whole one has {counts:?}");
    assert!(lost > 0, "no life reached its point");
}

/// How many messages each process has in a whole life. Nothing, where a suite has to skip.
fn count() -> Option<Counts> {
    let mut machine = Machine::launch("counted", None, under)?;
    let tracer = Tracer::start(machine.launcher_file(), Plan::Count);
    live(&mut machine);
    assert!(!machine.victim_is_lost());
    // What is said of its end is for those that are not traced.
    answers(&machine.controller(), "stop", STOP);
    machine.ended();
    Some(tracer.finish())
}

/// Points of a process that has so many messages: drawn, or swept.
fn points(draw: &mut Draw, messages: u64) -> Vec<u64> {
    if let Some(every) = env::var("BULKHEAD_EVERY_MESSAGE").ok().and_then(|text| text.parse().ok()) {
        return (1..=messages).step_by(every).collect();
    }
    let count = if env::var_os(FULL_RUN).is_some() { DRAWN_IN_FULL } else { DRAWN };
    (0..count).map(|_| draw.message(messages)).collect()
}
