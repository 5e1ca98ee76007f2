// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Where things stand in the crash page: indices of 64-bit words, and the words that mark a complete record.
//!
//! Two records: a fatal one (denied call or fault; the first thread to claim it wins) and the last panic, which need
//! not be fatal because a panic can be caught. Written by `sys::signals` and the panic hook, read by `report`.

/// 0: nothing; `WRITING`: claimed; `COMPLETE`: the words below are valid.
pub(crate) const FATAL_STATE: usize = 0;
/// `KIND_DENIED` or `KIND_FAULT`.
pub(crate) const FATAL_KIND: usize = 1;
/// The system call's number, or the signal's.
pub(crate) const FATAL_NUMBER: usize = 2;
/// Six arguments of the call; of a fault the first is the address.
pub(crate) const FATAL_ARGS: usize = 3;
/// Where the program was.
pub(crate) const FATAL_IP: usize = 9;
/// The audit architecture word of the call.
pub(crate) const FATAL_ARCH: usize = 10;
/// The thread, as numbered in the process's own pid namespace.
pub(crate) const FATAL_THREAD: usize = 11;

/// As `FATAL_STATE`, of the panic record.
pub(crate) const PANIC_STATE: usize = 32;
/// Bytes of text.
pub(crate) const PANIC_LEN: usize = 33;
/// The text, eight bytes a word, little-endian.
pub(crate) const PANIC_TEXT: usize = 34;
/// The most bytes of text kept.
pub(crate) const PANIC_LEN_MAX: usize = 1024;

/// A record is being written.
pub(crate) const WRITING: u64 = 1;
/// A record is whole ("BKDEATH" and a version).
pub(crate) const COMPLETE: u64 = 0x0148_5441_4544_4b42;

/// A system call that the filter refused.
pub(crate) const KIND_DENIED: u64 = 1;
/// A fatal signal: bad memory access, abort.
pub(crate) const KIND_FAULT: u64 = 2;
