// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Every kind of descriptor that can be had without rights, handed over as an eventfd.

use std::os::fd::AsFd;
use std::time::Duration;

use rustix::event::{EventfdFlags, epoll, eventfd};
use rustix::fs::{MemfdFlags, inotify, memfd_create};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::time::{TimerfdClockId, TimerfdFlags, timerfd_create};

use super::*;

fn copy(fd: &impl AsFd) -> OwnedFd {
    fd.as_fd().try_clone_to_owned().unwrap()
}

#[test]
fn eventfd_of_any_kind_is_taken_untouched_and_signalled() {
    for flags in [EventfdFlags::empty(), EventfdFlags::NONBLOCK, EventfdFlags::SEMAPHORE] {
        for count in [0, 3] {
            let theirs = eventfd(count, flags).unwrap();
            let ours = PeerEventfd::prove(copy(&theirs)).unwrap();
            ours.signal();
            let mut sum = 0;
            while take_eventfd(&theirs) {
                sum += 1;
            }
            let expected = if flags == EventfdFlags::SEMAPHORE { count + 1 } else { 1 };
            assert_eq!(sum, expected, "{flags:?} at {count}");
        }
    }
}

#[test]
fn whatever_is_no_eventfd_is_refused() {
    let (pipe_read, pipe_write) = std::io::pipe().unwrap();
    let (full_read, full_write) = std::io::pipe().unwrap();
    rustix::io::ioctl_fionbio(&full_write, true).unwrap();
    while rustix::io::write(&full_write, &[0; 4096]).is_ok() {}
    rustix::io::ioctl_fionbio(&full_write, false).unwrap();
    let pair = |kind| socketpair(AddressFamily::UNIX, kind, SocketFlags::empty(), None).unwrap();
    let (stream, _stream) = pair(SocketType::STREAM);
    let (packets, _packets) = pair(SocketType::SEQPACKET);
    let (datagrams, _datagrams) = pair(SocketType::DGRAM);
    let memory = memfd_create("empty", MemfdFlags::empty()).unwrap();
    let filled = memfd_create("filled", MemfdFlags::empty()).unwrap();
    rustix::fs::ftruncate(&filled, 4096).unwrap();
    let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::empty()).unwrap();
    let expired = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::empty()).unwrap();
    let soon = rustix::time::Timespec { tv_sec: 0, tv_nsec: 1 };
    let at_once = rustix::time::Itimerspec { it_interval: soon, it_value: soon };
    rustix::time::timerfd_settime(&expired, rustix::time::TimerfdTimerFlags::empty(), &at_once).unwrap();
    let named = |path: &str| OwnedFd::from(std::fs::File::open(path).unwrap());
    let me = rustix::process::pidfd_open(rustix::process::getpid(), rustix::process::PidfdFlags::empty());
    let others = [
        ("pipe, read", copy(&pipe_read)),
        ("pipe, write", copy(&pipe_write)),
        ("full pipe, read", copy(&full_read)),
        ("full pipe, write", copy(&full_write)),
        ("stream", stream),
        ("packets", packets),
        ("datagrams", datagrams),
        ("empty memory", memory),
        ("memory", filled),
        ("timer", timer),
        ("expired timer", expired),
        ("epoll", epoll::create(epoll::CreateFlags::empty()).unwrap()),
        ("inotify", inotify::init(inotify::CreateFlags::empty()).unwrap()),
        ("process", me.unwrap()),
        ("file", named("/proc/self/exe")),
        ("folder", named("/")),
        ("device", named("/dev/null")),
        ("zeros", named("/dev/zero")),
    ];
    for (name, fd) in others {
        assert!(PeerEventfd::prove(fd).is_none(), "{name}");
    }
}

#[test]
fn eventfd_that_is_full_is_refused_and_one_that_becomes_full_is_drained() {
    let full = u64::MAX - 1;
    let theirs = eventfd(0, EventfdFlags::empty()).unwrap();
    let ours = PeerEventfd::prove(copy(&theirs)).unwrap();
    rustix::io::write(&theirs, &full.to_ne_bytes()).unwrap();
    assert!(PeerEventfd::prove(copy(&theirs)).is_none());
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| ours.signal());
        std::thread::sleep(Duration::from_millis(50));
        assert!(!waiting.is_finished());
        while !waiting.is_finished() {
            ours.drain();
            std::thread::yield_now();
        }
    });
}
