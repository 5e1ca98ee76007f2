// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

use super::{CASES, Cpus};

#[test]
fn names_of_cases_are_unique() {
    let mut names: Vec<&str> = CASES.iter().map(|case| case.name).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), CASES.len());
}

#[test]
fn command_line_tells_the_machines_size() {
    assert_eq!(CASES[0].command_line(4, 256), "setup smp=4 mem=256");
}

#[test]
fn case_for_several_cpus_does_not_fit_one() {
    let several = CASES.iter().find(|case| case.cpus == Cpus::TwoOrMore).unwrap();
    assert!(!several.fits(1) && several.fits(2) && several.fits(8));
}
