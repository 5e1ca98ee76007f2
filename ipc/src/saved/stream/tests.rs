// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Streams in pieces: the same bytes as whole ones, with the same refusals.

use super::{StreamError, UnitReader, UnitWriter};
use crate::saved::{BODY_LEN_MAX, Reader, SavedError, SavedState, UnitKind, Writer};
use serde::{Deserialize, Serialize};

const DATA: UnitKind = UnitKind::new("data");

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct ClockV1(u64);

impl SavedState for ClockV1 {
    const KIND: UnitKind = UnitKind::new("clock");
    const VERSION: u16 = 1;
}

fn stream() -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut writer = UnitWriter::new(&mut bytes);
    assert!(writer.is_empty());
    writer.append(&ClockV1(7)).unwrap();
    writer.append_bytes(DATA, 3, b"whatever it is").unwrap();
    writer.append_bytes(DATA, 3, b"").unwrap();
    assert_eq!(writer.len(), writer.sink.len() as u64);
    bytes
}

#[test]
fn units_written_one_by_one_are_those_of_a_whole_stream() {
    let bytes = stream();
    let mut whole = Writer::new();
    whole.append(&ClockV1(7)).unwrap();
    assert!(bytes.starts_with(&whole.finish()));
    let mut reader = Reader::new(&bytes).unwrap();
    assert_eq!(reader.take::<ClockV1>().unwrap(), ClockV1(7));
    assert_eq!(reader.take_unit(DATA).unwrap().body(), b"whatever it is");
}

#[test]
fn units_come_back_one_by_one_in_their_order() {
    let bytes = stream();
    let mut reader = UnitReader::new(&bytes[..]);
    assert_eq!(reader.next_of::<ClockV1>().unwrap(), ClockV1(7));
    for body in [&b"whatever it is"[..], b""] {
        let unit = reader.next_unit().unwrap().unwrap();
        assert_eq!((unit.kind, unit.version, unit.body()), (DATA, 3, body));
    }
    assert!(reader.next_unit().unwrap().is_none());
}

#[test]
fn streams_that_end_early_or_are_damaged_are_refused() {
    let bytes = stream();
    for len in 0..bytes.len() {
        let mut reader = UnitReader::new(bytes.get(..len).unwrap());
        let mut read = || {
            while reader.next_unit()?.is_some() {}
            Ok::<_, StreamError>(())
        };
        // Cut between two units it is a stream.
        let cuts = [0, 36 + 1, 2 * 36 + 1 + 14];
        assert_eq!(read().is_ok(), cuts.contains(&len), "cut at {len}");
    }
    for at in 0..bytes.len() {
        let mut bad = bytes.clone();
        bad[at] ^= 0x40;
        let mut reader = UnitReader::new(&bad[..]);
        let mut next = || -> Result<_, StreamError> {
            let clock = reader.next_of::<ClockV1>()?;
            let data = reader.next_unit()?.map(|unit| (unit.kind, unit.version, unit.body().to_vec()));
            let empty = reader.next_unit()?.map(|unit| (unit.kind, unit.version));
            Ok((clock, data, empty))
        };
        let good = (ClockV1(7), Some((DATA, 3, b"whatever it is".to_vec())), Some((DATA, 3)));
        assert!(next().ok() != Some(good), "byte {at}");
    }
}

#[test]
fn a_body_above_the_cap_is_neither_written_nor_made_room_for() {
    let mut writer = UnitWriter::new(std::io::sink());
    let long = vec![0; BODY_LEN_MAX as usize + 1];
    assert!(matches!(
        writer.append_bytes(DATA, 1, &long),
        Err(StreamError::Unit(SavedError::Unwritable { .. }))
    ));
    let mut bytes = stream();
    bytes[24..28].copy_from_slice(&(BODY_LEN_MAX + 1).to_le_bytes());
    let mut reader = UnitReader::new(&bytes[..]);
    assert!(matches!(reader.next_unit(), Err(StreamError::Unit(SavedError::BodyLong { .. }))));
}
