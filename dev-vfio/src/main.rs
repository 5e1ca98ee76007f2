// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The process of a device that a vfio-user server has. Started by the coordinator, never by hand.
#![forbid(unsafe_code)]

use dev_vfio::service::{Descriptors, VfioProgram};
use dev_vfio::vfio_user::{Given, VfioUserDevice};
use sandbox::profiles;

fn main() -> anyhow::Result<()> {
    process::run::<VfioProgram<VfioUserDevice>>(&profiles::vfio(), |fds| {
        let given = Given::take(fds)?;
        Descriptors::take(fds, given)
    })?;
    Ok(())
}
