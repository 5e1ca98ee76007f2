// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! One reviewed file per role; `common` holds what every role needs, with the reason for each call.
//!
//! A role's rules are computed from these lists for an [`Arch`], so the two architectures are compiled and
//! tested on either host. Calls that exist on one architecture only stand under its name in the file.

mod common;
mod coordinator;
mod nvme;
mod smmu;
mod vcpu_kvm;
mod vcpu_soft;
mod vfio;
mod vfio_kernel;

use crate::memory_file::MemoryFiles;
use crate::profile::{Arch, Profile};

/// What Linux 5.19 and 6.1 have: every path right but truncating. Whatever the kernel can deny beyond that is denied, and
/// for what it cannot another wall must stand (`landlock::Gap`).
const LANDLOCK_ABI_MIN: u32 = 2;

/// State units are written into a memory file that the coordinator hands over: 64 MiB is far above any of ours, and
/// keeps a taken-over process from filling the host's memory by `write`.
const SAVED_LEN_MAX: u64 = 64 << 20;

/// The coordinator: process supervisor, memory owner, control API. Spawns the others from inside its sandbox.
pub fn coordinator() -> Profile {
    coordinator::profile(Arch::host(), MemoryFiles::of_kernel())
}

/// The software vCPU process.
pub fn vcpu_soft() -> Profile {
    vcpu_soft::profile(Arch::host())
}

/// The vCPU process on KVM.
pub fn vcpu_kvm() -> Profile {
    vcpu_kvm::profile(Arch::host())
}

/// The vSMMUv3 process.
pub fn smmu() -> Profile {
    smmu::profile(Arch::host())
}

/// The process of an assigned device behind vfio-user.
pub fn vfio() -> Profile {
    vfio::profile(Arch::host())
}

/// The process of a real device, by the kernel's VFIO.
pub fn vfio_kernel() -> Profile {
    vfio_kernel::profile(Arch::host())
}

/// The NVMe controller process, spawned by the coordinator.
pub fn nvme() -> Profile {
    nvme::profile(Arch::host())
}

/// The NVMe controller process, spawned by its own launcher.
pub fn nvme_standalone() -> Profile {
    nvme::standalone(Arch::host())
}

/// Every profile as it is on `arch`, and on the running kernel.
pub fn all(arch: Arch) -> Vec<Profile> {
    all_with(arch, MemoryFiles::of_kernel())
}

fn all_with(arch: Arch, memory_files: MemoryFiles) -> Vec<Profile> {
    let mut all = vec![
        coordinator::profile(arch, memory_files),
        vcpu_soft::profile(arch),
        smmu::profile(arch),
        vfio::profile(arch),
        vfio_kernel::profile(arch),
        nvme::profile(arch),
        nvme::standalone(arch),
    ];
    // KVM runs guests of the host's own architecture only, and they are arm64.
    if arch == Arch::Aarch64 {
        all.push(vcpu_kvm::profile(arch));
    }
    all
}

#[cfg(test)]
mod tests;
