// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
use super::{EVERY_ID, dw, from_hex, overriding, with_canwbs};

/// A table with an ITS group (node 0, 24 bytes) and a root complex (36 bytes and one mapping of 20) behind it.
fn table() -> Vec<u8> {
    const HEAD: usize = 48;
    let mut table = vec![0; HEAD + 24 + 56];
    let len = u32::try_from(table.len()).unwrap();
    table[..4].copy_from_slice(b"IORT");
    table[4..8].copy_from_slice(&len.to_le_bytes());
    table[24] = 1;
    table[36] = 2;
    table[40] = u8::try_from(HEAD).unwrap();
    table[HEAD + 1] = 24;
    let root = HEAD + 24;
    table[root] = 2;
    table[root + 1] = 56;
    table[root + 8] = 1;
    table[root + 12] = 36;
    table[root + 23] = 3;
    table[root + 36 + 4] = 0xff;
    table
}

#[test]
fn root_complex_gets_canwbs_and_every_id() {
    let new = with_canwbs(&table()).unwrap();
    let root = 48 + 24;
    assert_eq!(new[root + 23], 7);
    assert_eq!(dw(&new, root + 40).unwrap(), EVERY_ID);
    assert_eq!(new[48..root], table()[48..root], "the other node is left alone");
}

#[test]
fn new_table_is_newer_and_sums_to_zero() {
    let new = with_canwbs(&table()).unwrap();
    assert_eq!(dw(&new, 24).unwrap(), 2);
    assert_eq!(new.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte)), 0);
    assert_eq!(new.len(), table().len());
}

#[test]
fn bad_tables_are_refused() {
    let mut torn = table();
    torn.truncate(100);
    let mut without_root = table();
    without_root[48 + 24] = 4;
    let mut endless = table();
    endless[49] = 0;
    for (bad, why) in [
        (b"APIC".to_vec(), "not an IORT"),
        (torn, "ends before"),
        (without_root, "names no root complex"),
        (endless, "is 0 bytes long"),
    ] {
        let error = format!("{:#}", with_canwbs(&bad).unwrap_err());
        assert!(error.contains(why), "{error}");
    }
}

#[test]
fn archive_has_the_table_where_the_kernel_looks() {
    let archive = overriding(&table()).unwrap();
    let text = String::from_utf8_lossy(&archive);
    assert!(text.starts_with("070701") && text.contains("kernel/firmware/acpi/IORT.aml\0"));
}

#[test]
fn hexadecimal_digits_are_bytes() {
    assert_eq!(from_hex("494f5254").unwrap(), b"IORT");
    assert!(from_hex("494").is_err());
    assert!(from_hex("4x").is_err());
    assert!(from_hex("é").is_err());
}
