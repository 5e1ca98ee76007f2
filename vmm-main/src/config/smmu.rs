// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The options of the vSMMUv3 model: what its ID registers will advertise to the guest.
//!
//! Fixed before boot and saved with the guest, never derived from the host (architecture, section 5). The
//! limits here are those of the model; the SMMU process checks them again, it trusts nobody's configuration.

use serde::{Deserialize, Serialize};

use crate::problem::Problem;

/// The translation granules a guest may use (IHI 0070 section 6.3.6, `SMMU_IDR5.GRAN*`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Granules {
    /// 4 KiB pages.
    pub k4: bool,
    /// 16 KiB pages.
    pub k16: bool,
    /// 64 KiB pages.
    pub k64: bool,
}

/// What one vSMMUv3 advertises.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SmmuModel {
    /// Bits of SubstreamID (`SMMU_IDR1.SSIDSIZE`); 0 means none.
    pub ssid_bits: u8,
    /// Bits of output address (`SMMU_IDR5.OAS`).
    pub oas_bits: u8,
    /// Page sizes.
    pub granules: Granules,
    /// Range invalidation (`SMMU_IDR3.RIL`).
    pub range_invalidation: bool,
    /// 1 for linear stream tables only, 2 to offer the two-level format as well (`SMMU_IDR0.ST_LEVEL`).
    pub stream_table_levels: u8,
    /// Bits of StreamID (`SMMU_IDR1.SIDSIZE`).
    pub stream_id_bits: u8,
}

impl Default for SmmuModel {
    fn default() -> Self {
        Self {
            ssid_bits: 16,
            // The IPA space of the machine model.
            oas_bits: 40,
            granules: Granules { k4: true, k16: true, k64: true },
            range_invalidation: true,
            stream_table_levels: 2,
            stream_id_bits: 16,
        }
    }
}

/// The same options with each one left open: a layer of the configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SmmuSettings {
    /// See [`SmmuModel::ssid_bits`].
    pub ssid_bits: Option<u64>,
    /// See [`SmmuModel::oas_bits`].
    pub oas: Option<u64>,
    /// See [`SmmuModel::granules`].
    pub granules: Option<Vec<String>>,
    /// See [`SmmuModel::range_invalidation`].
    pub ril: Option<bool>,
    /// See [`SmmuModel::stream_table_levels`].
    pub stream_table_levels: Option<u64>,
    /// See [`SmmuModel::stream_id_bits`].
    pub stream_id_bits: Option<u64>,
}

impl SmmuSettings {
    /// Takes from `below` what this layer leaves open.
    pub fn over(self, below: Self) -> Self {
        Self {
            ssid_bits: self.ssid_bits.or(below.ssid_bits),
            oas: self.oas.or(below.oas),
            granules: self.granules.or(below.granules),
            ril: self.ril.or(below.ril),
            stream_table_levels: self.stream_table_levels.or(below.stream_table_levels),
            stream_id_bits: self.stream_id_bits.or(below.stream_id_bits),
        }
    }

    /// The model these settings describe, defaults where they are silent.
    pub fn resolve(self) -> Result<SmmuModel, Problem> {
        let base = SmmuModel::default();
        Ok(SmmuModel {
            ssid_bits: bounded("smmu.ssid-bits", self.ssid_bits, base.ssid_bits, 0, 20)?,
            oas_bits: match self.oas {
                None => base.oas_bits,
                Some(bits) => [32, 36, 40, 42, 44, 48]
                    .into_iter()
                    .find(|known| u64::from(*known) == bits)
                    .ok_or_else(|| {
                        Problem::usage(
                            format!("an output address of {bits} bits is not one the SMMU can have"),
                            "smmu.oas",
                            "give 32, 36, 40, 42, 44 or 48",
                        )
                    })?,
            },
            granules: match self.granules {
                None => base.granules,
                Some(names) => granules(&names)?,
            },
            range_invalidation: self.ril.unwrap_or(base.range_invalidation),
            stream_table_levels: bounded(
                "smmu.stream-table-levels",
                self.stream_table_levels,
                base.stream_table_levels,
                1,
                2,
            )?,
            // Every PCI requester id of the one segment must have a stream: fewer than 16 bits would cut some off,
            // and more than 16 name streams that no device of this machine can have.
            stream_id_bits: bounded("smmu.stream-id-bits", self.stream_id_bits, base.stream_id_bits, 16, 16)?,
        })
    }
}

fn bounded(key: &'static str, value: Option<u64>, default: u8, min: u8, max: u8) -> Result<u8, Problem> {
    let Some(value) = value else { return Ok(default) };
    match u8::try_from(value) {
        Ok(small) if (min..=max).contains(&small) => Ok(small),
        _ => Err(Problem::usage(
            format!("{value} is outside what the SMMU model can have"),
            key,
            if min == max { format!("give {min}") } else { format!("give {min} to {max}") },
        )),
    }
}

fn granules(names: &[String]) -> Result<Granules, Problem> {
    let mut set = Granules { k4: false, k16: false, k64: false };
    for name in names {
        match name.to_ascii_uppercase().as_str() {
            "4K" => set.k4 = true,
            "16K" => set.k16 = true,
            "64K" => set.k64 = true,
            other => {
                return Err(Problem::usage(
                    format!("{other:?} is not a translation granule"),
                    "smmu.granules",
                    "give any of \"4K\", \"16K\", \"64K\"",
                ));
            }
        }
    }
    if set.k4 || set.k16 || set.k64 {
        Ok(set)
    } else {
        Err(Problem::usage(
            "an SMMU without any translation granule cannot translate",
            "smmu.granules",
            "give at least one of \"4K\", \"16K\", \"64K\"",
        ))
    }
}
