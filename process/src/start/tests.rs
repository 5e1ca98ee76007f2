// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
use super::*;

fn read(words: &[&str]) -> Result<Arguments, String> {
    Arguments::read(words.iter().map(|word| (*word).to_owned())).map_err(|error| error.to_string())
}

#[test]
fn arguments_are_name_generation_and_names_of_descriptors() {
    let read = read(&["vfio3", "7", "control", "crash-page", "log", "ring"]).unwrap();
    assert_eq!((read.name, read.generation), (InstanceId::new(Role::Vfio, 3), 7));
    assert_eq!(read.slots, ["control", "crash-page", "log", "ring"]);
}

#[test]
fn arguments_that_are_missing_or_wrong_are_named() {
    for (words, expected) in [
        (&[][..], "no name given: this program is started by `bulkhead run`"),
        (&["smmu0"], "no generation given"),
        (&["smmu0", "x"], "the generation is not a number: \"x\""),
        (&["smmu0", "-1"], "the generation is not a number"),
        (&["", "1"], "\"\" is no process of a VM"),
        (&["smmu", "1"], "\"smmu\" is no process of a VM"),
    ] {
        let Err(error) = read(words) else { panic!("{words:?} are good") };
        assert!(error.contains(expected), "{error}");
    }
}
