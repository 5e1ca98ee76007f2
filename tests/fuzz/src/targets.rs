// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The table of targets: a name, what it takes, the function, and seeds that are valid input.

mod frame;
mod migration;
mod nvme;
mod programs;
mod saved;
mod vfio;
mod vfio_user;

use crate::drivers;

/// A function that must not panic on any bytes, and seeds for it.
#[derive(Debug)]
pub struct Target {
    /// Its name on the command line and of its corpus folder.
    pub name: &'static str,
    /// What the bytes are.
    pub takes: &'static str,
    /// Panics if an invariant breaks.
    pub run: fn(&[u8]),
    /// Inputs to start from.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// Every target.
pub const ALL: [Target; 12] = [
    Target {
        name: "frame",
        takes: "a message on a control channel, from a peer process",
        run: frame::run,
        seeds: frame::seeds,
    },
    Target {
        name: "saved",
        takes: "a stream of saved state, from a file or another host",
        run: saved::run,
        seeds: saved::seeds,
    },
    Target {
        name: "migration",
        takes: "a migration stream, from another host",
        run: migration::run,
        seeds: migration::seeds,
    },
    Target {
        name: "smmu",
        takes: "register accesses, memory writes and turns of the SMMU model, from a guest",
        run: drivers::smmu::run,
        seeds: programs::smmu,
    },
    Target {
        name: "gic",
        takes: "accesses to the GIC and its ITS, from a guest and from devices",
        run: drivers::gic::run,
        seeds: programs::gic,
    },
    Target {
        name: "a64",
        takes: "instruction words, from a guest",
        run: drivers::a64::run,
        seeds: programs::a64,
    },
    Target {
        name: "vfio-user",
        takes: "message bodies of vfio-user, from either end",
        run: vfio_user::bodies,
        seeds: vfio_user::bodies_seeds,
    },
    Target {
        name: "stream",
        takes: "a stream of vfio-user messages, cut anywhere, from either end",
        run: vfio_user::stream,
        seeds: vfio_user::stream_seeds,
    },
    Target {
        name: "nvme",
        takes: "accesses, commands, memory and migrations of the NVMe controller, from a guest",
        run: nvme::run,
        seeds: nvme::seeds,
    },
    Target {
        name: "client",
        takes: "messages and descriptors of a vfio-user client of the NVMe controller, and what it does to them",
        run: nvme::client,
        seeds: nvme::client_seeds,
    },
    Target {
        name: "function",
        takes: "accesses of a guest to an assigned device, and the answers of the device's server",
        run: drivers::vfio::function,
        seeds: vfio::function,
    },
    Target {
        name: "dma",
        takes: "messages of a device's server, and a guest's tables that translate them",
        run: drivers::vfio::dma,
        seeds: vfio::dma,
    },
];
