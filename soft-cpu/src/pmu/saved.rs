// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The performance monitors in a saved CPU: every register passes the mask of its live writes.

use super::registers::sanitise;
use super::{Counter, Pmu};
use crate::saved::PmuV1;

impl Pmu {
    /// The registers. The counters are up to date: `Vcpu::run` counts before it returns.
    pub(crate) fn save(&self) -> PmuV1 {
        let Pmu {
            control,
            enabled,
            overflowed,
            interrupts,
            selected,
            user,
            cycles,
            cycle_filter,
            counters,
            // Follow from the rest, and from the CPU that goes on.
            counted: _,
            output: _,
        } = *self;
        PmuV1 {
            pmcr: control,
            pmcntenset: enabled,
            pmovsset: overflowed,
            pmintenset: interrupts,
            pmselr: selected,
            pmuserenr: user,
            pmccntr: cycles,
            pmccfiltr: cycle_filter,
            pmevcntr: counters.map(|counter| counter.value),
            pmevtyper: counters.map(|counter| counter.kind),
        }
    }

    /// The monitors as they were saved, on a CPU that has run nothing yet.
    pub(crate) fn restore(saved: &PmuV1) -> Pmu {
        let PmuV1 {
            pmcr,
            pmcntenset,
            pmovsset,
            pmintenset,
            pmselr,
            pmuserenr,
            pmccntr,
            pmccfiltr,
            pmevcntr,
            pmevtyper,
        } = *saved;
        Pmu {
            control: sanitise::control(pmcr),
            enabled: sanitise::counters(pmcntenset),
            overflowed: sanitise::counters(pmovsset),
            interrupts: sanitise::counters(pmintenset),
            selected: sanitise::selection(pmselr),
            user: sanitise::user(pmuserenr),
            cycles: pmccntr,
            cycle_filter: sanitise::cycle_filter(pmccfiltr),
            counters: std::array::from_fn(|n| Counter {
                value: pmevcntr[n],
                kind: sanitise::kind(pmevtyper[n]),
            }),
            ..Pmu::new()
        }
    }
}
