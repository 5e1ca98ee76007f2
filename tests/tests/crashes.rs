// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Processes of a machine are killed under a stock Linux that works on its disk through them, again and again at random
//! moments, two at once, and in the middle of what users ask for: each time the next lives go on from the checkpoints,
//! every block that the guest reads is the one that it wrote, and its drivers notice nothing. Moments are drawn by a
//! seed that is printed.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test stops at the first surprise, in its helpers too"
)]

#[path = "crashes/points.rs"]
mod points;
#[expect(dead_code, reason = "this suite starts machines with devices only")]
mod support;

use std::path::Path;
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use points::{FOREIGN, Killed, Point};
use serde_json::Value;
use support::{BOOT, COMMAND, STRICT, launch_as, programs};
use tests::crash::{Kills, Life, await_next, kill_under_work};
use tests::disk::busy::{self, Gap};
use tests::disk::{self, work};
use tests::draw::Draw;
use tests::foreign::Nvme;
use tests::guest::GuestFiles;
use tests::vm::{Options, Vm};
use tests::{SEEN, SKIPPED, Spread, asked, in_run};

/// How often the process is killed, unless `BULKHEAD_KILLS` says how often; and in a long run.
const KILLS: u32 = 20;
const KILLS_LONG: u32 = 1000;
/// The guest works for up to so long before a kill.
const SPAN: Duration = Duration::from_millis(100);
const MIB: u64 = 32;
/// How long a guest is held: its driver gives an SMMU a second.
const HELD_FOR: Duration = Duration::from_secs(3);
/// Milliseconds of what a user asked for before a kill.
const BEFORE_MAX: u64 = 400;

/// A guest with a disk behind the vSMMU, at a shell.
fn machine(name: &str, files: Option<GuestFiles>, image: &Path) -> Option<Vm> {
    machine_with(name, files, |options| options.nvme = vec![image.into()])
}

/// The same with whatever its disk is behind.
fn machine_with(name: &str, files: Option<GuestFiles>, disk: impl FnOnce(&mut Options)) -> Option<Vm> {
    let mut vm = launch_as(files, name, |options| {
        options.extra = STRICT.into();
        disk(options);
        // It dies more often here than a user would put up with.
        options.arguments = ["--smmu-restarts-per-minute", "1000", "--device-restarts-per-minute", "1000"]
            .map(Into::into)
            .to_vec();
    })?;
    vm.console.shell(BOOT).unwrap();
    Some(vm)
}

#[test]
fn vsmmu_that_is_killed_under_disk_io_comes_back_and_nobody_notices() {
    killed_under_disk_io("crashes", &["smmu0"]);
}

#[test]
fn nvme_controller_that_is_killed_under_disk_io_comes_back_and_nobody_notices() {
    killed_under_disk_io("crashes-nvme", &["nvme0"]);
}

#[test]
fn device_process_that_is_killed_under_disk_io_comes_back_and_nobody_notices() {
    killed_under_disk_io("crashes-vfio", &["vfio0"]);
}

#[test]
fn any_two_processes_that_are_killed_at_once_under_disk_io_come_back_and_nobody_notices() {
    killed_under_disk_io("crashes-two", &["vfio0", "nvme0", "smmu0"]);
}

/// Kills one of these processes, or two of them where there are more, again and again.
fn killed_under_disk_io(machine_name: &str, names: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    let image = disk::image(&folder, MIB).unwrap();
    let Some(vm) = machine(machine_name, GuestFiles::selftest(), &image) else { return };
    kill_under(vm, names);
}

#[test]
fn device_process_that_is_killed_in_front_of_a_foreign_server_comes_back_and_nobody_notices() {
    in_front_of_a_server("crashes-foreign", |vm| kill_under(vm, &["vfio0"]));
}

#[test]
fn vsmmu_and_device_process_that_are_killed_in_front_of_a_foreign_server_come_back_and_nobody_notices() {
    in_front_of_a_server("crashes-foreign-two", |vm| kill_under(vm, &["vfio0", "smmu0"]));
}

/// A machine whose disk is in a server that is none of its processes, and knows nothing of their deaths.
fn in_front_of_a_server(machine_name: &str, kill: impl FnOnce(Vm)) {
    let Some(programs) = programs() else { return };
    let folder = tempfile::tempdir().unwrap();
    let (image, socket) = (disk::image(&folder, MIB).unwrap(), folder.path().join("nvme.sock"));
    let server = Nvme::start(&programs, &image, &socket).unwrap();
    let with = |options: &mut Options| options.vfio_user = vec![socket];
    let Some(vm) = machine_with(machine_name, GuestFiles::selftest(), with) else { return };
    kill(vm);
    assert_eq!(server.end(COMMAND), [""; 0]);
}

/// The same of a machine that is there.
fn kill_under(mut vm: Vm, names: &[&str]) {
    busy::begin(&mut vm.console, COMMAND).unwrap();
    let mut draw = Draw::by_seed();
    let kills = kill_under_work(&mut vm, names, names.len().min(2), kill_count(), SPAN, &mut draw, COMMAND)
        .unwrap_or_else(|error| panic!("{error:#}: {}", vm.console.errors()));
    let completed = busy::end_unnoticed(&mut vm.console, COMMAND).unwrap();
    let Kills { gaps, uncounted, fewest_held } = kills;
    let status: Value = serde_json::from_str(&vm.control_json("status").unwrap()).unwrap();
    let deaths = |name: &str| status["deaths"][name]["count"].as_u64().unwrap_or(0);
    let counted: u64 = names.iter().map(|name| deaths(name)).sum();
    let all = gaps.len() as u64 + u64::from(uncounted);
    if let [name] = names {
        assert_eq!(counted, all, "{status}");
        let last = status["deaths"][name]["last"].as_str().unwrap();
        assert!(last.contains("killed by signal 9"), "{status}");
    }
    // Of two of one group the second may be ended for the first before it is seen that it has died.
    assert!(counted >= all, "{status}");
    vm.finish(COMMAND).unwrap();
    let (count, spread) = (gaps.len(), Spread::of(gaps));
    println!(
        "{SEEN}{count} kills of {}, each with {fewest_held} requests under way or more ({uncounted} without do not \
         count), in {completed}: the guest's longest gap: {spread}",
        names.join(", ")
    );
}

#[test]
fn guest_that_is_held_for_a_process_that_asks_goes_on_by_order_and_nobody_in_it_notices() {
    let folder = tempfile::tempdir().unwrap();
    let image = disk::image(&folder, MIB).unwrap();
    let vm = launch_as(GuestFiles::selftest(), "crashes-held", |options| {
        options.extra = STRICT.into();
        options.nvme = vec![image.clone()];
        options.arguments = ["--smmu-restart", "ask", "--device-restart", "ask"].map(Into::into).to_vec();
    });
    let Some(mut vm) = vm else { return };
    vm.console.shell(BOOT).unwrap();
    busy::begin(&mut vm.console, COMMAND).unwrap();
    for name in ["nvme0", "smmu0", "vfio0"] {
        let life = Life::of(&vm, name).unwrap().unwrap();
        assert!(life.kill());
        let until = Instant::now() + COMMAND;
        let status = loop {
            let status: Value = serde_json::from_str(&vm.control_json("status").unwrap()).unwrap();
            if status["phase"] == "held" {
                break status;
            }
            assert!(Instant::now() < until, "the guest is not held: {status}");
            thread::sleep(Duration::from_millis(20));
        };
        assert_eq!(status["held"]["process"], name, "{status}");
        // Longer than its driver waits for an SMMU: of that time the guest sees nothing.
        thread::sleep(HELD_FOR);
        let answer = vm.control("restart", &[name]).unwrap();
        assert!(answer.status.success(), "{answer:?}");
        await_next(&vm, name, life, until).unwrap();
    }
    let completed = busy::end_unnoticed(&mut vm.console, COMMAND).unwrap();
    vm.finish(COMMAND).unwrap();
    println!("{SEEN}{completed} requests of a guest that was held three times for {} s", HELD_FOR.as_secs());
}

/// As often as is asked for.
fn kill_count() -> u32 {
    asked("BULKHEAD_KILLS").unwrap().unwrap_or_else(|| in_run(KILLS, KILLS_LONG))
}

#[test]
fn process_that_is_killed_at_any_point_of_its_work_comes_back_and_nobody_notices() {
    let folder = tempfile::tempdir().unwrap();
    let image = disk::image(&folder, MIB).unwrap();
    let Some(vm) = machine("crashes-points", GuestFiles::selftest(), &image) else { return };
    kill_at_points(vm, &[("smmu0", "smmu0"), ("vfio0", "vfio0"), ("nvme0", "nvme0")]);
}

#[test]
fn device_process_that_is_killed_in_the_middle_of_a_message_of_a_foreign_server_comes_back() {
    in_front_of_a_server("crashes-foreign-points", |vm| kill_at_points(vm, &[("vfio0", FOREIGN)]));
}

/// Kills each of these processes at points of its work, of which there is a list under the name beside it.
fn kill_at_points(mut vm: Vm, processes: &[(&str, &str)]) {
    busy::begin(&mut vm.console, COMMAND).unwrap();
    let mut draw = Draw::by_seed();
    for (name, listed) in processes {
        let (mut counted, mut number) = (0, 0);
        while counted < kill_count() {
            let point = Point::of(listed, number, &mut draw);
            number += 1;
            let until = Instant::now() + COMMAND;
            let life = Life::of(&vm, name).unwrap().unwrap();
            let killed = point.kill(nix::unistd::Pid::from_raw(life.pid.as_raw_nonzero().get()));
            if killed == Killed::Refused {
                println!("{SKIPPED}this user may not trace a sealed process: run it as root");
                return;
            }
            let gone = |error: anyhow::Error| -> Gap { panic!("{name} at {point}, {killed:?}: {error:#}") };
            let Gap { held, .. } = busy::gap(&mut vm.console, COMMAND).unwrap_or_else(gone);
            await_next(&vm, name, life, until).unwrap();
            counted += u32::from(held > 0 && killed == Killed::AtPoint);
            assert!(
                number < 3 * usize::try_from(kill_count()).unwrap() + 10,
                "{name} is not killed at its points"
            );
        }
        println!(
            "{SEEN}{counted} kills of {name} at points of its work, {} elsewhere",
            number - counted as usize
        );
    }
    let completed = busy::end_unnoticed(&mut vm.console, COMMAND).unwrap();
    vm.finish(COMMAND).unwrap();
    println!("{SEEN}{completed} requests of the guest");
}

#[test]
fn vsmmu_that_is_killed_while_a_user_asks_for_something_comes_back_and_the_guest_goes_on() {
    killed_while_a_user_asks("crashes-asked", &["smmu0"]);
}

#[test]
fn device_that_is_killed_while_a_user_asks_for_something_comes_back_and_the_guest_goes_on() {
    killed_while_a_user_asks("crashes-asked-device", &["nvme0", "vfio0"]);
}

/// Kills each of these processes once in the middle of each thing that a user asks for.
fn killed_while_a_user_asks(machine_name: &str, names: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    let image = disk::image(&folder, MIB).unwrap();
    let Some(mut vm) = machine(machine_name, GuestFiles::cached(), &image) else { return };
    work::begin(&mut vm.console, COMMAND).unwrap();
    let mut draw = Draw::by_seed();
    for name in names.iter().cycle().take(2) {
        for words in [&["pause"][..], &["resume"], &["save-restore"], &["restart", name], &["dirty-rate"]] {
            if words == ["resume"] {
                vm.control_json("pause").unwrap();
            }
            let life = Life::of(&vm, name).unwrap();
            let life = life.unwrap_or_else(|| panic!("{name} is gone: {}", vm.console.errors()));
            let (task, arguments) = words.split_first().unwrap();
            let mut command = vm.controller().command(task, arguments);
            let running = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
            thread::sleep(Duration::from_millis(draw.message(BEFORE_MAX)));
            // Of a move that was faster it is gone already.
            let killed = life.kill();
            let answer = running.wait_with_output().unwrap();
            println!(
                "{name}, {words:?}, killed: {killed}: {}",
                String::from_utf8_lossy(&answer.stderr).trim()
            );
            // Only what relied on that life may fail.
            assert!(answer.status.success() || !["pause", "resume"].contains(task), "{answer:?}");
            vm.control_json("resume").unwrap();
            work::another_round(&mut vm.console, COMMAND).unwrap();
        }
    }
    work::finish_unnoticed(vm, COMMAND).unwrap();
}
