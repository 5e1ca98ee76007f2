// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A vfio-user server to be driven by the client under test: well-behaved, with one answer bent at a time.
#![allow(dead_code, reason = "each test program uses a part of it")]

pub mod described;
pub mod migration;
pub mod reference;

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use ipc::deadline::Deadline;
use ipc::shm::memory_file;
use ipc::vfio_user::connection::Connection;
use ipc::vfio_user::device::{
    IrqAction, IrqInfo, IrqSet, PCI_CONFIG_REGION, PCI_INTX_IRQ, PCI_MSIX_IRQ, RegionDescription, RegionInfo,
    SparseArea,
};
use ipc::vfio_user::dma::{DmaMap, DmaUnmap};
use ipc::vfio_user::header::Command;
use ipc::vfio_user::region::{RegionAccess, decode_multi};
use rustix::fs::SealFlags;
use rustix::io::Errno;
use zerocopy::IntoBytes;

use described::Described;

pub const BAR_LEN: u64 = 0x4000;
pub const VECTORS: u32 = 2;
/// The register that ends an INTx.
pub const INTX_DONE: usize = 32;

/// What the server has and was told.
#[derive(Default)]
pub struct Device {
    /// The first bytes of BAR 0.
    pub registers: Mutex<Vec<u8>>,
    /// The eventfds of its vectors, while they are connected.
    pub vectors: Mutex<Vec<OwnedFd>>,
    /// Every command, in order.
    pub commands: Mutex<Vec<Command>>,
    /// Its DMA windows: length, and memory by file and offset.
    pub windows: Mutex<BTreeMap<u64, Window>>,
    /// How many writes each batch had.
    pub batches: Mutex<Vec<usize>>,
    /// BAR 0 as memory, if it can be mapped.
    pub memory: Option<OwnedFd>,
    /// BAR 0 is I/O; then it has no MSI-X, whose structures lie in memory.
    pub io: bool,
    /// Its pin, if it has one.
    pub intx: Option<Mutex<Pin>>,
    /// Its migration states, if it has some.
    pub migration: Option<migration::Migration>,
}

/// An INTx pin that masks itself when it is signalled.
#[derive(Default)]
pub struct Pin {
    pub asserted: bool,
    masked: bool,
    eventfd: Option<OwnedFd>,
}

/// What a bent server does instead of answering.
pub type Bend = Box<dyn Fn(Command, &[u8]) -> Option<Result<Vec<u8>, Errno>> + Send>;

/// A DMA window.
pub struct Window {
    pub len: u64,
    pub memory: Option<(OwnedFd, u64)>,
}

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
        Server::of(Device { registers: Mutex::new(vec![0; 64]), ..Device::default() }, bend)
    }

    /// One whose BAR 0 is memory that can be mapped, all of it, in a file with these seals.
    pub fn with_memory(seals: SealFlags) -> Server {
        Server::with_memory_and(seals, None)
    }

    /// The same, with a pin if there is one.
    pub fn with_memory_and(seals: SealFlags, intx: Option<Mutex<Pin>>) -> Server {
        let memory = memory_file::create("bar0").unwrap();
        rustix::fs::ftruncate(&memory, BAR_LEN).unwrap();
        rustix::fs::fcntl_add_seals(&memory, seals).unwrap();
        Server::of(Device { memory: Some(memory), intx, ..Device::default() }, Box::new(|_, _| None))
    }

    /// One with migration states, whose own state has its registers and so many bytes behind them.
    pub fn with_migration(behind_len: u64, bend: Bend) -> Server {
        let migration = Some(migration::Migration::new(behind_len));
        let registers = Mutex::new(vec![0; 64]);
        Server::of(Device { registers, migration, ..Device::default() }, bend)
    }

    pub fn of(device: Device, bend: Bend) -> Server {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut server = Server::on(ours.into(), device, bend);
        server.client = Some(theirs.into());
        server
    }

    /// Serves a client that has connected.
    pub fn on(socket: OwnedFd, device: Device, bend: Bend) -> Server {
        let raw = UnixStream::from(socket.try_clone().unwrap());
        let connection = Arc::new(Connection::new(socket));
        let device = Arc::new(device);
        let (served, state) = (Arc::clone(&connection), Arc::clone(&device));
        let thread = thread::spawn(move || {
            while let Ok(mut incoming) = served.receive(Deadline::after(Duration::from_secs(20))) {
                let command = incoming.command();
                state.commands.lock().unwrap().push(command);
                let mut fds = std::mem::take(&mut incoming.fds);
                let body = incoming.body.clone();
                let answer = bend(command, &body).unwrap_or_else(|| match command {
                    Command::DEVICE_SET_IRQS => state.set_irqs(&body, std::mem::take(&mut fds)),
                    Command::DMA_MAP => state.map_dma(&body, fds.pop()),
                    _ => state.answer(command, &body),
                });
                let deadline = Deadline::after(Duration::from_secs(5));
                let sent = match answer {
                    Ok(reply) => served.reply(&incoming, &[&reply], &state.fds(command, &body), deadline),
                    Err(errno) => served.fail(&incoming, errno, deadline),
                };
                if sent.is_err() {
                    return;
                }
            }
        });
        Server { device, connection, client: None, raw, thread }
    }

    pub fn with_intx() -> Server {
        Server::with_intx_and(Box::new(|_, _| None))
    }

    pub fn with_intx_and(bend: Bend) -> Server {
        let intx = Some(Mutex::default());
        Server::of(Device { registers: Mutex::new(vec![0; 64]), intx, ..Device::default() }, bend)
    }

    pub fn good() -> Server {
        Server::start(Box::new(|_, _| None))
    }

    /// Whether its client is gone.
    pub fn is_over(&self) -> bool {
        self.thread.is_finished()
    }

    /// Signals a vector, as its device would: where it is connected.
    pub fn signal(&self, vector: usize) {
        if let Some(eventfd) = self.device.vectors.lock().unwrap().get(vector) {
            rustix::io::write(eventfd, &1u64.to_ne_bytes()).unwrap();
        }
    }
}

/// What the server answers about its device.
const DESCRIBED: Described = Described { bar_len: BAR_LEN, vectors: VECTORS, config_space };

/// A function with MSI-X table and pending bits in its one BAR.
pub fn config_space() -> [u8; 256] {
    let mut image = [0; 256];
    let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &[0xb7, 0xf1, 0x01, 0x00, 0, 0, 0x10, 0, 0, 0x02, 0x08, 0x01]);
    put(0x10, &[0x04]);
    put(0x34, &[0x40]);
    put(0x3c, &[0, 1]);
    put(0x40, &[0x11, 0, 0x01, 0, 0x00, 0x20, 0, 0, 0x00, 0x30, 0, 0]);
    image
}

impl Device {
    /// Windows never overlap.
    fn map_dma(&self, body: &[u8], file: Option<OwnedFd>) -> Result<Vec<u8>, Errno> {
        let map = DmaMap::decode(body, usize::from(file.is_some())).map_err(|_| Errno::INVAL)?;
        let (start, len) = (map.address.get(), map.size.get());
        let mut windows = self.windows.lock().unwrap();
        if windows.iter().any(|(at, window)| *at < start + len && start < at + window.len) {
            return Err(Errno::EXIST);
        }
        windows.insert(start, Window { len, memory: file.map(|file| (file, map.offset.get())) });
        Ok(Vec::new())
    }

    /// Asserts the pin, or not.
    pub fn set_intx(&self, asserted: bool) {
        let mut pin = self.intx.as_ref().unwrap().lock().unwrap();
        pin.asserted = asserted;
        self.signal_intx(&mut pin);
    }

    /// Asserts the pin: whether it has risen by that.
    pub fn raise_intx(&self) -> bool {
        let mut pin = self.intx.as_ref().unwrap().lock().unwrap();
        let rises = !std::mem::replace(&mut pin.asserted, true);
        self.signal_intx(&mut pin);
        rises
    }

    fn signal_intx(&self, pin: &mut Pin) {
        if let Some(eventfd) = &pin.eventfd
            && pin.asserted
            && !std::mem::replace(&mut pin.masked, true)
        {
            rustix::io::write(eventfd, &1u64.to_ne_bytes()).unwrap();
        }
    }

    /// `DEVICE_SET_IRQS`: connecting, disconnecting, and unmasking INTx.
    fn set_irqs(&self, body: &[u8], mut fds: Vec<OwnedFd>) -> Result<Vec<u8>, Errno> {
        let (set, _, action) = IrqSet::decode(body, fds.len()).map_err(|_| Errno::INVAL)?;
        match (set.index.get(), &self.intx, action) {
            (PCI_MSIX_IRQ, _, IrqAction::Trigger) => {
                let mut vectors = self.vectors.lock().unwrap();
                vectors.truncate(usize::try_from(set.start.get()).unwrap());
                vectors.append(&mut fds);
            }
            (PCI_INTX_IRQ, Some(pin), IrqAction::Trigger) => {
                let mut pin = pin.lock().unwrap();
                (pin.eventfd, pin.masked) = (fds.pop(), false);
                self.signal_intx(&mut pin);
            }
            (PCI_INTX_IRQ, Some(pin), IrqAction::Unmask) => {
                let mut pin = pin.lock().unwrap();
                pin.masked = false;
                self.signal_intx(&mut pin);
            }
            _ => return Err(Errno::INVAL),
        }
        Ok(Vec::new())
    }

    /// What goes with an answer.
    fn fds(&self, command: Command, body: &[u8]) -> Vec<BorrowedFd<'_>> {
        let bar0 = command == Command::DEVICE_GET_REGION_INFO && body.get(8..12) == Some(&[0; 4]);
        self.memory.iter().filter(|_| bar0).map(AsFd::as_fd).collect()
    }

    pub fn answer(&self, command: Command, body: &[u8]) -> Result<Vec<u8>, Errno> {
        match command {
            Command::DEVICE_GET_REGION_INFO if self.memory.is_some() && DESCRIBED.region(body).index == 0 => {
                let mut info = DESCRIBED.region(body);
                info.flags |= RegionInfo::MMAP;
                let sparse = Some(vec![SparseArea { offset: 0.into(), size: BAR_LEN.into() }]);
                Ok(RegionDescription { info, sparse }.encode(info.argsz.get()))
            }
            Command::DEVICE_GET_IRQ_INFO
                if self.intx.is_some() && IrqInfo::decode_request(body).unwrap().index == PCI_INTX_IRQ =>
            {
                let flags = IrqInfo::EVENTFD | IrqInfo::MASKABLE | IrqInfo::AUTOMASKED;
                Ok(IrqInfo::new(PCI_INTX_IRQ, flags, 1).as_bytes().to_vec())
            }
            Command::VERSION
            | Command::DEVICE_GET_INFO
            | Command::DEVICE_GET_REGION_INFO
            | Command::DEVICE_GET_IRQ_INFO => DESCRIBED.answer(command, body).ok_or(Errno::INVAL),
            Command::REGION_READ => {
                let (access, count) = RegionAccess::decode_read(body).unwrap();
                let offset = usize::try_from(access.offset.get()).unwrap();
                let bytes = if access.region.get() == PCI_CONFIG_REGION {
                    let mut image = config_space().to_vec();
                    if self.io {
                        image[0x10] = 1;
                    }
                    image
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
                // A driver that writes 2 or more here has dealt with the interrupt.
                if offset == INTX_DONE && self.intx.is_some() && data[0] >= 2 {
                    self.set_intx(false);
                }
                Ok(access.as_bytes().to_vec())
            }
            Command::REGION_WRITE_MULTI => {
                let writes = decode_multi(body).map_err(|_| Errno::INVAL)?;
                self.batches.lock().unwrap().push(writes.len());
                for write in writes {
                    self.answer(Command::REGION_WRITE, &[write.access.as_bytes(), write.bytes()].concat())?;
                }
                Ok((body[..8]).to_vec())
            }
            Command::DMA_UNMAP => {
                let (unmap, _) = DmaUnmap::decode(body).map_err(|_| Errno::INVAL)?;
                let mut windows = self.windows.lock().unwrap();
                let known = windows.get(&unmap.address.get()).is_some_and(|window| unmap.size == window.len);
                windows.remove(&unmap.address.get()).filter(|_| known).ok_or(Errno::NOENT)?;
                Ok(body.to_vec())
            }
            Command::DEVICE_RESET => {
                if let Some(migration) = &self.migration {
                    migration.reset();
                }
                Ok(Vec::new())
            }
            _ => match &self.migration {
                Some(migration) => migration.answer(command, body, &self.registers),
                None => Err(Errno::NOTSUP),
            },
        }
    }
}
