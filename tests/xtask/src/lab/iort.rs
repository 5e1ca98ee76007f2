// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The IORT, the firmware's table of IOMMUs: changed so that the kernel offers nested translation.
//!
//! Linux lends the guest's stage 1 to a device only if what the device writes stays coherent with the CPUs whatever
//! that stage 1 says: with FWB in the SMMU, which the emulated one lacks, or with CANWBS in the root complex, which
//! the emulator's firmware does not claim though it holds for emulated memory. Specification: Arm DEN0049 (IORT).

use anyhow::{Context, Result, ensure};

use crate::guest::cpio::Archive;

/// Where the kernel looks for tables that replace the firmware's, in an uncompressed archive before the initramfs.
const FOLDERS: [&str; 3] = ["kernel", "kernel/firmware", "kernel/firmware/acpi"];
const FILE: &str = "kernel/firmware/acpi/IORT.aml";

/// Offsets in the head of every ACPI table, and in the IORT's own head after it.
const CHECKSUM: usize = 9;
const OEM_REVISION: usize = 24;
const NODE_COUNT: usize = 36;
const NODE_OFFSET: usize = 40;

/// Offsets in every node.
const NODE_TYPE: usize = 0;
const NODE_LEN: usize = 1;
const MAPPING_COUNT: usize = 8;
const MAPPING_OFFSET: usize = 12;

/// A root complex node: its type, and the memory access flags at the end of its memory access properties.
const ROOT_COMPLEX: u8 = 2;
const MEMORY_ACCESS_FLAGS: usize = 23;
const CANWBS: u8 = 1 << 2;

/// In an id mapping: the count of ids, less one.
const MAPPING_ID_COUNT: usize = 4;
const EVERY_ID: u32 = 0xffff;

/// The archive that puts the changed table in the place of `table`.
pub fn overriding(table: &[u8]) -> Result<Vec<u8>> {
    let changed = with_canwbs(table)?;
    let mut archive = Archive::default();
    for folder in FOLDERS {
        archive.folder(folder)?;
    }
    archive.program(FILE, &changed)?;
    archive.finish()
}

/// `table` with CANWBS in each root complex, whose ids all lead to the SMMU.
///
/// The firmware sizes the range of ids to the buses of the machine that the table was read from; devices behind
/// further bridges would have no IOMMU. The revision is raised, for the kernel takes only a newer table.
fn with_canwbs(table: &[u8]) -> Result<Vec<u8>> {
    ensure!(table.starts_with(b"IORT"), "not an IORT: it begins with {:02x?}", table.get(..4));
    let mut new = table.to_vec();
    let count = dw(&new, NODE_COUNT)?;
    let mut node = size(dw(&new, NODE_OFFSET)?)?;
    let mut found = 0;
    for _ in 0..count {
        let len =
            usize::from(u16::from_le_bytes([byte(&new, node + NODE_LEN)?, byte(&new, node + NODE_LEN + 1)?]));
        ensure!(len > MAPPING_OFFSET, "the IORT's node at {node:#x} is {len} bytes long");
        if byte(&new, node + NODE_TYPE)? == ROOT_COMPLEX {
            let flags = byte(&new, node + MEMORY_ACCESS_FLAGS)?;
            put(&mut new, node + MEMORY_ACCESS_FLAGS, &[flags | CANWBS])?;
            ensure!(dw(&new, node + MAPPING_COUNT)? >= 1, "the root complex at {node:#x} leads to no SMMU");
            let mapping = node + size(dw(&new, node + MAPPING_OFFSET)?)?;
            put(&mut new, node + MAPPING_COUNT, &1_u32.to_le_bytes())?;
            put(&mut new, mapping + MAPPING_ID_COUNT, &EVERY_ID.to_le_bytes())?;
            found += 1;
        }
        node += len;
    }
    ensure!(found > 0, "the IORT names no root complex");
    let revision = dw(&new, OEM_REVISION)?.wrapping_add(1);
    put(&mut new, OEM_REVISION, &revision.to_le_bytes())?;
    put(&mut new, CHECKSUM, &[0])?;
    let sum = new.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
    put(&mut new, CHECKSUM, &[sum.wrapping_neg()])?;
    Ok(new)
}

/// The bytes of a table that was sent as hexadecimal digits.
pub fn from_hex(text: &str) -> Result<Vec<u8>> {
    ensure!(text.len().is_multiple_of(2) && text.is_ascii(), "half a byte at the end of a table");
    let digits = |at: usize| text.get(at..at + 2).and_then(|pair| u8::from_str_radix(pair, 16).ok());
    (0..text.len()).step_by(2).map(|at| digits(at).context("no hexadecimal digits in a table")).collect()
}

fn byte(table: &[u8], at: usize) -> Result<u8> {
    table.get(at).copied().with_context(|| format!("the IORT ends before offset {at:#x}"))
}

fn dw(table: &[u8], at: usize) -> Result<u32> {
    let bytes = [byte(table, at)?, byte(table, at + 1)?, byte(table, at + 2)?, byte(table, at + 3)?];
    Ok(u32::from_le_bytes(bytes))
}

fn put(table: &mut [u8], at: usize, bytes: &[u8]) -> Result<()> {
    let place =
        table.get_mut(at..at + bytes.len()).with_context(|| format!("the IORT ends before {at:#x}"))?;
    place.copy_from_slice(bytes);
    Ok(())
}

fn size(value: u32) -> Result<usize> {
    usize::try_from(value).context("an offset in the IORT")
}

#[cfg(test)]
mod tests;
