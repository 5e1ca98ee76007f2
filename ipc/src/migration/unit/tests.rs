// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Pieces of saved state, good and forged.

use proptest::collection::vec;
use proptest::prelude::{any, proptest};
use proptest::prop_assert_eq;

use super::{HEAD_LEN, NAME_LEN, PIECE_LEN_MAX, PieceHead};
use crate::hello::Role;
use crate::instance::InstanceId;
use crate::migration::frame::BODY_LEN_MAX;

const _: () = assert!(HEAD_LEN + PIECE_LEN_MAX <= BODY_LEN_MAX);

#[test]
fn every_name_has_room_and_comes_back() {
    for &role in Role::ALL {
        let index = if role.is_single() { 0 } else { u8::MAX };
        let instance = InstanceId::new(role, index);
        assert!(instance.to_string().len() <= NAME_LEN, "{instance}");
        let head = PieceHead { instance, offset: 1 << 33, is_last: false };
        let mut body = head.to_bytes().to_vec();
        body.extend_from_slice(b"state");
        assert_eq!(PieceHead::decode(&body), Ok((head, &b"state"[..])));
    }
}

#[test]
fn an_empty_piece_is_the_last_or_none() {
    let piece = |is_last| PieceHead { instance: InstanceId::new(Role::Smmu, 0), offset: 0, is_last };
    assert!(PieceHead::decode(&piece(true).to_bytes()).is_ok());
    assert!(PieceHead::decode(&piece(false).to_bytes()).is_err());
}

#[test]
fn a_piece_has_a_bound() {
    let head = PieceHead { instance: InstanceId::new(Role::Vfio, 3), offset: 0, is_last: false };
    let mut body = head.to_bytes().to_vec();
    body.resize(HEAD_LEN + PIECE_LEN_MAX, 1);
    assert!(PieceHead::decode(&body).is_ok());
    body.push(1);
    assert!(PieceHead::decode(&body).is_err());
}

#[test]
fn a_head_is_checked_field_by_field() {
    let head = PieceHead { instance: InstanceId::new(Role::Vfio, 0), offset: 0, is_last: true };
    let good = head.to_bytes();
    let with = |at: usize, byte: u8| {
        let mut bytes = good;
        bytes[at] = byte;
        PieceHead::decode(&bytes).is_ok()
    };
    assert!(with(8, b'v'));
    assert!(!with(8, b'x'), "no process");
    assert!(!with(8, 0xff), "no text");
    assert!(!with(20, b'x'), "something behind the name");
    assert!(!with(28, 2), "neither the last nor not");
    assert!(!with(29, 1) && !with(30, 1) && !with(31, 1), "reserved");
    assert!(PieceHead::decode(&good[..HEAD_LEN - 1]).is_err());
}

proptest! {
    #[test]
    fn no_bytes_are_two_bodies(bytes in vec(any::<u8>(), 0..100)) {
        if let Ok((head, rest)) = PieceHead::decode(&bytes) {
            let mut again = head.to_bytes().to_vec();
            again.extend_from_slice(rest);
            prop_assert_eq!(again, bytes);
        }
    }
}
