// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A peer that holds the other end, or the same file, tries to make a call last.

use std::sync::mpsc;
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::fs::{OFlags, fcntl_setfl};

use super::*;

/// Runs `calls` in a thread of its own; fails if they have not returned in a time that no call here needs.
fn returns<T: Send + 'static>(calls: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, waits) = mpsc::channel();
    std::thread::spawn(move || done.send(calls()));
    waits.recv_timeout(Duration::from_secs(20)).unwrap()
}

fn rings(doorbell: &Doorbell) -> bool {
    let mut fds = [PollFd::new(doorbell, PollFlags::IN)];
    poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap() == 1
}

#[test]
fn ring_is_polled_for_and_taken_once_however_often_it_rang() {
    let (ringer, doorbell) = pair().unwrap();
    assert!(!rings(&doorbell) && !doorbell.take());
    for _ in 0..3 {
        ringer.ring();
    }
    assert!(rings(&doorbell) && doorbell.take());
    assert!(!rings(&doorbell) && !doorbell.take());
}

#[test]
fn ring_and_take_return_when_the_queue_is_full_and_both_files_are_made_to_block() {
    let (ringer, doorbell) = pair().unwrap();
    fcntl_setfl(&ringer, OFlags::empty()).unwrap();
    fcntl_setfl(&doorbell, OFlags::empty()).unwrap();
    let (ringer, doorbell) = returns(move || {
        (0..100_000).for_each(|_| ringer.ring());
        assert!(doorbell.take());
        while doorbell.take() {}
        (ringer, doorbell)
    });
    ringer.ring();
    assert!(doorbell.take(), "a full queue has broken nothing");
}

#[test]
fn peer_that_closes_or_shuts_its_end_leaves_the_other_silent_and_not_ready() {
    let (ringer, doorbell) = pair().unwrap();
    rustix::net::shutdown(&ringer, Shutdown::Both).unwrap();
    ringer.ring();
    assert!(!rings(&doorbell) && !doorbell.take());
    drop(ringer);
    assert!(!rings(&doorbell) && !doorbell.take());
    let (ringer, doorbell) = pair().unwrap();
    rustix::net::shutdown(&doorbell, Shutdown::Both).unwrap();
    ringer.ring();
    drop(doorbell);
    returns(move || ringer.ring());
}

#[test]
fn doorbell_can_be_filled_from_its_own_end_by_nobody() {
    let (ringer, doorbell) = pair().unwrap();
    let sent = rustix::net::send(&doorbell, b"x", SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
    assert_eq!(sent.unwrap_err(), Errno::PIPE);
    ringer.ring();
    assert!(doorbell.take());
}

#[test]
fn eventfd_that_was_made_to_block_is_taken_without_waiting() {
    let flags = EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC;
    let eventfd = eventfd(0, flags).unwrap();
    fcntl_setfl(&eventfd, OFlags::empty()).unwrap();
    rustix::io::write(&eventfd, &7_u64.to_ne_bytes()).unwrap();
    assert_eq!(returns(move || [take_eventfd(&eventfd), take_eventfd(&eventfd)]), [true, false]);
}
