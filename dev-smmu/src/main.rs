// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The vSMMUv3 process. Started by the coordinator, never by hand.
#![forbid(unsafe_code)]

use dev_smmu::service::{Descriptors, SmmuProgram};
use sandbox::profiles;

fn main() -> anyhow::Result<()> {
    Ok(process::run::<SmmuProgram>(&profiles::smmu(), Descriptors::take)?)
}
