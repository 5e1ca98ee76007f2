// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

use std::fs;

use super::lacking_events;

#[test]
fn events_that_the_pmu_does_not_list_are_lacking() {
    let folder = tempfile::tempdir().unwrap();
    let events = folder.path().join("armv8_pmuv3_0/events");
    fs::create_dir_all(&events).unwrap();
    fs::create_dir_all(folder.path().join("software")).unwrap();
    for event in ["sw_incr", "cpu_cycles"] {
        fs::write(events.join(event), "").unwrap();
    }
    assert_eq!(lacking_events(folder.path()), ["inst_retired"]);
    fs::write(events.join("inst_retired"), "").unwrap();
    assert_eq!(lacking_events(folder.path()), [""; 0]);
}

#[test]
fn host_without_a_pmu_excuses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("software")).unwrap();
    assert_eq!(lacking_events(folder.path()), [""; 0]);
    assert_eq!(lacking_events(&folder.path().join("absent")), [""; 0]);
}
