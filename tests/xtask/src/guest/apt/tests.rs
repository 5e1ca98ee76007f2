// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! apt's records, as text. apt itself is exercised by `cargo xtask guest --update`.

use super::{Candidate, release, with_backports};

const META: &str = "Package: linux-image-cloud-arm64\nSource: linux-signed-arm64 (1)\nVersion: 6.1.9-1\n\
                    Depends: linux-image-6.1.0-9-cloud-arm64 (= 6.1.9-1), other:any | third\nSize: 1460\n";

#[test]
fn record_gives_name_version_and_dependencies() {
    let candidate = Candidate::parse(META).unwrap();
    assert_eq!(candidate.package, "linux-image-cloud-arm64");
    assert_eq!(candidate.version, "6.1.9-1");
    assert_eq!(candidate.depends, ["linux-image-6.1.0-9-cloud-arm64", "other"]);
}

#[test]
fn record_of_two_versions_gives_the_first() {
    let text = format!("{META}\nPackage: older\nVersion: 5\n");
    assert_eq!(Candidate::parse(&text).unwrap().version, "6.1.9-1");
}

#[test]
fn record_without_dependencies_has_none() {
    assert!(Candidate::parse("Package: a\nVersion: 1\n").unwrap().depends.is_empty());
}

#[test]
fn record_without_version_is_refused() {
    assert_eq!(Candidate::parse("Package: a\n\nVersion: 1\n"), None);
    assert_eq!(Candidate::parse(""), None);
}

#[test]
fn release_is_the_code_name_of_the_machine() {
    assert_eq!(release("ID=debian\nVERSION_CODENAME=bookworm\n").as_deref(), Some("bookworm"));
    assert_eq!(release("VERSION_CODENAME=\"noble\"\n").as_deref(), Some("noble"));
    assert_eq!(release("ID=debian\n"), None);
}

#[test]
fn backports_come_from_where_the_release_comes() {
    let stanza = "Types: deb\nURIs: file:/a\nSuites: bookworm bookworm-updates\nComponents: main\n";
    let extended = stanza.replace("-updates", "-updates bookworm-backports");
    assert_eq!(with_backports(stanza, "bookworm"), extended);
    assert_eq!(with_backports(&extended, "bookworm"), extended);
    let line = "deb [signed-by=/k] file:/a bookworm main\n";
    let both = format!("{line}deb [signed-by=/k] file:/a bookworm-backports main\n");
    assert_eq!(with_backports(line, "bookworm"), both);
}

#[test]
fn sources_without_the_release_stay_as_they_are() {
    let others = "deb file:/b bookworm-security main\n# deb file:/a bookworm main\nSuites: nodistro\n";
    assert_eq!(with_backports(others, "bookworm"), others);
}
