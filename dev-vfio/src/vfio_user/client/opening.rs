// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Opening a server's device: version, device info, regions, interrupts and features.
//!
//! Opening has one deadline, each answer its own. The codec checks answers against requests; here is checked whether
//! the device is supported.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};

use ipc::deadline::Deadline;
use ipc::protocol::budget;
use ipc::protocol::function_link::WINDOWS_LEN_MAX;
use ipc::vfio_user::connection::{Answer, Connection, ConnectionError};
use ipc::vfio_user::device::{
    DeviceInfo, IrqInfo, PCI_CONFIG_REGION, PCI_INTX_IRQ, PCI_MSIX_IRQ, REGION_INFO_LEN_MAX,
    RegionDescription, RegionInfo,
};
use ipc::vfio_user::feature::{FeatureOp, MIGRATION, MigrationFlags};
use ipc::vfio_user::header::Command;
use ipc::vfio_user::version::Version;
use zerocopy::IntoBytes;

use super::dma_windows::{DmaWindow, Windows};
use super::session::{self, Session};
use super::{Client, ClientError, Region, feature};
use crate::backend::Opened;
use crate::connected::Connected;
use crate::pci::config_space::CONFIG_LEN;
use crate::pci::intx::Pin;
use crate::pci::windows::Mappable;
use crate::saved::SessionV1;

/// The mappable areas of a region, and the file to map.
type Offered = (Mappable, Arc<OwnedFd>);

/// The deadline of the next answer, within that of the opening.
pub(super) fn answer_by(conversation: Option<Deadline>) -> Deadline {
    let soon = Deadline::after(budget::vfio::ANSWER);
    conversation.map_or(soon, |end| end.min(soon))
}

impl Client {
    /// Negotiates the version, reads the device's description, and resets it if it supports that. All requests until
    /// [`Client::end_conversation`] share the deadline `until`.
    ///
    /// # Errors
    /// If the server is late or breaks the protocol, or the device is not supported.
    pub fn open(socket: OwnedFd, until: Deadline) -> Result<(Client, Opened), ClientError> {
        Self::open_found(socket, Found::Reset, until)
    }

    /// The same of a server that has the device's state already, which stays as it is.
    ///
    /// # Errors
    /// As [`Client::open`].
    pub fn open_as_it_is(socket: OwnedFd, until: Deadline) -> Result<(Client, Opened), ClientError> {
        Self::open_found(socket, Found::AsItIs, until)
    }

    fn open_found(socket: OwnedFd, found: Found, until: Deadline) -> Result<(Client, Opened), ClientError> {
        let connection = Connection::new(socket);
        let proposal = Version::proposal().encode();
        let answer = connection.request(Command::VERSION, &[&proposal], &[], answer_by(Some(until)))?;
        let Answer { body, fds } = answer;
        let version = Version::decode(&body).map_err(|error| connection.violated(error))?;
        version.accept().map_err(|error| connection.violated(error))?;
        let twin = version.take_twin_socket(fds).map_err(|error| connection.violated(error))?;
        let session = Session::of(&version);
        let windows = Windows::new(session.dma_maps);
        let (client, opened) = describe(connection, twin, session, windows, found, until)?;
        client.declare(&[DmaWindow::EVERYWHERE])?;
        Ok((client, opened))
    }

    /// The same over a connection taken over from another process, which left the device stopped: no version is
    /// negotiated, and the device is not reset.
    ///
    /// # Errors
    /// As [`Client::open`], or if the saved session is invalid.
    pub fn take_over(
        socket: OwnedFd,
        state: &SessionV1,
        until: Deadline,
    ) -> Result<(Client, Opened), ClientError> {
        let session = Session::restore(state)?;
        let windows = session::windows(state, &session);
        let (client, opened) =
            describe(Connection::new(socket), None, session, windows, Found::AsItIs, until)?;
        client.declare_anew()?;
        client.reconnect_interrupts()?;
        Ok((client, opened))
    }
}

/// Whether a device is reset before its description is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    Reset,
    AsItIs,
}

/// Reads the device's description.
fn describe(
    connection: Connection,
    twin: Option<OwnedFd>,
    session: Session,
    windows: Windows,
    found: Found,
    until: Deadline,
) -> Result<(Client, Opened), ClientError> {
    let opening = Some(until);
    let soon = || answer_by(opening);
    let answer =
        connection.request(Command::DEVICE_GET_INFO, &[DeviceInfo::request().as_bytes()], &[], soon())?;
    let info = DeviceInfo::decode_pci(&answer.body).map_err(|error| connection.violated(error))?;
    let resettable = info.flags.get() & DeviceInfo::RESET != 0;
    if resettable && found == Found::Reset {
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

    // Features came after protocol 0.0: a server of that version may lose synchronisation at such a command.
    let stoppable = session.minor > 0 && has_migration(&connection, soon())?;
    let client = Client {
        connection,
        twin: twin.map(Connection::new),
        session,
        regions,
        interrupts: Connected::default(),
        windows: Mutex::new(windows),
        resettable,
        stoppable,
        conversation: Mutex::new(opening),
    };
    let config_len = u32::try_from(CONFIG_LEN).unwrap_or(0);
    let config = client.read_bytes(PCI_CONFIG_REGION, 0, config_len)?;
    let mut lens = client.regions.iter().map(|region| region.len);
    let bar_lens = core::array::from_fn(|_| lens.next().unwrap_or(0));
    let vectors = u16::try_from(vectors).unwrap_or(u16::MAX);
    Ok((client, Opened { config, bar_lens, vectors, intx, mappables }))
}

/// Number and flags of the device's interrupts of one kind.
fn irqs(connection: &Connection, index: u32, deadline: Deadline) -> Result<(u32, u32), ClientError> {
    let request = IrqInfo::new(index, 0, 0);
    let answer = connection.request(Command::DEVICE_GET_IRQ_INFO, &[request.as_bytes()], &[], deadline)?;
    let info = IrqInfo::decode(&answer.body, index).map_err(|error| connection.violated(error))?;
    let flags = info.flags.get();
    Ok((if flags & IrqInfo::EVENTFD != 0 { info.count.get() } else { 0 }, flags))
}

/// Whether the device can be stopped. One without features cannot.
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
    // Its capabilities did not fit: asked again with room for them.
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
    // One file for the region, or none: the protocol does not say which area is in which of several.
    let file = <[OwnedFd; 1]>::try_from(fds).ok();
    let mappable = Mappable::of(index, &described, WINDOWS_LEN_MAX).zip(file);
    let mappable = mappable.map(|(mappable, [file])| (mappable, Arc::new(file)));
    Ok((Region { len, readable, writable }, mappable))
}
