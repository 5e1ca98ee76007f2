// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the guest sees of well-behaved devices, and of others.

use ipc::addr::{Gpa, GpaRange};
use proptest::prelude::*;

use super::*;
use crate::saved::FunctionV1;

const MSIX: usize = 0x70;
const EXPRESS: usize = 0x80;
const POWER: usize = 0x40;

/// An NVMe controller as they come: power management, MSI, MSI-X, PCI Express, something of the vendor's.
fn device() -> [u8; CONFIG_LEN] {
    let mut image = [0; CONFIG_LEN];
    let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &[0x36, 0x1b, 0x10, 0x00, 0x07, 0x04, 0x10, 0x00, 0x02, 0x02, 0x08, 0x01]);
    put(0x0e, &[0x80]);
    put(0x10, &[0x04, 0, 0, 0]);
    put(0x34, &[0x40]);
    put(0x3c, &[11, 1]);
    put(POWER, &[0x01, 0x50, 0x03, 0x00, 0x08, 0, 0, 0]);
    put(0x50, &[0x05, 0x60, 0x80, 0x00]);
    put(0x60, &[0x09, 0x70, 0x08, 0x00]);
    put(MSIX, &[0x11, 0x80, 0x0f, 0x00, 0x00, 0x20, 0, 0, 0x00, 0x30, 0, 0]);
    put(EXPRESS, &[0x10, 0x00, 0x02, 0x00]);
    put(EXPRESS + 0x0c, &[0x43, 0xf0, 0x45, 0x00]);
    image
}

fn area(start: u64, len: u64) -> GpaRange {
    GpaRange::new(Gpa(start), len).unwrap()
}

fn areas() -> BarAreas {
    BarAreas {
        memory32: area(0x1100_0000, 0x100_0000),
        memory64: area(0x84_0000_0000, 0x4_0000_0000),
        io: area(0x0f00_8000, 0x8000),
        io_base: Gpa(0x0f00_0000),
    }
}

fn space_of(device: &[u8]) -> Result<ConfigSpace, ConfigError> {
    ConfigSpace::new(device, [0x4000, 0, 0, 0, 0, 0], 8, &areas())
}

fn space() -> ConfigSpace {
    space_of(&device()).unwrap()
}

/// The ids of the capabilities that a guest finds.
fn capabilities(space: &ConfigSpace) -> Vec<u8> {
    let byte = |at: usize| space.read(at as u64, 1).map_or(0, |value| u8::try_from(value).unwrap());
    let mut found = Vec::new();
    let mut at = usize::from(byte(0x34));
    while at != 0 && found.len() < 64 {
        found.push(byte(at));
        at = usize::from(byte(at + 1));
    }
    found
}

#[test]
fn the_guest_sees_the_device_with_the_capabilities_we_know() {
    let space = space();
    assert_eq!(space.read(0, 4), Some(0x0010_1b36));
    assert_eq!(space.read(8, 4), Some(0x0108_0202));
    assert_eq!(space.read(0x0c, 4), Some(0), "one function");
    assert_eq!(space.read(0x3c, 2), Some(0), "no wired interrupt");
    assert_eq!(space.read(6, 2), Some(0x10));
    assert_eq!(capabilities(&space), [CAP_POWER, CAP_MSIX, CAP_EXPRESS]);
    assert_eq!(space.read(MSIX as u64 + 2, 2), Some(7), "as many vectors as can be signalled");
    assert_eq!(space.read(EXPRESS as u64 + 2, 2), Some(0x92), "integrated endpoint");
    assert_eq!(space.read(EXPRESS as u64 + 0x0c, 4), Some(0), "without a link");
    assert_eq!(space.read(0x100, 4), Some(0), "no extended capabilities");
    assert_eq!(space.read(POWER as u64 + 4, 2), None, "power state is the device's");
}

#[test]
fn io_and_memory_are_enabled_apart_where_there_are_both() {
    let mut device = device();
    device[0x14..0x18].copy_from_slice(&1u32.to_le_bytes());
    device[0x10] = 0;
    let mut space = ConfigSpace::new(&device, [0x4000, 0x100, 0, 0, 0, 0], 8, &areas()).unwrap();
    assert_eq!(space.read(0x14, 4), Some(0x8001));
    let answers = |space: &ConfigSpace| {
        [0, 1].map(|index| space.answers(space.bars.iter().find(|bar| bar.index == index).unwrap()))
    };
    for (command, expected) in [(0, [false; 2]), (1, [false, true]), (2, [true, false]), (3, [true; 2])] {
        space.write(4, 2, command);
        assert_eq!((space.read(4, 2), answers(&space)), (Some(command), expected));
    }
    // Asleep, it has configuration space only.
    space.write(POWER as u64 + 4, 2, 3);
    assert_eq!(answers(&space), [false; 2]);
    // A table in I/O space would be no table.
    device[MSIX + 4] = 1;
    let space = ConfigSpace::new(&device, [0x4000, 0x100, 0, 0, 0, 0], 8, &areas()).unwrap();
    assert_eq!(capabilities(&space), [CAP_POWER, CAP_EXPRESS]);
}

#[test]
fn command_keeps_its_writable_bits_and_status_stays() {
    let mut space = space();
    assert!(!space.memory_answers(), "whatever the device had set");
    let effects = space.write(4, 4, 0xffff_ffff);
    assert_eq!(effects, WriteEffects { forward: true, ..WriteEffects::default() });
    assert_eq!(space.read(4, 4), Some(0x0010_0546));
    assert!(space.memory_answers());
    space.write(0, 4, 0);
    space.write(0x34, 1, 0);
    assert_eq!((space.read(0, 2), space.read(0x34, 1)), (Some(0x1b36), Some(0x40)));
}

#[test]
fn bars_do_not_answer_in_d3hot() {
    let control = POWER as u64 + 4;
    let mut space = space();
    space.write(4, 2, 2);
    for (at, size, asleep, awake) in
        [(control, 2, 0x8103, 0x8100), (control - 2, 4, 0x0003_ffff, 0x0000_ffff)]
    {
        space.write(at, size, asleep);
        assert!(!space.memory_answers(), "{at:#x}");
        space.write(control + 2, 1, 0);
        assert!(!space.memory_answers(), "the byte behind it is another register");
        space.write(at, size, awake);
        assert!(space.memory_answers(), "{at:#x}");
    }
    space.write(control, 1, 3);
    space.reset();
    space.write(4, 2, 2);
    assert!(space.memory_answers());
}

#[test]
fn bars_are_sized_by_parts_of_any_width() {
    let mut space = space();
    space.write(0x10, 4, 0xffff_ffff);
    assert_eq!(space.read(0x10, 4), Some(0xffff_c004));
    space.write(0x10, 4, 0x1100_0004);
    assert_eq!(space.read(0x10, 8), Some(0x1100_0004));
    space.write(0x10, 8, u64::MAX);
    assert_eq!(space.read(0x10, 8), Some(0xffff_ffff_ffff_c004));
    space.write(0x10, 8, 0x1234_5678_0000_0000);
    assert_eq!(space.read(0x10, 8), Some(0x1100_0004), "it stays where it is");
}

#[test]
fn msix_control_is_ours_and_told_to_the_device() {
    let mut space = space();
    let effects = space.write(MSIX as u64 + 2, 2, 0xffff);
    assert_eq!(effects, WriteEffects { forward: true, reset: false, intx: intx::Effect::Nothing });
    assert_eq!(space.read(MSIX as u64 + 2, 2), Some(0xc007));
    assert_eq!(space.table(), Some(Place { bar: 0, offset: 0x2000, len: 0x80 }));
    assert_eq!(space.pending(), Some(Place { bar: 0, offset: 0x3000, len: 8 }));
}

#[test]
fn a_function_level_reset_puts_everything_back() {
    let mut space = space();
    let before = (0..64).map(|at| space.read(at * 4, 4)).collect::<Vec<_>>();
    space.write(4, 2, 6);
    space.write(0x3c, 1, 33);
    space.write(0x10, 4, 0xffff_ffff);
    space.write(MSIX as u64 + 2, 2, 0x8000);
    assert!(!space.write(EXPRESS as u64 + 8, 2, 0x7fff).reset);
    assert!(space.write(EXPRESS as u64 + 8, 2, 0x8000).reset);
    assert!(space.write(EXPRESS as u64 + 9, 1, 0x80).reset);
    space.reset();
    assert_eq!((0..64).map(|at| space.read(at * 4, 4)).collect::<Vec<_>>(), before);
}

#[test]
fn devices_that_are_no_endpoint_are_refused() {
    let mut bridge = device();
    bridge[0x0e] = 1;
    assert_eq!(space_of(&bridge).unwrap_err(), ConfigError::HeaderType(1));
    assert_eq!(space_of(&[0xff; 256]).unwrap_err(), ConfigError::Vendor(0xffff));
    assert_eq!(space_of(&device()[..255]).unwrap_err(), ConfigError::Short(255));
}

#[test]
fn a_capability_list_with_a_loop_ends() {
    let mut looping = device();
    looping[0x51] = 0x40;
    assert_eq!(capabilities(&space_of(&looping).unwrap()), [CAP_POWER]);
    looping[0x41] = 0x40;
    assert_eq!(capabilities(&space_of(&looping).unwrap()), [CAP_POWER]);
}

#[test]
fn an_msix_table_outside_its_bar_is_not_shown() {
    for (at, bytes) in [(MSIX + 4, [0xf0, 0x3f, 0, 0]), (MSIX + 4, [2, 0, 0, 0]), (MSIX + 8, [7, 0, 0, 0x80])]
    {
        let mut outside = device();
        outside[at..at + 4].copy_from_slice(&bytes);
        let space = space_of(&outside).unwrap();
        assert_eq!(capabilities(&space), [CAP_POWER, CAP_EXPRESS]);
        assert!(space.msix.is_empty() && space.table().is_none());
    }
}

proptest! {
    /// Whatever the device says and the guest does: no panic, BARs where they were, and a list that ends.
    #[test]
    fn garbage_from_both_sides_changes_nothing_that_matters(
        image in prop::collection::vec(any::<u8>(), CONFIG_LEN),
        lens in prop::array::uniform6(prop_oneof![Just(0), 1..0x10_0000u64, any::<u64>()]),
        vectors in any::<u16>(),
        writes in prop::collection::vec((0..4200u64, prop::sample::select(vec![1u8, 2, 4, 8]), any::<u64>()), 0..40),
    ) {
        let mut image = image;
        image[0x0e] &= 0x80;
        if let Ok(mut space) = ConfigSpace::new(&image, lens, vectors, &areas()) {
            let bars: Vec<_> = space.bars.iter().copied().collect();
            for (at, size, value) in writes {
                space.write(at, size, value);
                if let Some(read) = space.read(at, size) {
                    prop_assert!(size == 8 || read >> (8 * u32::from(size)) == 0);
                }
            }
            prop_assert!(space.bars.iter().copied().eq(bars.iter().copied()));
            prop_assert!(capabilities(&space).len() <= 48);
            for (one, bar) in bars.iter().enumerate() {
                let BarAreas { memory32, memory64, io, .. } = areas();
                let area = if bar.is_io() { io } else if memory32.contains_range(bar.range) { memory32 } else { memory64 };
                prop_assert!(area.contains_range(bar.range));
                prop_assert!(bars.iter().skip(one + 1).all(|other| bar.range.intersection(other.range).is_none()));
            }
        }
    }
}

/// What a guest has made of it: bus master, two vectors, one of them pending, a BAR asked for its size.
fn used() -> ConfigSpace {
    let mut space = space();
    space.write(4, 2, 0x0106);
    space.write(0x0c, 2, 0x4010);
    space.write(0x3c, 1, 42);
    space.write(0x10, 4, 0xffff_ffff);
    space.write(MSIX as u64 + 2, 2, 0x8000);
    for (at, word) in [(0, 0x0821_0040), (8, 5), (12, 0), (16, 0x0821_0040), (24, 6)] {
        space.msix.write_table(at, word);
    }
    assert_eq!(space.msix.signal(1), None);
    space
}

fn all(space: &ConfigSpace) -> Vec<Option<u64>> {
    (0..CONFIG_LEN as u64).step_by(4).map(|at| space.read(at, 4)).collect()
}

#[test]
fn a_restored_function_is_what_was_saved() {
    let used = used();
    let mut restored = space();
    restored.restore(&used.save()).unwrap();
    assert_eq!(all(&restored), all(&used));
    assert_eq!(restored.save(), used.save());
    assert!(restored.bus_master() && restored.memory_answers());
    restored.msix.write_table(28, 0);
    assert_eq!(restored.msix.released().len(), 1, "what was pending");
    // Out of reset it is the device's again.
    restored.reset();
    assert_eq!(all(&restored), all(&space()));
}

#[test]
fn a_state_is_held_against_the_device_and_against_what_can_be() {
    let mut restored = space();
    let mut other = |change: &dyn Fn(&mut FunctionV1)| {
        let mut state = used().save();
        change(&mut state);
        restored.restore(&state)
    };
    other(&|_| {}).unwrap();
    for change in [
        &(|state: &mut FunctionV1| state.config[0] ^= 1) as &dyn Fn(&mut FunctionV1),
        &|state| state.config[0x0b] ^= 1,
        &|state| state.config[MSIX] ^= 1,
        &|state| state.config[0x34] ^= 4,
        // A bit of the command register that no guest can set.
        &|state| state.config[5] |= 0x80,
        &|state| state.config.truncate(255),
        &|state| state.bars[0].start += 0x1000,
        &|state| state.bars[0].region_len -= 1,
        &|state| state.bars.clear(),
        &|state| state.bars_sizing = 0x40,
        &|state| state.msix = None,
        &|state| state.msix.as_mut().unwrap().vectors.truncate(7),
        &|state| {
            let pin = crate::saved::IntxV1 { automasked: true, pending: false, raised: false, again: false };
            state.intx = Some(pin);
        },
    ] {
        assert!(other(change).is_err());
    }
}

#[test]
fn a_pin_comes_back_only_as_it_can_have_been() {
    let pin = Pin { automasked: false };
    let with_pin = || space().with_intx(pin, &device());
    let mut raised = with_pin();
    let intx = raised.intx.as_mut().unwrap();
    assert_eq!(intx.signal(), intx::Effect::Raise);
    let _ = intx.signal();
    let mut restored = with_pin();
    restored.restore(&raised.save()).unwrap();
    let intx = restored.intx.as_mut().unwrap();
    assert!(intx.is_raised());
    assert_eq!((intx.ended(), intx.ended()), (intx::Effect::Raise, intx::Effect::Unmask));
    // Disabled by the command register it cannot be asserted; a kind that masks itself signals once.
    let mut state = raised.save();
    state.config[5] |= 4;
    assert!(with_pin().restore(&state).is_err());
    let mut automasked = space().with_intx(Pin { automasked: true }, &device());
    assert!(automasked.restore(&raised.save()).is_err());
}

proptest! {
    #[test]
    fn no_state_panics_or_comes_back_another(
        config in prop::collection::vec(any::<u8>(), 250..260),
        at in 0..256_usize,
        byte in any::<u8>(),
        control in any::<u32>(),
        sizing in any::<u8>(),
    ) {
        let mut restored = space();
        let mut state = used().save();
        state.config[at] = byte;
        state.bars_sizing = sizing;
        state.msix.as_mut().unwrap().vectors[3].control = control;
        if restored.restore(&state).is_ok() {
            let again = restored.save();
            let mut third = space();
            third.restore(&again).unwrap();
            prop_assert_eq!(third.save(), again);
        }
        let _ = space().restore(&FunctionV1 { config, ..used().save() });
    }
}
