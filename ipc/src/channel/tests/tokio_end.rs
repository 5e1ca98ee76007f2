// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The coordinator's end on a runtime, against a blocking peer on a thread or a raw socket.

use std::future::Future;
use std::os::fd::OwnedFd;
use std::thread;
use std::time::Duration;

use super::{coordinator, event_frame, late, pair, reply_frame, request_frame, send_raw, soon, vcpu};
use crate::channel::{AsyncChannel, Channel, EVENTS_MAX, Incoming};
use crate::deadline::Deadline;
use crate::error::{Breach, Error};
use crate::frame::Kind;
use crate::hello::Role;
use crate::protocol::control::{Control, Event, LoadFrom, Reply, Request};

const NO_FDS: [OwnedFd; 0] = [];

fn run<T>(test: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test)
}

/// A greeted end, and a peer that greeted and then does what `peer` says, on a thread.
async fn against(peer: impl FnOnce(Channel) + Send + 'static) -> (AsyncChannel, thread::JoinHandle<()>) {
    let (a, b) = pair().unwrap();
    let peer = thread::spawn(move || {
        let channel = Channel::from_fd(b, vcpu());
        channel.hello(Role::Coordinator, late()).unwrap();
        peer(channel);
    });
    (AsyncChannel::connect(a, coordinator(), Role::Vcpu, late()).await.unwrap(), peer)
}

/// A greeted end, and the raw socket of its peer.
async fn against_raw() -> (AsyncChannel, OwnedFd) {
    let (a, b) = pair().unwrap();
    let mut hello = postcard::to_stdvec(&vcpu()).unwrap();
    hello.splice(0..0, super::header(Kind::Hello, 0, &hello).to_bytes());
    send_raw(&b, &hello, &[]);
    (AsyncChannel::connect(a, coordinator(), Role::Vcpu, late()).await.unwrap(), b)
}

fn request_id(channel: &Channel) -> u64 {
    match channel.recv(late()).unwrap() {
        Incoming::Request { request_id, .. } => request_id,
        other => panic!("{other:?}"),
    }
}

#[test]
fn answers_out_of_order_reach_who_asked() {
    run(async {
        let (channel, peer) = against(|peer| {
            let (first, second) = (request_id(&peer), request_id(&peer));
            peer.reply(second, &Reply::Saved { len: 2 }, &NO_FDS, late()).unwrap();
            peer.reply(first, &Reply::Saved { len: 1 }, &NO_FDS, late()).unwrap();
        })
        .await;
        let (first, second) = tokio::join!(
            channel.request(&Request::Go, &[], late()),
            channel.request(&Request::Pause, &[], late()),
        );
        assert_eq!(first.unwrap().0, Reply::Saved { len: 1 });
        assert_eq!(second.unwrap().0, Reply::Saved { len: 2 });
        peer.join().unwrap();
    });
}

#[test]
fn events_come_in_order_and_then_the_end() {
    run(async {
        let (channel, peer) = against(|peer| {
            peer.event(&Event::Sealed(vec!["landlock 6".into()]), &NO_FDS, late()).unwrap();
            peer.event(&Event::GuestPoweredOff, &NO_FDS, late()).unwrap();
        })
        .await;
        peer.join().unwrap();
        assert!(matches!(channel.next_event().await.unwrap().0, Event::Sealed(_)));
        assert_eq!(channel.next_event().await.unwrap().0, Event::GuestPoweredOff);
        assert!(matches!(channel.next_event().await, Err(Error::PeerGone { generation: super::GENERATION })));
    });
}

#[test]
fn peer_that_dies_fails_every_open_request() {
    run(async {
        let (channel, peer) = against(|peer| {
            request_id(&peer);
            request_id(&peer);
        })
        .await;
        let (first, second) = tokio::join!(
            channel.request(&Request::Go, &[], late()),
            channel.request(&Request::Pause, &[], late()),
        );
        for result in [first, second, channel.request(&Request::Quit, &[], late()).await] {
            assert!(matches!(result, Err(Error::PeerGone { .. })), "{result:?}");
        }
        peer.join().unwrap();
    });
}

#[test]
fn answer_that_comes_late_is_dropped_and_the_next_request_gets_its_own() {
    run(async {
        let (channel, peer) = against_raw().await;
        let timed_out = channel.request(&Request::Go, &[], soon()).await;
        assert!(matches!(timed_out, Err(Error::Timeout { .. })), "{timed_out:?}");
        // Given up by its caller, in another way.
        let dropped =
            tokio::time::timeout(Duration::from_millis(20), channel.request(&Request::Go, &[], late()));
        assert!(dropped.await.is_err());
        for id in [1, 2, 3] {
            send_raw(&peer, &reply_frame(id), &[]);
        }
        assert_eq!(channel.request(&Request::Pause, &[], late()).await.unwrap().0, Reply::Done);
    });
}

#[test]
fn forged_frames_end_the_channel_and_say_why_to_everyone() {
    run(async {
        for (bytes, expected) in [
            (reply_frame(77), Breach::UnknownRequest { request_id: 77 }),
            (request_frame(), Breach::UnexpectedKind { kind: Kind::Request }),
            (vec![1, 2, 3], Breach::HeaderShort { len: 3 }),
        ] {
            let (channel, peer) = against_raw().await;
            let (asked, _) = tokio::join!(channel.request(&Request::Go, &[], late()), async {
                send_raw(&peer, &bytes, &[]);
            });
            let later = channel.request(&Request::Go, &[], late()).await;
            for result in [asked.map(drop), later.map(drop), channel.next_event().await.map(drop)] {
                match result {
                    Err(Error::Violation(violation)) => assert_eq!(violation.breach, expected),
                    other => panic!("{other:?}"),
                }
            }
        }
    });
}

#[test]
fn answer_given_twice_ends_the_channel() {
    run(async {
        let (channel, peer) = against_raw().await;
        let (asked, ()) = tokio::join!(channel.request(&Request::Go, &[], late()), async {
            send_raw(&peer, &reply_frame(1), &[]);
        });
        asked.unwrap();
        send_raw(&peer, &reply_frame(1), &[]);
        match channel.next_event().await {
            Err(Error::Violation(v)) => assert_eq!(v.breach, Breach::UnknownRequest { request_id: 1 }),
            other => panic!("{other:?}"),
        }
    });
}

#[test]
fn events_that_nobody_reads_end_the_channel_once_there_are_too_many() {
    run(async {
        let (channel, peer) = against_raw().await;
        for _ in 0..=EVENTS_MAX {
            send_raw(&peer, &event_frame(), &[]);
        }
        let asked = channel.request(&Request::Go, &[], late()).await;
        match asked {
            Err(Error::Violation(violation)) => {
                assert_eq!(violation.breach, Breach::Flood { max: EVENTS_MAX })
            }
            other => panic!("{other:?}"),
        }
        for _ in 0..EVENTS_MAX {
            assert_eq!(channel.next_event().await.unwrap().0, Event::GuestReset, "those before are not lost");
        }
        assert!(channel.next_event().await.is_err());
    });
}

#[test]
fn stranger_or_silent_peer_is_not_connected_to() {
    run(async {
        let (a, _silent) = pair().unwrap();
        let connected = AsyncChannel::<Control>::connect(a, coordinator(), Role::Vcpu, soon()).await;
        assert!(matches!(connected, Err(Error::Timeout { .. })));

        let (a, b) = pair().unwrap();
        let stranger =
            Channel::<Control>::from_fd(b, crate::hello::Hello::new(Role::Smmu, super::GENERATION));
        let peer = thread::spawn(move || stranger.hello(Role::Coordinator, late()));
        let connected = AsyncChannel::<Control>::connect(a, coordinator(), Role::Vcpu, late()).await;
        assert!(matches!(connected, Err(Error::Violation(_))));
        let _ = peer.join().unwrap();
    });
}

#[test]
fn fds_travel_with_a_request() {
    run(async {
        let (channel, peer) = against(|peer| match peer.recv(late()).unwrap() {
            Incoming::Request { request_id, body: Request::Load(LoadFrom::Units { len: 3 }), fds } => {
                assert_eq!(fds.len(), 1);
                peer.reply(request_id, &Reply::Done, &NO_FDS, late()).unwrap();
            }
            other => panic!("{other:?}"),
        })
        .await;
        let (_reader, writer) = super::pipe();
        let deadline = Deadline::after(Duration::from_secs(20));
        let (reply, fds) =
            channel.request(&Request::Load(LoadFrom::Units { len: 3 }), &[writer], deadline).await.unwrap();
        assert_eq!((reply, fds.len()), (Reply::Done, 0));
        peer.join().unwrap();
    });
}
