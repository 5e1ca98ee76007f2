// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The PCI host bridge's configuration space (ECAM, PCI Express Base §7.2.2).
//!
//! Functions in other processes answer their own part of it (`super::bus`). The rest has no function: it reads as all
//! ones, and writes are ignored.

/// Guest read of `size` bytes anywhere in the ECAM window.
pub fn read(size: u8) -> u64 {
    match size {
        8 => u64::MAX,
        size => (1 << (8 * u32::from(size.min(7)))) - 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn read_absent_function_is_all_ones_of_the_size() {
        assert_eq!([1, 2, 4, 8].map(read), [0xff, 0xffff, 0xffff_ffff, u64::MAX]);
    }
}
