// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What goes into the archive, with a stand-in for busybox that is only a table of names.

use ::tests::guest;

use super::{APPLETS_NEEDED, CONTINUITY, INIT, Program, build, build_with_modules};

fn busybox_with(names: &[&str]) -> Vec<u8> {
    format!("code\0{}\0data", names.join("\0")).into_bytes()
}

fn contains(archive: &[u8], text: &str) -> bool {
    archive.windows(text.len()).any(|window| window == text.as_bytes())
}

#[test]
fn initramfs_of_equal_inputs_has_equal_bytes() {
    let busybox = busybox_with(&APPLETS_NEEDED);
    assert_eq!(build(&busybox, &[]).unwrap(), build(&busybox, &[]).unwrap());
}

#[test]
fn initramfs_links_only_applets_that_busybox_has() {
    let mut names = APPLETS_NEEDED.to_vec();
    names.push("vi");
    let archive = build(&busybox_with(&names), &[]).unwrap();
    assert!(contains(&archive, "bin/vi\0"));
    assert!(!contains(&archive, "bin/lspci\0"));
}

#[test]
fn initramfs_without_a_needed_applet_is_refused_by_name() {
    let error = build(&busybox_with(&APPLETS_NEEDED[1..]), &[]).unwrap_err().to_string();
    assert!(error.contains(APPLETS_NEEDED[0]), "{error}");
}

#[test]
fn initramfs_takes_programs_into_bin() {
    let program = Program { name: "selftest", content: b"\x7fELF something" };
    let archive = build(&busybox_with(&APPLETS_NEEDED), &[program]).unwrap();
    assert!(contains(&archive, "bin/selftest\0"));
    assert!(contains(&archive, "\x7fELF something"));
}

#[test]
fn initramfs_takes_modules_in_the_order_of_loading() {
    let modules = [b"first module".to_vec(), b"second module".to_vec()];
    let archive = build_with_modules(&busybox_with(&APPLETS_NEEDED), &[], &modules).unwrap();
    let place = |text: &str| archive.windows(text.len()).position(|window| window == text.as_bytes());
    assert!(place("modules/00.ko\0") < place("first module"));
    assert!(place("first module") < place("modules/01.ko\0"));
    assert!(contains(&archive, "second module"));
    assert!(INIT.contains("insmod"));
}

#[test]
fn init_prints_what_readers_of_the_console_wait_for() {
    assert!(INIT.contains(guest::USER_SPACE_MARK));
    assert!(INIT.contains(guest::RUN_ENDED_MARK));
    let before_folder = guest::PROMPT.trim_end_matches('/');
    assert!(INIT.contains(&format!("PS1='{before_folder}\\w# '")));
}

#[test]
fn needed_applets_are_called_by_a_script_or_the_demo() {
    let by_the_demo = ["dmesg", "grep", "uname"];
    for name in APPLETS_NEEDED.iter().filter(|name| !by_the_demo.contains(name)) {
        assert!(
            INIT.contains(name) || CONTINUITY.contains(name),
            "{name} is not needed by a script any more"
        );
    }
}
