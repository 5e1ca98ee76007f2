// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Between a configuration space and its saved state. Both directions destructure every field; each one left out says
//! why.
//!
//! A state is restored into the function of a device that was opened: read-only contents must be equal,
//! guest-writable ones go through the code for guest writes.

use super::{CONFIG_LEN, ConfigSpace, Intx, WriteEffects, byte, offset, word32};
use crate::saved::{FunctionV1, StateError};

impl ConfigSpace {
    /// The function's state.
    pub fn save(&self) -> FunctionV1 {
        // The reset image, offsets and passed-through ranges come from the device again.
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

    /// Restores the state of a function of the same device: read-only contents are compared with this device's,
    /// guest-writable ones are written as a guest would.
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
        StateError::unless_equal("identity (ID, class and revision)", &ids(saved), &ids(&self.image))?;
        self.bars.restore(bars, *bars_sizing)?;
        match (self.msix_at, msix) {
            (Some(_), Some(state)) => self.msix.restore(state)?,
            (ours, state) => {
                StateError::unless_equal("presence of MSI-X", &state.is_some(), &ours.is_some())?;
            }
        }
        let mut written = WriteEffects::default();
        for at in [offset::COMMAND, offset::CACHE_LINE, offset::INTERRUPT_LINE] {
            self.write_word(at, word32(saved, at), &mut written);
        }
        // Read-only contents are the device's and must be equal; passed-through registers are read from the device.
        let is_passed = |at: &usize| self.passed.iter().any(|range| range.contains(at));
        let own = (0..CONFIG_LEN).filter(|at| !is_passed(at));
        let mut differ = own.filter(|at| byte(saved, *at) != byte(&self.image, *at));
        if let Some(at) = differ.next() {
            let (found, expected) = (byte(saved, at), byte(&self.image, at));
            let what = "configuration space (offset, value)";
            StateError::unless_equal(what, &(at, found), &(at, expected))?;
        }
        self.sleeps = *sleeps && self.power_at.is_some();
        let _ = self.update_intx();
        match (&mut self.intx, intx) {
            (Some(pin), Some(state)) => pin.restore(*state),
            (ours, state) => {
                StateError::unless_equal("presence of an INTx pin", &state.is_some(), &ours.is_some())
            }
        }
    }
}
