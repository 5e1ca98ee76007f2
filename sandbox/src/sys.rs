// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The only unsafe code of this crate: system calls that no safe wrapper offers.
//!
//! `process`: clone, execveat, descriptor surgery; `signals`: the handlers that record a death; `page`: the
//! shared crash page as atomics; `trace`: reading another process's filters. Called by `spawn` (parent and child
//! half), `locked`, `probe` and `audit`.
//! Everything exported is safe to call; what runs in a handler or between clone and exec allocates nothing.
// UNSAFETY: these calls have no safe form in rustix: a raw clone that returns twice, exec by descriptor, dup onto a
// chosen number, installing handlers, mapping shared memory, tracing. Each is wrapped here, alone and small.
#![expect(unsafe_code, reason = "system calls without a safe wrapper; the wall of this crate")]

mod page;
#[cfg(debug_assertions)]
pub(crate) mod probe;
mod process;
mod signals;
mod trace;

pub(crate) use page::{PAGE_LEN, PAGE_WORDS, Page};
pub(crate) use process::{
    Argv, SPAWN_FLAGS, clone_process, close_in_child, close_on_exec_from, drop_from_bounding_set, dup_above,
    dup_onto, execveat, exit_group, is_open, landlock_abi, one_arena, only_thread, own, set_securebits,
    write_bytes,
};
pub(crate) use signals::{
    SignalMask, act_by_default, block_in_thread, block_signals, install_handlers, is_ignored, report_to_pipe,
    set_default, set_signal_mask,
};
pub(crate) use trace::Stopped;
