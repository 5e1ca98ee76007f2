// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Confining a process, the proof that it is confined, and the report of a refused system call that it died of.
//!
//! Order of use. A parent makes a [`report::CrashPage`], then [`spawn::Spawn`] execs a static program into new
//! namespaces with exactly the given descriptors. The program calls [`locked::seal`] before anything else and enters
//! its service loop with the [`Locked`] it gets. When it dies the parent asks [`report::read`] why. From outside,
//! [`audit::observe`] and [`audit::compare`] compare a live process with its [`Profile`].
//!
//! Nothing here is best effort: a step that fails ends the attempt with the step's name. `unsafe` lives in
//! `sys` alone. This crate depends on no other crate of the workspace.

pub mod arguments;
pub mod audit;
pub mod by_name;
pub mod inherited;
pub mod locked;
#[cfg(debug_assertions)]
pub mod probe;
pub mod profile;
pub mod profiles;
pub mod report;
pub mod signals;
pub mod spawn;
pub mod syscalls;

mod elf;
mod fds;
mod landlock;
mod limits;
mod memory_file;
mod names;
mod root;
mod seccomp;
mod sys;

pub use inherited::{Inherited, InheritedError};
pub use locked::{Enforced, Locked, SealError, seal, seal_to_spawn};
pub use memory_file::MemoryFiles;
pub use names::{Names, NamesError};
pub use profile::{Arch, Limits, Profile};
pub use report::{CrashPage, Death};
pub use spawn::{Child, Spawn, SpawnError};
