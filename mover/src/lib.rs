// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The mover: carries a guest's RAM, state and its coordinators' messages between two hosts, and decides nothing.
//!
//! [`lane`] is a connection as a sequence of frames, [`connection`] how one begins and [`tls`] who may be at its other
//! end, [`ram`] guest RAM as the dirty bitmaps number it, [`packing`] its pages made shorter, [`states`] states of
//! processes, [`transfer`] what goes from these into a lane and back. [`source`] and [`destination`] carry a whole
//! migration, [`service`] is the process. It owns guest RAM and the private key, so it is the one that a hostile host
//! would attack: it parses fixed structs and LZ4 blocks only, in safe code, and messages pass it sealed.
#![forbid(unsafe_code)]

pub mod connection;
pub mod destination;
pub mod lane;
pub mod packing;
pub mod ram;
pub mod service;
pub mod source;
pub mod states;
pub mod tls;
pub mod transfer;
pub mod work;
