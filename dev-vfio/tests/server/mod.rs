// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A vfio-user server to be driven by the client under test: well-behaved, with one answer bent at a time.
#![allow(dead_code, reason = "each test program uses a part of it")]

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use ipc::deadline::Deadline;
use ipc::vfio_user::connection::Connection;
use ipc::vfio_user::device::{
    DeviceInfo, IrqInfo, PCI_CONFIG_REGION, PCI_MSIX_IRQ, RegionDescription, RegionInfo,
};
use ipc::vfio_user::header::Command;
use ipc::vfio_user::region::RegionAccess;
use ipc::vfio_user::version::Version;
use rustix::io::Errno;
use zerocopy::IntoBytes;

pub const BAR_LEN: u64 = 0x4000;
pub const VECTORS: u32 = 2;

/// What the server has and was told.
#[derive(Default)]
pub struct Device {
    /// The first bytes of BAR 0.
    pub registers: Mutex<Vec<u8>>,
    /// The eventfds of its vectors.
    pub vectors: Mutex<Vec<OwnedFd>>,
    /// Every command, in order.
    pub commands: Mutex<Vec<Command>>,
}

/// What a bent server does instead of answering.
pub type Bend = Box<dyn Fn(Command, &[u8]) -> Option<Result<Vec<u8>, Errno>> + Send>;

pub struct Server {
    pub device: Arc<Device>,
    pub connection: Arc<Connection>,
    pub client: Option<OwnedFd>,
    /// The server's end of the stream, for bytes that no codec of ours would write.
    pub raw: UnixStream,
    thread: JoinHandle<()>,
}

impl Server {
    pub fn start(bend: Bend) -> Server {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let raw = ours.try_clone().unwrap();
        let connection = Arc::new(Connection::new(ours.into()));
        let device = Arc::new(Device { registers: Mutex::new(vec![0; 64]), ..Device::default() });
        let (served, state) = (Arc::clone(&connection), Arc::clone(&device));
        let thread = thread::spawn(move || {
            while let Ok(mut incoming) = served.receive(Deadline::after(Duration::from_secs(20))) {
                let command = incoming.command();
                state.commands.lock().unwrap().push(command);
                state.vectors.lock().unwrap().append(&mut incoming.fds);
                let body = incoming.body.clone();
                let answer = bend(command, &body).unwrap_or_else(|| state.answer(command, &body));
                let deadline = Deadline::after(Duration::from_secs(5));
                let sent = match answer {
                    Ok(body) => served.reply(&incoming, &[&body], &[], deadline),
                    Err(errno) => served.fail(&incoming, errno, deadline),
                };
                if sent.is_err() {
                    return;
                }
            }
        });
        Server { device, connection, client: Some(theirs.into()), raw, thread }
    }

    pub fn good() -> Server {
        Server::start(Box::new(|_, _| None))
    }

    /// Signals a vector, as its device would.
    pub fn signal(&self, vector: usize) {
        rustix::io::write(&self.device.vectors.lock().unwrap()[vector], &1u64.to_ne_bytes()).unwrap();
    }
}

/// A function with MSI-X table and pending bits in its one BAR.
pub fn config_space() -> [u8; 256] {
    let mut image = [0; 256];
    let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &[0xb7, 0xf1, 0x01, 0x00, 0, 0, 0x10, 0, 0, 0x02, 0x08, 0x01]);
    put(0x10, &[0x04]);
    put(0x34, &[0x40]);
    put(0x40, &[0x11, 0, 0x01, 0, 0x00, 0x20, 0, 0, 0x00, 0x30, 0, 0]);
    image
}

impl Device {
    pub fn answer(&self, command: Command, body: &[u8]) -> Result<Vec<u8>, Errno> {
        match command {
            Command::VERSION => Ok(Version::decode(body).unwrap().agree().unwrap().encode()),
            Command::DEVICE_GET_INFO => Ok(DeviceInfo::pci().as_bytes().to_vec()),
            Command::DEVICE_GET_REGION_INFO => {
                let mut info = RegionInfo::decode_request(body).unwrap();
                let len = match info.index.get() {
                    0 => BAR_LEN,
                    PCI_CONFIG_REGION => 256,
                    _ => 0,
                };
                info.size = len.into();
                info.flags = (RegionInfo::READ | RegionInfo::WRITE).into();
                let argsz = info.argsz.get();
                Ok(RegionDescription { info, sparse: None }.encode(argsz))
            }
            Command::DEVICE_GET_IRQ_INFO => {
                let index = IrqInfo::decode_request(body).unwrap().index.get();
                let count = if index == PCI_MSIX_IRQ { VECTORS } else { 0 };
                Ok(IrqInfo::new(index, IrqInfo::EVENTFD, count).as_bytes().to_vec())
            }
            Command::REGION_READ => {
                let (access, count) = RegionAccess::decode_read(body).unwrap();
                let offset = usize::try_from(access.offset.get()).unwrap();
                let bytes = if access.region.get() == PCI_CONFIG_REGION {
                    config_space().to_vec()
                } else {
                    self.registers.lock().unwrap().clone()
                };
                let data = bytes.get(offset..offset + count).map_or(vec![0; count], <[u8]>::to_vec);
                Ok([access.as_bytes(), &data].concat())
            }
            Command::REGION_WRITE => {
                let (access, data) = RegionAccess::decode_write(body).unwrap();
                let offset = usize::try_from(access.offset.get()).unwrap();
                let mut registers = self.registers.lock().unwrap();
                if access.region.get() == 0 && offset + data.len() <= registers.len() {
                    registers[offset..offset + data.len()].copy_from_slice(data);
                }
                Ok(access.as_bytes().to_vec())
            }
            Command::DMA_MAP | Command::DEVICE_SET_IRQS | Command::DEVICE_RESET => Ok(Vec::new()),
            _ => Err(Errno::NOTSUP),
        }
    }
}
