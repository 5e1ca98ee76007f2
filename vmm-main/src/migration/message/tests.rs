// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a mover could do with the messages it carries.

use hmac::Mac;
use ipc::migration::frame::MigrationId;

use super::{Message, MessageError, Sealer, Side};

const SECRET: &[u8] = b"a secret of both hosts";
const MIGRATION: MigrationId = MigrationId([3; 16]);

fn sealer(side: Side) -> Sealer {
    Sealer::new(SECRET, MIGRATION, side).unwrap()
}

fn messages() -> Vec<Message> {
    vec![
        Message::Offer(vec![1, 2, 3]),
        Message::Last { units: vec![("smmu0".parse().unwrap(), 77)], digest: [9; 32] },
        Message::Commit,
    ]
}

#[test]
fn messages_arrive_as_they_were_written() {
    let (mut here, mut there) = (sealer(Side::Source), sealer(Side::Source));
    for message in messages() {
        assert_eq!(there.open(&here.seal(&message).unwrap()), Ok(message));
    }
}

#[test]
fn a_carrier_can_neither_change_nor_repeat_nor_leave_out_nor_reorder() {
    let sealed: Vec<_> = {
        let mut here = sealer(Side::Source);
        messages().iter().map(|message| here.seal(message).unwrap()).collect()
    };
    let no = Err(MessageError::NotAuthentic);
    for at in 0..sealed[0].len() {
        let mut changed = sealed[0].clone();
        changed[at] ^= 1;
        assert_eq!(sealer(Side::Source).open(&changed), no, "byte {at}");
    }
    assert_eq!(sealer(Side::Source).open(&sealed[1]), no, "one is left out");
    assert_eq!(sealer(Side::Source).open(&[]), no);
    let mut there = sealer(Side::Source);
    there.open(&sealed[0]).unwrap();
    assert_eq!(there.open(&sealed[0]), no, "twice");
}

#[test]
fn a_message_counts_for_one_migration_one_direction_and_one_secret() {
    let commit = sealer(Side::Source).seal(&Message::Commit).unwrap();
    for (secret, migration, side) in [
        (&b"another"[..], MIGRATION, Side::Source),
        (SECRET, MigrationId([4; 16]), Side::Source),
        (SECRET, MIGRATION, Side::Destination),
    ] {
        let opened = Sealer::new(secret, migration, side).unwrap().open(&commit);
        assert_eq!(opened, Err(MessageError::NotAuthentic));
    }
}

#[test]
fn an_authentic_message_of_another_release_is_called_that() {
    let mut here = sealer(Side::Destination);
    let mut sealed = here.next(&[0xff]).finalize().into_bytes().to_vec();
    sealed.push(0xff);
    assert_eq!(sealer(Side::Destination).open(&sealed), Err(MessageError::Malformed));
}
