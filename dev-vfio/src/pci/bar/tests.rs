// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Placement, sizing, and that nothing moves.

use super::*;

fn area(start: u64, len: u64) -> GpaRange {
    GpaRange::new(Gpa(start), len).unwrap()
}

fn place(offered: [Offered; 6]) -> Result<Bars, BarError> {
    let areas = BarAreas {
        memory32: area(0x1100_0000, 0x100_0000),
        memory64: area(0x84_0000_0000, 0x4_0000_0000),
        io: area(0x0f00_8000, 0x8000),
        io_base: Gpa(0x0f00_0000),
    };
    Bars::place(&offered, &areas)
}

const NONE: Offered = Offered { register: 0, len: 0 };

#[test]
fn bars_are_placed_by_kind_aligned_and_apart() {
    let offered = [
        Offered { register: 0b0100, len: 0x4000 },
        Offered { register: 0x77, len: 0 },
        Offered { register: 0b1100, len: 0x1000_0000 },
        NONE,
        Offered { register: 0, len: 0x1800 },
        Offered { register: 1, len: 0x100 },
    ];
    let bars = place(offered).unwrap();
    assert_eq!((bars.read(0), bars.read(1)), (0x1100_0004, 0));
    assert_eq!((bars.read(2), bars.read(3)), (0x0000_000c, 0x84));
    // Padded to a power of two, behind the first; the I/O BAR has an address of the bus.
    assert_eq!((bars.read(4), bars.read(5)), (0x1100_4000, 0x8001));
    let (found, offset) = bars.find(Gpa(0x0f00_80fe), 2).unwrap();
    assert_eq!((found.index, found.is_io(), offset), (5, true, 0xfe));
    assert!(bars.find(Gpa(0x0f00_80fe), 4).is_none() && bars.find(Gpa(0x8000), 4).is_none());
    let (found, offset) = bars.find(Gpa(0x1100_5abc), 4).unwrap();
    assert_eq!((found.index, found.region_len, offset), (4, 0x1800, 0x1abc));
    assert!(bars.find(Gpa(0x1100_3ffe), 4).is_none(), "an access across two BARs is in none");
    assert!(bars.find(Gpa(0x1100_6000), 4).is_none());
}

#[test]
fn sizing_shows_the_size_and_nothing_else_moves_a_bar() {
    let mut bars = place([Offered { register: 0b1100, len: 0x4000 }, NONE, NONE, NONE, NONE, NONE]).unwrap();
    bars.write(0, 0xffff_ffff);
    bars.write(1, 0xffff_ffff);
    assert_eq!((bars.read(0), bars.read(1)), (0xffff_c00c, 0xffff_ffff));
    bars.write(0, 0x5555_0000);
    bars.write(1, 0);
    assert_eq!((bars.read(0), bars.read(1)), (0x0000_000c, 0x84));
    bars.write(0, 0xffff_fff0);
    bars.reset();
    assert_eq!(bars.read(0), 0x0000_000c);
}

#[test]
fn io_bars_are_sized_by_themselves_and_take_no_upper_half() {
    // The low bits that say "64 bits wide" of memory are address bits here.
    let io = |len| Offered { register: 0b101, len };
    let mut bars = place([io(8), io(0x3000), NONE, NONE, NONE, io(1)]).unwrap();
    assert_eq!([0, 1, 5].map(|index| bars.read(index)), [0xc001, 0x8001, 0xc009], "the largest first");
    for index in [0, 1, 2, 5] {
        bars.write(index, u32::MAX);
    }
    assert_eq!([0, 1, 2, 5].map(|index| bars.read(index)), [0xffff_fff9, 0xffff_c001, 0, 0xffff_fffd]);
}

#[test]
fn bars_that_do_not_fit_are_refused() {
    let large = |register, len| {
        let mut offered = [NONE; 6];
        offered[5] = Offered { register, len };
        place(offered).unwrap_err()
    };
    assert_eq!(large(0, 0x200_0000), BarError::NoRoom { index: 5, len: 0x200_0000 });
    assert_eq!(large(0, u64::MAX), BarError::NoRoom { index: 5, len: u64::MAX });
    assert_eq!(large(1, 0x8001), BarError::NoRoom { index: 5, len: 0x1_0000 });
    assert_eq!(large(0b0100, 0x1000), BarError::NoUpperHalf { index: 5 });
}
