// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Saved state of the devices in the vCPU process: frozen structs of plain integers.
//!
//! Never edited after release: a change is a `V2` beside the `V1`, with a conversion. CPUs and interrupt controller
//! are the engine's, and so are their units.

use ipc::protocol::features::Feature;
use ipc::saved::{Reader, SavedError, Writer};
use serde::{Deserialize, Serialize};

/// The 16550, with the console output that is not read yet.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UartV1 {
    /// DLL.
    pub baud_divisor_low: u8,
    /// DLM.
    pub baud_divisor_high: u8,
    /// IER.
    pub interrupt_enable: u8,
    /// IIR.
    pub interrupt_identification: u8,
    /// LCR.
    pub line_control: u8,
    /// LSR.
    pub line_status: u8,
    /// MCR.
    pub modem_control: u8,
    /// MSR.
    pub modem_status: u8,
    /// SCR.
    pub scratch: u8,
    /// Received and not yet read by the guest, oldest first.
    pub input: Vec<u8>,
    /// Sent by the guest and not yet taken by the coordinator, oldest first.
    pub undelivered_output: Vec<u8>,
}

/// The PL031.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RtcV1 {
    /// RTCLR.
    pub lr: u32,
    /// Seconds that the count is ahead of the host's time of day.
    pub offset: i64,
    /// RTCMR.
    pub mr: u32,
    /// RTCIMSC.
    pub imsc: u32,
    /// RTCRIS.
    pub ris: u32,
    /// Guest time, in seconds since 1970 as the guest has it, at which the count next equals RTCMR.
    pub alarm: i64,
}

/// The state units of an engine, in an order of its own.
pub trait Units: Sized {
    /// Their versions.
    fn versions() -> Vec<Feature>;

    /// Appends them.
    fn append(self, writer: &mut Writer) -> Result<(), SavedError>;

    /// Takes what [`Units::append`] wrote for `vcpu_count` CPUs.
    fn take(reader: &mut Reader<'_>, vcpu_count: usize) -> Result<Self, SavedError>;
}

/// Everything the vCPU process saves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SavedMachine<U> {
    /// The serial port.
    pub uart: UartV1,
    /// The clock of the day.
    pub rtc: RtcV1,
    /// CPUs and interrupt controller.
    pub engine: U,
}

/// Gives a frozen struct its kind and version in the stream.
macro_rules! unit {
    ($name:ident, $state:ty, $kind:literal, $version:literal) => {
        #[derive(serde::Serialize, serde::Deserialize)]
        #[serde(transparent)]
        struct $name($state);

        impl ipc::saved::SavedState for $name {
            const KIND: ipc::saved::UnitKind = ipc::saved::UnitKind::new($kind);
            const VERSION: u16 = $version;
        }
    };
}
pub(super) use unit;

unit!(UartUnit, UartV1, "uart", 1);
unit!(RtcUnit, RtcV1, "rtc", 1);

impl<U: Units> SavedMachine<U> {
    /// The versions of all of it.
    pub fn versions() -> Vec<Feature> {
        let mut versions = U::versions();
        versions.extend([Feature::state::<UartUnit>(), Feature::state::<RtcUnit>()]);
        versions
    }

    /// The state units, the engine's last.
    pub fn encode(self) -> Result<Vec<u8>, SavedError> {
        let Self { uart, rtc, engine } = self;
        let mut writer = Writer::new();
        writer.append(&UartUnit(uart))?;
        writer.append(&RtcUnit(rtc))?;
        engine.append(&mut writer)?;
        Ok(writer.finish())
    }

    /// Reads what [`SavedMachine::encode`] wrote; anything missing or left over is an error.
    pub fn decode(stream: &[u8], vcpu_count: usize) -> Result<Self, SavedError> {
        let mut reader = Reader::new(stream)?;
        let machine = Self {
            uart: reader.take::<UartUnit>()?.0,
            rtc: reader.take::<RtcUnit>()?.0,
            engine: U::take(&mut reader, vcpu_count)?,
        };
        reader.finish()?;
        Ok(machine)
    }
}

#[cfg(test)]
pub(crate) mod tests;
