// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The cases: images of the suite, their arguments, and the numbers of CPUs that make sense.

use std::time::Duration;

/// With how many CPUs a case is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cpus {
    /// Its code runs on one CPU, whatever else there is.
    One,
    /// It needs another CPU, and uses all there are.
    TwoOrMore,
    /// It uses all there are.
    Any,
}

/// One run of one image.
#[derive(Debug, Clone, Copy)]
pub struct Case {
    /// Its name in tables and on the command line.
    pub name: &'static str,
    /// The image's file name without `.flat`.
    pub image: &'static str,
    /// Its arguments; `{cpus}` stands for the number of CPUs, `{memory}` for MiB of RAM.
    pub arguments: &'static str,
    /// With how many CPUs.
    pub cpus: Cpus,
    /// How long it may take on a busy machine.
    pub limit: Duration,
}

const fn case(name: &'static str, image: &'static str, arguments: &'static str, cpus: Cpus) -> Case {
    Case { name, image, arguments, cpus, limit: Duration::from_secs(90) }
}

const fn long(case: Case) -> Case {
    Case { limit: Duration::from_secs(300), ..case }
}

/// All of them.
pub const CASES: &[Case] = &[
    case("selftest-setup", "selftest", "setup smp={cpus} mem={memory}", Cpus::Any),
    case("selftest-vectors-kernel", "selftest", "vectors-kernel", Cpus::One),
    case("selftest-vectors-user", "selftest", "vectors-user", Cpus::One),
    case("selftest-smp", "selftest", "smp", Cpus::Any),
    case("gicv3-ipi", "gic", "ipi", Cpus::TwoOrMore),
    case("gicv3-active", "gic", "active", Cpus::Any),
    case("its-introspection", "gic", "its-introspection", Cpus::Any),
    case("its-trigger", "gic", "its-trigger", Cpus::Any),
    case("its-migration", "gic", "its-migration", Cpus::Any),
    case("its-pending-migration", "gic", "its-pending-migration", Cpus::Any),
    case("its-migrate-unmapped-collection", "gic", "its-migrate-unmapped-collection", Cpus::Any),
    case("psci", "psci", "", Cpus::Any),
    case("timer", "timer", "", Cpus::One),
    case("pl031", "pl031", "", Cpus::One),
    case("debug-bp", "debug", "bp", Cpus::One),
    case("debug-bp-migration", "debug", "bp-migration", Cpus::One),
    case("debug-wp", "debug", "wp", Cpus::One),
    case("debug-wp-migration", "debug", "wp-migration", Cpus::One),
    case("debug-sstep", "debug", "ss", Cpus::One),
    case("debug-sstep-migration", "debug", "ss-migration", Cpus::One),
    long(case("fpu-context", "fpu", "", Cpus::TwoOrMore)),
    case("cache", "cache", "", Cpus::One),
    long(case("spinlock", "spinlock-test", "", Cpus::Any)),
    case("pmu-cycle-counter", "pmu", "cycle-counter 0", Cpus::One),
    case("pmu-event-introspection", "pmu", "pmu-event-introspection", Cpus::One),
    case("pmu-event-counter-config", "pmu", "pmu-event-counter-config", Cpus::One),
    case("pmu-basic-event-count", "pmu", "pmu-basic-event-count", Cpus::One),
    case("pmu-mem-access", "pmu", "pmu-mem-access", Cpus::One),
    case("pmu-mem-access-reliability", "pmu", "pmu-mem-access-reliability", Cpus::One),
    case("pmu-sw-incr", "pmu", "pmu-sw-incr", Cpus::One),
    case("pmu-chained-counters", "pmu", "pmu-chained-counters", Cpus::One),
    case("pmu-chained-sw-incr", "pmu", "pmu-chained-sw-incr", Cpus::One),
    case("pmu-chain-promotion", "pmu", "pmu-chain-promotion", Cpus::One),
    case("pmu-overflow-interrupt", "pmu", "pmu-overflow-interrupt", Cpus::One),
    long(case("micro-bench", "micro-bench", "", Cpus::TwoOrMore)),
];

impl Case {
    /// Whether the case makes sense with `count` CPUs.
    pub const fn fits(&self, count: u32) -> bool {
        match self.cpus {
            Cpus::One => count == 1,
            Cpus::TwoOrMore => count >= 2,
            Cpus::Any => true,
        }
    }

    /// Whether it is about performance monitors, which a machine on KVM is given only where it asks.
    pub fn needs_pmu(&self) -> bool {
        self.image == "pmu"
    }

    /// The command line of a machine of this size.
    pub fn command_line(&self, cpus: u32, memory_mib: u32) -> String {
        self.arguments.replace("{cpus}", &cpus.to_string()).replace("{memory}", &memory_mib.to_string())
    }
}

#[cfg(test)]
mod tests;
