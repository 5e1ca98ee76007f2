// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Nothing posted is overlooked, nothing else is taken.

use super::*;

fn board() -> MsiBoard {
    MsiBoard::attach(&MsiBoard::create("board").unwrap()).unwrap()
}

fn taken(board: &MsiBoard) -> Vec<u32> {
    let mut events = Vec::new();
    board.take(|event| events.push(event));
    events
}

#[test]
fn posted_events_are_taken_once_in_order() {
    let board = board();
    for event in [65535, 0, 63, 64, 4096, 64] {
        assert!(board.post(event));
    }
    assert_eq!(board.pending(), 5, "the one that was posted twice is one");
    assert_eq!(taken(&board), [0, 63, 64, 4096, 65535]);
    assert!(taken(&board).is_empty());
    assert_eq!(board.pending(), 0);
}

#[test]
fn events_beyond_the_board_are_refused() {
    let board = board();
    assert!(!board.post(EVENTS));
    assert!(!board.post(u32::MAX));
    assert!(taken(&board).is_empty());
}

#[test]
fn a_board_of_garbage_is_taken_within_its_size() {
    let board = board();
    board.words.iter().for_each(|word| word.store(u64::MAX, Relaxed));
    assert_eq!(taken(&board).len(), EVENTS as usize);
    assert!(taken(&board).is_empty());
}

#[test]
fn concurrent_posts_each_reach_a_later_take() {
    const ROUNDS: u32 = 20_000;
    let board = board();
    let (poster, seen) = (board.clone(), std::sync::mpsc::channel());
    let (ring, doorbell) = seen;
    let thread = std::thread::spawn(move || {
        for round in 0..ROUNDS {
            assert!(poster.post(round.wrapping_mul(7919) % EVENTS));
            ring.send(round.wrapping_mul(7919) % EVENTS).unwrap();
        }
    });
    // Every event was pending, or taken, when its doorbell came: it is in what was taken up to then.
    let mut known = std::collections::BTreeSet::new();
    while let Ok(event) = doorbell.recv() {
        board.take(|event| {
            known.insert(event);
        });
        assert!(known.contains(&event), "event {event} is lost");
    }
    thread.join().unwrap();
}
