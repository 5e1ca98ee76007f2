// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Whoever connects and says nothing, or not enough, in a time that passes when nothing happens.

use std::sync::mpsc::channel;

use ipc::addr::Gpa;
use ipc::migration::frame::Kind;
use ipc::protocol::budget::mover::STALL;
use ipc::protocol::ram::{RamLayout, RamRegion};
use ipc::shm::region::Region;
use process::Events;

use super::*;
use crate::ram::Ram;

const MIGRATION: MigrationId = MigrationId([3; 16]);

fn work() -> Arc<Work> {
    let layout = RamLayout::new(vec![RamRegion { gpa: Gpa(0), len: 4096, file_offset: 0 }]).unwrap();
    let region = Region::create("ram", 4096).unwrap();
    let (tell, _told) = channel();
    let events = Events::new(move |event| _ = tell.send(event));
    Arc::new(Work::new(Ram::new(Arc::clone(region.file()), layout), events))
}

fn pair() -> (OwnedFd, OwnedFd) {
    let (one, other) = std::os::unix::net::UnixStream::pair().unwrap();
    one.set_nonblocking(true).unwrap();
    other.set_nonblocking(true).unwrap();
    (one.into(), other.into())
}

#[tokio::test(start_paused = true)]
async fn whoever_says_nothing_or_brings_too_few_lanes_is_closed_in_time() {
    let (give, sockets) = mpsc::channel(CONNECTIONS_MAX);
    let ((silent, silents), (half, halfs)) = (pair(), pair());
    give.send(silents).await.unwrap();
    give.send(halfs).await.unwrap();
    let begun = Instant::now();
    let (work, work_here) = (work(), work());
    let waiting =
        tokio::spawn(async move { await_whole(sockets, Securing::Plain, &work_here).await.map(drop) });
    let mut half = Securing::Plain.open(half).await.unwrap();
    half.say(Hello { migration: MIGRATION, lane: 1, lane_count: 2 }).await.unwrap();
    let mut silent = Securing::Plain.open(silent).await.unwrap();
    assert!(matches!(silent.receiver.next().await, Ok(None)));
    assert_eq!(begun.elapsed(), GREETING);
    assert!(matches!(half.receiver.next().await, Ok(None)));
    assert!(begun.elapsed() <= GREETING * 2, "{:?}", begun.elapsed());
    assert!(!waiting.is_finished(), "the right one may still come");
    drop((give, work));
    assert_eq!(waiting.await.unwrap(), None);
}

#[tokio::test(start_paused = true)]
async fn source_that_falls_silent_between_two_frames_is_lost() {
    let (give, sockets) = mpsc::channel(CONNECTIONS_MAX);
    let (near, far) = pair();
    give.send(far).await.unwrap();
    let (_orders, ordered) = mpsc::channel(1);
    let destination = tokio::spawn(run(sockets, Securing::Plain, ordered, work()));
    let mut near = Securing::Plain.open(near).await.unwrap();
    near.greet(Hello { migration: MIGRATION, lane: 0, lane_count: 1 }).await.unwrap();
    let begun = Instant::now();
    // It is there, and says so, and then no more.
    near.sender.send(Kind::Alive, |_| {}).await.unwrap();
    let ended = destination.await.unwrap();
    assert_eq!(ended.unwrap_err().0, LaneError::Stalled.to_string());
    assert!(begun.elapsed() >= STALL && begun.elapsed() < STALL * 2, "{:?}", begun.elapsed());
}
