// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! System call names and numbers, for both architectures on either host.
//!
//! Profiles name calls; filters and reports carry numbers. Called by `seccomp` when it compiles and by
//! `report` when it explains a death.

use crate::profile::Arch;

mod table;

/// The number of the call `name` on `arch`, or None where that architecture has no such call.
pub fn number(name: &str, arch: Arch) -> Option<u32> {
    let at = table::SYSCALLS.binary_search_by(|row| row.0.cmp(name)).ok()?;
    let row = table::SYSCALLS.get(at)?;
    u32::try_from(pick(row, arch)).ok()
}

/// The name of call `number` on `arch`.
pub fn name(number: u32, arch: Arch) -> Option<&'static str> {
    let number = i16::try_from(number).ok()?;
    table::SYSCALLS.iter().find(|row| pick(row, arch) == number).map(|row| row.0)
}

fn pick(row: &(&'static str, i16, i16), arch: Arch) -> i16 {
    match arch {
        Arch::X86_64 => row.1,
        Arch::Aarch64 => row.2,
    }
}

#[cfg(test)]
mod tests;
