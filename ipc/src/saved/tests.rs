// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Streams of state units, good, damaged and forged.

use proptest::prelude::{any, proptest};
use proptest::prop_assert_eq;
use serde::{Deserialize, Serialize};

use super::{BODY_LEN_MAX, ENVELOPE_LEN, Reader, SavedError, SavedState, UNITS_MAX, UnitKind, Writer};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct ClockV1 {
    ticks: u64,
    name: String,
}

impl SavedState for ClockV1 {
    const KIND: UnitKind = UnitKind::new("clock");
    const VERSION: u16 = 1;
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct ClockV2 {
    ticks: u64,
}

impl SavedState for ClockV2 {
    const KIND: UnitKind = UnitKind::new("clock");
    const VERSION: u16 = 2;
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct CpuV1(u32);

impl SavedState for CpuV1 {
    const KIND: UnitKind = UnitKind::new("vcpu.regs-16byte");
    const VERSION: u16 = 1;
}

fn clock() -> ClockV1 {
    ClockV1 { ticks: 77, name: "rtc".into() }
}

fn stream() -> Vec<u8> {
    let mut writer = Writer::new();
    writer.append(&CpuV1(1)).unwrap();
    writer.append(&clock()).unwrap();
    writer.append(&CpuV1(2)).unwrap();
    writer.finish()
}

/// A stream of one unit whose envelope is right but for what `change` does to the whole.
fn changed(change: impl FnOnce(&mut Vec<u8>)) -> SavedError {
    let mut writer = Writer::new();
    writer.append(&clock()).unwrap();
    let mut bytes = writer.finish();
    change(&mut bytes);
    Reader::new(&bytes).unwrap_err()
}

#[test]
fn units_come_back_by_kind_in_their_order() {
    let bytes = stream();
    let mut reader = Reader::new(&bytes).unwrap();
    assert_eq!(reader.units().len(), 3);
    assert_eq!(reader.take::<ClockV1>().unwrap(), clock());
    assert_eq!(reader.take::<CpuV1>().unwrap(), CpuV1(1));
    assert_eq!(reader.take::<CpuV1>().unwrap(), CpuV1(2));
    assert_eq!(reader.take::<CpuV1>(), Err(SavedError::Missing { kind: CpuV1::KIND }));
    reader.finish().unwrap();
}

#[test]
fn empty_stream_has_nothing_in_it() {
    let mut reader = Reader::new(&[]).unwrap();
    assert!(matches!(reader.take::<ClockV1>(), Err(SavedError::Missing { .. })));
    reader.finish().unwrap();
}

#[test]
fn units_that_nobody_takes_are_an_error() {
    let bytes = stream();
    let mut reader = Reader::new(&bytes).unwrap();
    reader.take::<CpuV1>().unwrap();
    assert_eq!(reader.finish(), Err(SavedError::UnitsLeftOver { count: 2, kind: ClockV1::KIND }));
}

#[test]
fn version_is_known_before_decoding_and_another_is_refused() {
    let bytes = stream();
    let mut reader = Reader::new(&bytes).unwrap();
    let unit = reader.take_unit(ClockV1::KIND).unwrap();
    assert_eq!(unit.version, 1);
    let refused = unit.decode::<ClockV2>();
    assert_eq!(refused, Err(SavedError::Version { kind: ClockV1::KIND, found: 1, expected: 2 }));
    assert_eq!(unit.decode::<ClockV1>().unwrap(), clock(), "a refusal uses nothing up");
}

#[test]
fn damaged_envelopes_are_refused() {
    let kind = ClockV1::KIND;
    assert!(matches!(changed(|b| b[0] = 0), SavedError::Magic { at: 0, .. }));
    assert!(matches!(changed(|b| b[4] = 2), SavedError::Format { format: 2, .. }));
    assert!(matches!(changed(|b| b[32] = 1), SavedError::Format { .. }), "a reserved word");
    assert!(matches!(changed(|b| b[8] = b'/'), SavedError::KindName { .. }));
    assert!(matches!(changed(|b| b[8] = 0), SavedError::KindName { .. }), "a hole in the name");
    assert!(matches!(changed(|b| b[23] = b'x'), SavedError::KindName { .. }), "text behind the name");
    assert!(matches!(changed(|b| b[28] ^= 1), SavedError::Checksum { .. }));
    assert!(matches!(changed(|b| b[ENVELOPE_LEN] ^= 1), SavedError::Checksum { .. }));
    let long = changed(|b| b[24..28].copy_from_slice(&(BODY_LEN_MAX + 1).to_le_bytes()));
    assert_eq!(long, SavedError::BodyLong { kind, len: BODY_LEN_MAX + 1, room: BODY_LEN_MAX as usize });
    assert!(matches!(changed(|b| b[24] += 1), SavedError::BodyLong { .. }), "longer than the stream");
    assert!(matches!(changed(|b| b.push(0)), SavedError::EnvelopeShort { len: 1, .. }));
    assert!(matches!(changed(|b| b.truncate(20)), SavedError::EnvelopeShort { at: 0, len: 20 }));
}

#[test]
fn body_longer_than_its_struct_is_refused_though_its_checksum_is_right() {
    #[derive(Serialize, Deserialize)]
    struct Longer(u64, String, u8);
    impl SavedState for Longer {
        const KIND: UnitKind = ClockV1::KIND;
        const VERSION: u16 = 1;
    }
    let mut writer = Writer::new();
    writer.append(&Longer(77, "rtc".into(), 9)).unwrap();
    let bytes = writer.finish();
    let refused = Reader::new(&bytes).unwrap().take::<ClockV1>();
    assert_eq!(refused, Err(SavedError::BodyLeftOver { kind: ClockV1::KIND, len: 1 }));
}

#[test]
fn body_that_is_no_such_struct_is_refused_though_its_checksum_is_right() {
    #[derive(Serialize, Deserialize)]
    struct Shorter(u8);
    impl SavedState for Shorter {
        const KIND: UnitKind = ClockV1::KIND;
        const VERSION: u16 = 1;
    }
    let mut writer = Writer::new();
    writer.append(&Shorter(1)).unwrap();
    let bytes = writer.finish();
    let refused = Reader::new(&bytes).unwrap().take::<ClockV1>();
    assert_eq!(refused, Err(SavedError::Body { kind: ClockV1::KIND }));
}

#[test]
fn caps_hold_for_the_writer_and_for_the_reader() {
    #[derive(Serialize, Deserialize)]
    struct Big(Vec<u8>);
    impl SavedState for Big {
        const KIND: UnitKind = UnitKind::new("big");
        const VERSION: u16 = 1;
    }
    let big = Big(vec![0; BODY_LEN_MAX as usize]);
    assert!(matches!(Writer::new().append(&big), Err(SavedError::Unwritable { .. })));

    let mut writer = Writer::new();
    for _ in 0..UNITS_MAX {
        writer.append(&CpuV1(0)).unwrap();
    }
    assert!(matches!(writer.append(&CpuV1(0)), Err(SavedError::Unwritable { .. })));
    let full = writer.finish();
    assert_eq!(Reader::new(&full).unwrap().units().len(), UNITS_MAX);
    let mut one_more = Writer::new();
    one_more.append(&CpuV1(0)).unwrap();
    let over = [full, one_more.finish()].concat();
    assert_eq!(Reader::new(&over).unwrap_err(), SavedError::UnitCount { max: UNITS_MAX });
}

proptest! {
    #[test]
    fn arbitrary_streams_never_panic(noise in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = Reader::new(&noise);
    }

    /// Any byte of a good stream changed: refused as a whole, or only kinds and versions have changed.
    #[test]
    fn one_changed_byte_is_noticed_or_changes_only_the_label(at in 0_usize..150, flip in 1_u8..) {
        let mut bytes = stream();
        let at = at % bytes.len();
        bytes[at] ^= flip;
        if let Ok(reader) = Reader::new(&bytes) {
            let good = stream();
            let original = Reader::new(&good).unwrap();
            for (unit, expected) in reader.units().iter().zip(original.units()) {
                prop_assert_eq!(unit.body(), expected.body());
            }
        }
    }

    #[test]
    fn any_state_survives(ticks in any::<u64>(), name in ".*") {
        let state = ClockV1 { ticks, name };
        let mut writer = Writer::new();
        writer.append(&state).unwrap();
        let bytes = writer.finish();
        prop_assert_eq!(Reader::new(&bytes).unwrap().take::<ClockV1>().unwrap(), state);
    }
}
