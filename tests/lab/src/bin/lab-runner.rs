// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Started by the lab server's `/sbin/init`: runs what the kernel's command line asks for.

use std::process::ExitCode;

fn main() -> ExitCode {
    match lab::runner::main() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lab-runner: {error:#}");
            ExitCode::FAILURE
        }
    }
}
