// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The vfio-user codec: bodies for every decoder, and a stream of messages cut anywhere.
//!
//! The first byte of an input of [`bodies`] says how many fds came along. Of [`stream`]'s it is the length of the
//! list of cuts that follows it, and the stream is the rest.

use ipc::vfio_user::device::{DeviceInfo, IrqInfo, IrqSet, RegionDescription, RegionInfo};
use ipc::vfio_user::dma::{DmaAccess, DmaMap};
use ipc::vfio_user::feature::{FeatureHeader, FeatureOp, MIG_DEVICE_STATE, MigDeviceState, MigState};
use ipc::vfio_user::header::{Command, Header, Kind};
use ipc::vfio_user::region::RegionAccess;
use ipc::vfio_user::{FDS_MAX, version::Version};
use zerocopy::IntoBytes;

use crate::drivers::vfio_user as driver;

pub fn bodies(input: &[u8]) {
    let Some((fds, body)) = input.split_first() else { return };
    // One more than any message may have.
    driver::bodies(body, usize::from(*fds) % (FDS_MAX + 2));
}

pub fn stream(input: &[u8]) {
    let Some((cuts, rest)) = input.split_first() else { return };
    let (cuts, stream) = rest.split_at(usize::from(*cuts).min(rest.len()));
    let whole = driver::stream(stream, &[]);
    assert_eq!(driver::stream(stream, cuts), whole, "where a stream is cut changes what is in it");
}

/// The body of every message that there is a type for, with the number of fds it comes with.
fn valid() -> Vec<(Command, u8, Vec<u8>)> {
    let region = RegionDescription { info: RegionInfo::request(0), sparse: None };
    let access = RegionAccess::new(0, 0x1000, 4);
    let transfer = DmaAccess::new(0x4000_0000, 8);
    let argsz = u32::try_from(size_of::<FeatureHeader>() + size_of::<MigDeviceState>()).unwrap_or(0);
    let feature = FeatureHeader::request(MIG_DEVICE_STATE, FeatureOp::Set, argsz);
    let state = MigDeviceState::new(MigState::Stop);
    vec![
        (Command::VERSION, 0, Version::proposal().encode()),
        (Command::DMA_MAP, 1, DmaMap::new(0, 1 << 30, 0, 3).as_bytes().to_vec()),
        (Command::DEVICE_GET_INFO, 0, DeviceInfo::pci().as_bytes().to_vec()),
        (Command::DEVICE_GET_REGION_INFO, 0, region.encode(64)),
        (Command::DEVICE_GET_IRQ_INFO, 0, IrqInfo::new(2, IrqInfo::EVENTFD, 8).as_bytes().to_vec()),
        (Command::DEVICE_SET_IRQS, 2, IrqSet::new(2, 0x24, 0, 2).as_bytes().to_vec()),
        (Command::REGION_READ, 0, access.as_bytes().to_vec()),
        (Command::REGION_WRITE, 0, [access.as_bytes(), &[1, 2, 3, 4]].concat()),
        (Command::DMA_READ, 0, transfer.as_bytes().to_vec()),
        (Command::DMA_WRITE, 0, [transfer.as_bytes(), &[7; 8]].concat()),
        (Command::DEVICE_FEATURE, 0, [feature.as_bytes(), state.as_bytes()].concat()),
        (Command::MIG_DATA_READ, 0, [[8, 0, 0, 0], [64, 0, 0, 0]].concat()),
        (Command::MIG_DATA_WRITE, 0, [&[8, 0, 0, 0, 8, 0, 0, 0][..], &[5; 8]].concat()),
    ]
}

pub fn bodies_seeds() -> Vec<Vec<u8>> {
    valid().into_iter().map(|(_, fds, body)| [&[fds][..], &body].concat()).collect()
}

pub fn stream_seeds() -> Vec<Vec<u8>> {
    let framed = |kind| -> Vec<u8> {
        let framed = valid().into_iter().zip(1..).flat_map(|((command, _, body), id)| {
            let header = Header { id, command, kind, body_len: body.len() };
            [&header.encode().unwrap_or_default()[..], &body].concat()
        });
        framed.collect()
    };
    let kinds = [Kind::Command, Kind::Posted, Kind::Reply];
    kinds.into_iter().map(|kind| [&[3, 0, 30, 200][..], &framed(kind)].concat()).collect()
}

#[cfg(test)]
mod tests;
