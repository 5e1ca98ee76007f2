// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What is to move: everything in which the two machines must be alike, compared before a page is sent.
//!
//! Frozen plain structs behind a version number: the golden bytes in `offer/tests.rs` pin them. Both hosts describe
//! their own machine in the same form, and [`Machine::differences`] says of each field that differs what it is at
//! either end and where that is changed; of processes [`super::features`] does. What the guest cannot see (names,
//! paths, limits) is not in it.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::features::Processes;

/// The version of [`Offer`]. A change is a new number and a new struct; the version before is taken, too.
const VERSION: u16 = 2;
/// The version that is a [`Machine`] alone.
const PREVIOUS: u16 = 1;

/// A guest's machine, and the processes that it consists of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// As it is configured.
    pub machine: Machine,
    /// What the guest can tell of each process. Of an offer of the version before: nothing.
    pub processes: Processes,
}

/// A machine, as far as a guest can tell it from another by its configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// The machine model.
    pub machine: String,
    /// Bytes of guest RAM.
    pub memory_len: u64,
    /// Where RAM is: address and length of each region.
    pub ram: Vec<(u64, u64)>,
    /// Virtual CPUs.
    pub vcpu_count: u16,
    /// What executes guest code.
    pub cpu: String,
    /// Whether the guest has performance monitors.
    pub pmu: bool,
    /// The vSMMU.
    pub smmu: Smmu,
    /// The assigned devices, in order.
    pub devices: Vec<Device>,
    /// What the guest boots of, also after it has moved.
    pub boot: Boot,
    /// Whether the guest runs; otherwise it is paused, and arrives paused.
    pub runs: bool,
}

/// What a vSMMU's ID registers advertise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Smmu {
    /// The profile of its registers.
    pub model: String,
    /// IDR1.SIDSIZE.
    pub sidsize: u8,
    /// IDR1.SSIDSIZE.
    pub ssidsize: u8,
    /// IDR5.OAS, in bits.
    pub oas: u8,
    /// IDR5.GRAN4K, GRAN16K, GRAN64K.
    pub granules: [bool; 3],
    /// IDR3.RIL.
    pub ril: bool,
    /// 1: linear stream tables only; 2: also 2-level ones.
    pub stream_table_levels: u8,
}

/// An assigned device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// What is behind it.
    pub kind: String,
    /// Its device number on bus 0.
    pub slot: u8,
    /// Its disk, if it is a controller of ours.
    pub disk: Option<Disk>,
}

/// The image behind a controller of ours.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// Bytes.
    pub len: u64,
    /// The guest cannot write to it.
    pub readonly: bool,
    /// The serial number that was configured.
    pub serial: Option<String>,
    /// Which file it is, for both hosts open the same: the file system, and the inode in it.
    pub file: [u64; 2],
}

/// What a guest boots of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Boot {
    /// SHA-256 of the kernel.
    pub kernel: [u8; 32],
    /// SHA-256 of the initramfs, if there is one.
    pub initramfs: Option<[u8; 32]>,
    /// The command line.
    pub cmdline: String,
}

/// Why an offer is not understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum OfferError {
    /// It is of another time.
    #[error(
        "the offer is of version {0}, this build takes {PREVIOUS} and {VERSION}: migrate with the same release on both hosts"
    )]
    Version(u16),
    /// It is none.
    #[error("the offer is damaged")]
    Malformed,
}

impl Offer {
    /// As it travels.
    ///
    /// # Errors
    /// If it does not encode.
    pub fn to_bytes(&self) -> Result<Vec<u8>, postcard::Error> {
        postcard::to_extend(self, VERSION.to_le_bytes().to_vec())
    }

    /// What has travelled.
    ///
    /// # Errors
    /// If it is none, or of another version.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, OfferError> {
        let (version, body) = bytes.split_first_chunk().ok_or(OfferError::Malformed)?;
        match u16::from_le_bytes(*version) {
            VERSION => whole(body),
            PREVIOUS => Ok(Self { machine: whole(body)?, processes: Vec::new() }),
            other => Err(OfferError::Version(other)),
        }
    }
}

/// What these bytes are, all of them.
fn whole<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, OfferError> {
    match postcard::take_from_bytes(bytes) {
        Ok((value, [])) => Ok(value),
        _ => Err(OfferError::Malformed),
    }
}

impl Machine {
    /// A sentence for each difference between what is offered and this host's machine.
    pub fn differences(&self, here: &Self) -> Vec<String> {
        let Self { machine, memory_len, ram, vcpu_count, cpu, pmu, smmu, devices, boot, runs: _ } = self;
        let mut found = Differences::default();
        found.field("machine", machine, &here.machine, "run the same release on both hosts");
        found.field("memory", memory_len, &here.memory_len, "give `receive` another --memory");
        if memory_len == &here.memory_len {
            found.field("memory layout", ram, &here.ram, "run the same release on both hosts");
        }
        found.field("vcpus", vcpu_count, &here.vcpu_count, "give `receive` another --vcpus");
        found.field("cpu", cpu, &here.cpu, "give `receive` another --cpu");
        found.field("pmu", pmu, &here.pmu, "give `receive` another --pmu");
        found.smmu(smmu, &here.smmu);
        found.devices(devices, &here.devices);
        let Boot { kernel, initramfs, cmdline } = boot;
        found.field("cmdline", cmdline, &here.boot.cmdline, "give `receive` the same --cmdline");
        let same = "give `receive` the same file";
        found.field("kernel (SHA-256)", &hex(kernel), &hex(&here.boot.kernel), same);
        let hash =
            |hash: &Option<[u8; 32]>| hash.as_ref().map_or_else(|| "none".to_owned(), |hash| hex(hash));
        found.field("initramfs (SHA-256)", &hash(initramfs), &hash(&here.boot.initramfs), same);
        found.0
    }
}

#[derive(Default)]
struct Differences(Vec<String>);

impl Differences {
    fn field<T: PartialEq + std::fmt::Debug>(&mut self, name: &str, source: &T, here: &T, advice: &str) {
        if source != here {
            self.0.push(format!("{name}: {source:?} at the source, {here:?} here: {advice}"));
        }
    }

    fn smmu(&mut self, source: &Smmu, here: &Smmu) {
        let Smmu { model, sidsize, ssidsize, oas, granules, ril, stream_table_levels } = source;
        self.field("smmu model", model, &here.model, "run the same release on both hosts");
        let give = |flag: &str| format!("give `receive` another --smmu-{flag}");
        self.field("smmu.sidsize", sidsize, &here.sidsize, &give("sidsize"));
        self.field("smmu.ssidsize", ssidsize, &here.ssidsize, &give("ssidsize"));
        self.field("smmu.oas", oas, &here.oas, &give("oas"));
        self.field("smmu.granules (4K, 16K, 64K)", granules, &here.granules, &give("granules"));
        self.field("smmu.ril", ril, &here.ril, &give("ril"));
        let levels = give("stream-table-levels");
        self.field("smmu.stream-table-levels", stream_table_levels, &here.stream_table_levels, &levels);
    }

    fn devices(&mut self, source: &[Device], here: &[Device]) {
        if source.len() != here.len() {
            let advice = "give `receive` the same devices";
            return self.field("number of devices", &source.len(), &here.len(), advice);
        }
        for (index, (Device { kind, slot, disk }, own)) in source.iter().zip(here).enumerate() {
            let name = |field: &str| format!("device {index}, {field}");
            self.field(&name("kind"), kind, &own.kind, "give `receive` the same devices in the same order");
            self.field(&name("slot"), slot, &own.slot, "give `receive` the same `slot` for the device");
            let (Some(disk), Some(own)) = (disk, &own.disk) else { continue };
            let Disk { len, readonly, serial, file } = disk;
            self.field(&name("bytes of the disk"), len, &own.len, "give `receive` the same image");
            self.field(&name("readonly"), readonly, &own.readonly, "give `receive` the same `readonly`");
            self.field(&name("serial"), serial, &own.serial, "give `receive` the same `serial`");
            self.field(
                &name("file (file system, inode)"),
                file,
                &own.file,
                "both hosts open the same file of a shared file system",
            );
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests;
