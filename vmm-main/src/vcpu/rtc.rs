// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The PL031 real-time clock: `vm-superio`'s model behind a lock.
//!
//! Its count is the host's time of day plus an offset that the guest may set; a saved guest wakes to the
//! right date because only the offset is saved. The model has no alarm, so the line is never raised.

use super::saved::RtcV1;
use std::sync::{Mutex, MutexGuard, PoisonError};
use vm_superio::rtc_pl031::NoEvents;
use vm_superio::{Rtc as Model, RtcState};

/// The clock as the MMIO router holds it.
#[derive(Debug)]
pub struct Rtc(Mutex<Model<NoEvents>>);

impl Default for Rtc {
    fn default() -> Self {
        Self(Mutex::new(Model::new()))
    }
}

impl Rtc {
    /// A clock as it was saved.
    pub fn restore(saved: &RtcV1) -> Self {
        let RtcV1 { lr, offset, mr, imsc, ris } = *saved;
        Self(Mutex::new(Model::from_state(&RtcState { lr, offset, mr, imsc, ris }, NoEvents)))
    }

    /// Its registers and offset.
    pub fn save(&self) -> RtcV1 {
        let RtcState { lr, offset, mr, imsc, ris } = self.model().state();
        RtcV1 { lr, offset, mr, imsc, ris }
    }

    fn model(&self) -> MutexGuard<'_, Model<NoEvents>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Guest read: registers are words; other sizes and places read as zero.
    pub fn read(&self, offset: u64, size: u8) -> u64 {
        let mut bytes = [0; 4];
        if let Some(register) = word_register(offset, size) {
            self.model().read(register, &mut bytes);
        }
        u64::from(u32::from_le_bytes(bytes))
    }

    /// Guest write: words only, others are ignored.
    pub fn write(&self, offset: u64, size: u8, value: u64) {
        let [a, b, c, d, ..] = value.to_le_bytes();
        if let Some(register) = word_register(offset, size) {
            self.model().write(register, &[a, b, c, d]);
        }
    }
}

fn word_register(offset: u64, size: u8) -> Option<u16> {
    if size == 4 && offset.is_multiple_of(4) { u16::try_from(offset).ok() } else { None }
}
