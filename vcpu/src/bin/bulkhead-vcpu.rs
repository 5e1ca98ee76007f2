// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The vCPU process with the host's CPUs, by KVM on arm64. Started by the coordinator, never by hand.
//!
//! Arguments: its name, its generation, and how many descriptors it was given. Everything else comes over descriptor 0.

use anyhow::Result;

#[cfg(target_arch = "aarch64")]
fn main() -> Result<()> {
    vcpu::install_kick_handler()?;
    vcpu::main::<vcpu::Kvm>(&sandbox::profiles::vcpu_kvm())
}

#[cfg(not(target_arch = "aarch64"))]
fn main() -> Result<()> {
    anyhow::bail!(
        "KVM runs arm64 guests on arm64 hosts only, and this program is built for another; use --cpu soft"
    )
}
