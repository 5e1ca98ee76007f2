// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Features, NVMe 1.4 section 5.21.1. None is kept over a reset: none can be saved.

use super::admin::{AdminOutcome, low};
use super::{AsyncEvent, Controller};
use crate::queue::QUEUES_MAX;
use crate::spec::command::Command;
use crate::spec::status::Status;

/// Feature identifiers.
mod id {
    pub const ARBITRATION: u8 = 0x01;
    pub const POWER_MANAGEMENT: u8 = 0x02;
    pub const TEMPERATURE_THRESHOLD: u8 = 0x04;
    pub const ERROR_RECOVERY: u8 = 0x05;
    pub const VOLATILE_WRITE_CACHE: u8 = 0x06;
    pub const NUMBER_OF_QUEUES: u8 = 0x07;
    pub const INTERRUPT_COALESCING: u8 = 0x08;
    pub const VECTOR_CONFIGURATION: u8 = 0x09;
    pub const WRITE_ATOMICITY: u8 = 0x0a;
    pub const ASYNC_EVENT_CONFIGURATION: u8 = 0x0b;
}

/// The reported temperature in kelvins: always 37 degrees Celsius.
pub const TEMPERATURE_K: u16 = 310;

/// Values that the host can set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Features {
    /// Dword 11 as it was set; arbitration is always round robin.
    pub arbitration: u32,
    /// In kelvins.
    pub temperature_over: u16,
    /// In kelvins.
    pub temperature_under: u16,
    /// Dword 11 as it was set.
    pub error_recovery: u32,
    /// Whether a write may complete before it is on the medium.
    pub write_cache: bool,
    /// Dword 11 as it was set; interrupts are never coalesced.
    pub coalescing: u32,
    /// Vectors that coalescing is switched off for, a bit each.
    pub coalescing_disabled: u32,
    /// Dword 11 as it was set.
    pub write_atomicity: u32,
    /// Which asynchronous events are enabled.
    pub event_configuration: u32,
}

impl Default for Features {
    fn default() -> Self {
        Self {
            arbitration: 0,
            temperature_over: WARNING_TEMPERATURE_K,
            temperature_under: 0,
            error_recovery: 0,
            write_cache: true,
            coalescing: 0,
            coalescing_disabled: 0,
            write_atomicity: 0,
            event_configuration: 0,
        }
    }
}

/// `WCTEMP`: 70 degrees Celsius.
pub const WARNING_TEMPERATURE_K: u16 = 343;

impl Features {
    /// Whether a temperature threshold is crossed: a host may set one to provoke the event.
    #[must_use]
    pub const fn temperature_alarm(&self) -> bool {
        TEMPERATURE_K >= self.temperature_over || TEMPERATURE_K <= self.temperature_under
    }
}

/// `CDW10` bit 31 of Set Features.
const SAVE: u32 = 1 << 31;

impl Controller {
    /// Whether a write may complete before it is on the medium.
    #[must_use]
    pub const fn write_cache(&self) -> bool {
        self.features.write_cache
    }

    pub(super) fn set_feature(&mut self, command: &Command) -> AdminOutcome {
        let (cdw10, cdw11) = (command.cdw10.get(), command.cdw11.get());
        if cdw10 & SAVE != 0 {
            return AdminOutcome::status(Status::FEATURE_NOT_SAVEABLE);
        }
        let invalid = AdminOutcome::status(Status::INVALID_FIELD);
        let features = &mut self.features;
        match low_byte(cdw10) {
            id::ARBITRATION => features.arbitration = cdw11,
            // Power state 0 is the only one.
            id::POWER_MANAGEMENT => {
                if cdw11 & 0x1f != 0 {
                    return invalid;
                }
            }
            id::TEMPERATURE_THRESHOLD => return self.set_temperature(cdw11),
            id::ERROR_RECOVERY => features.error_recovery = cdw11 & 0x1_ffff,
            id::VOLATILE_WRITE_CACHE => features.write_cache = cdw11 & 1 != 0,
            id::NUMBER_OF_QUEUES => return self.set_number_of_queues(cdw11),
            id::INTERRUPT_COALESCING => features.coalescing = cdw11 & 0xffff,
            id::VECTOR_CONFIGURATION => {
                let Some(bit) = vector_bit(cdw11) else { return invalid };
                let disabled = cdw11 & VECTOR_DISABLES != 0;
                features.coalescing_disabled &= !bit;
                features.coalescing_disabled |= if disabled { bit } else { 0 };
            }
            id::WRITE_ATOMICITY => features.write_atomicity = cdw11 & 1,
            id::ASYNC_EVENT_CONFIGURATION => features.event_configuration = cdw11,
            _ => return invalid,
        }
        AdminOutcome::status(Status::SUCCESS)
    }

    pub(super) fn get_feature(&self, command: &Command) -> AdminOutcome {
        let (cdw10, cdw11) = (command.cdw10.get(), command.cdw11.get());
        let features = &self.features;
        AdminOutcome::value(match low_byte(cdw10) {
            id::ARBITRATION => features.arbitration,
            id::POWER_MANAGEMENT => 0,
            id::TEMPERATURE_THRESHOLD => match temperature_field(cdw11) {
                Some(TemperatureField::Over) => features.temperature_over.into(),
                Some(TemperatureField::Under) => features.temperature_under.into(),
                None => return AdminOutcome::status(Status::INVALID_FIELD),
            },
            id::ERROR_RECOVERY => features.error_recovery,
            id::VOLATILE_WRITE_CACHE => features.write_cache.into(),
            id::NUMBER_OF_QUEUES => queue_counts(),
            id::INTERRUPT_COALESCING => features.coalescing,
            id::VECTOR_CONFIGURATION => {
                let Some(bit) = vector_bit(cdw11) else { return AdminOutcome::status(Status::INVALID_FIELD) };
                let disabled = features.coalescing_disabled & bit != 0;
                cdw11 & 0xffff | if disabled { VECTOR_DISABLES } else { 0 }
            }
            id::WRITE_ATOMICITY => features.write_atomicity,
            id::ASYNC_EVENT_CONFIGURATION => features.event_configuration,
            _ => return AdminOutcome::status(Status::INVALID_FIELD),
        })
    }

    fn set_temperature(&mut self, cdw11: u32) -> AdminOutcome {
        match temperature_field(cdw11) {
            Some(TemperatureField::Over) => self.features.temperature_over = low(cdw11),
            Some(TemperatureField::Under) => self.features.temperature_under = low(cdw11),
            None => return AdminOutcome::status(Status::INVALID_FIELD),
        }
        if self.features.temperature_alarm() && self.features.event_configuration & WANTS_TEMPERATURE != 0 {
            self.raise_event(AsyncEvent::TEMPERATURE);
        }
        AdminOutcome::status(Status::SUCCESS)
    }

    /// Only before the first I/O queue exists; the number of queues is fixed, whatever the host requests.
    fn set_number_of_queues(&self, cdw11: u32) -> AdminOutcome {
        if low(cdw11) == u16::MAX || low(cdw11 >> 16) == u16::MAX {
            return AdminOutcome::status(Status::INVALID_FIELD);
        }
        let exist = self.completion.iter().skip(1).any(Option::is_some);
        if exist {
            return AdminOutcome::status(Status::COMMAND_SEQUENCE_ERROR);
        }
        AdminOutcome::value(queue_counts())
    }
}

/// Bit 1 of the event configuration.
const WANTS_TEMPERATURE: u32 = 1 << 1;
/// `CDW11` bit 16 of the vector configuration.
const VECTOR_DISABLES: u32 = 1 << 16;

fn queue_counts() -> u32 {
    let count = u32::from(QUEUES_MAX - 1);
    count << 16 | count
}

fn vector_bit(cdw11: u32) -> Option<u32> {
    let vector = low(cdw11);
    (vector <= QUEUES_MAX).then(|| 1 << vector)
}

enum TemperatureField {
    Over,
    Under,
}

/// The composite temperature is the only one there is: `TMPSEL` 0, or "all".
fn temperature_field(cdw11: u32) -> Option<TemperatureField> {
    match (cdw11 >> 16 & 0xf, cdw11 >> 20 & 3) {
        (0 | 0xf, 0) => Some(TemperatureField::Over),
        (0 | 0xf, 1) => Some(TemperatureField::Under),
        _ => None,
    }
}

fn low_byte(value: u32) -> u8 {
    u8::try_from(value & 0xff).unwrap_or(0)
}
