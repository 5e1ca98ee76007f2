// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! How the vCPU process is told what machine it runs: the guest's RAM, its CPUs, where each remote device is.
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

/// Everything the vCPU process needs to know.
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
    /// The devices that other processes are.
    pub devices: Vec<RemoteMmio>,
    /// The PCI functions that other processes are.
    pub functions: Vec<RemoteFunction>,
}

/// A device in another process, as the vCPU process sees it. Its MMIO ring is `ring:PEER`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoteMmio {
    /// Its process.
    pub peer: InstanceId,
    /// The number that requests for it carry in the ring.
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
    /// Offsets of registers whose writes the specification lets complete late: their writes are posted, all
    /// others wait for the device's answer.
    pub posted: Vec<u32>,
}

/// An interrupt wire: a device's doorbell (`irq-LINE:PEER`) and where it ends at the GIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoteIrq {
    /// Which of the device's wires.
    pub line: IrqLine,
    /// The shared peripheral interrupt's number, without the 32 that make it an INTID.
    pub spi: u32,
}

/// A PCI function in another process: the windows of one ring (`ring:PEER`), and its interrupts. Of the peer are as
/// well `msi-board`, the board of its pending MSIs, and `msi-doorbell`, which says to look at it; `function-link`, over
/// which it tells which parts of its windows are memory; `intx`, which says that it asserts its pin, and `intx-end`, by
/// which it is told that the guest has ended that interrupt and the line fell.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoteFunction {
    /// Its process.
    pub peer: InstanceId,
    /// Where it sits on the guest's bus; also the device id that its MSIs carry, whatever the process says.
    pub bdf: Bdf,
    /// What of the guest's address space is the function's: its configuration space, and where its BARs are.
    pub windows: Vec<FunctionWindow>,
    /// Where its INTx pin, a level shared with others, ends: the shared peripheral interrupt's number, without the 32
    /// that make it an INTID.
    pub intx_spi: u32,
    /// The number (`st_rdev`) of the character device of the physical device behind it: only the memory of that file
    /// may be its windows then. `None`: a server is behind it, whose memory has to be sealed.
    pub host_device: Option<u64>,
}

/// One window of a PCI function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FunctionWindow {
    /// The number that requests for it carry in the ring.
    pub region: u16,
    /// Where the guest sees it; offsets in requests are from here.
    pub range: GpaRange,
}
