// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Fuzz targets for everything that takes bytes from a guest, a peer process or another host.
//!
//! A target is a function of bytes that panics if an invariant breaks; most stand in `drivers`. A runner of our own
//! (`runner`) calls them because the usual engines need a nightly compiler: it mutates seeds with a fixed random
//! source, so that the same build tries the same inputs again. It is not guided by coverage; seeds close to valid input
//! make up for that. Any engine that calls `fn(&[u8])` can drive the same table.
//!
//! A failing input is shortened, kept in `target/fuzz/`, and run again by
//! `cargo xtask fuzz TARGET --input FILE`. What was found once stays in `tests/fuzz/corpus/TARGET/`.

pub mod descriptors;
pub mod drivers;
pub mod mutate;
pub mod program;
pub mod runner;
pub mod targets;
