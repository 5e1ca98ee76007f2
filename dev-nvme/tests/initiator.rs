// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A client that sends each request as an ioctl would pass it: structure and room for the answer in one, every message
//! with the same number. So does the vfio-user initiator of SPDK; the bytes here are what it sends, up to its admin
//! queue.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test may stop at the first surprise"
)]

mod host;

use std::io::{IoSlice, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread;

use dev_nvme::Device;
use dev_nvme::identity::Identity;
use dev_nvme::media::Image;
use dev_nvme::service;
use host::local::image;
use host::{BASE, Ram};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};

const HEADER_LEN: usize = 16;

/// `VFIO_USER_*`.
const VERSION: u16 = 1;
const DMA_MAP: u16 = 2;
const DMA_UNMAP: u16 = 3;
const GET_INFO: u16 = 4;
const GET_REGION_INFO: u16 = 5;
const REGION_READ: u16 = 9;
const REGION_WRITE: u16 = 10;

/// What it gives a region's answer, less the structure, and sends along.
const REGION_INFO_LEN: usize = 4096 - 32;

struct Initiator(UnixStream);

impl Initiator {
    fn send(&self, command: u16, body: &[u8], fd: Option<BorrowedFd<'_>>) {
        let mut message = Vec::new();
        message.extend(0u16.to_le_bytes());
        message.extend(command.to_le_bytes());
        message.extend((HEADER_LEN as u32 + body.len() as u32).to_le_bytes());
        message.extend([0; 8]);
        message.extend(body);
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let fds: Vec<_> = fd.into_iter().collect();
        if !fds.is_empty() {
            assert!(ancillary.push(SendAncillaryMessage::ScmRights(&fds)));
        }
        let parts = [IoSlice::new(&message)];
        let sent = rustix::net::sendmsg(&self.0, &parts, &mut ancillary, SendFlags::NOSIGNAL).unwrap();
        assert_eq!(sent, message.len());
    }

    /// The body of the answer, which must be none of an error.
    fn ask(&mut self, command: u16, body: &[u8], fd: Option<BorrowedFd<'_>>) -> Vec<u8> {
        self.send(command, body, fd);
        let mut header = [0; HEADER_LEN];
        self.0.read_exact(&mut header).unwrap();
        let word = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().unwrap());
        assert_eq!(word(8) & 0xf, 1, "an answer");
        assert_eq!((word(8) & 1 << 5, word(12)), (0, 0), "command {command} was refused");
        let mut body = vec![0; word(4) as usize - HEADER_LEN];
        self.0.read_exact(&mut body).unwrap();
        body
    }

    fn access(&mut self, region: u32, offset: u64, len: u32, data: Option<&[u8]>) -> Vec<u8> {
        let mut body = offset.to_le_bytes().to_vec();
        body.extend(region.to_le_bytes());
        body.extend(len.to_le_bytes());
        body.extend(data.unwrap_or_default());
        let command = if data.is_some() { REGION_WRITE } else { REGION_READ };
        self.ask(command, &body, None)[16..].to_vec()
    }
}

#[test]
fn initiator_that_sends_the_room_for_answers_reaches_the_registers() {
    let file = image(8 << 20);
    let identity = Identity::new("TEST", 8 << 20, 512).unwrap();
    let device = Arc::new(Device::new(identity, Box::new(Image::new(file))));
    service::start_workers(&device).unwrap();
    let (ours, theirs) = UnixStream::pair().unwrap();
    let served = Arc::clone(&device);
    let session = thread::spawn(move || service::serve_client(&served, theirs.into()).unwrap());
    let mut initiator = Initiator(ours);

    let version = initiator.ask(VERSION, &[0, 0, 1, 0], None);
    assert_eq!(version[..4], [0, 0, 1, 0]);
    let mut info = 16u32.to_le_bytes().to_vec();
    info.resize(16, 0);
    let info = initiator.ask(GET_INFO, &info, None);
    assert_eq!(info.len(), 16);
    let regions = u32::from_le_bytes(info[8..12].try_into().unwrap());
    for index in 0..regions {
        let mut body = vec![0; REGION_INFO_LEN];
        body[..4].copy_from_slice(&(REGION_INFO_LEN as u32).to_le_bytes());
        body[8..12].copy_from_slice(&index.to_le_bytes());
        let region = initiator.ask(GET_REGION_INFO, &body, None);
        assert!((32..=4096).contains(&region.len()), "region {index}");
        assert_eq!(region[8..12], index.to_le_bytes());
        let size = u64::from_le_bytes(region[16..24].try_into().unwrap());
        // Registers with the page of doorbells behind them, and configuration space.
        assert_eq!(size >= 0x2000, index == 0, "region {index} of {size:#x} bytes");
        assert_eq!(size > 0, [0, 7].contains(&index), "region {index} of {size:#x} bytes");
    }
    // Its memory is huge pages, or a file that anybody may cut short: whatever it is, it is taken.
    let ram = Ram::new(2 << 20);
    let mut map = [32u32.to_le_bytes(), 3u32.to_le_bytes()].concat();
    for word in [0, BASE, ram.object.len()] {
        map.extend(word.to_le_bytes());
    }
    assert!(initiator.ask(DMA_MAP, &map, Some(ram.object.as_fd())).is_empty());
    // Bus mastering on and INTx off; the controller's abilities; its admin queues.
    let command = initiator.access(7, 4, 2, None);
    let enabled = u16::from_le_bytes(command.try_into().unwrap()) | 0x404;
    initiator.access(7, 4, 2, Some(&enabled.to_le_bytes()));
    assert_eq!(initiator.access(7, 4, 2, None), enabled.to_le_bytes());
    let capabilities = u64::from_le_bytes(initiator.access(0, 0, 8, None).try_into().unwrap());
    assert!(capabilities & 0xffff >= 31, "queues of {} entries", (capabilities & 0xffff) + 1);
    for (register, value) in [(0x28, BASE), (0x30, BASE + 4096)] {
        initiator.access(0, register, 8, Some(&value.to_le_bytes()));
        assert_eq!(initiator.access(0, register, 8, None), value.to_le_bytes());
    }
    let mut unmap = [24u32.to_le_bytes(), 0u32.to_le_bytes()].concat();
    for word in [BASE, ram.object.len()] {
        unmap.extend(word.to_le_bytes());
    }
    // The descriptor comes along here too.
    initiator.ask(DMA_UNMAP, &unmap, Some(ram.object.as_fd()));
    drop(initiator);
    session.join().unwrap();
    device.engine().end();
}
