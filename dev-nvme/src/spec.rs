// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! NVM Express as its specification has it: registers, commands, completions, data structures. Types only.
//!
//! Names and values are those of the NVM Express Base Specification, revision 1.4; each file names its sections.
//! Everything in memory is little-endian. Values chosen by a host are plain integers, decoded where they are used;
//! structures that the controller returns are built here.

pub mod command;
pub mod completion;
pub mod identify;
pub mod log;
pub mod registers;
pub mod status;
