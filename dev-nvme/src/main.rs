// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `bulkhead-nvme`: by hand it launches, sealed it serves. See `service::launch`.
#![forbid(unsafe_code)]

use anyhow::Result;
use dev_nvme::service::launch::{self, Options, USAGE};
use dev_nvme::service::managed;

fn main() -> Result<()> {
    if managed::serve_if_managed()? || launch::serve_if_sealed()? {
        return Ok(());
    }
    let help = |arg: std::ffi::OsString| arg == "--help" || arg == "-h";
    if std::env::args_os().skip(1).any(help) {
        print!("{USAGE}");
        return Ok(());
    }
    launch::launch(&Options::parse(std::env::args_os().skip(1))?)
}
