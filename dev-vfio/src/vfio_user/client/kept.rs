// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A client whose connection a next life goes on with, if this one dies.
//!
//! The server is asked for nothing meanwhile: one that waits for the answer to a transfer may take no request before
//! it. So the device is as it was described, and windows are those that were declared. Files of its memory were the
//! dead life's: what of its BARs was mapped into the guest comes by messages from then on.

use std::os::fd::OwnedFd;
use std::sync::Mutex;

use ipc::deadline::Deadline;
use ipc::shm::transcript::Transcript;
use ipc::vfio_user::connection::Connection;
use ipc::vfio_user::device::PCI_CONFIG_REGION;

use super::session::{self, Session};
use super::{Client, ClientError, Region};
use crate::backend::Opened;
use crate::connected::Connected;
use crate::pci::config_space::CONFIG_LEN;
use crate::pci::intx::Pin;
use crate::saved::{ConnectionV1, DeviceV1, SessionV1, StateError};

impl Client {
    /// The device as it was described.
    pub fn description(&self, opened: &Opened) -> DeviceV1 {
        let regions = self.regions.iter().map(|region| (region.len, region.readable, region.writable));
        DeviceV1 {
            resettable: self.resettable,
            stoppable: self.stoppable,
            regions: regions.collect(),
            vectors: opened.vectors,
            intx: opened.intx.map(|pin| pin.automasked),
            config: opened.config.clone(),
        }
    }

    /// From now on the connection is kept for a next life. Returns what that is to know.
    pub fn keep_in(&self, transcript: Transcript, device: DeviceV1) -> ConnectionV1 {
        if self.has_twin() {
            let why = "its server's commands come over a second socket, which no next life can be given";
            return ConnectionV1::Lost(why.to_owned());
        }
        match self.connection.keep_in(transcript) {
            Ok(()) => ConnectionV1::Kept(self.save_session(), device),
            Err(in_flight) => ConnectionV1::Lost(ClientError::NotStill(in_flight).to_string()),
        }
    }

    /// Goes on with the connection of a life that died.
    ///
    /// # Errors
    /// If that is not possible.
    pub fn resume(
        socket: OwnedFd,
        transcript: Transcript,
        (session, device): (&SessionV1, &DeviceV1),
        until: Deadline,
    ) -> Result<(Client, Opened), ClientError> {
        let windows_state = session;
        let session = Session::restore(session)?;
        let DeviceV1 { resettable, stoppable, regions, vectors, intx, config } = device;
        let impossible = |what, found: usize| StateError::Impossible { what, found: found as u64 };
        if regions.len() != PCI_CONFIG_REGION as usize + 1 {
            return Err(impossible("regions of the device", regions.len()).into());
        }
        if config.len() != CONFIG_LEN {
            return Err(impossible("bytes of its configuration space", config.len()).into());
        }
        let region = |(len, readable, writable): &(u64, bool, bool)| Region {
            len: *len,
            readable: *readable,
            writable: *writable,
        };
        let regions: Vec<Region> = regions.iter().map(region).collect();
        let mut lens = regions.iter().map(|region| region.len);
        let bar_lens = core::array::from_fn(|_| lens.next().unwrap_or(0));
        let client = Client {
            connection: Connection::resume(socket, transcript, until)?,
            twin: None,
            session,
            regions,
            interrupts: Connected::default(),
            windows: Mutex::new(session::windows(windows_state, &session)),
            resettable: *resettable,
            stoppable: *stoppable,
            conversation: Mutex::new(Some(until)),
        };
        let intx = intx.map(|automasked| Pin { automasked });
        let opened =
            Opened { config: config.clone(), bar_lens, vectors: *vectors, intx, mappables: Vec::new() };
        Ok((client, opened))
    }
}
