// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Edges in the form that cargo describes them.

use super::find;

fn metadata(package: &str, dependency: &str) -> String {
    format!(
        r#"{{"packages":[{{"name":"{package}","dependencies":[
            {{"name":"serde","path":null,"kind":null}},
            {{"name":"{dependency}","path":"/x/{dependency}","kind":"dev"}}]}}]}}"#
    )
}

#[test]
fn edge_of_the_architecture_is_allowed() {
    assert!(find(&metadata("dev-smmu", "ipc")).unwrap().is_empty());
}

#[test]
fn edge_from_the_coordinator_to_a_device_is_found() {
    assert_eq!(find(&metadata("vmm-main", "dev-smmu")).unwrap(), ["vmm-main uses dev-smmu"]);
}

#[test]
fn edge_between_base_crates_is_found_even_for_tests() {
    assert_eq!(find(&metadata("ipc", "sandbox")).unwrap(), ["ipc uses sandbox"]);
}

#[test]
fn crate_that_nobody_decided_about_is_found() {
    assert_eq!(find(r#"{"packages":[{"name":"new","dependencies":[]}]}"#).unwrap().len(), 1);
}

#[test]
fn coordinator_that_links_the_vcpu_is_found_and_the_machine_is_allowed() {
    assert_eq!(find(&metadata("vmm-main", "vcpu")).unwrap(), ["vmm-main uses vcpu"]);
    assert_eq!(find(&metadata("vmm-main", "soft-cpu")).unwrap(), ["vmm-main uses soft-cpu"]);
    assert!(find(&metadata("vmm-main", "machine")).unwrap().is_empty());
}
