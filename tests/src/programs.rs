// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The programs of a virtual machine, and folders of them in which a suite puts one of its own.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

/// The programs that a virtual machine without physical devices may open.
pub const ALL: [&str; 7] = [
    "bulkhead",
    "bulkhead-vcpu-soft",
    "bulkhead-vcpu",
    "bulkhead-smmu",
    "bulkhead-vfio",
    "bulkhead-nvme",
    "bulkhead-mover",
];

/// Makes the folder `own` of the programs in `built`, without the one called `missing`.
pub fn folder_without(missing: Option<&str>, built: &Path, own: &Path) -> Result<()> {
    fs::create_dir(own).with_context(|| format!("the folder {}", own.display()))?;
    for name in ALL.into_iter().filter(|name| Some(*name) != missing) {
        put(&built.join(name), &own.join(name))?;
    }
    Ok(())
}

/// The file `from`, whichever link leads to it, under the name `to` as well; or a copy, where that is another file
/// system.
pub fn put(from: &Path, to: &Path) -> Result<()> {
    let from = from.canonicalize().with_context(|| format!("the program {}", from.display()))?;
    fs::hard_link(&from, to)
        .or_else(|_| fs::copy(&from, to).map(drop))
        .with_context(|| format!("the program {}", to.display()))
}
