// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Between a configuration space and its saved state. Both directions name every field: what is left out says why.
//!
//! A state is restored into the function of a device that was opened: what is the device's has to be the same, what is the
//! guest's goes through the code of a guest's write.

use super::{CONFIG_LEN, ConfigSpace, Intx, WriteEffects, byte, offset, word32};
use crate::saved::{FunctionV1, StateError};

impl ConfigSpace {
    /// The function's state.
    pub fn save(&self) -> FunctionV1 {
        // The image out of reset, where things are and what is passed on are the device's: it says so again.
        let ConfigSpace {
            image,
            reset: _,
            bars,
            msix,
            intx,
            msix_at,
            table: _,
            pending: _,
            passed: _,
            express_at: _,
            power_at: _,
            sleeps,
        } = self;
        let (bars, bars_sizing) = bars.save();
        FunctionV1 {
            config: image.to_vec(),
            bars,
            bars_sizing,
            sleeps: *sleeps,
            msix: msix_at.map(|_| msix.save()),
            intx: intx.as_ref().map(Intx::save),
        }
    }

    /// Takes the state of a function of the same device: what a guest cannot write is held against what this device says,
    /// what it can is written as it would.
    ///
    /// # Errors
    /// If it is another device's, or could not have been saved.
    pub fn restore(&mut self, state: &FunctionV1) -> Result<(), StateError> {
        let FunctionV1 { config, bars, bars_sizing, sleeps, msix, intx } = state;
        let saved: &[u8; CONFIG_LEN] = config.as_slice().try_into().map_err(|_| StateError::Impossible {
            what: "bytes of configuration space",
            found: config.len() as u64,
        })?;
        let ids = |image| (word32(image, 0), word32(image, 8));
        StateError::unless_equal("its identity (ID, class and revision)", &ids(saved), &ids(&self.image))?;
        self.bars.restore(bars, *bars_sizing)?;
        match (self.msix_at, msix) {
            (Some(_), Some(state)) => self.msix.restore(state)?,
            (ours, state) => {
                StateError::unless_equal("its having MSI-X", &state.is_some(), &ours.is_some())?;
            }
        }
        let mut written = WriteEffects::default();
        for at in [offset::COMMAND, offset::CACHE_LINE, offset::INTERRUPT_LINE] {
            self.write_word(at, word32(saved, at), &mut written);
        }
        // All that a guest cannot write is the device's, and the same; what is passed on is asked of the device.
        let is_passed = |at: &usize| self.passed.iter().any(|range| range.contains(at));
        let own = (0..CONFIG_LEN).filter(|at| !is_passed(at));
        let mut differ = own.filter(|at| byte(saved, *at) != byte(&self.image, *at));
        if let Some(at) = differ.next() {
            let (found, expected) = (byte(saved, at), byte(&self.image, at));
            let what = "its configuration space (offset, value)";
            StateError::unless_equal(what, &(at, found), &(at, expected))?;
        }
        self.sleeps = *sleeps && self.power_at.is_some();
        let _ = self.update_intx();
        match (&mut self.intx, intx) {
            (Some(pin), Some(state)) => pin.restore(*state),
            (ours, state) => StateError::unless_equal("its having a pin", &state.is_some(), &ours.is_some()),
        }
    }
}
