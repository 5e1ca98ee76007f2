// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What is left of a device's offer, and that no byte of the MSI-X structures ever is.

use ipc::addr::Gpa;
use proptest::prelude::*;

use ipc::protocol::function_link::WINDOWS_LEN_MAX;
use ipc::protocol::vfio::BarAreas;

use super::*;

const AREA32: u64 = 0x1100_0000;

/// A function with a 32-bit BAR of `len` bytes, MSI-X table and pending bits at the offsets.
fn space(len: u64, table: u32, pending: u32) -> ConfigSpace {
    let mut image = [0; 256];
    let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &[0xb7, 0xf1, 0x01, 0x00, 0, 0, 0x10, 0]);
    put(0x34, &[0x40]);
    put(0x40, &[0x11, 0, 0x01, 0]);
    put(0x44, &table.to_le_bytes());
    put(0x48, &pending.to_le_bytes());
    let [(_, memory32), (_, memory64)] = areas();
    let io = GpaRange::new(Gpa(0x0f00_8000), 0x8000).unwrap();
    let areas = BarAreas { memory32, memory64, io, io_base: Gpa(0x0f00_0000) };
    ConfigSpace::new(&image, [len, 0, 0, 0, 0, 0], 2, &areas).unwrap()
}

fn areas() -> [(u16, GpaRange); 2] {
    let area32 = GpaRange::new(Gpa(AREA32), 0x100_0000).unwrap();
    let area64 = GpaRange::new(Gpa(1 << 39), 1 << 34).unwrap();
    [(1, area32), (2, area64)]
}

fn offer(areas: &[(u64, u64)]) -> Mappable {
    Mappable {
        bar: 0,
        areas: areas.to_vec(),
        file_offset: 0x10_0000,
        writable: true,
        len_max: WINDOWS_LEN_MAX,
    }
}

fn cut_to(space: &ConfigSpace, offered: &[(u64, u64)]) -> Vec<(u64, u64)> {
    let windows = cut(space, &offer(offered), areas());
    windows.iter().map(|window| (window.offset, window.len)).collect()
}

#[test]
fn window_is_the_area_that_was_offered() {
    let space = space(0x8000, 0x2000, 0x3000);
    let windows = cut(&space, &offer(&[(0x4000, 0x2000)]), areas());
    let expected =
        DeviceWindow { region: 1, offset: 0x4000, len: 0x2000, file_offset: 0x10_4000, writable: true };
    assert_eq!(windows, [expected]);
}

#[test]
fn windows_leave_out_the_pages_of_the_msix_structures() {
    let space = space(0x8000, 0x2ff0, 0x5008);
    // The table has 32 bytes: it reaches into the next page.
    assert_eq!(cut_to(&space, &[(0, 0x8000)]), [(0, 0x2000), (0x4000, 0x1000), (0x6000, 0x2000)]);
    assert_eq!(cut_to(&space, &[(0x2000, 0x2000)]), []);
}

#[test]
fn windows_are_whole_pages_inside_the_bar_each_once() {
    let space = space(0x8000, 0x2000, 0x3000);
    assert_eq!(cut_to(&space, &[(0x4800, 0x1000)]), []);
    assert_eq!(cut_to(&space, &[(0x4800, 0x1800)]), [(0x5000, 0x1000)]);
    assert_eq!(cut_to(&space, &[(0x7000, 0x9000)]), [(0x7000, 0x1000)]);
    assert_eq!(cut_to(&space, &[(0x4000, 0x2000), (0x5000, 0x2000), (0x5000, 0x1000)]).len(), 2);
    assert_eq!(cut_to(&space, &[(u64::MAX, 2), (u64::MAX - 1, 1), (0, 0)]), []);
    assert!(cut(&space, &Mappable { bar: 3, ..offer(&[(0, 0x1000)]) }, areas()).is_empty());
    let wraps = Mappable { file_offset: u64::MAX - 0x1000, ..offer(&[(0x4000, 0x1000)]) };
    assert!(cut(&space, &wraps, areas()).is_empty());
}

#[test]
fn windows_are_as_many_as_are_taken() {
    let space = space(0x4_0000, 0x2000, 0x3000);
    let offered: Vec<_> = (2..32).map(|page| (page * 0x2000, 0x1000)).collect();
    assert_eq!(cut_to(&space, &offered).len(), WINDOWS_MAX);
}

proptest! {
    #[test]
    fn windows_never_overlap_each_other_or_the_msix_structures(
        table in 0u32..0xfff,
        pending in 0u32..0xfff,
        offered in proptest::collection::vec((0u64..0x9000, 0u64..0x9000), 0..6),
    ) {
        let space = space(0x8000, table << 3, pending << 3);
        let mut taken = Vec::new();
        for (start, len) in cut_to(&space, &offered) {
            prop_assert!(start % 0x1000 == 0 && len % 0x1000 == 0 && len > 0 && start + len <= 0x8000);
            for place in [space.table(), space.pending()].into_iter().flatten() {
                prop_assert!(start + len <= place.offset || place.offset + place.len <= start);
            }
            let inside = |page: u64| offered.iter().any(|(at, len)| *at <= page && page + 0x1000 <= at + len);
            for page in (start..start + len).step_by(0x1000) {
                prop_assert!(inside(page));
                prop_assert!(!taken.contains(&page));
                taken.push(page);
            }
        }
    }
}
