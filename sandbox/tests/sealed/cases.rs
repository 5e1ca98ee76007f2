// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The cases, by subject.

use crate::harness::Case;
use crate::process::Process;

pub fn all() -> Vec<Case> {
    vec![("nested_spawn_seals_itself", nested)]
}

fn nested() {
    let mut coordinator = Process::start("coordinator");
    println!("{}", coordinator.ask("spawn smmu"));
    println!("{}", coordinator.ask("child threads"));
    println!("{}", coordinator.ask("child probe open-root"));
    println!("{}", coordinator.ask("child-end"));
    println!("{}", coordinator.ask("probe socket-inet"));
    println!("{:?}", coordinator.end());
}
