// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The vCPU process with software CPUs. Started by the coordinator, never by hand.
//!
//! Arguments: its name, its generation, and how many descriptors it was given. Everything else comes over descriptor 0.

fn main() -> anyhow::Result<()> {
    vcpu::main::<vcpu::Soft>(&sandbox::profiles::vcpu_soft())
}
