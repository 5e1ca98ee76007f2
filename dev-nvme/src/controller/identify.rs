// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Identify, NVMe 1.4 section 5.15: what Linux and `nvme-cli` read to know the controller.

use zerocopy::IntoBytes;

use super::admin::AdminOutcome;
use super::{Controller, MDTS, events, features, logs};
use crate::identity::Identity;
use crate::pci::config::{DEVICE_ID, VENDOR_ID};
use crate::spec::command::{Command, NSID_ALL};
use crate::spec::identify::{self, DescriptorHeader, IDENTIFY_LEN, LbaFormat, ascii, cns};
use crate::spec::log::zeroed;
use crate::spec::registers::VERSION;
use crate::spec::status::Status;

/// The only namespace.
pub const NSID: u32 = 1;

/// The firmware revision: the version of this build.
pub const FIRMWARE: &str = env!("CARGO_PKG_VERSION");

impl Controller {
    pub(super) fn identify(&self, command: &Command) -> AdminOutcome {
        let nsid = command.nsid.get();
        let structure = u8::try_from(command.cdw10.get() & 0xff).unwrap_or(0);
        let invalid = AdminOutcome::status(Status::INVALID_NAMESPACE);
        match structure {
            cns::CONTROLLER => {
                let mut page = controller(&self.identity);
                page.oacs = (u16::from(self.shadow_offered) << DOORBELL_BUFFER_CONFIG).into();
                AdminOutcome::Data(page.as_bytes().to_vec())
            }
            // No namespace management: "all" has no common data, and one that does not exist has none.
            cns::NAMESPACE if nsid == NSID => {
                AdminOutcome::Data(namespace(&self.identity).as_bytes().to_vec())
            }
            cns::NAMESPACE if nsid == NSID_ALL || nsid == 0 => invalid,
            cns::NAMESPACE => AdminOutcome::Data(vec![0; IDENTIFY_LEN]),
            // Identifiers above the one given; the last two values are not identifiers.
            cns::ACTIVE_NAMESPACES if nsid >= NSID_ALL - 1 => invalid,
            cns::ACTIVE_NAMESPACES => {
                let listed = if nsid < NSID { NSID } else { 0 };
                AdminOutcome::Data(padded(listed.to_le_bytes().to_vec()))
            }
            cns::NAMESPACE_DESCRIPTORS if nsid == NSID => {
                AdminOutcome::Data(padded(descriptors(&self.identity)))
            }
            cns::NAMESPACE_DESCRIPTORS => invalid,
            _ => AdminOutcome::status(Status::INVALID_FIELD),
        }
    }
}

/// The bit of `OACS`.
const DOORBELL_BUFFER_CONFIG: u8 = 8;

fn padded(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.resize(IDENTIFY_LEN, 0);
    bytes
}

fn controller(identity: &Identity) -> identify::Controller {
    let mut page: identify::Controller = zeroed();
    page.vid = VENDOR_ID.into();
    page.ssvid = VENDOR_ID.into();
    page.sn = ascii(&identity.serial);
    page.mn = ascii("Bulkhead NVMe Controller");
    page.fr = ascii(FIRMWARE);
    page.rab = 4;
    page.mdts = MDTS;
    page.cntlid = DEVICE_ID.into();
    page.ver = VERSION.into();
    // An I/O controller.
    page.cntrltype = 1;
    page.aerl = u8::try_from(events::REQUESTS_MAX - 1).unwrap_or(0);
    page.acl = 3;
    // One firmware slot, read-only.
    page.frmw = 1 << 1 | 1;
    // Commands Supported and Effects; long and partial log reads.
    page.lpa = 1 << 2 | 1 << 1;
    page.elpe = u8::try_from(logs::ERRORS_MAX - 1).unwrap_or(0);
    page.wctemp = features::WARNING_TEMPERATURE_K.into();
    page.cctemp = (features::WARNING_TEMPERATURE_K + 10).into();
    page.tnvmcap = u128::from(identity.bytes(identity.blocks)).into();
    // Entries of 64 and 16 bytes, both the least and the most.
    page.sqes = 0x66;
    page.cqes = 0x44;
    page.nn = NSID.into();
    // Compare, Dataset Management, Write Zeroes.
    page.oncs = (1 << 0 | 1 << 2 | 1 << 3).into();
    // A volatile write cache; Flush of all namespaces at once is understood.
    page.vwc = 0b111;
    let mut name = [0; 256];
    let nqn = format!("nqn.2014-08.org.nvmexpress:uuid:{}", uuid_text(&identity.uuid));
    for (cell, byte) in name.iter_mut().zip(nqn.bytes()) {
        *cell = byte;
    }
    page.subnqn = name;
    let [power, ..] = &mut page.psd;
    // Ten watts: an arbitrary value.
    power.mp = 1000.into();
    page
}

fn namespace(identity: &Identity) -> identify::Namespace {
    let mut page: identify::Namespace = zeroed();
    page.nsze = identity.blocks.into();
    page.ncap = identity.blocks.into();
    page.nuse = identity.blocks.into();
    // Deallocated blocks read as zeros; Write Zeroes may deallocate.
    page.dlfeat = 1 << 3 | 1;
    page.nvmcap = u128::from(identity.bytes(identity.blocks)).into();
    page.nsattr = identity.read_only.into();
    page.nguid = identity.uuid;
    let [format, ..] = &mut page.lbaf;
    *format = LbaFormat { ms: 0.into(), lbads: identity.block_shift, rp: 0 };
    page
}

/// NGUID and UUID.
fn descriptors(identity: &Identity) -> Vec<u8> {
    let mut bytes = Vec::new();
    for kind in [2, 3] {
        let header = DescriptorHeader { nidt: kind, nidl: 16, reserved: 0.into() };
        bytes.extend_from_slice(header.as_bytes());
        bytes.extend_from_slice(&identity.uuid);
    }
    bytes
}

fn uuid_text(uuid: &[u8; 16]) -> String {
    let mut text = String::new();
    for (at, byte) in uuid.iter().enumerate() {
        if matches!(at, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text.push_str(&format!("{byte:02x}"));
    }
    text
}
