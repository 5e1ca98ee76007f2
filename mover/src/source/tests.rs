// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A source whose other host stands still, in a time that passes when nothing happens.

use std::os::fd::OwnedFd;
use std::sync::mpsc::{Receiver as Notices, channel};

use ipc::addr::Gpa;
use ipc::protocol::budget::mover::{ALIVE, STALL};
use ipc::protocol::control::Event;
use ipc::protocol::ram::{RamLayout, RamRegion};
use ipc::shm::region::Region;
use process::Events;
use tokio::time::Instant;

use super::*;
use crate::ram::Ram;

const MIGRATION: MigrationId = MigrationId([3; 16]);

struct Nothing;

impl Owed for Nothing {
    fn take(&self, _word: u64) -> u64 {
        0
    }
}

fn work() -> (Arc<Work>, Notices<Event>) {
    let layout = RamLayout::new(vec![RamRegion { gpa: Gpa(0), len: 4096, file_offset: 0 }]).unwrap();
    let region = Region::create("ram", 4096).unwrap();
    let (tell, told) = channel();
    let events = Events::new(move |event| _ = tell.send(event));
    (Arc::new(Work::new(Ram::new(Arc::clone(region.file()), layout), events)), told)
}

fn pair() -> (OwnedFd, OwnedFd) {
    let (one, other) = std::os::unix::net::UnixStream::pair().unwrap();
    one.set_nonblocking(true).unwrap();
    other.set_nonblocking(true).unwrap();
    (one.into(), other.into())
}

#[tokio::test(start_paused = true)]
async fn host_that_does_not_say_hello_is_given_up() {
    let ((near, _far), (work, _told)) = (pair(), work());
    let (_orders, ordered) = mpsc::channel(1);
    let begun = Instant::now();
    let ended =
        run(vec![near], Securing::Plain, MIGRATION, ordered, Arc::new(Nothing), Packing::Plain, work).await;
    assert_eq!(ended.unwrap_err().0, "the other host does not say hello");
    assert_eq!(begun.elapsed(), STALL);
}

#[tokio::test(start_paused = true)]
async fn host_that_falls_silent_is_lost_and_is_told_that_this_one_is_there() {
    let ((near, far), (work, told)) = (pair(), work());
    let (_orders, ordered) = mpsc::channel(1);
    let source = tokio::spawn(run(
        vec![near],
        Securing::Plain,
        MIGRATION,
        ordered,
        Arc::new(Nothing),
        Packing::Plain,
        Arc::clone(&work),
    ));
    let mut far = Securing::Plain.open(far).await.unwrap();
    let hello = far.receiver.next().await.unwrap().map(|(kind, body)| (kind, body.to_vec()));
    assert!(matches!(&hello, Some((Kind::Hello, _))), "{hello:?}");
    far.say(Hello { migration: MIGRATION, lane: 0, lane_count: 1 }).await.unwrap();
    let mut heard = Vec::new();
    while let Ok(Some((kind, _))) = far.receiver.next().await {
        heard.push(kind);
    }
    let ended = source.await.unwrap();
    assert_eq!(ended.unwrap_err().0, LaneError::Stalled.to_string());
    let times = STALL.as_secs() / ALIVE.as_secs();
    assert!(heard.len() as u64 >= times, "{heard:?}");
    assert!(heard.iter().all(|kind| *kind == Kind::Alive), "{heard:?}");
    let connected = Event::Carried(MoverNotice::Connected { migration: MIGRATION, lane_count: 1 });
    assert_eq!(told.try_iter().collect::<Vec<_>>(), [connected]);
}
