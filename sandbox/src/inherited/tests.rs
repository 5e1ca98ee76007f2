// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The table without a process of its own; `tests/sealed` has one that takes what it was given.

use std::os::fd::OwnedFd;

use super::*;

/// As if a process had been given this.
fn given(names: &[&str]) -> Inherited {
    let names = Names::new(names.iter().map(|name| (*name).to_owned())).unwrap();
    let fd = || OwnedFd::from(std::io::pipe().unwrap().0);
    let fds = (0..names.count()).map(|number| (number != 2).then(fd)).collect();
    Inherited { names, fds }
}

#[test]
fn take_all_of_what_is_not_open_names_the_first() {
    // Far more than a test runner has open.
    let names = (0..250).map(|number| if number == 2 { "log".to_owned() } else { format!("x{number}") });
    let Err(error) = Inherited::take_all(names) else { panic!("all of them are open") };
    let InheritedError::NotOpen { name, number } = &error else { panic!("{error}") };
    assert_eq!(*name, format!("x{number}"));
}

#[test]
fn take_by_name_once_and_errors_name_it() {
    let mut fds = given(&["control", "crash-page", "log", "ram"]);
    assert!(fds.take("ram").is_ok());
    assert_eq!(fds.take("ram").unwrap_err(), InheritedError::Taken("ram".to_owned()));
    assert_eq!(fds.take("log").unwrap_err(), InheritedError::Taken("log".to_owned()), "nobody's to take");
    let missing = fds.take("ring:vfio0").unwrap_err();
    assert!(missing.to_string().contains("no descriptor `ring:vfio0`"), "{missing}");
    assert!(fds.take_if_given("initramfs").unwrap().is_none());
    assert!(fds.take_if_given("control").unwrap().is_some());
}

#[test]
fn take_each_is_all_of_a_kind_and_of_no_other() {
    let mut fds =
        given(&["control", "crash-page", "log", "ring", "ring:vfio0", "rings:vfio3", "ring:vfio12"]);
    assert!(fds.take("ring:vfio0").is_ok());
    let names = |each: Vec<(String, OwnedFd)>| each.into_iter().map(|(name, _)| name).collect::<Vec<_>>();
    assert_eq!(names(fds.take_each("ring")), ["vfio12"]);
    assert_eq!(names(fds.take_each("ring")), [""; 0]);
    assert!(fds.take("ring").is_ok(), "the one without a peer is no one of several");
}
