// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The configuration of the vCPU process: guest RAM, CPUs, and the devices in other processes.
//!
//! Data only. Sent once, in `Request::Configure`, before `Load`. Each device is named by its process, and so
//! are the descriptors for it that the vCPU process was given at exec ([`crate::slot`]).

use serde::{Deserialize, Serialize};

use crate::addr::{Bdf, Gpa, GpaRange};
use crate::instance::InstanceId;
use crate::protocol::ram::RamLayout;
use crate::slot::IrqLine;

/// The most vCPUs of one machine: what the software GIC serves, and the memory map has redistributors for.
pub const VCPUS_MAX: u32 = 64;

/// The configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VcpuConfig {
    /// The machine model, `bulkhead-virt-1`.
    pub machine: String,
    /// How many CPUs; only CPU 0 starts.
    pub vcpu_count: u32,
    /// Whether they have performance monitors. Software CPUs always do.
    pub pmu: bool,
    /// The guest's RAM.
    pub ram: RamLayout,
    /// Where CPU 0 starts.
    pub entry: Gpa,
    /// Where the device tree lies: CPU 0's X0.
    pub fdt: Gpa,
    /// MMIO devices in other processes.
    pub devices: Vec<RemoteMmio>,
    /// PCI functions in other processes.
    pub functions: Vec<RemoteFunction>,
}

/// A device in another process, as the vCPU process sees it. Its MMIO ring is `ring:PEER`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoteMmio {
    /// Its process.
    pub peer: InstanceId,
    /// The region number of its accesses in the ring.
    pub region: u16,
    /// Where the guest sees it.
    pub base: Gpa,
    /// Its size in bytes.
    pub len: u64,
    /// How its register page (`register-page:PEER`) is used, if its reads are free of side effects.
    pub page: Option<RemotePage>,
    /// Its wired interrupts.
    pub irqs: Vec<RemoteIrq>,
}

/// A register page, as the vCPU process uses it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemotePage {
    /// Offsets of 32-bit registers that only the guest ever writes (an SMMU's `CMDQ_PROD`): the vCPU
    /// process stores these in the page before it posts the write.
    pub guest_owned: Vec<u32>,
    /// Offsets of registers whose writes the specification allows to complete late: these writes are posted; all others
    /// wait for the device.
    pub posted: Vec<u32>,
}

/// A wired interrupt: a device's doorbell (`irq-LINE:PEER`) and its interrupt number at the GIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoteIrq {
    /// Which of the device's wires.
    pub line: IrqLine,
    /// The shared peripheral interrupt's number, without the 32 that make it an INTID.
    pub spi: u32,
}

/// A PCI function in another process: the guest address ranges of its ring (`ring:PEER`), and its interrupts. Its other
/// descriptors are `msi-board` and `msi-doorbell`, for its MSIs; `function-link`; `intx`, the doorbell of its INTx pin;
/// and `intx-end`, which notifies it that the guest has ended that interrupt and the line was lowered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoteFunction {
    /// Its process.
    pub peer: InstanceId,
    /// Its address on the guest's PCI bus, which is also the DeviceID of its MSIs, whatever the process sends.
    pub bdf: Bdf,
    /// Its ranges of the guest's address space: configuration space and BAR areas.
    pub windows: Vec<FunctionWindow>,
    /// The SPI of its INTx pin, level-triggered and shared with other functions; without the 32 that make it an INTID.
    pub intx_spi: u32,
    /// Of a physical device, the number (`st_rdev`) of its character device, of which its windows must be. `None`: a
    /// vfio-user server is behind it, whose memory has to be sealed.
    pub host_device: Option<u64>,
    /// Its process may be followed by another life if it dies: it is waited for, and is lost when its function link
    /// closes, of which the coordinator keeps an end.
    pub has_next_life: bool,
}

/// One window of a PCI function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FunctionWindow {
    /// The region number of its accesses in the ring.
    pub region: u16,
    /// Where the guest sees it; offsets of accesses are relative to its start.
    pub range: GpaRange,
}
