// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The vfio-user client: requests that open a device (`opening`), and those made while the guest uses it.
//!
//! The server is another process, perhaps another user's, and never trusted: the codec in `ipc::vfio_user` checks
//! every body, and answers are checked here against the request and against limits of our own. Behind a vSMMU the
//! server gets no memory (but see [`super::direct`]): DMA windows without an fd cover all addresses, so that its DMA
//! comes as messages and is translated. A server that breaks the protocol, or does not answer in time, gets no
//! further request: each answer has a deadline, and so has opening as a whole. Its commands come over a second socket
//! where it supports that (`twin_socket`).

pub mod dma_windows;
mod error;
mod kept;
mod migration;
mod opening;
mod session;

use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

use ipc::deadline::Deadline;
use ipc::vfio_user::connection::{Connection, ConnectionError, Incoming};
use ipc::vfio_user::device::{IrqSet, PCI_INTX_IRQ};
use ipc::vfio_user::dma::{DmaMap, DmaUnmap};
use ipc::vfio_user::feature::{FeatureHeader, FeatureOp};
use ipc::vfio_user::header::Command;
use ipc::vfio_user::region::{RegionAccess, SmallWrite, encode_multi};
use zerocopy::IntoBytes;

use crate::backend::Eventfds;
use crate::connected::Connected;

use dma_windows::{DmaWindow, Windows};
pub use error::ClientError;
use opening::answer_by;
pub use session::Session;

/// The most posted writes in one message: far below what any server takes, and a small wait for the first of them.
pub const BATCH_MAX: usize = 32;

/// A region as the server described it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Region {
    len: u64,
    readable: bool,
    writable: bool,
}

/// A connected device.
#[derive(Debug)]
pub struct Client {
    connection: Connection,
    /// The second socket, for the server's commands, if it has one.
    twin: Option<Connection>,
    /// The negotiated session.
    session: Session,
    regions: Vec<Region>,
    interrupts: Connected,
    windows: Mutex<Windows>,
    resettable: bool,
    stoppable: bool,
    /// While the device is opened or taken back: the deadline for all of it.
    conversation: Mutex<Option<Deadline>>,
}

impl Client {
    /// Sets one deadline for all requests from now on.
    pub fn begin_conversation(&self, until: Deadline) {
        *self.conversation() = Some(until);
    }

    /// The device is open, or taken back: from now on every request has its own deadline.
    pub fn end_conversation(&self) {
        *self.conversation() = None;
    }

    fn soon(&self) -> Deadline {
        answer_by(*self.conversation())
    }

    fn conversation(&self) -> MutexGuard<'_, Option<Deadline>> {
        // A single word: a poisoned lock is harmless.
        self.conversation.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads up to 8 bytes of a region. `None`: the region does not have these bytes.
    ///
    /// # Errors
    /// If the connection fails, or the server refuses.
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
    /// If the connection fails, or the server refuses.
    pub fn write(&self, index: u32, offset: u64, size: u8, value: u64) -> Result<(), ClientError> {
        if !self.covers(index, offset, size, |region| region.writable) {
            return Ok(());
        }
        let access = RegionAccess::new(index, offset, size.into());
        let bytes = value.to_le_bytes();
        let parts = [access.as_bytes(), bytes.get(..size.into()).unwrap_or(&bytes)];
        let answer = self.connection.request_once(Command::REGION_WRITE, &parts, self.soon())?;
        access.check_write_reply(&answer.body).map_err(|error| self.connection.violated(error).into())
    }

    /// A write for [`Client::post`], if the region has these bytes.
    pub fn posted(&self, index: u32, offset: u64, size: u8, value: u64) -> Option<SmallWrite> {
        let there = self.covers(index, offset, size, |region| region.writable);
        there.then(|| SmallWrite::new(index, offset, size, value))
    }

    /// How many writes [`Client::post`] puts into one message.
    pub fn batch_max(&self) -> usize {
        self.session.batch_max()
    }

    /// Posts writes, in order, without waiting for answers. They are sent when this returns, so later requests see
    /// them done.
    ///
    /// # Errors
    /// If the connection fails.
    pub fn post(&self, writes: &[SmallWrite]) -> Result<(), ClientError> {
        for batch in writes.chunks(self.batch_max()) {
            match batch {
                [write] => {
                    let parts = [write.access.as_bytes(), write.bytes()];
                    self.connection.post_once(Command::REGION_WRITE, &parts, self.soon())?;
                }
                batch => {
                    let body = encode_multi(batch);
                    self.connection.post(Command::REGION_WRITE_MULTI, &[&body], &[], self.soon())?;
                }
            }
        }
        Ok(())
    }

    /// Sets the device's eventfds: MSI-X or INTx, whichever the guest has enabled. Returns why there is no INTx, if
    /// the device has a pin.
    ///
    /// # Errors
    /// If the connection fails, or the server refuses.
    pub fn offer_interrupts(&mut self, eventfds: &Eventfds) -> Result<Option<ClientError>, ClientError> {
        let mut interrupts = std::mem::take(&mut self.interrupts);
        let offered = interrupts.offer(eventfds, |index, fds| self.set_eventfds(index, fds));
        self.interrupts = interrupts;
        match offered {
            // Only a refusal: any other error ends the connection.
            Ok(Some(error)) if !error.is_refusal() => Err(error),
            offered => offered,
        }
    }

    /// Takes the eventfds without connecting any.
    pub fn adopt_interrupts(&mut self, eventfds: &Eventfds) {
        self.interrupts.adopt(eventfds);
    }

    /// Connects the vectors or the pin. Returns whether that changed anything.
    ///
    /// # Errors
    /// If the connection fails, or the server refuses.
    pub fn switch_interrupts(&self, msix: bool) -> Result<bool, ClientError> {
        self.interrupts.switch(msix, |index, fds| self.set_eventfds(index, fds))
    }

    /// Connects the current kind once more. If none is connected, whatever another process connected is disconnected.
    ///
    /// # Errors
    /// If the connection fails, or the server refuses.
    pub fn reconnect_interrupts(&self) -> Result<(), ClientError> {
        self.interrupts.reconnect(|index, fds| self.set_eventfds(index, fds))
    }

    /// Signals each interrupt that is connected, as the device would.
    pub fn signal_all(&self) {
        self.interrupts.signal_all();
    }

    /// The guest's access with this number in the ring is carried out next: what it asks of the server is asked once,
    /// whoever began it.
    pub fn begin_access(&self, number: u64) {
        self.connection.begin_access(number);
    }

    /// That access is out of the ring.
    pub fn end_access(&self) {
        self.connection.end_access();
    }

    fn set_eventfds(&self, index: u32, eventfds: &[&OwnedFd]) -> Result<(), ClientError> {
        if eventfds.is_empty() {
            let set = IrqSet::new(index, IrqSet::DATA_NONE | IrqSet::ACTION_TRIGGER, 0, 0);
            let done = self.connection.request(Command::DEVICE_SET_IRQS, &[set.as_bytes()], &[], self.soon());
            // A server that cannot disconnect one kind does not need that before the other is connected.
            return done
                .map(drop)
                .map_err(ClientError::from)
                .or_else(|error| if error.is_refusal() { Ok(()) } else { Err(error) });
        }
        let mut start = 0;
        for chunk in eventfds.chunks(self.session.msg_fds.max(1)) {
            let count = u32::try_from(chunk.len()).unwrap_or(0);
            let flags = IrqSet::DATA_EVENTFD | IrqSet::ACTION_TRIGGER;
            let set = IrqSet::new(index, flags, start, count);
            let fds: Vec<_> = chunk.iter().map(|eventfd| eventfd.as_fd()).collect();
            self.connection.request(Command::DEVICE_SET_IRQS, &[set.as_bytes()], &fds, self.soon())?;
            start += count;
        }
        Ok(())
    }

    /// Unmasks INTx: if it is still asserted, the device signals again. Posted: a server that waits for us, because
    /// its DMA hit a paused guest, will process it later.
    ///
    /// # Errors
    /// If the connection fails.
    pub fn unmask_intx(&self) -> Result<(), ClientError> {
        if !self.interrupts.is_intx() {
            return Ok(());
        }
        let set = IrqSet::new(PCI_INTX_IRQ, IrqSet::DATA_NONE | IrqSet::ACTION_UNMASK, 0, 1);
        self.connection.post(Command::DEVICE_SET_IRQS, &[set.as_bytes()], &[], self.soon())?;
        Ok(())
    }

    /// Declares further DMA windows to the server.
    ///
    /// # Errors
    /// If the connection fails, or the server refuses.
    pub fn declare(&self, windows: &[DmaWindow<'_>]) -> Result<(), ClientError> {
        self.windows().declare(windows, |window| self.map(window))
    }

    /// Declares DMA windows again that the server may have or not: another process that used this connection may have
    /// left them half exchanged.
    ///
    /// # Errors
    /// If the connection fails, or the server refuses.
    pub fn declare_anew(&self) -> Result<(), ClientError> {
        let mut windows = self.windows();
        let all = windows.declared();
        windows.withdraw(|start, len| match self.unmap(start, len) {
            Err(error) if error.is_refusal() => Ok(()),
            done => done,
        })?;
        for (start, len) in all {
            windows.declare(&[DmaWindow { start, len, memory: None }], |window| self.map(window))?;
        }
        Ok(())
    }

    fn map(&self, DmaWindow { start, len, memory }: DmaWindow<'_>) -> Result<(), ClientError> {
        let offset = memory.map_or(0, |(_, offset)| offset);
        let window = DmaMap::new(start, len, offset, DmaMap::READ | DmaMap::WRITE);
        let fds: Vec<_> = memory.into_iter().map(|(file, _)| file).collect();
        self.connection.request(Command::DMA_MAP, &[window.as_bytes()], &fds, self.soon())?;
        Ok(())
    }

    fn unmap(&self, start: u64, len: u64) -> Result<(), ClientError> {
        let window = DmaUnmap::new(start, len);
        self.connection.request(Command::DMA_UNMAP, &[window.as_bytes()], &[], self.soon())?;
        Ok(())
    }

    /// Removes all DMA windows. When this returns the server has confirmed that it uses none any more.
    ///
    /// # Errors
    /// If the connection fails, or the server refuses.
    pub fn withdraw(&self) -> Result<(), ClientError> {
        self.windows().withdraw(|start, len| self.unmap(start, len))
    }

    fn windows(&self) -> MutexGuard<'_, Windows> {
        // A window is recorded as soon as it is declared.
        self.windows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Resets the device, if it supports that.
    ///
    /// # Errors
    /// If the connection fails, or the server refuses.
    pub fn reset(&self) -> Result<(), ClientError> {
        if self.resettable {
            self.connection.request_once(Command::DEVICE_RESET, &[], self.soon())?;
        }
        Ok(())
    }

    /// The server's next command.
    ///
    /// # Errors
    /// If the connection fails. A timeout is `None`.
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
    /// If the connection fails.
    pub fn reply(&self, to: &Incoming, parts: &[&[u8]]) -> Result<(), ClientError> {
        Ok(self.commands().reply(to, parts, &[], self.soon())?)
    }

    /// Answers a command of the server with an error.
    ///
    /// # Errors
    /// If the connection fails.
    pub fn refuse(&self, to: &Incoming, errno: rustix::io::Errno) -> Result<(), ClientError> {
        Ok(self.commands().fail(to, errno, self.soon())?)
    }

    /// Ends the connection.
    pub fn close(&self) {
        self.connection.close();
        self.commands().close();
    }

    /// The socket that carries the server's commands.
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
        let answer = self.connection.request_once(Command::REGION_READ, &[access.as_bytes()], self.soon())?;
        match access.decode_read_reply(&answer.body) {
            Ok(data) => Ok(data.to_vec()),
            Err(error) => Err(self.connection.violated(error).into()),
        }
    }
}

fn feature(feature: u16, op: FeatureOp, data_len: usize) -> FeatureHeader {
    let argsz = u32::try_from(size_of::<FeatureHeader>().saturating_add(data_len)).unwrap_or(u32::MAX);
    FeatureHeader::request(feature, op, argsz)
}
