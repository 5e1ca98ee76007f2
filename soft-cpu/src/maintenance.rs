// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! TLB and instruction cache maintenance across CPUs: applying it here, requesting it from others, and waiting for
//! them.
//!
//! `cluster.rs` has the protocol; this is the CPU's side of it.

use std::sync::Arc;
use std::time::Duration;

use crate::cluster::Maintenance;
use crate::code::CodeChange;
use crate::cpu::Cpu;

/// Spins before a waiting CPU lets the host schedule another thread, and before it sleeps.
const SPINS_MAX: u32 = 200;
const YIELDS_MAX: u32 = 400;
const NAP: Duration = Duration::from_micros(50);

impl Cpu {
    /// Applies maintenance to this CPU. Code changes take effect before the next instruction.
    pub(crate) fn apply_maintenance(&mut self, what: Maintenance) {
        match what {
            Maintenance::TlbAll => self.tlb.flush_all(),
            Maintenance::TlbAsid(asid) => self.tlb.flush_asid(asid),
            Maintenance::TlbPage(va) => self.tlb.flush_page(va),
            Maintenance::CodeLine(pa) => self.code_changes.push(CodeChange::Line(pa)),
            Maintenance::CodeAll => self.code_changes.push(CodeChange::All),
        }
    }

    /// Asks it of every other CPU. `await_maintenance` waits for them.
    pub(crate) fn broadcast(&mut self, what: Maintenance) {
        for (index, other) in self.cluster.others(self.index) {
            let ticket = other.ask(what);
            if let Some(slot) = self.tickets.get_mut(index) {
                *slot = ticket;
            }
        }
    }

    /// Waits until what was asked of others can no longer be missed.
    pub(crate) fn await_maintenance(&mut self) {
        if self.tickets.iter().all(|&ticket| ticket == 0) {
            return;
        }
        // While it waits, this CPU counts as outside, so two that wait for each other both go on.
        self.step_outside();
        for (index, other) in self.cluster.others(self.index) {
            let ticket = self.tickets.get(index).copied().unwrap_or(0);
            let mut spins = 0;
            while ticket != 0 && !other.is_done(ticket) {
                spins += 1;
                match spins {
                    0..SPINS_MAX => std::hint::spin_loop(),
                    SPINS_MAX..YIELDS_MAX => std::thread::yield_now(),
                    _ => std::thread::sleep(NAP),
                }
                other.budget.cut();
            }
        }
        self.tickets.fill(0);
        self.step_inside();
    }

    /// Leaves guest execution for a call that may take long: requests count as served meanwhile.
    pub(crate) fn step_outside(&self) {
        self.shared().step_outside();
    }

    /// Comes back from `step_outside`, and applies what was asked meanwhile.
    pub(crate) fn step_inside(&mut self) {
        let cluster = Arc::clone(&self.cluster);
        cluster.cpu(self.index).step_inside(|what| self.apply_maintenance(what));
        self.attend();
    }
}
