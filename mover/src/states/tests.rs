// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Pieces of states, in and out of order, and states that are longer than any.

use std::os::unix::fs::FileExt;

use ipc::hello::Role;
use ipc::instance::InstanceId;
use ipc::migration::unit::PieceHead;
use ipc::protocol::control::SAVED_LEN_MAX;
use ipc::shm::memory_file;

use super::{Outgoing, StateError, States};

const ID: InstanceId = InstanceId::new(Role::Vfio, 3);

fn piece(offset: u64, is_last: bool) -> PieceHead {
    PieceHead { instance: ID, offset, is_last }
}

#[test]
fn pieces_are_put_one_behind_the_other_and_the_last_closes() {
    let memory = memory_file::create("state").unwrap();
    let states = States::default();
    assert!(states.expect(ID, memory.try_clone().unwrap()));
    assert!(!states.expect(ID, memory.try_clone().unwrap()), "twice");
    states.take(piece(0, false), b"one ").unwrap();
    assert!(matches!(states.take(piece(3, false), b"x"), Err(StateError::Gap { found: 3, expected: 4, .. })));
    assert!(matches!(states.take(piece(5, false), b"x"), Err(StateError::Gap { found: 5, expected: 4, .. })));
    states.take(piece(4, true), b"two").unwrap();
    assert!(matches!(states.take(piece(7, true), b"x"), Err(StateError::NotExpected(ID))));
    let mut bytes = [0; 8];
    let file = std::fs::File::from(memory);
    assert_eq!(file.read_at(&mut bytes, 0).unwrap(), 7);
    assert_eq!(&bytes[..7], b"one two");
}

#[test]
fn state_that_is_longer_than_any_is_refused_before_it_is_written() {
    let memory = memory_file::create("state").unwrap();
    let states = States::default();
    states.expect(ID, memory.try_clone().unwrap());
    states.open.lock().unwrap().get_mut(&ID).unwrap().len = SAVED_LEN_MAX - 1;
    assert!(matches!(states.take(piece(SAVED_LEN_MAX - 1, true), b"xy"), Err(StateError::Long(ID))));
    assert_eq!(rustix::fs::fstat(&memory).unwrap().st_size, 0);
    assert!(matches!(
        Outgoing::new(ID, memory.try_clone().unwrap(), SAVED_LEN_MAX + 1),
        Err(StateError::Long(ID))
    ));
    assert!(matches!(Outgoing::new(ID, memory, 1), Err(StateError::Io { .. })), "it has not as much");
}
