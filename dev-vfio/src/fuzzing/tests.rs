// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Arbitrary inputs are survived; and what the targets look for, they find.

use std::os::unix::fs::FileExt;

use ipc::addr::Iova;
use proptest::prelude::*;

use super::guest::{Guest, STREAM};
use crate::iommu::HostIommu;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn any_guest_and_any_server_are_survived(input in prop::collection::vec(any::<u8>(), 0..300)) {
        super::function(&input);
    }

    #[test]
    fn any_dma_through_any_tables_is_survived(program in prop::collection::vec(any::<u8>(), 0..300)) {
        super::dma(&program);
    }
}

#[test]
fn a_write_that_is_logged_is_no_finding() {
    let mut guest = Guest::new();
    let mut iommu = guest.iommu();
    iommu.attach(STREAM, Guest::good_stage1()).unwrap();
    iommu.write(Iova(0x3ff0), &[1; 64]).unwrap();
    guest.harvest();
    iommu.write(Iova(0x5000), &[1; 64]).unwrap();
    guest.check();
}

#[test]
#[should_panic(expected = "written and not logged")]
fn a_write_that_is_not_logged_is_found() {
    let mut guest = Guest::new();
    let mut iommu = guest.iommu();
    iommu.attach(STREAM, Guest::good_stage1()).unwrap();
    iommu.set_dirty_tracking(false);
    iommu.write(Iova(0x3000), &[1]).unwrap();
    guest.check();
}

#[test]
#[should_panic(expected = "what is no RAM was written")]
fn a_write_outside_ram_is_found() {
    let mut guest = Guest::new();
    guest.object().file().write_all_at(&[0], 25 * 4096).unwrap();
    guest.check();
}

#[test]
#[should_panic(expected = "what is no RAM was read")]
fn a_read_outside_ram_is_found() {
    let guest = Guest::new();
    let mut bytes = [0; 100];
    guest.object().file().read_exact_at(&mut bytes, 25 * 4096 - 50).unwrap();
    Guest::assert_is_ram(&bytes);
}
