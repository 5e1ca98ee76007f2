// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! apt's records, as text. apt itself is exercised by `cargo xtask guest --update`.

use super::{Candidate, without};

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
fn parts_of_what_is_fetched_do_not_count_as_installed() {
    let status =
        "Package: libc6\nVersion: 1\n\nPackage: gcc-12-aarch64-linux-gnu\nVersion: 2\n\nPackage: zlib1g\n";
    assert_eq!(without(status, &["aarch64-linux-gnu"]), "Package: libc6\nVersion: 1\n\nPackage: zlib1g\n\n");
    assert_eq!(without(status, &["a", "b"]), "");
    assert_eq!(without("", &[]), "");
}
