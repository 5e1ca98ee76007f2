// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Save/restores, and restarts, in which one process refuses or dies, at each step that can fail in turn.
//!
//! After each attempt the user is told the process and the step, the guest's memory, registers and disk are as before,
//! and the machine has the processes, the descriptors and the memory objects that it had: nothing leaks. At last an
//! attempt without a fault succeeds.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use tests::{SEEN, programs};

use crate::disk_guest::DiskGuest;
use crate::faulty::{FAULTS, FAULTS_OF_PEERS, How, Step};
use crate::held::Held;
use crate::monitor::Monitor;
use crate::support::{self, COMMAND};

/// Makes `folder/programs`, of those in `built` but for one, which is this program. And an image of a disk.
fn prepare(folder: &Path, built: &Path, faulty: &str) -> (PathBuf, PathBuf) {
    let (own, image) = (folder.join("programs"), folder.join("disk.img"));
    programs::folder_without(Some(faulty), built, &own).unwrap();
    programs::put(Path::new("/proc/self/exe"), &own.join(faulty)).unwrap();
    fs::File::create(&image).and_then(|file| file.set_len(16 << 20)).unwrap();
    (own, image)
}

/// The faults of one process of a move, all in one machine.
pub fn each(program: &str, process: &str) {
    all(program, process, &["save-restore"], &FAULTS);
}

/// Those of one that is restarted.
pub fn each_of_restart(program: &str, process: &str) {
    all(program, process, &["restart", process], &FAULTS);
}

/// Those of one that stays when `restarted` is.
pub fn each_of_peer(program: &str, process: &str, restarted: &str) {
    all(program, process, &["restart", restarted], &FAULTS_OF_PEERS.map(|step| (step, How::Refuses)));
}

fn all(program: &str, process: &str, command: &[&str], faults: &[(Step, How)]) {
    let ([verb, words @ ..], [.., object]) = (command, command) else { panic!("no command") };
    let Some(built) = support::programs() else { return };
    let folder = tempfile::Builder::new().prefix("bulkhead-moves-").tempdir().unwrap();
    let (own, image) = prepare(folder.path(), &built, program);
    let set = |options: &mut tests::vm::Options| {
        options.programs.clone_from(&own);
        options.nvme = vec![image];
        options.arguments = ["--cpu", "soft", "--vcpus", "2"].map(Into::into).to_vec();
    };
    let name = format!("moves-{process}-{object}");
    let Some(mut m) = Monitor::start(folder.path(), &name, set) else { return };
    let mut guest = DiskGuest::start(&mut m);
    guest.works(&mut m);
    let before = Held::by_machine(&own);
    let mut table = Vec::new();
    for (step, how) in faults.iter().copied() {
        let begun = Instant::now();
        let output = m.vm.control(verb, words).unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "{process} {step:?} {how:?} and {verb} succeeded");
        let named = format!("{} of {process}: ", step.as_str());
        let why = if how == How::Dies { "77" } else { "injected fault" };
        assert!(said.contains(&named) && said.contains(why), "{step:?} {how:?}: {said}");
        assert!(said.contains("the guest is running"), "{said}");
        guest.works(&mut m);
        let status: serde_json::Value = serde_json::from_str(&m.vm.control_json("status").unwrap()).unwrap();
        assert_eq!((&status["phase"], &status["generation"]), (&"running".into(), &1.into()), "{status}");
        before.is_again(&own);
        let first = said.lines().next().unwrap_or_default();
        table.push(format!("{step:?} {how:?}, {} ms: {first}", begun.elapsed().as_millis()));
    }
    let output = m.vm.control(verb, words).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    guest.works(&mut m);
    before.is_again(&own);
    println!(
        "{SEEN}{process}: {} of {} faults left the guest where it was, and the next {verb} succeeds",
        table.len(),
        faults.len()
    );
    for row in table {
        println!("{SEEN}  {row}");
    }
    m.vm.console.send(".").unwrap();
    assert!(m.vm.console.wait_exit(COMMAND).unwrap().success(), "{}", m.vm.console.errors());
    assert_eq!(m.vm.left_over(), [""; 0]);
}
