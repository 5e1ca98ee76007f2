// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Bodies with pages, good and forged.

use proptest::collection::vec;
use proptest::prelude::{any, proptest};
use proptest::prop_assert_eq;

use super::{HEAD_LEN, PagesHead, STRETCH_LEN_MAX, Stretch, ZERO_STRETCHES_MAX, ZeroPages, zero_pages};
use crate::migration::frame::BODY_LEN_MAX;

const _: () = assert!(HEAD_LEN + STRETCH_LEN_MAX <= BODY_LEN_MAX);
const _: () = assert!(ZERO_STRETCHES_MAX * 16 <= BODY_LEN_MAX);

fn body(head: PagesHead, len: usize) -> Vec<u8> {
    let mut body = head.to_bytes().to_vec();
    body.resize(HEAD_LEN + len, 0xa5);
    body
}

#[test]
fn pages_come_back_with_their_bytes() {
    let stretch = Stretch { word: 3, pages: 0x8000_0000_0000_0001 };
    let head = PagesHead { stretch };
    let body = body(head, 2 * 4096);
    assert_eq!(PagesHead::decode(&body), Ok((head, &body[HEAD_LEN..])));
    assert_eq!(stretch.byte_len(), 2 * 4096);
}

#[test]
fn bytes_are_those_of_the_pages() {
    let stretch = Stretch { word: 0, pages: 0b111 };
    for len in [0, 1, 3 * 4096 - 1, 3 * 4096 + 1, 64 * 4096] {
        assert!(PagesHead::decode(&body(PagesHead { stretch }, len)).is_err(), "{len}");
    }
    assert!(PagesHead::decode(&body(PagesHead { stretch }, 3 * 4096)).is_ok());
}

#[test]
fn packed_bytes_are_fewer_than_those_of_the_pages() {
    let head = PagesHead { stretch: Stretch { word: 0, pages: 0b11 } };
    for len in [1, 2 * 4096 - 1] {
        let body = body(head, len);
        assert_eq!(PagesHead::decode_packed(&body), Ok((head, &body[HEAD_LEN..])));
    }
    for len in [0, 2 * 4096, 64 * 4096] {
        assert!(PagesHead::decode_packed(&body(head, len)).is_err(), "{len}");
    }
}

#[test]
fn a_head_is_checked_field_by_field() {
    let good = body(PagesHead { stretch: Stretch { word: 1, pages: 1 } }, 4096);
    assert!(PagesHead::decode(&good).is_ok());
    for at in 16..HEAD_LEN {
        let mut bytes = good.clone();
        bytes[at] = 1;
        assert!(PagesHead::decode(&bytes).is_err(), "reserved byte {at}");
    }
    let mut none = good;
    none[8] = 0;
    assert!(PagesHead::decode(&none).is_err(), "no page");
    assert!(PagesHead::decode(&[0; HEAD_LEN - 1]).is_err());
}

#[test]
fn a_list_of_zero_pages_is_neither_empty_nor_without_bound() {
    let stretch = Stretch { word: 9, pages: u64::MAX };
    let mut list = ZeroPages::default();
    assert!(list.is_empty());
    assert!(zero_pages(list.as_bytes()).is_err());
    let full = (1..=ZERO_STRETCHES_MAX).map(|_| list.push(stretch)).collect::<Vec<_>>();
    assert_eq!(full.iter().position(|full| *full), Some(ZERO_STRETCHES_MAX - 1));
    assert_eq!(zero_pages(list.as_bytes()).unwrap().count(), ZERO_STRETCHES_MAX);
    list.push(stretch);
    assert!(zero_pages(list.as_bytes()).is_err());
    list.clear();
    assert!(list.is_empty());
    assert!(zero_pages(&[1; 15]).is_err());
    assert!(zero_pages(&[0; 16]).is_err(), "no page");
}

proptest! {
    #[test]
    fn a_page_has_one_lane(word: u64, pages: u64, others: u64, lane_count in 1_u8..=16) {
        let lane = Stretch { word, pages }.lane(lane_count);
        prop_assert_eq!(lane, Stretch { word, pages: others }.lane(lane_count));
        prop_assert_eq!(lane < lane_count, true);
    }

    #[test]
    fn no_bytes_are_two_bodies(bytes in vec(any::<u8>(), 0..9000)) {
        if let Ok((head, rest)) = PagesHead::decode(&bytes) {
            let mut again = head.to_bytes().to_vec();
            again.extend_from_slice(rest);
            prop_assert_eq!(&again, &bytes);
        }
        if let Ok((head, rest)) = PagesHead::decode_packed(&bytes) {
            prop_assert_eq!(&[&head.to_bytes()[..], rest].concat(), &bytes);
        }
        if let Ok(stretches) = zero_pages(&bytes) {
            let mut list = ZeroPages::default();
            stretches.for_each(|stretch| { list.push(stretch); });
            prop_assert_eq!(list.as_bytes(), &bytes[..]);
        }
    }
}
