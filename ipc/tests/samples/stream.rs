// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Frames of a migration stream, one of each kind.

use ipc::hello::Role;
use ipc::instance::InstanceId;
use ipc::migration::frame::{EndOfRound, Header, Hello, Kind};
use ipc::migration::pages::{PagesHead, Stretch, ZeroPages};
use ipc::migration::unit::PieceHead;

use super::MIGRATION;

/// Every frame of a migration stream, as it is between releases too: the match makes a new kind stop the build here.
pub fn samples() -> Vec<(&'static str, Vec<u8>)> {
    let stretch = Stretch { word: 0x1_0203, pages: 0b101 };
    let mut zero = ZeroPages::default();
    zero.push(stretch);
    zero.push(Stretch { word: 7, pages: u64::MAX });
    let piece = PieceHead { instance: InstanceId::new(Role::Vfio, 30), offset: 0x1_0000_0000, is_last: true };
    // Bytes of pages are the guest's: one of each is enough to see where they stand.
    let pages = [&PagesHead { stretch }.to_bytes()[..], &[0xa5; 4096], &[0x5a; 4096]].concat();
    let all = [
        (Kind::Hello, Hello { migration: MIGRATION, lane: 3, lane_count: 4 }.to_bytes().to_vec()),
        (Kind::Message, b"sealed".to_vec()),
        (Kind::Pages, pages),
        (Kind::ZeroPages, zero.as_bytes().to_vec()),
        (Kind::Unit, [&piece.to_bytes()[..], b"state"].concat()),
        (Kind::EndOfRound, EndOfRound { round: 300, page_count: 0x1_0000_0001 }.to_bytes().to_vec()),
        (Kind::Alive, Vec::new()),
        (Kind::PackedPages, [&PagesHead { stretch }.to_bytes()[..], b"an LZ4 block"].concat()),
    ];
    let name = |kind: Kind| match kind {
        Kind::Hello => "stream-hello",
        Kind::Message => "stream-message",
        Kind::Pages => "stream-pages",
        Kind::ZeroPages => "stream-zero-pages",
        Kind::Unit => "stream-unit",
        Kind::EndOfRound => "stream-end-of-round",
        Kind::Alive => "stream-alive",
        Kind::PackedPages => "stream-packed-pages",
    };
    let frame = |(kind, body): (Kind, Vec<u8>)| {
        let header = Header::of(kind, 0x0102_0304, &[&body]).to_bytes();
        let found = Header::decode(&header, 0x0102_0304).unwrap();
        found.check(&body).unwrap();
        // The bytes of a page as far as its first line.
        (name(kind), [&header[..], body.get(..64).unwrap_or(&body)].concat())
    };
    all.into_iter().map(frame).collect()
}
