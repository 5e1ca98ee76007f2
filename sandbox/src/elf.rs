// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Checks that a program is a static executable for this machine: before clone, for a clear error message.
//!
//! In an empty root a dynamic program would fail in exec with "no such file", meaning its loader. Only the fields
//! needed are read (System V ABI, ELF64 header and program headers); the file is the operator's, not the guest's,
//! but every read is bounded all the same.

use std::os::fd::BorrowedFd;

use crate::profile::Arch;

/// Why a file cannot be started in an empty root.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotStatic {
    /// It cannot be read.
    #[error("the program cannot be read ({0}): open it for reading, not O_PATH")]
    Unreadable(rustix::io::Errno),
    /// It is no 64-bit little-endian ELF executable.
    #[error("the program is not a 64-bit ELF executable")]
    NotElf,
    /// It is for another machine.
    #[error("the program is for another machine (ELF machine {0})")]
    OtherMachine(u16),
    /// It needs a dynamic loader.
    #[error(
        "the program is dynamically linked (it has PT_INTERP); in an empty root it must be static: build with `-C target-feature=+crt-static`"
    )]
    Dynamic,
}

const PT_INTERP: u32 = 3;
const PHENTSIZE: u16 = 56;
/// No linker of ours makes more than about a dozen.
const PHNUM_MAX: u16 = 128;

/// Checks the program behind `file`.
pub fn check(file: BorrowedFd<'_>) -> Result<(), NotStatic> {
    let header: [u8; 64] = read(file, 0)?;
    let half = |at: usize| u16::from_le_bytes(field(&header, at));
    let kind = half(16);
    if !header.starts_with(&[0x7f, b'E', b'L', b'F', 2, 1]) || !matches!(kind, 2 | 3) {
        return Err(NotStatic::NotElf);
    }
    let machine = half(18);
    let own = match Arch::host() {
        Arch::X86_64 => 62,
        Arch::Aarch64 => 183,
    };
    if machine != own {
        return Err(NotStatic::OtherMachine(machine));
    }
    let count = half(56);
    if half(54) != PHENTSIZE || count > PHNUM_MAX {
        return Err(NotStatic::NotElf);
    }
    let table = u64::from_le_bytes(field(&header, 32));
    for index in 0..count {
        let at = u64::from(index) * u64::from(PHENTSIZE);
        let entry: [u8; 4] = read(file, table.checked_add(at).ok_or(NotStatic::NotElf)?)?;
        if u32::from_le_bytes(entry) == PT_INTERP {
            return Err(NotStatic::Dynamic);
        }
    }
    Ok(())
}

fn read<const N: usize>(file: BorrowedFd<'_>, at: u64) -> Result<[u8; N], NotStatic> {
    let mut bytes = [0u8; N];
    match rustix::io::pread(file, &mut bytes[..], at) {
        Ok(count) if count == N => Ok(bytes),
        Ok(_) => Err(NotStatic::NotElf),
        Err(errno) => Err(NotStatic::Unreadable(errno)),
    }
}

fn field<const N: usize>(header: &[u8; 64], at: usize) -> [u8; N] {
    header.get(at..).and_then(|rest| rest.first_chunk::<N>()).copied().unwrap_or([0; N])
}

#[cfg(test)]
mod tests;
