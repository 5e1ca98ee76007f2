// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Lanes whose other end behaves, and lanes whose other end does not.

use ipc::migration::frame::{Header, Kind, StreamError};
use tokio::io::{AsyncWriteExt, duplex};
use tokio::time::Instant;

use super::{LaneError, Receiver, STALL_SPAN, Sender};

#[tokio::test]
async fn frames_arrive_in_their_order_and_the_end_is_told_from_a_cut() {
    let (here, there) = duplex(64);
    let sending = tokio::spawn(async move {
        let mut sender = Sender::new(here);
        for text in ["one", "", "three"] {
            sender.send(Kind::Message, |body| body.extend_from_slice(text.as_bytes())).await.unwrap();
        }
        assert_eq!(sender.sent_len(), 3 * 24 + 8);
    });
    let mut receiver = Receiver::new(there);
    for text in ["one", "", "three"] {
        assert_eq!(receiver.next().await.unwrap(), Some((Kind::Message, text.as_bytes())));
    }
    assert_eq!(receiver.next().await.unwrap(), None);
    sending.await.unwrap();
}

#[tokio::test]
async fn a_cut_at_any_byte_of_a_frame_is_a_lost_connection() {
    let frame = {
        let mut bytes = Header::of(Kind::Unit, 0, &[b"state"]).to_bytes().to_vec();
        bytes.extend_from_slice(b"state");
        bytes
    };
    for len in 1..frame.len() {
        let (mut here, there) = duplex(64);
        here.write_all(&frame[..len]).await.unwrap();
        drop(here);
        let mut receiver = Receiver::new(there);
        assert!(matches!(receiver.next().await, Err(LaneError::Io(_))), "{len} bytes");
    }
}

#[tokio::test]
async fn a_flipped_bit_anywhere_is_noticed() {
    let frame = {
        let mut bytes = Header::of(Kind::Unit, 0, &[b"state"]).to_bytes().to_vec();
        bytes.extend_from_slice(b"state");
        bytes
    };
    for bit in 0..frame.len() * 8 {
        let (mut here, there) = duplex(64);
        let mut bytes = frame.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        here.write_all(&bytes).await.unwrap();
        drop(here);
        let mut receiver = Receiver::new(there);
        let found = receiver.next().await;
        assert!(matches!(found, Err(LaneError::Stream(_) | LaneError::Io(_))), "bit {bit}: {found:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_stops_in_the_middle_is_lost_after_the_stall_span() {
    let begun = Instant::now();
    let (mut here, there) = duplex(64);
    here.write_all(&Header::of(Kind::Unit, 0, &[b"state"]).to_bytes()).await.unwrap();
    let mut receiver = Receiver::new(there);
    assert!(matches!(receiver.next().await, Err(LaneError::Stalled)));
    assert_eq!(begun.elapsed(), STALL_SPAN);
    let (_there, here) = duplex(64);
    let mut sender = Sender::new(here);
    let sent = sender.send(Kind::Unit, |body| body.resize(4096, 0)).await;
    assert!(matches!(sent, Err(LaneError::Stalled)));
}

#[tokio::test]
async fn a_frame_of_another_time_is_refused_before_its_body_is_read() {
    let (mut here, there) = duplex(64);
    here.write_all(&Header::of(Kind::Unit, 1, &[]).to_bytes()).await.unwrap();
    let mut receiver = Receiver::new(there);
    let found = receiver.next().await;
    assert!(matches!(found, Err(LaneError::Stream(StreamError::Sequence { found: 1, expected: 0 }))));
}
