// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A server's device across lives of this process: where its state stays, and what is moved.
//!
//! A server of the VM's own ends with the processes beside it: the next life starts another one and restores the
//! device's state into it by migration v2. An external server has one connection, which the next life takes over: the
//! device stays in the server, stopped, and nothing of it is lost. A device without migration states cannot be
//! stopped, so it is not saved. `DESIGN.md` has the reasons.

use std::io::Write;
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering::Relaxed;

use ipc::deadline::Deadline;
use ipc::protocol::budget;
use ipc::protocol::control::{Failure, SAVED_LEN_MAX};
use ipc::saved::SavedState;
use ipc::saved::stream::{StreamError, UnitWriter};
use ipc::shm::transcript::Transcript;

use super::client::{Client, ClientError, Session};
use super::{Unopened, VfioUserDevice};
use crate::backend::{Opened, Units};
use crate::saved::{
    ConnectionV1, DATA, DATA_PIECE_MAX, DATA_VERSION, DataEndV1, DeviceV1, FunctionV1, ServerV1, SessionV1,
    out_of_place,
};

/// Where a restored device comes from.
pub enum Saved {
    /// The device is in the server at the other end, stopped.
    Kept(SessionV1),
    /// Its state follows in the stream.
    Anew(Units),
    /// Its server has it from its own checkpoint, stopped.
    Revived,
    /// It is in the server at the other end of the connection of a life that died.
    Resumed(Box<(SessionV1, DeviceV1)>),
}

impl Saved {
    /// Reads the units after the function's.
    pub(super) fn load(mut units: Units, keeps_server: bool) -> Result<Saved, Failure> {
        let fail =
            |why: &dyn ToString| Failure::new("read the state of the device's server", why.to_string());
        let server: ServerV1 = units.next_of().map_err(|error| fail(&error))?;
        match (server, keeps_server) {
            (ServerV1::Anew, false) => Ok(Saved::Anew(units)),
            (ServerV1::Kept(session), true) => {
                Session::restore(&session).map_err(|error| fail(&error))?;
                match units.next_unit().map_err(|error| fail(&error))? {
                    None => Ok(Saved::Kept(session)),
                    Some(unit) => Err(fail(&out_of_place(unit.kind))),
                }
            }
            (ServerV1::Anew, true) => {
                Err(fail(&"it is for a server out of reset, and the configured one is external"))
            }
            (ServerV1::Kept(_), false) => {
                Err(fail(&"the device stayed in an external server, but this one was started by the VM"))
            }
        }
    }

    /// What a life has left that died.
    pub(super) fn revived(unopened: &Unopened) -> Result<(FunctionV1, Saved), String> {
        let Some(keeper) = &unopened.keeper else { return Err("it keeps no checkpoint".to_owned()) };
        match (keeper.revive()?, unopened.keeps_server) {
            ((function, None), false) => Ok((function, Saved::Revived)),
            ((function, Some(ConnectionV1::Kept(session, device))), true) => {
                Ok((function, Saved::Resumed(Box::new((session, device)))))
            }
            ((_, Some(ConnectionV1::Lost(why))), true) => Err(why),
            _ => Err("the life before has left what is not of such a device".to_owned()),
        }
    }

    /// Opens the device behind `socket` in this state: stopped, but for one that was resumed.
    pub(super) fn open(
        self,
        socket: OwnedFd,
        transcript: Option<&Transcript>,
        until: Deadline,
    ) -> Result<(Client, Opened), ClientError> {
        match self {
            Saved::Resumed(left) => {
                let transcript = transcript.cloned().ok_or(ClientError::NotKept)?;
                let (session, device) = &*left;
                Client::resume(socket, transcript, (session, device), until)
            }
            Saved::Revived => Client::open_as_it_is(socket, until),
            Saved::Kept(session) => Client::take_over(socket, &session, until),
            Saved::Anew(mut units) => {
                let (client, opened) = Client::open(socket, until)?;
                let mut len: u64 = 0;
                client.give_state(|| {
                    let piece = next_piece(&mut units, len)?;
                    len = len.saturating_add(piece.as_ref().map_or(0, |piece| piece.len() as u64));
                    Ok(piece)
                })?;
                Ok((client, opened))
            }
        }
    }
}

/// The next piece of the device's state. The end unit has its total length.
fn next_piece(units: &mut Units, so_far: u64) -> Result<Option<Vec<u8>>, ClientError> {
    let Some(unit) = units.next_unit()? else {
        return Err(StreamError::from(ipc::saved::SavedError::Missing { kind: DataEndV1::KIND }).into());
    };
    if unit.kind == DATA && unit.version == DATA_VERSION && unit.body().len() <= DATA_PIECE_MAX {
        return Ok(Some(unit.body().to_vec()));
    }
    let DataEndV1 { len } = unit.decode().map_err(StreamError::from)?;
    if len != so_far {
        let why = format!("the end of the device's state says {len:#x} bytes, but there were {so_far:#x}");
        return Err(ClientError::Stream(why));
    }
    match units.next_unit()? {
        None => Ok(None),
        Some(unit) => Err(out_of_place(unit.kind).into()),
    }
}

/// Whether the device could be saved now.
pub(super) fn check(device: &VfioUserDevice) -> Result<(), String> {
    if !device.client.has_migration() {
        return Err(
            "its server has no migration states: the device cannot be stopped, and would go on".to_owned()
        );
    }
    if device.keeps_server && device.client.has_twin() {
        let why = "its server's commands come over a second socket, which no other process can be given";
        return Err(why.to_owned());
    }
    Ok(())
}

/// Writes the session with the server, and the device's state if the next life has another server. The device is
/// stopped before and after it.
pub(super) fn save(
    device: &VfioUserDevice,
    units: &mut UnitWriter<&mut dyn Write>,
) -> Result<(), ClientError> {
    let VfioUserDevice { client, keeps_server, parked, .. } = device;
    if *keeps_server {
        let in_flight = client.park();
        parked.store(true, Relaxed);
        if !in_flight.is_none() {
            return Err(ClientError::NotStill(in_flight));
        }
        return Ok(units.append(&ServerV1::Kept(client.save_session()))?);
    }
    units.append(&ServerV1::Anew)?;
    let len =
        client.take_state(SAVED_LEN_MAX, |piece| Ok(units.append_bytes(DATA, DATA_VERSION, piece)?))?;
    Ok(units.append(&DataEndV1 { len })?)
}

/// The move failed: this process takes the connection back.
pub(super) fn take_back(device: &VfioUserDevice) -> Result<(), ClientError> {
    let VfioUserDevice { client, direct, parked, .. } = device;
    if !parked.swap(false, Relaxed) {
        return Ok(());
    }
    client.unpark();
    client.begin_conversation(Deadline::after(budget::vfio::OPENING));
    let declared = client.declare_anew();
    if let Some(direct) = direct {
        direct.withdrawn();
    }
    let done = declared.and_then(|()| client.reconnect_interrupts());
    client.end_conversation();
    done
}
