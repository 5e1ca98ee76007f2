// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Frames, good, damaged and forged.

use proptest::collection::vec;
use proptest::prelude::{any, proptest};
use proptest::prop_assert_eq;

use super::{BODY_LEN_MAX, EndOfRound, HEADER_LEN, Header, Hello, Kind, MigrationId, StreamError};

#[test]
fn every_kind_comes_back() {
    for kind in Kind::ALL {
        let header = Header::of(kind, 7, &[b"two ", b"parts"]);
        assert_eq!(Header::decode(&header.to_bytes(), 7), Ok(header));
        assert_eq!(header.body_len, 9);
        header.check(b"two parts").unwrap();
    }
}

#[test]
fn a_piece_that_is_missing_or_comes_twice_is_noticed_at_its_frame() {
    let bytes = Header::of(Kind::Message, 5, &[]).to_bytes();
    assert_eq!(Header::decode(&bytes, 4), Err(StreamError::Sequence { found: 5, expected: 4 }));
    assert_eq!(Header::decode(&bytes, 6), Err(StreamError::Sequence { found: 5, expected: 6 }));
}

#[test]
fn every_field_is_checked() {
    let good = Header::of(Kind::Pages, 0, &[b"body"]).to_bytes();
    let with = |at: usize, byte: u8| {
        let mut bytes = good;
        bytes[at] = byte;
        Header::decode(&bytes, 0)
    };
    assert!(matches!(with(0, 0), Err(StreamError::Magic { sequence: 0, .. })));
    for found in [0, 3] {
        assert_eq!(with(4, found), Err(StreamError::Format { found: found.into() }));
    }
    // A kind in the format that it did not come with: either was said by nobody.
    assert_eq!(with(4, 2), Err(StreamError::Kind { sequence: 0, kind: 3, format: 2 }));
    for byte in (0..=u8::MAX).filter(|byte| !(1..=7).contains(byte)) {
        assert_eq!(with(6, byte), Err(StreamError::Kind { sequence: 0, kind: byte, format: 1 }));
    }
    assert_eq!(with(7, 9), Err(StreamError::Reserved { sequence: 0, value: 9 }));
    // The length's high bytes.
    for at in 18..20 {
        assert!(matches!(with(at, 0xff), Err(StreamError::BodyLong { sequence: 0, .. })));
    }
}

#[test]
fn the_longest_body_is_taken_and_no_longer_one() {
    let body = vec![0x5a; BODY_LEN_MAX];
    let header = Header::of(Kind::Pages, 0, &[&body]);
    assert_eq!(Header::decode(&header.to_bytes(), 0), Ok(header));
    header.check(&body).unwrap();
    let longer = Header::of(Kind::Pages, 0, &[&body, &[0]]).to_bytes();
    assert!(matches!(Header::decode(&longer, 0), Err(StreamError::BodyLong { .. })));
}

#[test]
fn lanes_are_as_many_as_were_said() {
    let migration = MigrationId([7; 16]);
    let hello = |lane, lane_count| Hello::decode(&Hello { migration, lane, lane_count }.to_bytes());
    for (lane, lane_count) in [(0, 1), (15, 16), (3, 4)] {
        assert_eq!(hello(lane, lane_count), Ok(Hello { migration, lane, lane_count }));
    }
    for (lane, lane_count) in [(0, 0), (1, 1), (0, 17), (255, 255)] {
        assert!(hello(lane, lane_count).is_err(), "lane {lane} of {lane_count}");
    }
    let mut bytes = Hello { migration, lane: 0, lane_count: 1 }.to_bytes();
    assert!(Hello::decode(&bytes[..19]).is_err());
    bytes[19] = 1;
    assert!(Hello::decode(&bytes).is_err(), "a reserved field");
    assert_eq!(migration.to_string(), "07".repeat(16));
}

#[test]
fn the_end_of_a_round_comes_back() {
    let end = EndOfRound { round: u32::MAX, page_count: 1 << 40 };
    assert_eq!(EndOfRound::decode(&end.to_bytes()), Ok(end));
    assert!(EndOfRound::decode(&[0; 15]).is_err());
    assert!(
        EndOfRound::decode(&[0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]).is_err(),
        "a reserved field"
    );
}

proptest! {
    #[test]
    fn no_bytes_are_two_headers(bytes in any::<[u8; HEADER_LEN]>(), sequence: u64) {
        if let Ok(header) = Header::decode(&bytes, sequence) {
            prop_assert_eq!(header.to_bytes(), bytes);
        }
    }

    #[test]
    fn one_flipped_bit_of_a_body_is_noticed(mut body in vec(any::<u8>(), 1..4096), at: usize) {
        let header = Header::of(Kind::Unit, 1, &[&body]);
        header.check(&body).unwrap();
        let at = at % (body.len() * 8);
        body[at / 8] ^= 1 << (at % 8);
        prop_assert_eq!(header.check(&body).is_err(), true);
    }

    #[test]
    fn a_body_that_is_cut_is_noticed(body in vec(any::<u8>(), 1..4096), at: usize) {
        let header = Header::of(Kind::Unit, 1, &[&body]);
        prop_assert_eq!(header.check(&body[..at % body.len()]).is_err(), true);
    }
}
