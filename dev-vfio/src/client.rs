// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The vfio-user client: what a device is asked when it is opened, and while the guest uses it.
//!
//! The server is another process, perhaps of somebody else, and never trusted: the codec in `ipc::vfio_user` checks
//! every body, here the answers are held against what was asked and against bounds of our own. Behind a
//! vSMMU the server gets no memory (but see [`crate::direct`]): DMA windows without an fd cover all addresses, so
//! that its DMA comes as messages and is translated. A server that breaks the protocol, or does not answer in time, is
//! not asked again: each answer has a deadline, and so has opening as a whole.
//! Its commands come over a socket of their own where it has that (`twin_socket`).

pub mod dma_windows;

use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ipc::deadline::Deadline;
use ipc::protocol::budget;
use ipc::protocol::bus::WINDOWS_LEN_MAX;
use ipc::vfio_user::Malformed;
use ipc::vfio_user::connection::{Answer, Connection, ConnectionError, Incoming};
use ipc::vfio_user::device::{
    DeviceInfo, IrqInfo, IrqSet, PCI_CONFIG_REGION, PCI_INTX_IRQ, PCI_MSIX_IRQ, REGION_INFO_LEN_MAX,
    RegionDescription, RegionInfo,
};
use ipc::vfio_user::dma::{DmaMap, DmaUnmap};
use ipc::vfio_user::feature::{
    FeatureHeader, FeatureOp, MIG_DEVICE_STATE, MIGRATION, MigDeviceState, MigState, MigrationFlags,
};
use ipc::vfio_user::header::Command;
use ipc::vfio_user::region::{RegionAccess, SmallWrite, encode_multi};
use ipc::vfio_user::version::Version;
use thiserror::Error;
use zerocopy::IntoBytes;

use crate::connected::Connected;
use crate::pci::bar::BAR_COUNT;
use crate::pci::config_space::CONFIG_LEN;
use crate::pci::intx::Pin;
use crate::pci::windows::Mappable;

use dma_windows::{DmaWindow, Windows};

/// The most posted writes in one message: far below what any server takes, and a small wait for the first of them.
pub const BATCH_MAX: usize = 32;

/// What may be mapped of a region, and the file that it is in.
pub type Offered = (Mappable, Arc<OwnedFd>);

/// Why the server is not asked any more, or has refused.
#[derive(Clone, Debug, Error)]
pub enum ClientError {
    /// The connection is over, or the server said no.
    #[error(transparent)]
    Connection(#[from] ConnectionError),
    /// The device is not one we can use.
    #[error("the device has {0}")]
    Unusable(&'static str),
    /// Its DMA could not reach all that the guest may map for it.
    #[error(
        "the server takes no more than {count} DMA windows of {len:#x} bytes: not all addresses of the guest's SMMU"
    )]
    DmaWindows {
        /// How many it took.
        count: usize,
        /// How long they are.
        len: u64,
    },
}

impl From<Malformed> for ClientError {
    fn from(malformed: Malformed) -> Self {
        Self::Connection(ConnectionError::Violation(malformed))
    }
}

impl ClientError {
    /// Whether the server only refused one request, and may be asked for the next.
    pub fn is_refusal(&self) -> bool {
        matches!(
            self,
            Self::Connection(ConnectionError::Remote { .. } | ConnectionError::Refused(_))
                | Self::DmaWindows { .. }
        )
    }
}

/// A region as the server described it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Region {
    len: u64,
    readable: bool,
    writable: bool,
}

/// What a device said when it was opened.
#[derive(Debug)]
pub struct Opened {
    /// Its configuration space, 256 bytes.
    pub config: Vec<u8>,
    /// The lengths of its BARs.
    pub bar_lens: [u64; BAR_COUNT],
    /// How many MSI-X vectors it can signal.
    pub vectors: u16,
    /// Its INTx pin, if it has one.
    pub intx: Option<Pin>,
    /// What of its BARs can be mapped, and the file to map.
    pub mappables: Vec<Offered>,
}

/// A connected device.
#[derive(Debug)]
pub struct Client {
    connection: Connection,
    /// The socket of the server's commands, if they have one of their own.
    twin: Option<Connection>,
    regions: Vec<Region>,
    fds_max: usize,
    interrupts: Connected,
    windows: Mutex<Windows>,
    /// How many posted writes one message may have; 1 where the server takes no batches.
    batch_max: usize,
    resettable: bool,
    stoppable: bool,
    /// While the device is being opened: when all of it has to be done.
    opening: Option<Deadline>,
}

/// For the next answer, and not beyond the end of the conversation that it is part of.
fn answer_by(conversation: Option<Deadline>) -> Deadline {
    let soon = Deadline::after(budget::vfio::ANSWER);
    conversation.map_or(soon, |end| end.min(soon))
}

impl Client {
    /// Agrees on a version and asks what the device is. It is reset, if it can be. All that is asked from now until
    /// [`Client::opened`] has to be answered by `until`, however many answers it is.
    ///
    /// # Errors
    /// If the server is late or breaks the protocol, or the device is none we can use.
    pub fn open(socket: OwnedFd, until: Deadline) -> Result<(Client, Opened), ClientError> {
        let opening = Some(until);
        let soon = || answer_by(opening);
        let connection = Connection::new(socket);
        let proposal = Version::proposal().encode();
        let Answer { body, fds } = connection.request(Command::VERSION, &[&proposal], &[], soon())?;
        let version = Version::decode(&body).map_err(|error| connection.violated(error))?;
        version.accept().map_err(|error| connection.violated(error))?;
        let twin = version.take_twin_socket(fds).map_err(|error| connection.violated(error))?;
        let twin = twin.map(Connection::new);

        let answer =
            connection.request(Command::DEVICE_GET_INFO, &[DeviceInfo::request().as_bytes()], &[], soon())?;
        let info = DeviceInfo::decode_pci(&answer.body).map_err(|error| connection.violated(error))?;
        let resettable = info.flags.get() & DeviceInfo::RESET != 0;
        if resettable {
            connection.request(Command::DEVICE_RESET, &[], &[], soon())?;
        }
        let mut regions = Vec::new();
        let mut mappables = Vec::new();
        for index in 0..=PCI_CONFIG_REGION {
            let (region, mappable) = region(&connection, index, soon())?;
            regions.push(region);
            mappables.extend(mappable);
        }
        let (vectors, _) = irqs(&connection, PCI_MSIX_IRQ, soon())?;
        let (pins, flags) = irqs(&connection, PCI_INTX_IRQ, soon())?;
        let intx = (pins > 0).then_some(Pin { automasked: flags & IrqInfo::AUTOMASKED != 0 });

        // Features came after protocol 0.0: a server of that version may lose its place in the stream over one.
        let stoppable = version.minor > 0 && has_migration(&connection, soon())?;
        let fds_max = version.capabilities.msg_fds();
        let room = version.capabilities.data_len().saturating_sub(size_of::<u64>()) / size_of::<SmallWrite>();
        let batched = version.capabilities.write_multiple == Some(true);
        let batch_max = if batched { room.clamp(1, BATCH_MAX) } else { 1 };
        let windows = Mutex::new(Windows::new(version.capabilities.dma_maps()));
        let interrupts = Connected::default();
        let client = Client {
            connection,
            twin,
            regions,
            fds_max,
            interrupts,
            windows,
            batch_max,
            resettable,
            stoppable,
            opening,
        };
        let config_len = u32::try_from(CONFIG_LEN).unwrap_or(0);
        let config = client.read_bytes(PCI_CONFIG_REGION, 0, config_len)?;
        client.declare(&[DmaWindow::EVERYWHERE])?;
        let mut lens = client.regions.iter().map(|region| region.len);
        let bar_lens = core::array::from_fn(|_| lens.next().unwrap_or(0));
        let vectors = u16::try_from(vectors).unwrap_or(u16::MAX);
        Ok((client, Opened { config, bar_lens, vectors, intx, mappables }))
    }

    /// The device is open: from now on every request has its own time.
    pub fn opened(&mut self) {
        self.opening = None;
    }

    fn soon(&self) -> Deadline {
        answer_by(self.opening)
    }

    /// Reads up to 8 bytes of a region. `None`: nothing is there.
    ///
    /// # Errors
    /// The connection's, or that the server refuses.
    pub fn read(&self, index: u32, offset: u64, size: u8) -> Result<Option<u64>, ClientError> {
        if !self.covers(index, offset, size, |region| region.readable) {
            return Ok(None);
        }
        let bytes = self.read_bytes(index, offset, size.into())?;
        Ok(Some(bytes.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))))
    }

    /// Writes up to 8 bytes of a region, if it is there, and waits until it is done.
    ///
    /// # Errors
    /// The connection's, or that the server refuses.
    pub fn write(&self, index: u32, offset: u64, size: u8, value: u64) -> Result<(), ClientError> {
        if !self.covers(index, offset, size, |region| region.writable) {
            return Ok(());
        }
        let access = RegionAccess::new(index, offset, size.into());
        let bytes = value.to_le_bytes();
        let parts = [access.as_bytes(), bytes.get(..size.into()).unwrap_or(&bytes)];
        let answer = self.connection.request(Command::REGION_WRITE, &parts, &[], self.soon())?;
        access.check_write_reply(&answer.body).map_err(|error| self.connection.violated(error).into())
    }

    /// A write for [`Client::post`], if the region has these bytes.
    pub fn posted(&self, index: u32, offset: u64, size: u8, value: u64) -> Option<SmallWrite> {
        let there = self.covers(index, offset, size, |region| region.writable);
        there.then(|| SmallWrite::new(index, offset, size, value))
    }

    /// How many writes [`Client::post`] puts into one message.
    pub fn batch_max(&self) -> usize {
        self.batch_max
    }

    /// Sends writes that nobody waits for, in order. They are on their way when this returns: what is asked later finds
    /// them done.
    ///
    /// # Errors
    /// The connection's.
    pub fn post(&self, writes: &[SmallWrite]) -> Result<(), ClientError> {
        for batch in writes.chunks(self.batch_max) {
            match batch {
                [write] => {
                    let parts = [write.access.as_bytes(), write.bytes()];
                    self.connection.post(Command::REGION_WRITE, &parts, &[], self.soon())?;
                }
                batch => {
                    let body = encode_multi(batch);
                    self.connection.post(Command::REGION_WRITE_MULTI, &[&body], &[], self.soon())?;
                }
            }
        }
        Ok(())
    }

    /// Gives the device its eventfds: MSI-X or INTx, as the guest enables them. Comes back with why there is no INTx, if it
    /// was wanted.
    ///
    /// # Errors
    /// The connection's, or that the server refuses.
    pub fn offer_interrupts(
        &mut self,
        vectors: &Arc<[OwnedFd]>,
        intx: Option<&Arc<OwnedFd>>,
    ) -> Result<Option<ClientError>, ClientError> {
        let mut interrupts = std::mem::take(&mut self.interrupts);
        let offered = interrupts.offer(vectors, intx, |index, fds| self.set_eventfds(index, fds));
        self.interrupts = interrupts;
        match offered {
            // Only a refusal: anything else is the connection's end.
            Ok(Some(error)) if !error.is_refusal() => Err(error),
            offered => offered,
        }
    }

    /// Connects the vectors, or the pin. True: that was a change.
    ///
    /// # Errors
    /// The connection's, or that the server refuses.
    pub fn switch_interrupts(&self, msix: bool) -> Result<bool, ClientError> {
        self.interrupts.switch(msix, |index, fds| self.set_eventfds(index, fds))
    }

    fn set_eventfds(&self, index: u32, eventfds: &[&OwnedFd]) -> Result<(), ClientError> {
        if eventfds.is_empty() {
            let set = IrqSet::new(index, IrqSet::DATA_NONE | IrqSet::ACTION_TRIGGER, 0, 0);
            let done = self.connection.request(Command::DEVICE_SET_IRQS, &[set.as_bytes()], &[], self.soon());
            // A server that knows of no disconnecting has nothing in the way of the other kind.
            return done
                .map(drop)
                .map_err(ClientError::from)
                .or_else(|error| if error.is_refusal() { Ok(()) } else { Err(error) });
        }
        let mut start = 0;
        for chunk in eventfds.chunks(self.fds_max.max(1)) {
            let count = u32::try_from(chunk.len()).unwrap_or(0);
            let flags = IrqSet::DATA_EVENTFD | IrqSet::ACTION_TRIGGER;
            let set = IrqSet::new(index, flags, start, count);
            let fds: Vec<_> = chunk.iter().map(|eventfd| eventfd.as_fd()).collect();
            self.connection.request(Command::DEVICE_SET_IRQS, &[set.as_bytes()], &fds, self.soon())?;
            start += count;
        }
        Ok(())
    }

    /// Unmasks INTx: if the device still wants something, it signals again. Not waited for: a server that is waiting for
    /// us, because its DMA has met a paused guest, will do it later.
    ///
    /// # Errors
    /// The connection's.
    pub fn unmask_intx(&self) -> Result<(), ClientError> {
        if !self.interrupts.is_intx() {
            return Ok(());
        }
        let set = IrqSet::new(PCI_INTX_IRQ, IrqSet::DATA_NONE | IrqSet::ACTION_UNMASK, 0, 1);
        self.connection.post(Command::DEVICE_SET_IRQS, &[set.as_bytes()], &[], self.soon())?;
        Ok(())
    }

    /// Gives the server DMA windows, beside those that it has.
    ///
    /// # Errors
    /// The connection's, or that the server refuses.
    pub fn declare(&self, windows: &[DmaWindow<'_>]) -> Result<(), ClientError> {
        self.windows().declare(windows, |DmaWindow { start, len, memory }| {
            let offset = memory.map_or(0, |(_, offset)| offset);
            let window = DmaMap::new(start, len, offset, DmaMap::READ | DmaMap::WRITE);
            let fds: Vec<_> = memory.into_iter().map(|(file, _)| file).collect();
            self.connection.request(Command::DMA_MAP, &[window.as_bytes()], &fds, self.soon())?;
            Ok(())
        })
    }

    /// Takes all DMA windows back. When this returns the server has said that it uses none any more.
    ///
    /// # Errors
    /// The connection's, or that the server refuses.
    pub fn withdraw(&self) -> Result<(), ClientError> {
        self.windows().withdraw(|start, len| {
            let window = DmaUnmap::new(start, len);
            self.connection.request(Command::DMA_UNMAP, &[window.as_bytes()], &[], self.soon())?;
            Ok(())
        })
    }

    fn windows(&self) -> MutexGuard<'_, Windows> {
        // What is declared is in it as soon as it is.
        self.windows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Resets the device, if it can be.
    ///
    /// # Errors
    /// The connection's, or that the server refuses.
    pub fn reset(&self) -> Result<(), ClientError> {
        if self.resettable {
            self.connection.request(Command::DEVICE_RESET, &[], &[], self.soon())?;
        }
        Ok(())
    }

    /// Stops the device, or lets it go on, if it has such states: stopped, it does no DMA and holds what it has begun.
    ///
    /// # Errors
    /// The connection's, or that the device cannot.
    pub fn set_running(&self, running: bool) -> Result<(), ClientError> {
        if self.stoppable {
            let state = MigDeviceState::new(if running { MigState::Running } else { MigState::Stop });
            let head = feature(MIG_DEVICE_STATE, FeatureOp::Set, size_of::<MigDeviceState>());
            let parts = [head.as_bytes(), state.as_bytes()];
            // What is in flight is waited for: as long as a pause may take.
            self.connection.request(
                Command::DEVICE_FEATURE,
                &parts,
                &[],
                Deadline::after(budget::vfio::STATE),
            )?;
        }
        Ok(())
    }

    /// The next thing the server asks.
    ///
    /// # Errors
    /// The connection's; a deadline that passed is `None`.
    pub fn receive(&self, deadline: Deadline) -> Result<Option<Incoming>, ClientError> {
        match self.commands().receive(deadline) {
            Ok(incoming) => Ok(Some(incoming)),
            Err(ConnectionError::Timeout { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Answers the server.
    ///
    /// # Errors
    /// The connection's.
    pub fn reply(&self, to: &Incoming, parts: &[&[u8]]) -> Result<(), ClientError> {
        Ok(self.commands().reply(to, parts, &[], self.soon())?)
    }

    /// Answers the server that it cannot have that.
    ///
    /// # Errors
    /// The connection's.
    pub fn refuse(&self, to: &Incoming, errno: rustix::io::Errno) -> Result<(), ClientError> {
        Ok(self.commands().fail(to, errno, self.soon())?)
    }

    /// Ends the connection.
    pub fn close(&self) {
        self.connection.close();
        self.commands().close();
    }

    /// Where the server's commands come from.
    fn commands(&self) -> &Connection {
        self.twin.as_ref().unwrap_or(&self.connection)
    }

    fn covers(&self, index: u32, offset: u64, size: u8, may: impl Fn(&Region) -> bool) -> bool {
        let region = usize::try_from(index).ok().and_then(|index| self.regions.get(index));
        let end = offset.checked_add(size.into());
        region.is_some_and(|region| may(region) && size <= 8 && end.is_some_and(|end| end <= region.len))
    }

    fn read_bytes(&self, index: u32, offset: u64, count: u32) -> Result<Vec<u8>, ClientError> {
        let access = RegionAccess::new(index, offset, count);
        let answer = self.connection.request(Command::REGION_READ, &[access.as_bytes()], &[], self.soon())?;
        match access.decode_read_reply(&answer.body) {
            Ok(data) => Ok(data.to_vec()),
            Err(error) => Err(self.connection.violated(error).into()),
        }
    }
}

/// How many interrupts of a kind the device can signal, and how.
fn irqs(connection: &Connection, index: u32, deadline: Deadline) -> Result<(u32, u32), ClientError> {
    let request = IrqInfo::new(index, 0, 0);
    let answer = connection.request(Command::DEVICE_GET_IRQ_INFO, &[request.as_bytes()], &[], deadline)?;
    let info = IrqInfo::decode(&answer.body, index).map_err(|error| connection.violated(error))?;
    let flags = info.flags.get();
    Ok((if flags & IrqInfo::EVENTFD != 0 { info.count.get() } else { 0 }, flags))
}

fn feature(feature: u16, op: FeatureOp, data_len: usize) -> FeatureHeader {
    let argsz = u32::try_from(size_of::<FeatureHeader>().saturating_add(data_len)).unwrap_or(u32::MAX);
    FeatureHeader::request(feature, op, argsz)
}

/// Whether the device can be stopped. One that does not know of features cannot.
fn has_migration(connection: &Connection, deadline: Deadline) -> Result<bool, ClientError> {
    let request = feature(MIGRATION, FeatureOp::Get, size_of::<MigrationFlags>());
    match connection.request(Command::DEVICE_FEATURE, &[request.as_bytes()], &[], deadline) {
        Ok(answer) => {
            let flags = request.decode_reply(&answer.body).and_then(MigrationFlags::decode);
            let flags = flags.map_err(|error| connection.violated(error))?;
            Ok(flags.flags.get() & MigrationFlags::STOP_COPY != 0)
        }
        Err(ConnectionError::Remote { .. }) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn region(
    connection: &Connection,
    index: u32,
    deadline: Deadline,
) -> Result<(Region, Option<Offered>), ClientError> {
    let describe = |request: RegionInfo| -> Result<_, ClientError> {
        let Answer { body, fds } =
            connection.request(Command::DEVICE_GET_REGION_INFO, &[request.as_bytes()], &[], deadline)?;
        let described = RegionDescription::decode(&body, index);
        Ok((described.map_err(|error| connection.violated(error))?, fds))
    };
    let request = RegionInfo::request(index);
    let (mut described, mut fds) = describe(request)?;
    // Its capabilities did not fit: they come if there is room for them.
    let needed = described.info.argsz.get();
    if (request.argsz.get() + 1..=REGION_INFO_LEN_MAX).contains(&needed) {
        (described, fds) = describe(RegionInfo::request_with_room(index, needed))?;
    }
    let (len, flags) = (described.info.size.get(), described.info.flags.get());
    let (readable, writable) = (flags & RegionInfo::READ != 0, flags & RegionInfo::WRITE != 0);
    let config_short = index == PCI_CONFIG_REGION && len < CONFIG_LEN as u64;
    if config_short {
        return Err(ClientError::Unusable("no configuration space of 256 bytes"));
    }
    // One file for the region, or none: with more it is not said which area is in which.
    let file = <[OwnedFd; 1]>::try_from(fds).ok();
    let mappable = Mappable::of(index, &described, WINDOWS_LEN_MAX).zip(file);
    let mappable = mappable.map(|(mappable, [file])| (mappable, Arc::new(file)));
    Ok((Region { len, readable, writable }, mappable))
}
