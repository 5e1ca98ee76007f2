// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Frames, good and bad. What each malformed field is answered with is tested with the channels.

use proptest::prelude::{any, proptest};
use proptest::{prop_assert, prop_assert_eq};

use super::{BODY_LEN_MAX, FDS_MAX, HEADER_LEN, Header, Kind, decode, decode_body};
use crate::error::Breach;

fn header(kind: Kind, body_len: u32) -> Header {
    Header { protocol: 1, version: 2, request_id: 3, generation: 4, kind, fd_count: 5, body_len }
}

#[test]
fn header_of_every_kind_survives_the_wire() {
    for kind in [Kind::Hello, Kind::Request, Kind::Reply, Kind::Event] {
        let mut message = header(kind, 3).to_bytes().to_vec();
        message.extend([7, 8, 9]);
        assert_eq!(decode(&message), Ok((header(kind, 3), &[7, 8, 9][..])));
    }
}

#[test]
fn largest_body_is_taken_and_one_byte_more_is_not() {
    let mut message = header(Kind::Event, BODY_LEN_MAX).to_bytes().to_vec();
    message.resize(HEADER_LEN + BODY_LEN_MAX as usize, 0);
    assert!(decode(&message).is_ok());
    let mut message = header(Kind::Event, BODY_LEN_MAX + 1).to_bytes().to_vec();
    message.resize(HEADER_LEN + BODY_LEN_MAX as usize + 1, 0);
    let breach = decode(&message).unwrap_err().breach;
    assert_eq!(breach, Breach::BodyLong { len: BODY_LEN_MAX + 1, max: BODY_LEN_MAX });
}

#[test]
fn more_fds_than_any_message_has_are_refused_by_the_header_alone() {
    let message = Header { fd_count: FDS_MAX + 1, ..header(Kind::Reply, 0) }.to_bytes();
    assert!(matches!(decode(&message).unwrap_err().breach, Breach::FdContract { .. }));
}

#[test]
fn list_that_claims_more_items_than_there_are_bytes_is_refused_without_room_for_it() {
    // A postcard length of 2^63 and nothing behind it.
    let claim = [0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x01];
    assert_eq!(decode_body::<Vec<u64>>("test", &claim).unwrap_err().breach, Breach::Body);
    assert_eq!(decode_body::<String>("test", &claim).unwrap_err().breach, Breach::Body);
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic_and_what_is_taken_encodes_to_itself(
        bytes in proptest::collection::vec(any::<u8>(), 0..256),
        repaired in any::<bool>(),
    ) {
        let mut bytes = bytes;
        if repaired && bytes.len() >= HEADER_LEN {
            // Most noise fails at the magic: repair what can be, so that the rest is reached.
            let body_len = u32::try_from(bytes.len() - HEADER_LEN).unwrap();
            bytes[..4].copy_from_slice(b"BKHD");
            bytes[20] %= 6;
            bytes[21] %= 10;
            bytes[22..24].fill(0);
            bytes[24..28].copy_from_slice(&body_len.to_le_bytes());
            bytes[28..32].fill(0);
        }
        if let Ok((header, body)) = decode(&bytes) {
            prop_assert_eq!(&header.to_bytes()[..], &bytes[..HEADER_LEN]);
            prop_assert_eq!(body, &bytes[HEADER_LEN..]);
            prop_assert!(header.fd_count <= FDS_MAX);
        }
    }

    #[test]
    fn any_header_survives_the_wire(
        protocol in any::<u16>(), version in any::<u16>(), request_id in any::<u64>(),
        generation in any::<u32>(), fd_count in 0..=FDS_MAX,
    ) {
        let header =
            Header { protocol, version, request_id, generation, kind: Kind::Reply, fd_count, body_len: 0 };
        let bytes = header.to_bytes();
        prop_assert_eq!(decode(&bytes), Ok((header, &[][..])));
    }
}
