// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Layouts, rules and their edges; arbitrary bytes.

use zerocopy::IntoBytes;

use crate::vfio_user::device::{
    DeviceInfo, IrqAction, IrqData, IrqInfo, IrqSet, REGION_INFO_LEN_MAX, RegionDescription, RegionInfo,
    SparseArea,
};
use crate::vfio_user::dma::{DmaAccess, DmaMap, DmaUnmap};
use crate::vfio_user::feature::{
    self, FeatureHeader, FeatureOp, LoggingReport, LoggingStart, MigDeviceState, MigState,
};
use crate::vfio_user::header::{Command, Header, Kind};
use crate::vfio_user::migration::MigData;
use crate::vfio_user::region::{self, RegionAccess};
use crate::vfio_user::version::{Capabilities, TwinSocket, Version};
use crate::vfio_user::wire::ROOM_LEN_MAX;
use crate::vfio_user::{DATA_LEN_MAX, FDS_MAX, MESSAGE_LEN_MAX, Malformed};

fn le(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn rule<T: core::fmt::Debug>(result: Result<T, Malformed>) -> &'static str {
    result.unwrap_err().rule
}

#[test]
fn header_of_each_kind_has_the_specified_bytes() {
    let header = |kind| Header { id: 0x1234, command: Command::REGION_READ, kind, body_len: 16 };
    for (kind, flags, error) in
        [(Kind::Command, 0, 0), (Kind::Posted, 0x10, 0), (Kind::Reply, 1, 0), (Kind::Failure(22), 0x21, 22)]
    {
        let bytes = header(kind).encode().unwrap();
        assert_eq!(bytes.to_vec(), le(&[0x0009_1234, 32, flags, error]));
        assert_eq!(Header::decode(&bytes), Ok(header(kind)));
    }
}

#[test]
fn header_with_a_size_that_cannot_be_is_refused() {
    for size in [0, 15, MESSAGE_LEN_MAX as u32 + 1, u32::MAX] {
        let bytes: [u8; 16] = le(&[1, size, 0, 0]).try_into().unwrap();
        assert_eq!(rule(Header::decode(&bytes)), "the message size is out of range");
    }
    for flags in [2, 3, 0xf] {
        let bytes: [u8; 16] = le(&[1, 16, flags, 0]).try_into().unwrap();
        assert_eq!(rule(Header::decode(&bytes)), "the message type does not exist");
    }
    let long = Header { id: 0, command: Command::VERSION, kind: Kind::Reply, body_len: MESSAGE_LEN_MAX - 15 };
    assert!(long.encode().is_err());
}

#[test]
fn version_of_another_implementation_is_understood() {
    // As QEMU proposes.
    let text = br#"{"capabilities": {"max_msg_fds": 8, "max_data_xfer_size": 1048576, "pgsizes": 4096,
        "max_dma_maps": 65535, "write_multiple": true, "twin_socket": {"supported": true}}}"#;
    let mut body = vec![0, 0, 0, 0];
    body.extend_from_slice(text);
    body.push(0);
    let version = Version::decode(&body).unwrap();
    assert_eq!((version.capabilities.msg_fds(), version.capabilities.data_len()), (8, 1 << 20));
    let answer = version.agree().unwrap();
    assert_eq!((answer.major, answer.minor), (0, 0));
    // The lower limit of both: QEMU ends a connection whose server says that it takes more than 16 fds.
    let expected = Capabilities {
        msg_fds_max: Some(8),
        migration_page_len: None,
        twin_socket: None,
        ..Capabilities::ours()
    };
    assert_eq!(answer.capabilities, expected);
    let ample = Capabilities { msg_fds_max: Some(1 << 20), data_len_max: Some(1 << 30), ..expected };
    let answer_to_ample = Version { capabilities: ample, ..version }.agree().unwrap().capabilities;
    assert_eq!((answer_to_ample.msg_fds(), answer_to_ample.data_len()), (FDS_MAX, DATA_LEN_MAX));
    // Only what was named is answered.
    assert_eq!(answer.capabilities.migration_page_len, None);
    assert_eq!(version.capabilities.twin_socket, Some(TwinSocket { fd_index: None }));
    assert_eq!(Version::decode(&answer.encode()), Ok(answer));
    // A server with a second socket says which of the fds it is; one that has none may say so too.
    for (text, twin) in [("true,\"fd_index\":0", Some(TwinSocket { fd_index: Some(0) })), ("false", None)] {
        let text = format!("{{\"capabilities\":{{\"twin_socket\":{{\"supported\":{text}}}}}}}\0");
        let answer = Version::decode(&[&[0, 0, 2, 0][..], text.as_bytes()].concat()).unwrap();
        assert_eq!(answer.capabilities.twin_socket, twin);
        assert_eq!(Version::decode(&answer.encode()), Ok(answer));
    }
}

#[test]
fn version_without_data_has_the_defaults() {
    for body in [&[0, 0, 1, 0][..], &[0, 0, 1, 0, 0], b"\0\0\x01\0{}\0", b"\0\0\x01\0{\"capabilities\":{}}\0"]
    {
        let version = Version::decode(body).unwrap();
        assert_eq!((version.minor, &version.capabilities), (1, &Capabilities::default()));
        assert_eq!((version.capabilities.msg_fds(), version.capabilities.data_len()), (1, DATA_LEN_MAX));
    }
}

#[test]
fn version_that_is_wrong_is_refused_with_its_rule() {
    let with = |text: &[u8]| {
        let mut body = vec![0, 0, 1, 0];
        body.extend_from_slice(text);
        rule(Version::decode(&body))
    };
    assert_eq!(rule(Version::decode(&[0, 0, 1])), "the body is shorter than its structure");
    assert_eq!(with(b"{}"), "the version data does not end with NUL");
    assert_eq!(with(b"{\0"), "the version data is not JSON");
    assert_eq!(with(b"[]\0"), "the version data is not an object");
    assert_eq!(with(b"{\"capabilities\":1}\0"), "`capabilities` is not an object");
    assert_eq!(with(b"{\"capabilities\":{\"max_msg_fds\":-1}}\0"), "a capability is not a number");
    assert_eq!(with(b"{\"capabilities\":{\"twin_socket\":1}}\0"), "`twin_socket` is not an object");
    let twin = b"{\"capabilities\":{\"twin_socket\":{\"supported\":1}}}\0";
    assert_eq!(with(twin), "`twin_socket.supported` is not a boolean");
    assert_eq!(with(b"{\"capabilities\":{\"write_multiple\":1}}\0"), "`write_multiple` is not a boolean");
    assert_eq!(with(&vec![b' '; 20 << 10]), "the version data is too long");
    // Nesting without end costs no stack.
    assert_eq!(with(&[&[b'['; 10_000][..], b"\0"].concat()), "the version data is not JSON");
    let other = Version { major: 1, ..Version::proposal() };
    assert_eq!(rule(other.agree()), "the major version is another");
    let newer = Version { minor: 3, ..Version::proposal() };
    assert_eq!(rule(newer.accept()), "the server's minor version was not offered");
}

#[test]
fn dma_map_edges() {
    let decode = |map: DmaMap, fds| DmaMap::decode(map.as_bytes(), fds);
    let last_page = u64::MAX - 0xfff;
    assert!(decode(DmaMap::new(last_page, 0x1000, 0, 3), 1).is_ok());
    assert_eq!(rule(decode(DmaMap::new(last_page, 0x2000, 0, 3), 1)), "the range wraps around");
    assert_eq!(rule(decode(DmaMap::new(0, 0, 0, 3), 1)), "the range is empty");
    assert_eq!(rule(decode(DmaMap::new(1, 0x1000, 0, 3), 1)), "the address is not page-aligned");
    assert_eq!(rule(decode(DmaMap::new(0, 0x1001, 0, 3), 1)), "the size is not a multiple of the page");
    assert_eq!(rule(decode(DmaMap::new(0, 0x1000, 0, 4), 1)), "an unknown flag is set");
    assert_eq!(rule(decode(DmaMap::new(0, 0x1000, 8, 3), 1)), "the file offset is not page-aligned");
    assert_eq!(rule(decode(DmaMap::new(0, 0x1000, 0, 3), 2)), "more than one fd came along");
}

#[test]
fn dma_unmap_with_a_bitmap_that_does_not_fit_is_refused() {
    let request = |flags: u32, size: u64, page: u64, bytes: u64| {
        let mut body = le(&[64, flags]);
        for value in [0, size, page, bytes] {
            body.extend_from_slice(&value.to_le_bytes());
        }
        body
    };
    let bitmap = DmaUnmap::GET_DIRTY_BITMAP;
    assert!(DmaUnmap::decode(&request(bitmap, 65 << 12, 4096, 16)).is_ok());
    for (page, bytes) in [(4096, 8), (4096, u64::MAX), (0, 16), (2048, 16), (4097, 16)] {
        assert!(DmaUnmap::decode(&request(bitmap, 65 << 12, page, bytes)).is_err(), "{page} {bytes}");
    }
    assert!(DmaUnmap::decode(&request(bitmap, 1 << 60, 4096, 16)).is_err());
    assert_eq!(rule(DmaUnmap::decode(&request(3, 4096, 4096, 8))), "unknown flags, or too many");
    let all = |address: u64| [le(&[64, 2]), address.to_le_bytes().to_vec(), vec![0; 8]].concat();
    assert!(DmaUnmap::decode(&all(0)).is_ok());
    assert_eq!(rule(DmaUnmap::decode(&all(4096))), "`all` has an address or a size");
}

#[test]
fn transfers_are_held_against_what_came() {
    let access = DmaAccess::new(0x1000, 4);
    let with = |bytes: &[u8]| [access.as_bytes(), bytes].concat();
    assert_eq!(access.decode_read_reply(&with(b"data")), Ok(&b"data"[..]));
    assert_eq!(rule(access.decode_read_reply(&with(b"dat"))), "the count is not the length of the data");
    let other = DmaAccess::new(0x2000, 4);
    assert_eq!(rule(other.decode_read_reply(&with(b"data"))), "the range is not what was asked for");
    assert_eq!(
        rule(DmaAccess::decode_read(DmaAccess::new(0, DATA_LEN_MAX + 1).as_bytes())),
        "the count is above a transfer's"
    );
    assert_eq!(
        rule(DmaAccess::decode_read(DmaAccess::new(u64::MAX, 2).as_bytes())),
        "the range wraps around"
    );
    // 12 bytes as the specification's table has it, 16 as every other access.
    assert_eq!(access.check_write_reply(&access.as_bytes()[..12]), Ok(()));
    assert_eq!(access.check_write_reply(access.as_bytes()), Ok(()));
    assert_eq!(rule(access.check_write_reply(other.as_bytes())), "the range is not what was written");

    let access = RegionAccess::new(0, 0x1000, 4);
    let with = |bytes: &[u8]| [access.as_bytes(), bytes].concat();
    assert_eq!(access.decode_read_reply(&with(b"data")), Ok(&b"data"[..]));
    assert_eq!(rule(RegionAccess::decode_write(&with(b"date!"))), "the count is not the length of the data");
    assert_eq!(rule(RegionAccess::decode_read(RegionAccess::new(0, 0, 0).as_bytes())), "the range is empty");
    assert_eq!(
        RegionAccess::new(0, 0x1000, 4).check_write_reply(RegionAccess::new(0, 0x1000, 0).as_bytes()),
        Ok(())
    );
}

#[test]
fn several_writes_are_counted() {
    let one = |count: u32| [RegionAccess::new(0, 0x1000, count).as_bytes(), &[7; 8]].concat();
    let body = |count: u64, writes: &[Vec<u8>]| [&count.to_le_bytes()[..], &writes.concat()].concat();
    let writes = region::decode_multi(&body(2, &[one(4), one(8)])).unwrap();
    assert_eq!((writes[0].bytes().len(), writes[1].bytes().len()), (4, 8));
    let own =
        [region::SmallWrite::new(0, 0x1000, 3, 0x1122_3344), region::SmallWrite::new(2, 8, 8, u64::MAX)];
    let decoded = region::decode_multi(&region::encode_multi(&own)).unwrap();
    assert_eq!(decoded, own);
    assert_eq!(decoded[0].bytes(), [0x44, 0x33, 0x22]);
    assert_eq!(rule(region::decode_multi(&body(3, &[one(4)]))), "the count is not the number of writes");
    assert_eq!(
        rule(region::decode_multi(&body(u64::MAX, &[one(4)]))),
        "the count is not the number of writes"
    );
    assert_eq!(rule(region::decode_multi(&body(1, &[one(9)]))), "a write is longer than 8 bytes");
    assert_eq!(
        rule(region::decode_multi(&body(1, &[vec![0; 23]]))),
        "the body is not a whole number of writes"
    );
}

#[test]
fn region_with_areas_survives_and_bad_ones_are_refused() {
    let area = |offset: u64, size: u64| SparseArea { offset: offset.into(), size: size.into() };
    let info = RegionInfo {
        flags: (RegionInfo::READ | RegionInfo::WRITE | RegionInfo::MMAP).into(),
        size: 0x4000.into(),
        ..RegionInfo::request(0)
    };
    let region = RegionDescription { info, sparse: Some(vec![area(0x1000, 0x1000), area(0x2000, 0x2000)]) };
    let body = region.encode(4096);
    let decoded = RegionDescription::decode(&body, 0).unwrap();
    assert_eq!(decoded.sparse, region.sparse);
    assert_eq!(decoded.info.argsz.get() as usize, body.len());
    // No room: only the structure, and how much is needed.
    let small = region.encode(32);
    assert_eq!((small.len(), RegionDescription::decode(&small, 0).unwrap().sparse), (32, None));
    assert_eq!(&small[..4], &body[..4]);
    assert_eq!(rule(RegionDescription::decode(&body, 1)), "it is about another region");
    // A chain that leads back to itself, areas outside, a count beyond the body.
    let poke = |at: usize, value: u32| {
        let mut body = body.clone();
        body[at..at + 4].copy_from_slice(&value.to_le_bytes());
        rule(RegionDescription::decode(&body, 0))
    };
    assert_eq!(poke(36, 32), "a capability's offset leads backwards");
    assert_eq!(poke(12, 8), "a capability's offset leads backwards");
    assert_eq!(poke(12, u32::MAX), "the body is shorter than its structure");
    assert_eq!(poke(40, u32::MAX), "the number of areas is not what came");
    assert_eq!(poke(48, 0x4000), "an area is outside its region");
    // However many capabilities lead to however many areas: what a peer sends is looked at once.
    let chain = |caps: u32, len: usize| {
        let mut body = body[..32].to_vec();
        body[12..16].copy_from_slice(&32u32.to_le_bytes());
        body.resize(len, 0);
        for at in (32..).step_by(8).take(caps as usize) {
            let next = if at == 32 + 8 * (caps as usize - 1) { 0 } else { at as u32 + 8 };
            let cap = [7u16, 1].map(u16::to_le_bytes).concat();
            body[at..at + 8].copy_from_slice(&[&cap[..], &next.to_le_bytes()].concat());
        }
        RegionDescription::decode(&body, 0)
    };
    assert_eq!(chain(16, 0x1000).unwrap().sparse, None, "kinds that are not known");
    assert_eq!(rule(chain(17, 0x1000)), "there are too many capabilities");
    let mut twice = [&body[..], &body[32..]].concat();
    twice[36..40].copy_from_slice(&(body.len() as u32).to_le_bytes());
    assert_eq!(rule(RegionDescription::decode(&twice, 0)), "it divides the region twice");
    let most = REGION_INFO_LEN_MAX as usize;
    assert!(chain(1, most).is_ok());
    assert_eq!(rule(chain(1, most + 1)), "it is longer than any that is asked for");
    assert_eq!(RegionInfo::request_with_room(0, u32::MAX).argsz, REGION_INFO_LEN_MAX);
}

#[test]
fn interrupt_sets_are_consistent() {
    let none = IrqSet::DATA_NONE | IrqSet::ACTION_TRIGGER;
    let fds = IrqSet::DATA_EVENTFD | IrqSet::ACTION_TRIGGER;
    let decode = |flags: u32, start: u32, count: u32, data: &[u8], fds: usize| {
        let body = [IrqSet::new(2, flags, start, count).as_bytes(), data].concat();
        IrqSet::decode(&body, fds).map(|(_, data, action)| (matches!(data, IrqData::Eventfd), action))
    };
    assert_eq!(decode(none, 0, 0, &[], 0), Ok((false, IrqAction::Trigger)));
    assert_eq!(decode(fds, 3, 2, &[], 2), Ok((true, IrqAction::Trigger)));
    assert_eq!(decode(fds, 3, 2, &[], 0), Ok((true, IrqAction::Trigger)));
    assert_eq!(rule(decode(fds, 3, 2, &[], 1)), "the number of fds is not that of the interrupts");
    assert_eq!(rule(decode(none, 0, 1, &[], 1)), "the number of fds is not that of the interrupts");
    assert_eq!(rule(decode(none, u32::MAX, 1, &[], 0)), "the range is beyond any device's");
    assert_eq!(rule(decode(none | 0x18, 0, 1, &[], 0)), "the flags have not exactly one action");
    assert_eq!(rule(decode(IrqSet::DATA_BOOL | 8, 0, 2, &[1], 0)), "the data is not what the flags say");
    assert_eq!(rule(decode(IrqSet::ACTION_MASK, 0, 2, &[], 0)), "the data is not what the flags say");
}

/// A request's decoder, as what it makes of a body can be compared.
type Decode = fn(&[u8]) -> Result<String, Malformed>;

#[test]
fn request_with_an_argsz_may_be_followed_by_the_room_for_its_answer() {
    let none = IrqSet::DATA_NONE | IrqSet::ACTION_TRIGGER;
    let report = LoggingReport { iova: 0.into(), length: 4096.into(), page_size: 4096.into() };
    let bitmap = [le(&[64, DmaUnmap::GET_DIRTY_BITMAP]), vec![0; 8], le(&[4096, 0, 4096, 0, 8, 0])].concat();
    let range = [4096u64.to_le_bytes().to_vec(), le(&[1, 0]), vec![0; 8], le(&[4096, 0])].concat();
    let requests: [(&str, Vec<u8>, Decode); 13] = [
        ("device info", DeviceInfo::request().as_bytes().to_vec(), |body| {
            DeviceInfo::decode_request(body).map(|info| format!("{info:?}"))
        }),
        ("region info", RegionInfo::request(0).as_bytes().to_vec(), |body| {
            RegionInfo::decode_request(body).map(|info| format!("{info:?}"))
        }),
        ("irq info", IrqInfo::new(2, 0, 0).as_bytes().to_vec(), |body| {
            IrqInfo::decode_request(body).map(|info| format!("{info:?}"))
        }),
        ("irqs", IrqSet::new(2, none, 0, 0).as_bytes().to_vec(), |body| {
            IrqSet::decode(body, 0).map(|set| format!("{set:?}"))
        }),
        ("eventfds", IrqSet::new(2, IrqSet::DATA_EVENTFD | 0x20, 0, 1).as_bytes().to_vec(), |body| {
            IrqSet::decode(body, 1).map(|set| format!("{set:?}"))
        }),
        ("map", DmaMap::new(0, 4096, 0, 3).as_bytes().to_vec(), |body| {
            DmaMap::decode(body, 1).map(|map| format!("{map:?}"))
        }),
        ("unmap", DmaUnmap::new(0, 4096).as_bytes().to_vec(), |body| {
            DmaUnmap::decode(body).map(|unmap| format!("{unmap:?}"))
        }),
        ("unmap with a bitmap", bitmap, |body| DmaUnmap::decode(body).map(|unmap| format!("{unmap:?}"))),
        ("feature's state", le(&[2, 0]), |body| {
            MigDeviceState::decode(body).map(|state| format!("{state:?}"))
        }),
        ("feature's ranges", range, |body| LoggingStart::decode(body).map(|start| format!("{start:?}"))),
        ("feature's report", report.as_bytes().to_vec(), |body| {
            LoggingReport::decode(body).map(|report| format!("{report:?}"))
        }),
        ("state to read", MigData::new(100).as_bytes().to_vec(), |body| {
            MigData::decode_read(body).map(|len| format!("{len}"))
        }),
        ("state to write", [MigData::new(3).as_bytes(), b"abc"].concat(), |body| {
            MigData::decode_write(body).map(|data| format!("{data:?}"))
        }),
    ];
    for (name, body, decode) in requests {
        let followed = |room: usize| decode(&[body.as_slice(), &vec![0xee; room]].concat());
        let alone = decode(&body).unwrap();
        for room in [1, 4064 - body.len(), ROOM_LEN_MAX] {
            assert_eq!(followed(room).as_ref(), Ok(&alone), "{name} with room for {room} bytes");
        }
        let long = "the room for the answer is longer than any answer";
        assert_eq!(rule(followed(ROOM_LEN_MAX + 1)), long, "{name}");
        assert!(decode(&body[..body.len() - 1]).is_err(), "{name} cut short");
    }
}

#[test]
fn device_that_cannot_be_is_refused() {
    let info = |flags, regions, irqs| rule(DeviceInfo::decode_pci(&le(&[16, flags, regions, irqs])));
    assert!(DeviceInfo::decode_pci(DeviceInfo::pci().as_bytes()).is_ok());
    assert_eq!(info(1, 9, 5), "it is not a PCI device");
    assert_eq!(info(3, 7, 5), "the number of regions is out of range");
    assert_eq!(info(3, u32::MAX, 5), "the number of regions is out of range");
    assert_eq!(info(3, 9, 2), "the number of interrupt indices is out of range");
    assert_eq!(
        rule(IrqInfo::decode(IrqInfo::new(2, 0, u32::MAX).as_bytes(), 2)),
        "more interrupts than can be"
    );
    assert_eq!(rule(DeviceInfo::decode_request(&le(&[12, 0, 0, 0]))), "argsz leaves no room for the reply");
}

#[test]
fn feature_requests_name_one_operation() {
    for op in [FeatureOp::Get, FeatureOp::Set, FeatureOp::Probe { get: true, set: false }] {
        let header = FeatureHeader::request(feature::MIGRATION, op, 64);
        let (_, number, decoded, data) = FeatureHeader::decode(header.as_bytes()).unwrap();
        assert_eq!((number, decoded, data.len()), (feature::MIGRATION, op, 0));
    }
    for flags in [1, 3 << 16 | 1, 1 << 20] {
        assert_eq!(rule(FeatureHeader::decode(&le(&[8, flags]))), "the flags name no operation, or two");
    }
}

#[test]
fn logging_requests_are_bounded() {
    let start = |count: u32, ranges: &[(u64, u64)]| {
        let mut data = 4096u64.to_le_bytes().to_vec();
        data.extend(le(&[count, 0]));
        for (iova, length) in ranges {
            data.extend_from_slice(&iova.to_le_bytes());
            data.extend_from_slice(&length.to_le_bytes());
        }
        data
    };
    assert_eq!(LoggingStart::decode(&start(1, &[(0, 4096)])).unwrap().1.len(), 1);
    assert!(LoggingStart::decode(&start(2, &[(0, 4096)])).is_err());
    assert!(LoggingStart::decode(&start(1, &[(u64::MAX, 2)])).is_err());
    assert!(LoggingStart::decode(&start(300, &[(0, 4096); 300])).is_err());
    let report = |length: u64, page: u64| {
        let report = LoggingReport { iova: 0.into(), length: length.into(), page_size: page.into() };
        LoggingReport::decode(report.as_bytes())
    };
    assert_eq!(report(1 << 30, 4096).unwrap().1, 1 << 15);
    assert_eq!(rule(report(1 << 60, 4096)), "the bitmap is longer than a message");
    assert_eq!(rule(report(4096, 0)), "the bitmap's page size is no power of two from 4096");
}

#[test]
fn migration_data_is_what_was_asked_for() {
    assert_eq!(MigData::decode_read(MigData::new(100).as_bytes()), Ok(100));
    assert_eq!(MigData::decode_read(&le(&[u32::MAX, u32::MAX])), Ok(DATA_LEN_MAX));
    assert_eq!(MigData::decode_read(&le(&[10, 100])), Ok(2));
    assert!(MigData::decode_read(&le(&[4, 100])).is_err());
    let reply = [MigData::new(3).as_bytes(), b"abc"].concat();
    assert_eq!(MigData::decode_read_reply(&reply, 3), Ok(&b"abc"[..]));
    assert_eq!(rule(MigData::decode_read_reply(&reply, 2)), "it holds more than was asked for");
}

#[test]
fn every_way_between_migration_states_ends_where_it_should() {
    for from in MigState::ALL {
        for to in MigState::ALL {
            let mut at = from;
            let mut way = vec![at];
            while at != to {
                let Some(next) = at.next(to) else { break };
                at = next;
                way.push(at);
                assert!(way.len() <= 5, "{from:?} to {to:?} goes round: {way:?}");
            }
            let saving_to_running =
                from == MigState::StopCopy && matches!(to, MigState::PreCopy | MigState::PreCopyP2p);
            let through_error = from != to && (from == MigState::Error || to == MigState::Error);
            assert_eq!(at != to, saving_to_running || through_error, "{way:?}");
            // No way leads through a state in which data would be read or written.
            let inner = way.get(1..way.len().saturating_sub(1)).unwrap_or_default();
            assert!(!inner.contains(&MigState::Resuming) && !inner.contains(&MigState::PreCopy), "{way:?}");
        }
    }
    let way = |from: MigState, to| from.next(to).unwrap();
    assert_eq!(way(MigState::PreCopy, MigState::StopCopy), MigState::PreCopyP2p);
    assert_eq!(way(MigState::Running, MigState::StopCopy), MigState::RunningP2p);
    assert_eq!(way(MigState::Resuming, MigState::Running), MigState::Stop);
}
