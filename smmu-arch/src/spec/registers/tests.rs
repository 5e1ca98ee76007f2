// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The register map holds together: nothing overlaps, halves are found.

use super::{REGISTER_FILE_LEN, Register};

#[test]
fn registers_do_not_overlap_and_are_aligned() {
    let mut end = 0;
    for register in Register::ALL {
        assert!(register.offset() >= end, "{register:?} overlaps its predecessor");
        assert_eq!(register.offset() % u64::from(register.width()), 0, "{register:?} is not aligned");
        end = register.offset() + u64::from(register.width());
    }
    assert!(end <= REGISTER_FILE_LEN);
}

#[test]
fn covering_finds_the_upper_half_of_a_64_bit_register_only() {
    assert_eq!(Register::covering(0x80), Some((Register::STRTAB_BASE, false)));
    assert_eq!(Register::covering(0x84), Some((Register::STRTAB_BASE, true)));
    assert_eq!(Register::covering(0x88), Some((Register::STRTAB_BASE_CFG, false)));
    assert_eq!(Register::covering(0x8c), None);
    assert_eq!(Register::covering(0x1_00a8), Some((Register::EVENTQ_PROD, false)));
}
