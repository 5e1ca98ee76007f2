// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Real processes, really sealed: this program is both the tests and the processes that they start.
//!
//! Under one of the names in `process` it is such a process (`helper`); otherwise it runs the cases (`harness`),
//! each of which execs this very file through `sandbox::spawn`. No libtest: its start would do things that
//! no product process does.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test stops at the first surprise"
)]

mod cases;
mod harness;
mod helper;
mod process;

fn main() {
    let name = std::env::args().next().unwrap_or_default();
    if name == process::HELPER_NAME.to_str().unwrap() {
        helper::main();
    } else if name == process::TABLE_NAME.to_str().unwrap() {
        cases::table::tell();
    } else if name == process::LAUNCHER_NAME {
        cases::leftovers::launcher();
    } else {
        harness::main(&cases::all());
    }
}
