// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Dependency trees in the form that cargo prints them.

use super::find;

#[test]
fn crate_that_is_barred_is_found_at_any_depth() {
    let tree =
        "vcpu v0.1.0 (/src/vcpu)\nipc v0.1.0 (/src/ipc)\ntokio v1.54.0\nmio v1.0.0\ntokio v1.54.0 (*)\n";
    assert_eq!(find("vcpu", tree), ["vcpu links tokio"]);
}

#[test]
fn crate_whose_name_only_begins_so_is_none_of_them() {
    assert!(find("vcpu", "vcpu v0.1.0 (/src/vcpu)\ntokio-util v0.7.0\nclap_lex v0.7.0\n").is_empty());
}
