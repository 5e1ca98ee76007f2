// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Global errors: activated by the SMMU in GERROR, acknowledged by software in GERRORN. IHI 0070 §7.5.
//!
//! An error is active while the two registers differ in its bit. The SMMU toggles a bit only while the
//! error is not active, so no acknowledgement can be lost; a second error of the kind is not logged.

use crate::effects::{Effects, Interrupt};
use crate::smmu::Smmu;
use smmu_arch::spec::control::Gerror;
use smmu_arch::spec::registers::Register;

impl Smmu {
    /// Activates the errors set in `errors` that are not active yet, and asks for the interrupt.
    pub(crate) fn activate(&mut self, errors: Gerror, effects: &mut Effects) {
        let fresh = errors.into_bits() & !self.registers.active_errors().into_bits();
        if fresh == 0 {
            return;
        }
        self.counters.global_errors += 1;
        let toggled = self.registers.gerror().into_bits() ^ fresh;
        self.registers.put(Register::GERROR, toggled.into());
        if self.registers.irq_ctrl().gerror_irqen() {
            effects.raise(Interrupt::GlobalError);
        }
    }
}
