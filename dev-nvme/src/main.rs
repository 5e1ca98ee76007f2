// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `bulkhead-nvme`: started by hand it is the launcher, started by that it seals itself and serves. See
//! `service::launch`.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use dev_nvme::service::launch::{self, Options, sealed};
use dev_nvme::service::managed;

fn main() -> ExitCode {
    match run() {
        Ok(code) => code,
        Err(error) => {
            // A failed write to standard error must not panic.
            let _ =
                std::io::Write::write_fmt(&mut std::io::stderr(), format_args!("bulkhead-nvme: {error:#}\n"));
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<ExitCode> {
    if managed::serve_if_managed()? {
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(code) = sealed::serve_if_sealed()? {
        return Ok(code);
    }
    launch::launch(&Options::parse())?;
    Ok(ExitCode::SUCCESS)
}
