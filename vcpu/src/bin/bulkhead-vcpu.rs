// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The vCPU process with the host's CPUs, by KVM on arm64. Started by the coordinator, never by hand.

use anyhow::Result;

#[cfg(target_arch = "aarch64")]
fn main() -> Result<()> {
    vcpu::install_kick_handler()?;
    let profile = sandbox::profiles::vcpu_kvm();
    Ok(process::run::<vcpu::VcpuProgram<vcpu::Kvm>>(&profile, |fds| Ok(fds.take_rest()))?)
}

#[cfg(not(target_arch = "aarch64"))]
fn main() -> Result<()> {
    anyhow::bail!(
        "KVM runs arm64 guests on arm64 hosts only, and this program is built for another; use --cpu soft"
    )
}
