// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Saved state of the devices in the vCPU process: frozen structs of plain integers.
//!
//! Never edited after release: a change is a `V2` beside the `V1`, with a conversion. The CPU's and the
//! interrupt controller's own units are in `soft_cpu`.

use ipc::saved::{Reader, SavedError, SavedState, UnitKind, Writer};
use serde::{Deserialize, Serialize};
use soft_cpu::gic::saved::{GicV1, ItsV1};
use soft_cpu::saved::{ClockV1, VcpuV1};

/// The 16550, with the console output that nobody has read yet.
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
}

/// Everything the vCPU process saves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SavedMachine {
    /// The system counter.
    pub clock: ClockV1,
    /// Distributor, redistributors, CPU interfaces.
    pub gic: GicV1,
    /// The ITS.
    pub its: Option<ItsV1>,
    /// The serial port.
    pub uart: UartV1,
    /// The clock of the day.
    pub rtc: RtcV1,
    /// Every vCPU, in order.
    pub vcpus: Vec<VcpuV1>,
}

/// Gives a frozen struct of another crate its kind and version in the stream.
macro_rules! unit {
    ($name:ident, $state:ty, $kind:literal, $version:literal) => {
        #[derive(Serialize, Deserialize)]
        #[serde(transparent)]
        struct $name($state);

        impl SavedState for $name {
            const KIND: UnitKind = UnitKind::new($kind);
            const VERSION: u16 = $version;
        }
    };
}

unit!(ClockUnit, ClockV1, "clock", 1);
unit!(GicUnit, GicV1, "gic", 1);
unit!(ItsUnit, ItsV1, "its", 1);
unit!(UartUnit, UartV1, "uart", 1);
unit!(RtcUnit, RtcV1, "rtc", 1);
unit!(VcpuUnit, VcpuV1, "vcpu", 1);

impl SavedMachine {
    /// The state units, vCPUs last.
    pub fn encode(self) -> Result<Vec<u8>, SavedError> {
        let Self { clock, gic, its, uart, rtc, vcpus } = self;
        let mut writer = Writer::new();
        writer.append(&ClockUnit(clock))?;
        writer.append(&GicUnit(gic))?;
        if let Some(its) = its {
            writer.append(&ItsUnit(its))?;
        }
        writer.append(&UartUnit(uart))?;
        writer.append(&RtcUnit(rtc))?;
        for vcpu in vcpus {
            writer.append(&VcpuUnit(vcpu))?;
        }
        Ok(writer.finish())
    }

    /// Reads what [`SavedMachine::encode`] wrote; anything missing or left over is an error.
    pub fn decode(stream: &[u8], vcpu_count: usize) -> Result<Self, SavedError> {
        let mut reader = Reader::new(stream)?;
        let machine = Self {
            clock: reader.take::<ClockUnit>()?.0,
            gic: reader.take::<GicUnit>()?.0,
            its: Some(reader.take::<ItsUnit>()?.0),
            uart: reader.take::<UartUnit>()?.0,
            rtc: reader.take::<RtcUnit>()?.0,
            vcpus: (0..vcpu_count)
                .map(|_| Ok(reader.take::<VcpuUnit>()?.0))
                .collect::<Result<_, SavedError>>()?,
        };
        reader.finish()?;
        Ok(machine)
    }
}
