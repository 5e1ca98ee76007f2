// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The PL031's registers (Arm DDI 0224): a pure model that gets the host's time with each call.
//!
//! The count is 32 bits of a 64-bit guest time, so that an alarm is detected even if no call came in its second. The
//! clock always runs: RTCCR reads as one.

use crate::saved::RtcV1;
use std::time::Duration;

/// Register offsets.
mod register {
    pub const RTCDR: u64 = 0x00;
    pub const RTCMR: u64 = 0x04;
    pub const RTCLR: u64 = 0x08;
    pub const RTCCR: u64 = 0x0c;
    pub const RTCIMSC: u64 = 0x10;
    pub const RTCRIS: u64 = 0x14;
    pub const RTCMIS: u64 = 0x18;
    pub const RTCICR: u64 = 0x1c;
    pub const RTC_PERIPH_ID0: u64 = 0xfe0;
}

/// RTCPeriphID0 to 3, RTCPCellID0 to 3: part 0x031, designer Arm, revision 1.
const IDS: [u32; 8] = [0x31, 0x10, 0x14, 0x00, 0x0d, 0xf0, 0x05, 0xb1];

/// The registers.
#[derive(Debug, PartialEq, Eq)]
pub struct Pl031 {
    /// Seconds that guest time is ahead of the host's.
    offset: i64,
    /// RTCLR, RTCMR.
    load: u32,
    compare: u32,
    /// RTCIMSC, RTCRIS.
    enabled: bool,
    raised: bool,
    /// The guest time at which the count next equals RTCMR.
    alarm: i64,
}

impl Pl031 {
    /// After reset, at the host's time.
    pub fn new(now: Duration) -> Self {
        let mut clock = Self { offset: 0, load: 0, compare: 0, enabled: false, raised: false, alarm: 0 };
        clock.set_alarm(now);
        clock
    }

    /// As it was saved.
    pub fn restore(saved: &RtcV1) -> Self {
        let RtcV1 { lr, offset, mr, imsc, ris, alarm } = *saved;
        Self { offset, load: lr, compare: mr, enabled: imsc & 1 == 1, raised: ris & 1 == 1, alarm }
    }

    /// Its state, for saving.
    pub fn save(&self) -> RtcV1 {
        let Self { offset, load, compare, enabled, raised, alarm } = *self;
        RtcV1 { lr: load, offset, mr: compare, imsc: enabled.into(), ris: raised.into(), alarm }
    }

    fn time(&self, now: Duration) -> i64 {
        now.as_secs().cast_signed().wrapping_add(self.offset)
    }

    /// RTCDR.
    fn count(&self, now: Duration) -> u32 {
        low_word(self.time(now))
    }

    /// The alarm is at the next second whose count is RTCMR, which may be this one.
    fn set_alarm(&mut self, now: Duration) {
        let distance = self.compare.wrapping_sub(self.count(now));
        self.alarm = self.time(now).wrapping_add(distance.into());
    }

    /// Raises the interrupt if the alarm is due.
    pub fn tick(&mut self, now: Duration) {
        if self.time(now) >= self.alarm {
            self.raised = true;
            // The count has passed RTCMR; the next match is in 2^32 seconds.
            self.set_alarm(now.saturating_add(Duration::from_secs(1)));
        }
    }

    /// RTCINTR.
    pub const fn line(&self) -> bool {
        self.enabled && self.raised
    }

    /// How long until an alarm raises the line; `None` if it does not.
    pub fn until_alarm(&self, now: Duration) -> Option<Duration> {
        let due = u64::try_from(self.alarm.checked_sub(self.offset)?).ok()?;
        (self.enabled && !self.raised).then(|| Duration::from_secs(due).saturating_sub(now))
    }

    fn register(&self, offset: u64, now: Duration) -> u32 {
        match offset {
            register::RTCDR => self.count(now),
            register::RTCMR => self.compare,
            register::RTCLR => self.load,
            register::RTCCR => 1,
            register::RTCIMSC => self.enabled.into(),
            register::RTCRIS => self.raised.into(),
            register::RTCMIS => self.line().into(),
            register::RTC_PERIPH_ID0.. => {
                let index = usize::try_from((offset - register::RTC_PERIPH_ID0) / 4).unwrap_or(usize::MAX);
                IDS.get(index).copied().unwrap_or(0)
            }
            _ => 0,
        }
    }

    /// Guest read of 1, 2 or 4 bytes; others read as zero, and so does what crosses a word.
    pub fn read(&self, offset: u64, size: u8, now: Duration) -> u64 {
        let within = offset % 4;
        if !matches!(size, 1 | 2 | 4) || within + u64::from(size) > 4 {
            return 0;
        }
        let word = u64::from(self.register(offset - within, now)) >> (8 * within);
        word & (u64::MAX >> (64 - 8 * u32::from(size)))
    }

    /// Guest write of a word.
    pub fn write(&mut self, offset: u64, size: u8, value: u64, now: Duration) {
        let Ok(value) = u32::try_from(value) else { return };
        match (offset, size) {
            (register::RTCMR, 4) => {
                self.compare = value;
                self.set_alarm(now);
            }
            (register::RTCLR, 4) => {
                self.load = value;
                self.offset = i64::from(value).wrapping_sub(now.as_secs().cast_signed());
                self.set_alarm(now);
            }
            (register::RTCIMSC, 4) => self.enabled = value & 1 == 1,
            (register::RTCICR, 4) if value & 1 == 1 => self.raised = false,
            _ => {}
        }
    }
}

/// The count of a guest time.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the count has 32 bits and wraps"
)]
const fn low_word(time: i64) -> u32 {
    time as u32
}

#[cfg(test)]
mod tests;
