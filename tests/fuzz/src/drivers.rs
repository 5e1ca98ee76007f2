// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What drives the product with arbitrary bytes: each is the whole of a fuzz target, and of property tests.
//!
//! A driver stands where a guest, a peer or a device stands, reaches no more of a crate than its public items, and
//! panics if what must hold does not. `targets` has the seeds.

pub mod a64;
pub mod gic;
pub mod nvme;
pub mod smmu;
pub mod vfio;
pub mod vfio_user;
