// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! How the vCPU process is told what machine it runs: the guest's RAM, its CPUs, where each remote device is.
//!
//! Data only. Sent once, in `Request::Configure`, before `Start` or `Restore`. Fd numbers refer to the
//! process' own table, which the topology fixes; the process refuses a number its table does not have.

use serde::{Deserialize, Serialize};

use crate::addr::{Bdf, Gpa, GpaRange};
use crate::protocol::ram::RamLayout;

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

/// A device in another process, as the vCPU process sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoteMmio {
    /// For logs and counters.
    pub name: String,
    /// The number that requests for it carry in the ring.
    pub region: u16,
    /// Where the guest sees it.
    pub base: Gpa,
    /// Its size in bytes.
    pub len: u64,
    /// Its MMIO ring.
    pub ring_fd: u8,
    /// Its register page, if its reads are free of side effects.
    pub page: Option<RemotePage>,
    /// Its wired interrupts.
    pub irqs: Vec<RemoteIrq>,
}

/// A register page, as the vCPU process uses it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemotePage {
    /// The page's memory object.
    pub fd: u8,
    /// Offsets of 32-bit registers that only the guest ever writes (an SMMU's `CMDQ_PROD`): the vCPU
    /// process stores these in the page before it posts the write.
    pub guest_owned: Vec<u32>,
    /// Offsets of registers whose writes the specification lets complete late: their writes are posted, all
    /// others wait for the device's answer.
    pub posted: Vec<u32>,
}

/// An interrupt wire: a device's doorbell and where it ends at the GIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoteIrq {
    /// The doorbell.
    pub fd: u8,
    /// The shared peripheral interrupt's number, without the 32 that make it an INTID.
    pub spi: u32,
}

/// A PCI function in another process: the windows of one ring, and its interrupts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoteFunction {
    /// For logs and counters.
    pub name: String,
    /// Where it sits on the guest's bus; also the device id that its MSIs carry, whatever the process says.
    pub bdf: Bdf,
    /// Its MMIO ring.
    pub ring_fd: u8,
    /// What of the guest's address space is the function's: its configuration space, and where its BARs are.
    pub windows: Vec<FunctionWindow>,
    /// The board of its pending MSIs.
    pub msi_board_fd: u8,
    /// The doorbell that says to look at the board.
    pub msi_doorbell_fd: u8,
    /// The channel over which its process tells which parts of its windows are memory.
    pub bus_fd: u8,
    /// Its INTx pin.
    pub intx: RemoteIntx,
    /// The number (`st_rdev`) of the character physical device device behind it: only the memory of that file may be
    /// its windows then. `None`: a server is behind it, whose memory has to be sealed.
    pub host_device: Option<u64>,
}

/// The INTx pin of a PCI function: a level, shared with others, by two doorbells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoteIntx {
    /// The function says that it asserts its pin: the line rises.
    pub raised_fd: u8,
    /// The function is told that the line fell, when the guest has ended the interrupt.
    pub ended_fd: u8,
    /// The shared peripheral interrupt's number, without the 32 that make it an INTID.
    pub spi: u32,
}

/// One window of a PCI function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FunctionWindow {
    /// The number that requests for it carry in the ring.
    pub region: u16,
    /// Where the guest sees it; offsets in requests are from here.
    pub range: GpaRange,
}
