// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The machine that the guest sees: `bulkhead-virt-1`.
//!
//! One versioned model, the same under software vCPUs and under KVM: its address map ([`layout`]), the device
//! tree that tells the guest of it ([`fdt`]), and how a kernel is put into its RAM ([`boot`]). The coordinator
//! uses all three before the vCPU process starts; the vCPU process uses the address map to route accesses.

pub mod boot;
pub mod fdt;
pub mod format;
pub mod image;
pub mod layout;
pub mod size;
pub mod unpack;

/// What differs between two machines of this model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MachineConfig {
    /// Guest RAM in bytes, from [`layout::RAM_BASE`] up; a multiple of 4 KiB.
    pub ram_len: u64,
    /// Number of vCPUs, 1..=[`layout::VCPU_COUNT_MAX`].
    pub vcpu_count: u32,
    /// The CPUs have performance monitors (PMUv3).
    pub pmu: bool,
    /// Kernel command line.
    pub cmdline: String,
    /// Random bytes for the guest: the first eight seed KASLR, the rest its random number generator.
    pub rng_seed: [u8; 64],
    /// The slots of devices whose messages go by the host's own doorbell window, which the guest must map flat.
    pub nested_slots: Vec<u8>,
}
