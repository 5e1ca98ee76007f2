// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The control API: HTTP/1.1 and JSON on a Unix socket of mode 0600.
//!
//! ```text
//! GET  /v1/status        where the VM is in its life          POST /v1/pause         idempotent
//! GET  /v1/processes     every process and its confinement    POST /v1/resume        idempotent
//! POST /v1/stop          orderly end                          POST /v1/save-restore  new processes, same guest
//! POST /v1/dirty-rate    how fast the guest writes            POST /v1/restart       one new process, same guest
//! POST /v1/migrate       the guest moves to another host; /v1/migrate/cancel, /v1/migrate/resolve
//! POST /v1/probe         debug builds: try something forbidden
//! ```
//!
//! Errors are `{"class", "what", "where", "advice"}`. Reads are answered from what the VM last published and
//! never wait for it; the rest becomes a [`command::Command`] to the one task that owns the VM. Files for a migration
//! over TLS come as descriptors, along with the request ([`passed`]).

pub mod client;
pub mod command;
pub mod passed;
pub mod server;
pub mod types;

#[cfg(test)]
mod tests;
