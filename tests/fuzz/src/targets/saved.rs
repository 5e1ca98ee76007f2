// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Streams of saved state: damaged as they are, and with checksums that fit, so that the bodies are reached.

use ipc::saved::{ENVELOPE_LEN, FORMAT, MAGIC, Reader, SavedState, UnitKind};
use serde::{Deserialize, Serialize};

/// Offsets in an envelope: length of the body, its checksum, what follows that.
const LEN_AT: usize = 24;
const CRC_AT: usize = 28;
const RESERVED_AT: usize = 32;

/// A unit with a bit of everything that postcard encodes.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Sample {
    flag: bool,
    number: u64,
    list: Vec<u32>,
    text: String,
    choice: Option<[u16; 4]>,
}

impl SavedState for Sample {
    const KIND: UnitKind = UnitKind::new("fuzz-sample");
    const VERSION: u16 = 1;
}

pub fn run(stream: &[u8]) {
    read(stream);
    read(&mended(stream));
}

fn read(stream: &[u8]) {
    let Ok(mut reader) = Reader::new(stream) else { return };
    let whole: usize = reader.units().iter().map(|unit| ENVELOPE_LEN + unit.body().len()).sum();
    assert_eq!(whole, stream.len(), "bytes of the stream belong to no unit");
    while let Ok(sample) = reader.take::<Sample>() {
        let encoded = postcard::to_stdvec(&sample).unwrap_or_default();
        assert_eq!(
            postcard::from_bytes::<Sample>(&encoded).ok().as_ref(),
            Some(&sample),
            "a unit does not survive"
        );
    }
    let left = reader.units().len();
    assert_eq!(reader.finish().is_ok(), left == 0, "units that nobody took were not reported");
}

/// The stream with every envelope's length and checksum made to fit what follows it.
fn mended(stream: &[u8]) -> Vec<u8> {
    let mut whole = stream.to_vec();
    let mut at = 0;
    while let Some(envelope) = whole.get(at..at + ENVELOPE_LEN) {
        let claimed: [u8; 4] =
            envelope.get(LEN_AT..CRC_AT).and_then(|len| len.try_into().ok()).unwrap_or_default();
        let body = at + ENVELOPE_LEN;
        let room = whole.len() - body;
        let len = usize::try_from(u32::from_le_bytes(claimed)).unwrap_or(room).min(room);
        let crc = crc32fast::hash(whole.get(body..body + len).unwrap_or_default());
        let fields = [u32::try_from(len).unwrap_or(0).to_le_bytes(), crc.to_le_bytes()].concat();
        whole.splice(at + LEN_AT..at + RESERVED_AT, fields);
        at = body + len;
    }
    whole
}

pub fn seeds() -> Vec<Vec<u8>> {
    let sample = Sample {
        flag: false,
        number: u64::MAX,
        list: vec![1, 300, 70_000],
        text: "text".into(),
        choice: Some([1, 2, 0, 0xffff]),
    };
    let one = unit(b"fuzz-sample", &postcard::to_stdvec(&sample).unwrap_or_default());
    let other = unit(b"other.unit", b"opaque");
    vec![one.clone(), other.clone(), [one.clone(), other, one].concat()]
}

fn unit(kind: &[u8], body: &[u8]) -> Vec<u8> {
    let mut name = kind.to_vec();
    name.resize(16, 0);
    let mut bytes = [&MAGIC.to_le_bytes()[..], &FORMAT.to_le_bytes(), &1u16.to_le_bytes(), &name].concat();
    bytes.extend(u32::try_from(body.len()).unwrap_or(0).to_le_bytes());
    bytes.extend([0; 8]);
    bytes.extend(body);
    mended(&bytes)
}

#[cfg(test)]
mod tests {
    use super::{Reader, Sample, seeds};

    #[test]
    fn seeds_are_valid_streams() {
        let seeds = seeds();
        assert_eq!(seeds.iter().filter_map(|seed| Reader::new(seed).ok()).count(), seeds.len());
        assert!(Reader::new(&seeds[0]).unwrap().take::<Sample>().is_ok());
    }
}
