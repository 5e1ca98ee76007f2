// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Tests of the CPU: recorded results, naive references, another implementation, and whole small guests.

mod atomics;
mod debug;
mod differential;
mod dirty;
mod events;
mod exceptions;
mod granules;
mod handles;
mod integer;
mod litmus;
mod machine;
mod memory;
mod pmu;
mod power;
mod references;
mod saved;
mod system;
mod timers;
mod tlb;
mod translation;
