// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Control, status, error and interrupt registers. IHI 0070 §6.3.9 to §6.3.23.

use bitfield_struct::bitfield;

/// §6.3.9; CR0ACK (§6.3.10) has the same fields.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Cr0 {
    /// Translation enabled.
    pub smmuen: bool,
    /// PRI queue writes enabled.
    pub priqen: bool,
    /// Event queue writes enabled.
    pub eventqen: bool,
    /// Command queue processing enabled.
    pub cmdqen: bool,
    /// ATS translated traffic is checked.
    pub atschk: bool,
    __: bool,
    /// VMID wildcard.
    #[bits(3)]
    pub vmw: u8,
    __: bool,
    /// Device permission table walks enabled.
    pub dpt_walk_en: bool,
    #[bits(21)]
    __: u32,
}

/// §6.3.11: memory attributes of accesses to queues and tables.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Cr1 {
    /// Inner cacheability of queues.
    #[bits(2)]
    pub queue_ic: u8,
    /// Outer cacheability of queues.
    #[bits(2)]
    pub queue_oc: u8,
    /// Shareability of queues.
    #[bits(2)]
    pub queue_sh: u8,
    /// Inner cacheability of tables.
    #[bits(2)]
    pub table_ic: u8,
    /// Outer cacheability of tables.
    #[bits(2)]
    pub table_oc: u8,
    /// Shareability of tables.
    #[bits(2)]
    pub table_sh: u8,
    #[bits(20)]
    __: u32,
}

/// §6.3.12
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Cr2 {
    /// EL2-E2H regime.
    pub e2h: bool,
    /// C_BAD_STREAMID is recorded.
    pub recinvsid: bool,
    /// Broadcast TLB maintenance is ignored.
    pub ptm: bool,
    /// Extended recording of ATS errors.
    pub rec_cfg_ats: bool,
    #[bits(28)]
    __: u32,
}

/// §6.3.14: what happens to traffic while translation is disabled.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Gbpa {
    /// Memory type.
    #[bits(4)]
    pub mem_attr: u8,
    /// Memory type override.
    pub mtcfg: bool,
    #[bits(3)]
    __: u8,
    /// Allocation hints override.
    #[bits(4)]
    pub alloccfg: u8,
    /// Shareability override; 1 uses the incoming one.
    #[bits(2)]
    pub shcfg: u8,
    #[bits(2)]
    __: u8,
    /// Privilege override.
    #[bits(2)]
    pub privcfg: u8,
    /// Instruction/data override.
    #[bits(2)]
    pub instcfg: u8,
    /// Abort all transactions.
    pub abort: bool,
    #[bits(10)]
    __: u16,
    /// Written 1 with a new value; reads 1 until it took effect.
    pub update: bool,
}

/// §6.3.16; IRQ_CTRLACK (§6.3.18) has the same fields.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct IrqCtrl {
    /// GERROR interrupts.
    pub gerror_irqen: bool,
    /// PRI queue interrupts.
    pub priq_irqen: bool,
    /// Event queue interrupts.
    pub eventq_irqen: bool,
    #[bits(29)]
    __: u32,
}

/// §6.3.19; GERRORN (§6.3.20) has the same fields. An error is active while the two differ in its bit.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Gerror {
    /// A command could not be consumed; see CMDQ_CONS.ERR.
    pub cmdq_err: bool,
    __: bool,
    /// An Event queue access aborted.
    pub eventq_abt_err: bool,
    /// A PRI queue access aborted.
    pub priq_abt_err: bool,
    /// The MSI of a CMD_SYNC aborted.
    pub msi_cmdq_abt_err: bool,
    /// The MSI of the Event queue aborted.
    pub msi_eventq_abt_err: bool,
    /// The MSI of the PRI queue aborted.
    pub msi_priq_abt_err: bool,
    /// The MSI of GERROR aborted.
    pub msi_gerror_abt_err: bool,
    /// Service failure mode.
    pub sfm_err: bool,
    /// A Command queue control page error.
    pub cmdqp_err: bool,
    /// A device permission table lookup fault.
    pub dpt_err: bool,
    #[bits(21)]
    __: u32,
}
