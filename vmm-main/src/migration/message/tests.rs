// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a mover could do with the messages it carries.

use hmac::Mac;
use ipc::migration::frame::MigrationId;

use super::{Message, MessageError, Session};

const SECRET: &[u8] = b"a secret of both hosts";
const MIGRATION: MigrationId = MigrationId([3; 16]);
const NO: Result<Message, MessageError> = Err(MessageError::NotAuthentic);

fn source() -> Session {
    Session::source(SECRET, MIGRATION).unwrap()
}

fn destination(nonce: u8) -> Session {
    Session::destination(SECRET, MIGRATION, [nonce; 16]).unwrap()
}

fn last() -> Message {
    Message::Last { units: vec![("smmu0".parse().unwrap(), 77)], digest: [9; 32] }
}

/// A whole migration: what the source has sealed, and what the destination.
fn migration(nonce: u8) -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
    let (mut here, mut there) = (source(), destination(nonce));
    let (mut to, mut back) = (Vec::new(), Vec::new());
    let offer = Message::Offer(vec![1, 2, 3]);
    for (said, answer) in
        [(offer, Message::Accept), (last(), Message::Ready), (Message::Commit, Message::Running)]
    {
        to.push(here.seal(&said).unwrap());
        assert_eq!(there.open(to.last().unwrap()), Ok(said));
        back.push(there.seal(&answer).unwrap());
        assert_eq!(here.open(back.last().unwrap()), Ok(answer));
    }
    (to, back)
}

#[test]
fn messages_arrive_as_they_were_written() {
    migration(7);
}

#[test]
fn a_carrier_can_neither_change_nor_repeat_nor_leave_out_nor_reorder() {
    let (to, back) = migration(7);
    for at in 0..to[0].len() {
        let mut changed = to[0].clone();
        changed[at] ^= 1;
        assert_eq!(destination(7).open(&changed), NO, "byte {at}");
    }
    for at in 0..back[0].len() {
        let mut changed = back[0].clone();
        changed[at] ^= 1;
        assert_eq!(source().open(&changed), NO, "byte {at}");
    }
    assert_eq!(destination(7).open(&to[1]), NO, "one is left out");
    assert_eq!(destination(7).open(&[]), NO);
    assert_eq!(source().open(&back[1]), NO, "the first answer is left out");
    let mut there = destination(7);
    there.open(&to[0]).unwrap();
    assert_eq!(there.open(&to[0]), NO, "twice");
}

#[test]
fn an_earlier_migration_cannot_be_played_to_a_destination_once_more() {
    let (to, _) = migration(7);
    let mut there = destination(8);
    // An offer alone moves nothing.
    there.open(&to[0]).unwrap();
    there.seal(&Message::Accept).unwrap();
    assert_eq!(there.open(&to[1]), NO);
    assert_eq!(there.open(&to[2]), NO);
}

#[test]
fn a_message_counts_for_one_migration_one_direction_and_one_secret() {
    let offer = source().seal(&Message::Offer(vec![])).unwrap();
    for (secret, migration) in [(&b"another"[..], MIGRATION), (SECRET, MigrationId([4; 16]))] {
        assert_eq!(Session::destination(secret, migration, [7; 16]).unwrap().open(&offer), NO);
    }
    assert_eq!(source().open(&offer), NO);
}

#[test]
fn an_authentic_message_of_another_release_is_called_that() {
    let mut here = source();
    let mut sealed = here.ours.next(&[0xff]).finalize().into_bytes().to_vec();
    sealed.push(0xff);
    assert_eq!(destination(7).open(&sealed), Err(MessageError::Malformed));
    // An answer that is too short for a nonce.
    let mut there = destination(7);
    let mut sealed = there.ours.next(&[0xff]).finalize().into_bytes().to_vec();
    sealed.push(0xff);
    assert_eq!(source().open(&sealed), Err(MessageError::Malformed));
}
