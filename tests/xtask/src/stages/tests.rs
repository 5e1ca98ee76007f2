// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A failed stage is never hidden by those before or after it.

use anyhow::anyhow;

use super::Stages;

fn ok(stages: &mut Stages, name: &'static str) -> Option<u32> {
    stages.run(name, || Ok((7, "seen".into())))
}

#[test]
fn stages_all_ok_are_ok_and_return_values() {
    let mut stages = Stages::default();
    assert_eq!(ok(&mut stages, "one"), Some(7));
    assert!(stages.all_ok());
    assert!(stages.table().to_string().contains("one"));
}

#[test]
fn stages_after_a_failed_one_are_not_reached() {
    let mut stages = Stages::default();
    stages.run("bad", || Err::<((), String), _>(anyhow!("broken\nmore lines")));
    assert_eq!(ok(&mut stages, "next"), None);
    assert!(!stages.all_ok());
    let table = stages.table().to_string();
    assert!(table.contains("FAILED") && table.contains("not reached"), "{table}");
    assert!(!table.contains("more lines"), "{table}");
}

#[test]
fn stages_that_are_independent_are_all_run() {
    let mut stages = Stages::independent();
    stages.run("bad", || Err::<((), String), _>(anyhow!("broken")));
    assert_eq!(ok(&mut stages, "next"), Some(7));
    assert!(!stages.all_ok());
}
