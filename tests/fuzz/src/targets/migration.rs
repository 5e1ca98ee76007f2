// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A lane of a migration stream as a hostile host may send it: damaged as it is, and with checksums that fit, so that
//! the bodies are reached.
//!
//! Beyond not panicking: what is accepted means only one thing, no page outside of RAM is written, no state that was
//! not expected, and none is longer than what came.

use std::os::fd::AsFd;
use std::sync::Arc;

use ipc::addr::Gpa;
use ipc::hello::Role;
use ipc::instance::InstanceId;
use ipc::migration::frame::{EndOfRound, HEADER_LEN, Header, Hello, Kind, MigrationId};
use ipc::migration::pages::{self, PagesHead, Stretch, ZeroPages};
use ipc::migration::unit::PieceHead;
use ipc::protocol::mover::Packing;
use ipc::protocol::ram::{RamLayout, RamRegion};
use ipc::shm::memory_file;
use ipc::shm::region::Region;
use mover::packing::Packer;
use mover::ram::Ram;
use mover::states::States;
use mover::transfer::{Intake, Lane};

const SMMU: InstanceId = InstanceId::new(Role::Smmu, 0);
/// Of RAM: not a whole number of words.
const PAGES: u64 = 70;

pub fn run(stream: &[u8]) {
    hello(stream);
    receive(stream);
    receive(&mended(stream));
}

fn hello(body: &[u8]) {
    if let Ok(hello) = Hello::decode(body) {
        assert_eq!(hello.to_bytes()[..], *body, "a hello has a second form");
        assert!(hello.lane < hello.lane_count, "a lane that there is not");
    }
}

/// Takes the frames of lane 0, of one, up to the first that is none.
fn receive(stream: &[u8]) {
    let layout = RamLayout::new(vec![RamRegion { gpa: Gpa(0x4000_0000), len: PAGES * 4096, file_offset: 0 }]);
    let (Ok(layout), Ok(memory), Ok(state)) =
        (layout, Region::create("fuzz-ram", PAGES * 4096), memory_file::create("fuzz-state"))
    else {
        return;
    };
    let ram = Ram::new(Arc::clone(memory.file()), layout);
    let states = States::default();
    let Ok(expected) = state.try_clone() else { return };
    states.expect(SMMU, expected);
    let mut intake = Intake::new(Lane { index: 0, count: 1 }, &ram, &states);
    let (mut rest, mut sequence) = (stream, 0);
    while let Some((head, after)) = rest.split_first_chunk::<HEADER_LEN>() {
        let Ok(header) = Header::decode(head, sequence) else { break };
        assert_eq!(header.to_bytes(), *head, "a header has a second form");
        let Some((body, after)) = after.split_at_checked(header.body_len) else { break };
        if header.check(body).is_err() || intake.take(header.kind, body).is_err() {
            break;
        }
        (rest, sequence) = (after, sequence + 1);
    }
    assert_eq!(len(&memory), PAGES * 4096, "RAM has grown");
    assert!(len(&state) <= stream.len() as u64, "a state is longer than what came");
}

fn len(file: &impl AsFd) -> u64 {
    rustix::fs::fstat(file).map_or(0, |stat| u64::try_from(stat.st_size).unwrap_or(0))
}

/// The stream with every header's sequence number, length and checksum made to fit what follows it.
fn mended(stream: &[u8]) -> Vec<u8> {
    let (mut whole, mut rest, mut sequence) = (Vec::new(), stream, 0);
    while let Some((head, after)) = rest.split_first_chunk::<HEADER_LEN>() {
        let [.., kind, _, _, _, _, _, _, _, _, _, a, b, c, d, _, _, _, _] = *head;
        let Some(kind) = Kind::ALL.into_iter().cycle().nth(usize::from(kind)) else { break };
        let claimed = usize::try_from(u32::from_le_bytes([a, b, c, d])).unwrap_or(usize::MAX);
        let (body, after) = after.split_at(claimed.min(after.len()));
        let body = if kind == Kind::Pages { with_pages(body) } else { body.to_vec() };
        whole.extend_from_slice(&Header::of(kind, sequence, &[&body]).to_bytes());
        whole.extend_from_slice(&body);
        (rest, sequence) = (after, sequence + 1);
    }
    whole
}

/// A body of pages with as many bytes as they have: more than an input may be long.
fn with_pages(body: &[u8]) -> Vec<u8> {
    let Some((head, _)) = body.split_first_chunk::<{ pages::HEAD_LEN }>() else { return body.to_vec() };
    let [_, _, _, _, _, _, _, _, bits @ ..] = *head;
    let count = bits.first_chunk().map_or(0, |bits| u64::from_le_bytes(*bits).count_ones());
    let mut body = head.to_vec();
    body.resize(body.len() + usize::try_from(count).unwrap_or(0) * 4096, 0xa5);
    body
}

pub fn seeds() -> Vec<Vec<u8>> {
    let stretch = Stretch { word: 1, pages: 1 };
    let mut zero = ZeroPages::default();
    zero.push(Stretch { word: 0, pages: u64::MAX });
    zero.push(Stretch { word: 1, pages: 0x3f });
    let pages = PagesHead { stretch }.to_bytes().to_vec();
    let mut packed = pages.clone();
    packed.extend_from_slice(Packer::new(Packing::Lz4).pack(&[0xa5; 4096]).unwrap_or_default());
    let piece = |offset, is_last| {
        [&PieceHead { instance: SMMU, offset, is_last }.to_bytes()[..], b"some state"].concat()
    };
    let end = |round, page_count| EndOfRound { round, page_count }.to_bytes().to_vec();
    let parts: [(Kind, Vec<u8>); 7] = [
        (Kind::Alive, vec![]),
        (Kind::ZeroPages, zero.as_bytes().to_vec()),
        (Kind::EndOfRound, end(0, 70)),
        (Kind::EndOfRound, end(1, 0)),
        (Kind::Unit, piece(0, false)),
        (Kind::Unit, piece(10, true)),
        (Kind::Message, b"sealed".to_vec()),
    ];
    let whole = |parts: &[(Kind, Vec<u8>)]| -> Vec<u8> {
        let frames = (0..).zip(parts);
        let frames = frames.map(|(sequence, (kind, body))| {
            [&Header::of(*kind, sequence, &[body]).to_bytes()[..], body].concat()
        });
        frames.collect::<Vec<_>>().concat()
    };
    let hello = Hello { migration: MigrationId([7; 16]), lane: 0, lane_count: 1 }.to_bytes().to_vec();
    vec![
        whole(&parts),
        whole(&[(Kind::Pages, pages)]),
        whole(&[(Kind::PackedPages, packed)]),
        whole(&[(Kind::Hello, hello.clone())]),
        hello,
    ]
}
