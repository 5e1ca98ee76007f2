// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The state machine against a model of the world, by events in random order and by single stories.

mod deaths;
mod device_recoveries;
mod handovers;
mod measurements;
mod migrating;
mod migrations;
mod precopies;
mod properties;
mod recoveries;
mod resolutions;
mod restarts;
mod save_restores;
mod shape;
mod side_by_side;
mod standstills;
mod stories;
mod supervision;
mod turns;
mod unmapping;
mod world;
