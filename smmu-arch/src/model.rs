// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What an SMMU of ours advertises: a named, versioned profile, fixed before boot.
//!
//! A guest reads the identification registers once and builds its tables by them, so they are part of the
//! machine it runs on: equal at both ends of a migration, saved with the guest, never derived from a host.
//! A `Model` can only be made by `Model::new`, which checks every option; the identification values and
//! every limit the walks obey follow from it alone. A change of meaning takes a new name, not a new value.
//! IHI 0070 §6.3.1 to §6.3.8.

use crate::spec::id::{
    AddressSize, Aidr, Idr0, Idr1, Idr3, Idr5, Iidr, StallModel, StreamTableLevels, TableEndianness,
    TranslationTableFormat,
};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Name of the only profile there is.
pub const MODEL_NAME: &str = "bulkhead-smmu-1";

/// log2 of the largest Command queue: 4096 commands, 64 KiB. Linux allocates the largest queue offered,
/// so a larger offer would only cost every guest memory; it needs more than its batch of 64.
const CMDQS: u8 = 12;
/// log2 of the largest Event queue: 4096 records, 128 KiB.
const EVENTQS: u8 = 12;
/// SMMUv3.1. Where a later version allows one behaviour of several, that one is taken.
const ARCH_MINOR_REV: u8 = 1;
/// StreamIDs from here on require 2-level tables (§6.3.2, SIDSIZE).
const SIDSIZE_LINEAR_MAX: u8 = 6;

/// The choices `bulkhead-smmu-1` leaves open. Each has this one name from the configuration file to here: the manual's
/// field, where its value is the field's; `stream_table_levels` counts levels, which IDR0.ST_LEVEL encodes as one less.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Options {
    /// IDR1.SIDSIZE: bits of a StreamID, 1 to 32.
    pub sidsize: u8,
    /// IDR1.SSIDSIZE: bits of a SubstreamID (PASID), 0 to 20; 0 is none.
    pub ssidsize: u8,
    /// IDR5.OAS: bits of an output address, 32, 36, 40, 42, 44 or 48.
    pub oas: u8,
    /// IDR5.GRAN4K, GRAN16K, GRAN64K.
    pub granules: Granules,
    /// IDR3.RIL: range invalidation and level hint.
    pub ril: bool,
    /// 1: linear stream tables only; 2: also 2-level ones.
    pub stream_table_levels: u8,
}

/// Which translation granules a guest's tables may have.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Granules {
    /// 4 KiB.
    pub gran4k: bool,
    /// 16 KiB.
    pub gran16k: bool,
    /// 64 KiB.
    pub gran64k: bool,
}

impl Granules {
    /// All three.
    pub const ALL: Granules = Granules { gran4k: true, gran16k: true, gran64k: true };
    /// None: no SMMU has that.
    pub const NONE: Granules = Granules { gran4k: false, gran16k: false, gran64k: false };
}

impl Default for Options {
    /// 16 StreamID bits are every requester of a PCI segment; 40 address bits are the IPA space of the machine.
    fn default() -> Options {
        Options {
            sidsize: 16,
            ssidsize: 16,
            oas: 40,
            granules: Granules::ALL,
            ril: true,
            stream_table_levels: 2,
        }
    }
}

/// Why no such SMMU can be made.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum ModelError {
    /// The name is not that of a profile this build knows.
    #[error("unknown SMMU model {0:?}, known is {MODEL_NAME:?}")]
    UnknownName(String),
    /// Outside 0 to 20.
    #[error("SSIDSIZE: an SMMU has 0 to 20 SubstreamID bits, not {0}")]
    Ssidsize(u8),
    /// Not an address size stage 1 can be given here.
    #[error("OAS: SMMU output addresses have 32, 36, 40, 42, 44 or 48 bits, not {0}")]
    Oas(u8),
    /// All granules are off.
    #[error("an SMMU supports at least one translation granule")]
    NoGranule,
    /// Neither 1 nor 2.
    #[error("SMMU stream tables have 1 or 2 levels, not {0}")]
    StreamTableLevels(u8),
    /// Outside 1 to 32.
    #[error("SIDSIZE: an SMMU has 1 to 32 StreamID bits, not {0}")]
    Sidsize(u8),
    /// The architecture asks for 2-level tables here.
    #[error("{0} StreamID bits require 2-level stream tables")]
    LinearTableTooLarge(u8),
}

/// A translation granule.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Granule {
    /// 4 KiB.
    Size4K,
    /// 16 KiB.
    Size16K,
    /// 64 KiB.
    Size64K,
}

impl Granule {
    /// log2 of the bytes of a page.
    pub const fn bits(self) -> u32 {
        match self {
            Granule::Size4K => 12,
            Granule::Size16K => 14,
            Granule::Size64K => 16,
        }
    }
}

/// A checked profile. In a message it is its name and its options, and decoding checks them like [`Model::new`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(try_from = "Described", into = "Described")]
pub struct Model {
    options: Options,
    oas: AddressSize,
}

#[derive(Serialize, Deserialize)]
struct Described {
    name: String,
    options: Options,
}

impl From<Model> for Described {
    fn from(model: Model) -> Described {
        Described { name: model.name().to_owned(), options: model.options }
    }
}

impl TryFrom<Described> for Model {
    type Error = ModelError;

    fn try_from(Described { name, options }: Described) -> Result<Model, ModelError> {
        Model::new(&name, options)
    }
}

impl Default for Model {
    /// The profile with its default options.
    fn default() -> Model {
        Model { options: Options::default(), oas: AddressSize::Bits40 }
    }
}

impl Model {
    /// Checks a profile's name and options.
    ///
    /// # Errors
    /// The first option that no SMMU, or none of this profile, has.
    pub fn new(name: &str, options: Options) -> Result<Model, ModelError> {
        if name != MODEL_NAME {
            return Err(ModelError::UnknownName(name.to_owned()));
        }
        if options.ssidsize > 20 {
            return Err(ModelError::Ssidsize(options.ssidsize));
        }
        if !(1..=32).contains(&options.sidsize) {
            return Err(ModelError::Sidsize(options.sidsize));
        }
        if options.granules == Granules::NONE {
            return Err(ModelError::NoGranule);
        }
        match options.stream_table_levels {
            2 => {}
            1 if options.sidsize <= SIDSIZE_LINEAR_MAX => {}
            1 => return Err(ModelError::LinearTableTooLarge(options.sidsize)),
            other => return Err(ModelError::StreamTableLevels(other)),
        }
        let oas = match options.oas {
            32 => AddressSize::Bits32,
            36 => AddressSize::Bits36,
            40 => AddressSize::Bits40,
            42 => AddressSize::Bits42,
            44 => AddressSize::Bits44,
            48 => AddressSize::Bits48,
            other => return Err(ModelError::Oas(other)),
        };
        Ok(Model { options, oas })
    }

    /// The name this profile is asked for by.
    pub const fn name(&self) -> &'static str {
        MODEL_NAME
    }

    /// The options it was made with.
    pub const fn options(&self) -> &Options {
        &self.options
    }

    /// Number of output address bits.
    pub const fn oas(&self) -> u32 {
        self.oas.bits()
    }

    /// Cuts an address that a register or command gives to the output address size (§3.4.3, note 6).
    pub const fn truncate(&self, address: u64) -> u64 {
        address & ((1 << self.oas.bits()) - 1)
    }

    /// Whether an address lies within the output address size.
    pub const fn in_range(&self, address: u64) -> bool {
        self.truncate(address) == address
    }

    /// Whether tables of this granule are walked.
    pub const fn supports(&self, granule: Granule) -> bool {
        match granule {
            Granule::Size4K => self.options.granules.gran4k,
            Granule::Size16K => self.options.granules.gran16k,
            Granule::Size64K => self.options.granules.gran64k,
        }
    }

    /// Stage 1 only, VMSAv8-64, little-endian, terminate model, coherent, wired interrupts.
    pub fn idr0(&self) -> Idr0 {
        Idr0::new()
            .with_s1p(true)
            .with_ttf(TranslationTableFormat::AArch64)
            .with_cohacc(true)
            .with_asid16(true)
            .with_cd2l(self.options.ssidsize > 0)
            .with_ttendian(TableEndianness::Little)
            .with_stall_model(StallModel::TerminateOnly)
            .with_term_model(true)
            .with_st_level(if self.options.stream_table_levels == 2 {
                StreamTableLevels::TwoLevel
            } else {
                StreamTableLevels::Linear
            })
    }

    /// Sizes.
    pub fn idr1(&self) -> Idr1 {
        Idr1::new()
            .with_sidsize(self.options.sidsize)
            .with_ssidsize(self.options.ssidsize)
            .with_cmdqs(CMDQS)
            .with_eventqs(EVENTQS)
    }

    /// HAD is mandatory from SMMUv3.1 (§2.7).
    pub fn idr3(&self) -> Idr3 {
        Idr3::new().with_had(true).with_ril(self.options.ril)
    }

    /// Address size and granules.
    pub fn idr5(&self) -> Idr5 {
        Idr5::new()
            .with_oas(self.oas)
            .with_gran4k(self.options.granules.gran4k)
            .with_gran16k(self.options.granules.gran16k)
            .with_gran64k(self.options.granules.gran64k)
    }

    /// Zero: no implementer whose errata a driver would work around.
    pub fn iidr(&self) -> Iidr {
        Iidr::new()
    }

    /// Architecture version.
    pub fn aidr(&self) -> Aidr {
        Aidr::new().with_arch_minor_rev(ARCH_MINOR_REV)
    }
}

#[cfg(test)]
mod tests;
