// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The mover's process. Started by the coordinator for one migration, never by hand.
#![forbid(unsafe_code)]

use mover::service::{Descriptors, MoverProgram};
use sandbox::profiles;

fn main() -> anyhow::Result<()> {
    Ok(process::run::<MoverProgram>(&profiles::mover(), Descriptors::take)?)
}
