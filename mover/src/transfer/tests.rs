// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! RAM that is carried through several lanes while it changes, and lanes that carry what cannot be.

use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use ipc::addr::Gpa;
use ipc::migration::frame::{EndOfRound, Kind};
use ipc::migration::pages::{PagesHead, Stretch};
use ipc::protocol::mover::{MESSAGE_LEN_MAX, Packing};
use ipc::protocol::ram::{RamLayout, RamRegion};
use ipc::shm::region::Region;
use tokio::io::duplex;

use super::{Carried, Intake, Lane, Owed, Taken, TransferError, end_round, send_pages};
use crate::lane::{Receiver, Sender};
use crate::ram::Ram;
use crate::states::States;

const BASE: u64 = 0x4000_0000;
const PAGES: u64 = 64 * 9 + 7;

struct Words(Vec<AtomicU64>);

impl Words {
    fn all() -> Self {
        Self((0..10).map(|word| AtomicU64::new(if word == 9 { 0x7f } else { u64::MAX })).collect())
    }

    fn mark(&self, page: u64) {
        self.0[usize::try_from(page / 64).unwrap()].fetch_or(1 << (page % 64), SeqCst);
    }
}

impl Owed for Words {
    fn take(&self, word: u64) -> u64 {
        self.0[usize::try_from(word).unwrap()].swap(0, SeqCst)
    }
}

fn ram() -> (Region, Ram) {
    let len = PAGES * 4096;
    let layout = RamLayout::new(vec![RamRegion { gpa: Gpa(BASE), len, file_offset: 0 }]).unwrap();
    let region = Region::create("ram", len).unwrap();
    let ram = Ram::new(Arc::clone(region.file()), layout);
    (region, ram)
}

fn write(memory: &Region, page: u64, value: u64) {
    memory.file().write_all_at(&value.to_le_bytes(), page * 4096 + (page * 8) % 4096).unwrap();
}

fn bytes(memory: &Region) -> Vec<u8> {
    let mut bytes = vec![0; memory.len().try_into().unwrap()];
    memory.file().read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

/// What comes in a lane, up to the end of a round.
async fn receive(
    from: &mut Receiver<tokio::io::DuplexStream>,
    intake: &mut Intake<'_>,
) -> Result<(u32, Carried), TransferError> {
    loop {
        let (kind, body) = from.next().await?.unwrap();
        if let Taken::Round(round, carried) = intake.take(kind, body)? {
            return Ok((round, carried));
        }
    }
}

/// Carries rounds through `count` lanes; `between` changes RAM and marks what it changes.
async fn carry(
    (count, packing): (u8, Packing),
    rounds: u32,
    between: impl Fn(u32, &Region, &Words),
) -> (Vec<u8>, Vec<u8>, Carried, u64) {
    let (here, source) = ram();
    let (there, destination) = ram();
    let (owed, states) = (Words::all(), States::default());
    let lanes = (0..count).map(|index| Lane { index, count });
    let mut ends: Vec<_> = lanes
        .map(|lane| {
            let (to, from) = duplex(5000);
            (lane, Sender::new(to), Receiver::new(from), Intake::new(lane, &destination, &states))
        })
        .collect();
    let mut all = Carried::default();
    for round in 0..rounds {
        between(round, &here, &owed);
        for (lane, sender, receiver, intake) in &mut ends {
            let send = async {
                let carried = send_pages(sender, *lane, packing, &source, &owed, || false).await?.unwrap();
                end_round(sender, round, carried).await?;
                Ok::<_, TransferError>(carried)
            };
            let (sent, received) = tokio::join!(send, receive(receiver, intake));
            let sent = sent.unwrap();
            assert_eq!(received.unwrap(), (round, sent));
            all.page_count += sent.page_count;
            all.zero_count += sent.zero_count;
        }
    }
    let sent_len = ends.iter().map(|(_, sender, ..)| sender.sent_len()).sum();
    (bytes(&here), bytes(&there), all, sent_len)
}

#[tokio::test]
async fn ram_arrives_through_any_number_of_lanes_pages_that_become_zero_again_too() {
    let packings = [Packing::Plain, Packing::Lz4];
    let all = [1, 2, 3, 16].into_iter().flat_map(|count| packings.map(|packing| (count, packing)));
    for (count, packing) in all {
        let (here, there, carried, sent_len) = carry((count, packing), 4, |round, memory, owed| {
            for page in (0..PAGES).filter(|page| page % 3 == u64::from(round)) {
                // Every other page of the first round is zero again in the last.
                write(memory, page, page + 1);
                owed.mark(page);
            }
            if round == 3 {
                for page in (0..PAGES).step_by(6) {
                    write(memory, page, 0);
                    owed.mark(page);
                }
            }
        })
        .await;
        assert!(here == there, "{count} lanes, {packing:?}");
        let pages_len = carried.page_count * 4096;
        assert_eq!(sent_len < pages_len / 8, packing == Packing::Lz4, "{sent_len} of {pages_len}");
        assert!(carried.page_count > 0 && carried.zero_count > PAGES / 2, "{carried:?}");
    }
}

#[tokio::test]
async fn a_round_that_is_given_up_takes_no_more_of_the_map() {
    let (_, source) = ram();
    let owed = Words::all();
    let mut sender = Sender::new(tokio::io::sink());
    let (lane, packing) = (Lane { index: 0, count: 1 }, Packing::Plain);
    let carried = send_pages(&mut sender, lane, packing, &source, &owed, || true).await.unwrap();
    assert_eq!(carried, None);
    assert_eq!(owed.0.iter().filter(|word| word.load(SeqCst) == 0).count(), 1);
    assert_eq!(sender.sent_len(), 0);
}

#[test]
fn what_cannot_be_is_refused() {
    let lane = Lane { index: 1, count: 2 };
    let pages = |word, pages| {
        let head = PagesHead { stretch: Stretch { word, pages } };
        let mut body = head.to_bytes().to_vec();
        body.resize(body.len() + head.stretch.byte_len(), 1);
        body
    };
    let ((memory, ram), states) = (ram(), States::default());
    let taken = |kind, body: &[u8]| {
        let mut intake = Intake::new(lane, &ram, &states);
        intake.take(kind, body).map(drop)
    };
    let other = taken(Kind::Pages, &pages(2, 1));
    assert!(matches!(other, Err(TransferError::OtherLane { word: 2, lane: 1 })));
    let mut packed = PagesHead { stretch: Stretch { word: 1, pages: 1 } }.to_bytes().to_vec();
    packed.extend_from_slice(b"no LZ4 block");
    assert!(matches!(taken(Kind::PackedPages, &packed), Err(TransferError::Packing(_))));
    packed[0] = 2;
    assert!(matches!(taken(Kind::PackedPages, &packed), Err(TransferError::OtherLane { word: 2, lane: 1 })));
    for (word, bits) in [(9, 1 << 8), (11, 1), (u64::MAX, u64::MAX)] {
        assert!(matches!(taken(Kind::Pages, &pages(word, bits)), Err(TransferError::Ram(_))));
    }
    for kind in [Kind::Message, Kind::Unit, Kind::Alive, Kind::Hello] {
        assert!(matches!(taken(kind, &[]), Err(TransferError::Lane(_))), "{kind:?} in another lane");
    }
    let count = taken(Kind::EndOfRound, &EndOfRound { round: 0, page_count: 1 }.to_bytes());
    assert!(matches!(count, Err(TransferError::Count { round: 0, claimed: 1, found: 0 })));
    let round = taken(Kind::EndOfRound, &EndOfRound { round: 4, page_count: 0 }.to_bytes());
    assert!(matches!(round, Err(TransferError::Round { found: 4, expected: 0 })));
    let mut lane0 = Intake::new(Lane { index: 0, count: 1 }, &ram, &states);
    assert!(matches!(lane0.take(Kind::Alive, &[1]), Err(TransferError::Lane(_))));
    assert!(matches!(lane0.take(Kind::Hello, &[]), Err(TransferError::Lane(_))));
    let longest = vec![0; MESSAGE_LEN_MAX];
    assert!(matches!(lane0.take(Kind::Message, &longest), Ok(Taken::Message(_))));
    let longer = lane0.take(Kind::Message, &[&longest[..], &[0]].concat()).map(drop);
    assert!(matches!(longer, Err(TransferError::MessageLong { .. })));
    assert!(bytes(&memory).iter().all(|byte| *byte == 0), "nothing was written");
}
