// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What counts as a difference, and when.

use super::*;

fn features(list: &[(&str, &str)]) -> Features {
    let mut features = Features::default();
    features.add(list.iter().map(|(name, value)| Feature::new(*name, value)).collect()).unwrap();
    features
}

fn instance(name: &str) -> InstanceId {
    name.parse().unwrap()
}

/// A guest on the one host, and the processes of the other.
fn found(source: &[(&str, &str)], here: &[(&str, &str)], extent: Extent) -> Vec<String> {
    let source = vec![(instance("vcpu"), features(source).to_list())];
    differences(&source, &BTreeMap::from([(instance("vcpu"), features(here))]), extent)
}

#[test]
fn difference_names_process_feature_both_values_and_where_to_change_it() {
    let frequency = |hz| [("counter frequency", hz), ("page size", "4096 bytes")];
    assert_eq!(found(&frequency("1 Hz"), &frequency("1 Hz"), Extent::All), [""; 0]);
    let sentences = found(&frequency("1 Hz"), &frequency("2 Hz"), Extent::Known);
    assert_eq!(
        sentences,
        [
            "vcpu, counter frequency: 1 Hz at the source, 2 Hz here: move the guest to a host with the same CPUs and the \
          same release"
        ]
    );
}

#[test]
fn what_one_host_alone_knows_differs_only_when_all_is_compared() {
    let (more, less) = ([("BAR 0", "0x1000 bytes"), ("INTx pin", "no")], [("INTx pin", "no")]);
    for (source, here, value) in [
        (&more[..], &less[..], "0x1000 bytes at the source, none here"),
        (&less[..], &more[..], "none at the source, 0x1000 bytes here"),
    ] {
        assert_eq!(found(source, here, Extent::Known), [""; 0]);
        let sentences = found(source, here, Extent::All);
        assert!(sentences.len() == 1 && sentences[0].contains(value), "{sentences:?}");
    }
}

#[test]
fn state_of_an_earlier_version_is_taken_and_one_of_a_later_version_is_not() {
    let version = |version| [("state gic", version)];
    for extent in [Extent::Known, Extent::All] {
        assert_eq!(found(&version("1"), &version("2"), extent), [""; 0]);
        assert_eq!(found(&[], &version("2"), extent), [""; 0], "a source of an earlier release");
        let sentences = found(&version("10"), &version("9"), extent);
        let wanted = "vcpu, state gic: 10 at the source, 9 here: move the guest to a host of the same release, or a \
                      newer one";
        assert_eq!(sentences, [wanted]);
        assert_eq!(found(&version("one"), &version("two"), extent).len(), 1);
    }
    assert_eq!(found(&version("1"), &[], Extent::All).len(), 1, "a state that this host does not know");
}

#[test]
fn offer_of_the_version_before_has_no_processes_to_compare() {
    let here = BTreeMap::from([(instance("vcpu"), features(&[("page size", "4096 bytes")]))]);
    assert_eq!(differences(&Vec::new(), &here, Extent::All), [""; 0]);
}

#[test]
fn process_that_says_too_much_breaks_its_contract() {
    let mut features = Features::default();
    let long = "x".repeat(65);
    assert!(features.add(vec![Feature::new(long.clone(), "1")]).is_err());
    assert!(features.add(vec![Feature::new("name", long)]).is_err());
    let many = |from: usize| (from..from + FEATURES_MAX).map(|n| Feature::new(n.to_string(), n)).collect();
    assert_eq!(features.add(many(0)), Ok(()));
    assert_eq!(features.add(many(0)), Ok(()), "again");
    assert!(features.add(many(1)).is_err());
}
