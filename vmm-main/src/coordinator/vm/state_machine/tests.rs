// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The state machine against a model of the world, by random orders of events and by single stories.

mod measurements;
mod properties;
mod recoveries;
mod restarts;
mod stories;
mod world;
