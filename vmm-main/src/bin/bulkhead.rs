// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The `bulkhead` command: launcher, client and, started by the launcher, the sealed coordinator.

use std::process::ExitCode;

fn main() -> ExitCode {
    vmm_main::cli::main()
}
