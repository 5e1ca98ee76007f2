// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `VERSION`: the first message, which settles version and capabilities for the life of a connection.
//!
//! The capabilities are JSON in a NUL-terminated string. Unknown names are passed over, values of another type are
//! errors, and what a peer leaves out has the specification's default. The server answers with the lower
//! minor version and the lower of both limits; [`Version::agree`] is that rule. Specification: "VERSION".

use std::os::fd::OwnedFd;

use serde_json::{Map, Value};
use zerocopy::little_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::vfio_user::{DATA_LEN_MAX, FDS_MAX, Malformed, PAGE_LEN, wire};

const NAME: &str = "VERSION";

/// The only major version there is.
const MAJOR: u16 = 0;
/// The newest minor version we speak.
const MINOR: u16 = 2;

/// The longest version data: what any known peer sends is below 300 bytes.
const DATA_MAX: usize = 16 << 10;

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy)]
#[repr(C)]
struct Wire {
    major: U16,
    minor: U16,
}

/// What an end proposes or answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// Must be equal at both ends.
    pub major: u16,
    /// The server answers the lower of both.
    pub minor: u16,
    /// The limits and abilities of the sender.
    pub capabilities: Capabilities,
}

/// Capabilities that we know. `None`: the sender did not name it and the default counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// `max_msg_fds`: how many fds the sender takes in one message.
    pub msg_fds_max: Option<u64>,
    /// `max_data_xfer_size`: the longest transfer the sender takes part in.
    pub data_len_max: Option<u64>,
    /// `max_dma_maps`: how many DMA windows can be at once.
    pub dma_maps_max: Option<u64>,
    /// `pgsizes`: page sizes of DMA windows, or'ed together.
    pub page_sizes: Option<u64>,
    /// `write_multiple`: `REGION_WRITE_MULTI` is understood.
    pub write_multiple: Option<bool>,
    /// `migration.pgsize`: page size of dirty bitmaps.
    pub migration_page_len: Option<u64>,
    /// `twin_socket`: a second socket for the server's commands, so that the two ends' commands never meet in one
    /// stream. One known library takes whatever comes next for the answer to its own command.
    pub twin_socket: Option<TwinSocket>,
}

/// The second socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TwinSocket {
    /// In an answer: which of its fds is the client's end.
    pub fd_index: Option<u64>,
}

impl Capabilities {
    /// What our ends can do. The second socket is the client's to ask for.
    #[must_use]
    pub const fn ours() -> Self {
        Self {
            msg_fds_max: Some(FDS_MAX as u64),
            data_len_max: Some(DATA_LEN_MAX as u64),
            dma_maps_max: Some(DMA_MAPS_MAX),
            page_sizes: Some(PAGE_LEN),
            write_multiple: Some(true),
            migration_page_len: Some(PAGE_LEN),
            twin_socket: Some(TwinSocket { fd_index: None }),
        }
    }

    /// How many fds the sender takes in one message, never above [`FDS_MAX`].
    #[must_use]
    pub fn msg_fds(&self) -> usize {
        limit(self.msg_fds_max, 1, FDS_MAX)
    }

    /// How many DMA windows the sender takes at once, never above [`DMA_MAPS_MAX`].
    #[must_use]
    pub fn dma_maps(&self) -> usize {
        limit(self.dma_maps_max, DMA_MAPS_MAX, DMA_MAPS_MAX_LEN)
    }

    /// The longest transfer with the sender, never above [`DATA_LEN_MAX`].
    #[must_use]
    pub fn data_len(&self) -> usize {
        limit(self.data_len_max, DATA_LEN_MAX as u64, DATA_LEN_MAX)
    }
}

/// How many DMA windows we keep at once: a guest's RAM has some; one per device page would be a vIOMMU's
/// mapping table, which is why the client translates instead.
pub const DMA_MAPS_MAX: u64 = DMA_MAPS_MAX_LEN as u64;
const DMA_MAPS_MAX_LEN: usize = 4096;

fn limit(named: Option<u64>, default: u64, cap: usize) -> usize {
    usize::try_from(named.unwrap_or(default)).unwrap_or(cap).min(cap)
}

impl Version {
    /// What we propose as a client.
    #[must_use]
    pub const fn proposal() -> Self {
        Self { major: MAJOR, minor: MINOR, capabilities: Capabilities::ours() }
    }

    /// What a server of ours answers to a proposal: the lower minor version, and of what was named the lower limit, so
    /// that nothing in the list is beyond the client's. A client may refuse more than it can do (QEMU does).
    ///
    /// # Errors
    /// If the major version is another: the connection is to be closed.
    pub fn agree(&self) -> Result<Self, Malformed> {
        if self.major != MAJOR {
            return Err(Malformed::new(NAME, "the major version is another", self.major));
        }
        let (theirs, ours) = (&self.capabilities, Capabilities::ours());
        let lower = |theirs: Option<u64>, ours: Option<u64>| theirs.and_then(|limit| Some(limit.min(ours?)));
        let common = |theirs: Option<u64>, ours: Option<u64>| theirs.and_then(|sizes| Some(sizes & ours?));
        let capabilities = Capabilities {
            msg_fds_max: lower(theirs.msg_fds_max, ours.msg_fds_max),
            data_len_max: lower(theirs.data_len_max, ours.data_len_max),
            dma_maps_max: lower(theirs.dma_maps_max, ours.dma_maps_max),
            page_sizes: common(theirs.page_sizes, ours.page_sizes),
            write_multiple: theirs.write_multiple.map(|wanted| wanted && ours.write_multiple == Some(true)),
            migration_page_len: theirs.migration_page_len.and(ours.migration_page_len),
            // Our end knows an answer from a command, whatever comes first.
            twin_socket: None,
        };
        Ok(Self { major: MAJOR, minor: self.minor.min(MINOR), capabilities })
    }

    /// Holds a server's answer against our proposal.
    ///
    /// # Errors
    /// If it answers another major version, or a minor one that we did not offer.
    pub fn accept(&self) -> Result<(), Malformed> {
        if self.major != MAJOR {
            return Err(Malformed::new(NAME, "the server's major version is another", self.major));
        }
        if self.minor > MINOR {
            return Err(Malformed::new(NAME, "the server's minor version was not offered", self.minor));
        }
        Ok(())
    }

    /// The client's end of the second socket, if the answer brought one: of the fds that came with it.
    ///
    /// # Errors
    /// If it did not come along.
    pub fn take_twin_socket(&self, mut fds: Vec<OwnedFd>) -> Result<Option<OwnedFd>, Malformed> {
        let Some(TwinSocket { fd_index }) = self.capabilities.twin_socket else { return Ok(None) };
        let index = fd_index.and_then(|index| usize::try_from(index).ok()).filter(|index| *index < fds.len());
        match index {
            Some(index) => Ok(Some(fds.swap_remove(index))),
            None => Err(Malformed::new(NAME, "the second socket did not come along", fds.len())),
        }
    }

    /// Takes a body apart.
    ///
    /// # Errors
    /// If it is too short or too long, the string is not terminated, or the JSON is not what it should be.
    pub fn decode(body: &[u8]) -> Result<Self, Malformed> {
        let (wire, data): (Wire, _) = wire::split(NAME, body)?;
        if data.len() > DATA_MAX {
            return Err(Malformed::new(NAME, "the version data is too long", data.len()));
        }
        let text = match data.split_last() {
            None => data,
            Some((0, text)) => text,
            Some((last, _)) => {
                return Err(Malformed::new(NAME, "the version data does not end with NUL", *last));
            }
        };
        let capabilities = if text.is_empty() { Capabilities::default() } else { parse(text)? };
        Ok(Self { major: wire.major.get(), minor: wire.minor.get(), capabilities })
    }

    /// The body as it travels.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let wire = Wire { major: self.major.into(), minor: self.minor.into() };
        let mut names = Map::new();
        let capabilities = &self.capabilities;
        let mut put = |name: &str, value: Option<u64>| {
            if let Some(value) = value {
                names.insert(name.to_owned(), value.into());
            }
        };
        put("max_msg_fds", capabilities.msg_fds_max);
        put("max_data_xfer_size", capabilities.data_len_max);
        put("max_dma_maps", capabilities.dma_maps_max);
        put("pgsizes", capabilities.page_sizes);
        if let Some(value) = capabilities.write_multiple {
            names.insert("write_multiple".to_owned(), value.into());
        }
        if let Some(value) = capabilities.migration_page_len {
            let migration = Map::from_iter([("pgsize".to_owned(), Value::from(value))]);
            names.insert("migration".to_owned(), migration.into());
        }
        if let Some(TwinSocket { fd_index }) = capabilities.twin_socket {
            let mut twin = Map::from_iter([("supported".to_owned(), Value::from(true))]);
            twin.extend(fd_index.map(|index| ("fd_index".to_owned(), index.into())));
            names.insert("twin_socket".to_owned(), twin.into());
        }
        let data = Value::from(Map::from_iter([("capabilities".to_owned(), Value::from(names))]));
        let mut body = wire.as_bytes().to_vec();
        body.extend_from_slice(data.to_string().as_bytes());
        body.push(0);
        body
    }
}

fn parse(text: &[u8]) -> Result<Capabilities, Malformed> {
    let bad = |rule: &'static str| Malformed::new(NAME, rule, text.len());
    let data: Value = serde_json::from_slice(text).map_err(|_| bad("the version data is not JSON"))?;
    let data = data.as_object().ok_or(bad("the version data is not an object"))?;
    let Some(names) = data.get("capabilities") else { return Ok(Capabilities::default()) };
    let names = names.as_object().ok_or(bad("`capabilities` is not an object"))?;
    let number = |names: &Map<String, Value>, name: &str| match names.get(name) {
        None => Ok(None),
        Some(value) => value.as_u64().map(Some).ok_or(bad("a capability is not a number")),
    };
    let write_multiple = match names.get("write_multiple") {
        None => None,
        Some(value) => Some(value.as_bool().ok_or(bad("`write_multiple` is not a boolean"))?),
    };
    let migration_page_len = match names.get("migration") {
        None => None,
        Some(value) => number(value.as_object().ok_or(bad("`migration` is not an object"))?, "pgsize")?,
    };
    let twin_socket = match names.get("twin_socket") {
        None => None,
        Some(value) => {
            let twin = value.as_object().ok_or(bad("`twin_socket` is not an object"))?;
            let supported = twin.get("supported").map_or(Some(false), Value::as_bool);
            let supported = supported.ok_or(bad("`twin_socket.supported` is not a boolean"))?;
            let fd_index = number(twin, "fd_index")?;
            supported.then_some(TwinSocket { fd_index })
        }
    };
    Ok(Capabilities {
        msg_fds_max: number(names, "max_msg_fds")?,
        data_len_max: number(names, "max_data_xfer_size")?,
        dma_maps_max: number(names, "max_dma_maps")?,
        page_sizes: number(names, "pgsizes")?,
        write_multiple,
        migration_page_len,
        twin_socket,
    })
}
