// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a harvest costs: the dirty logs of four processes of a guest of 1 TiB, taken into one owed map, beside the bare
//! `memcpy` of as many bytes from memory to memory.
//!
//! Both are measured in turn in one run, with none, 1 %, half and all of the pages marked, each page independently of
//! its neighbours: a guest's are clustered, which is cheaper. The ratio is the bytes of bitmaps taken in the time that
//! `memcpy` copies as many. A harvest reads every word; where bits are set it writes zero back and adds to the map, so
//! that `memcpy` does about what it does with many bits, and more than it does with none.
//!
//! `cargo bench -p ipc --bench merge`; run by `cargo xtask bench merge`.

#[cfg(not(loom))]
#[allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a bench stops at the first surprise")]
mod bench;

/// The model checker's logs are on its own heap: there is nothing to measure.
#[cfg(loom)]
fn main() {}

#[cfg(not(loom))]
fn main() -> std::process::ExitCode {
    bench::run()
}
