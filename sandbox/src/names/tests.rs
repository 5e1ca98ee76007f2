// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
use super::*;

fn names(names: &[&str]) -> Result<Names, NamesError> {
    Names::new(names.iter().map(|name| (*name).to_owned()))
}

#[test]
fn names_number_descriptors_in_their_order() {
    let names = names(&["control", "crash-page", "log", "ring:vfio0"]).unwrap();
    assert_eq!((names.count(), names.number_of("ring:vfio0"), names.number_of("ring")), (4, Some(3), None));
    assert!(names.iter().eq(["control", "crash-page", "log", "ring:vfio0"]));
}

#[test]
fn names_that_cannot_be_told_apart_or_printed_are_refused() {
    let twice = names(&["control", "crash-page", "log", "ram", "ram"]);
    assert_eq!(twice, Err(NamesError::Doubled("ram".to_owned())));
    for odd in ["", "two words", "line\n", "\u{1b}[31m", "ü", "zero\0"] {
        assert_eq!(names(&[odd]), Err(NamesError::NoName(odd.to_owned())));
    }
    let many: Vec<String> = (0..=FDS_MAX).map(|number| format!("x{number}")).collect();
    assert_eq!(Names::new(many), Err(NamesError::TooMany(FDS_MAX + 1)));
}

#[test]
fn names_have_the_log_where_the_standard_library_writes() {
    assert!(names(&[]).is_ok() && names(&["control", "crash-page"]).is_ok());
    let wrong = |list: &[&str]| match names(list) {
        Err(NamesError::Log { number, name }) => (number, name),
        other => panic!("{other:?}"),
    };
    assert_eq!(wrong(&["log"]), (0, "log".to_owned()));
    assert_eq!(wrong(&["control", "crash-page", "ram", "log"]), (2, "ram".to_owned()));
    assert_eq!(wrong(&["control", "crash-page", "ram"]), (2, "ram".to_owned()));
}
