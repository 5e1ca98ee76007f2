// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Drives the codec of vfio-user: bytes in, every decoder of both ends tried, no panic.
//!
//! What the decoders let through holds what they promise, which is asserted here.

use ipc::vfio_user::connection::Reassembly;
use ipc::vfio_user::device::{DeviceInfo, IrqInfo, IrqSet, RegionDescription, RegionInfo};
use ipc::vfio_user::dma::{DmaAccess, DmaMap, DmaUnmap};
use ipc::vfio_user::feature::{FeatureHeader, LoggingReport, LoggingStart, MigDeviceState, MigrationFlags};
use ipc::vfio_user::header::{HEADER_LEN, Header};
use ipc::vfio_user::migration::MigData;
use ipc::vfio_user::region::{self, RegionAccess};
use ipc::vfio_user::version::Version;
use ipc::vfio_user::{DATA_LEN_MAX, MESSAGE_LEN_MAX};

/// Tries every decoder on `body`, as if `fds` fds had come along.
pub fn bodies(body: &[u8], fds: usize) {
    if let Some(header) = body.first_chunk::<HEADER_LEN>().and_then(|bytes| Header::decode(bytes).ok()) {
        assert!(header.body_len + HEADER_LEN <= MESSAGE_LEN_MAX, "a header's length is capped");
    }
    if let Ok(version) = Version::decode(body) {
        assert_eq!(
            Version::decode(&version.encode()).as_ref(),
            Ok(&version),
            "a version survives its encoding"
        );
        let _ = version.agree();
    }
    let _ = DmaMap::decode(body, fds);
    let _ = DmaUnmap::decode(body);
    if let Ok((_, count)) = DmaAccess::decode_read(body) {
        assert!(count <= DATA_LEN_MAX, "a transfer is capped");
    }
    if let Ok((access, data)) = DmaAccess::decode_write(body) {
        assert_eq!(u64::try_from(data.len()), Ok(access.count.get()), "a count is the length");
        let _ = access.decode_read_reply(body);
        let _ = access.check_write_reply(body);
    }
    let _ = DeviceInfo::decode_request(body);
    let _ = DeviceInfo::decode_pci(body);
    let _ = RegionInfo::decode_request(body);
    if let Ok(region) = RegionDescription::decode(body, 0) {
        for area in region.sparse.iter().flatten() {
            assert!(
                area.offset.get() + area.size.get() <= region.info.size.get(),
                "an area is in its region"
            );
        }
    }
    let _ = IrqInfo::decode_request(body);
    let _ = IrqInfo::decode(body, 2);
    let _ = IrqSet::decode(body, fds);
    if let Ok((_, count)) = RegionAccess::decode_read(body) {
        assert!(count <= DATA_LEN_MAX, "an access is capped");
    }
    if let Ok((access, _)) = RegionAccess::decode_write(body) {
        let _ = access.decode_read_reply(body);
        let _ = access.check_write_reply(body);
    }
    for write in region::decode_multi(body).unwrap_or_default() {
        assert!(write.bytes().len() <= 8, "a small write is small");
    }
    if let Ok((_, _, _, data)) = FeatureHeader::decode(body) {
        features(data);
    }
    let _ = MigData::decode_read(body);
    let _ = MigData::decode_write(body);
    let _ = MigData::decode_read_reply(body, 64);
}

fn features(data: &[u8]) {
    let _ = MigrationFlags::decode(data);
    let _ = MigDeviceState::decode(data);
    let _ = LoggingStart::decode(data);
    if let Ok((report, len)) = LoggingReport::decode(data) {
        assert!(len <= DATA_LEN_MAX, "a bitmap is capped");
        let _ = report.decode_reply(data);
    }
}

/// Feeds `stream` to the reassembly in pieces whose lengths `cuts` gives, and returns how many messages came out.
pub fn stream(stream: &[u8], cuts: &[u8]) -> usize {
    let mut reassembly = Reassembly::default();
    let mut rest = stream;
    let mut cuts = cuts.iter().map(|cut| usize::from(*cut) + 1).cycle();
    let mut count = 0;
    while !rest.is_empty() {
        let cut = cuts.next().unwrap_or(rest.len()).min(rest.len());
        let Some((piece, behind)) = rest.split_at_checked(cut) else { break };
        rest = behind;
        if reassembly.push(piece, Vec::new()).is_err() {
            break;
        }
        loop {
            match reassembly.pop() {
                Ok(Some(message)) => {
                    assert_eq!(message.body.len(), message.header.body_len, "a message is whole");
                    count += 1;
                }
                Ok(None) => break,
                Err(_) => return count,
            }
        }
    }
    count
}

#[cfg(test)]
mod tests;
