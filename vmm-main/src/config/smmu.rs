// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The options of the vSMMUv3 model: what its ID registers will advertise to the guest.
//!
//! Fixed before boot and saved with the guest, never derived from the host (architecture, section 5). The limits here
//! are those of the model; the SMMU process checks them again, since it does not trust its configuration.

use ipc::protocol::smmu::{Granules, Model, ModelError, Options};

use crate::problem::Problem;

/// The options of [`Options`] with each one left open: a layer of the configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SmmuSettings {
    /// See [`Options::sidsize`].
    pub sidsize: Option<u64>,
    /// See [`Options::ssidsize`].
    pub ssidsize: Option<u64>,
    /// See [`Options::oas`].
    pub oas: Option<u64>,
    /// See [`Options::granules`].
    pub granules: Option<Vec<String>>,
    /// See [`Options::ril`].
    pub ril: Option<bool>,
    /// See [`Options::stream_table_levels`].
    pub stream_table_levels: Option<u64>,
}

impl SmmuSettings {
    /// Takes from `below` what this layer leaves open.
    pub fn over(self, below: Self) -> Self {
        Self {
            sidsize: self.sidsize.or(below.sidsize),
            ssidsize: self.ssidsize.or(below.ssidsize),
            oas: self.oas.or(below.oas),
            granules: self.granules.or(below.granules),
            ril: self.ril.or(below.ril),
            stream_table_levels: self.stream_table_levels.or(below.stream_table_levels),
        }
    }

    /// The model of these settings, with defaults for the rest.
    pub fn resolve(self) -> Result<Model, Problem> {
        let Options { sidsize, ssidsize, oas, granules, ril, stream_table_levels } = Options::default();
        let options = Options {
            // Every PCI requester id of the one segment must have a stream: fewer than 16 bits would cut some off,
            // and more than 16 name streams that no device of this machine can have.
            sidsize: bounded("smmu.sidsize", self.sidsize, sidsize, 16, 16)?,
            ssidsize: bounded("smmu.ssidsize", self.ssidsize, ssidsize, 0, 20)?,
            oas: bounded("smmu.oas", self.oas, oas, 0, u8::MAX)?,
            granules: self.granules.map_or(Ok(granules), |names| parse_granules(&names))?,
            ril: self.ril.unwrap_or(ril),
            stream_table_levels: bounded(
                "smmu.stream-table-levels",
                self.stream_table_levels,
                stream_table_levels,
                1,
                2,
            )?,
        };
        Model::new(Model::default().name(), options).map_err(|error| refused(&error))
    }
}

/// What the model refuses of values that are each within bounds.
fn refused(error: &ModelError) -> Problem {
    let (key, advice) = match error {
        ModelError::Oas(_) => ("smmu.oas", "give 32, 36, 40, 42, 44 or 48"),
        ModelError::NoGranule => ("smmu.granules", "give at least one of \"4K\", \"16K\", \"64K\""),
        ModelError::LinearTableTooLarge(_) => ("smmu.stream-table-levels", "give 2"),
        // Bounded before, by what this machine has.
        ModelError::UnknownName(_)
        | ModelError::Ssidsize(_)
        | ModelError::Sidsize(_)
        | ModelError::StreamTableLevels(_) => ("smmu", "leave it out"),
    };
    Problem::usage(error.to_string(), key, advice)
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

fn parse_granules(names: &[String]) -> Result<Granules, Problem> {
    let mut set = Granules::NONE;
    for name in names {
        match name.to_ascii_uppercase().as_str() {
            "4K" => set.gran4k = true,
            "16K" => set.gran16k = true,
            "64K" => set.gran64k = true,
            other => {
                return Err(Problem::usage(
                    format!("{other:?} is not a translation granule"),
                    "smmu.granules",
                    "give any of \"4K\", \"16K\", \"64K\"",
                ));
            }
        }
    }
    Ok(set)
}
