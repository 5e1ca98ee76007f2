// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Two hosts of one machine: network namespaces that see each other over a pair of virtual network interfaces, and
//! nothing else.
//!
//! Programs run in one by `nsenter`, which becomes the program: it keeps its parent, and its Unix sockets are reached
//! from everywhere. Making a namespace takes root and iproute2.

use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, bail};

use crate::command::find;

/// The two.
#[derive(Debug)]
pub struct Hosts {
    names: [String; 2],
}

/// How many pairs this process has made: each has names of its own.
static MADE: AtomicU32 = AtomicU32::new(0);

/// What the interfaces are called, each in its namespace.
const INTERFACES: [&str; 2] = ["bulkhead-a", "bulkhead-b"];

/// A network that nobody else on this machine has: each pair is alone in its namespaces.
pub const ADDRESSES: [&str; 2] = ["10.77.0.1", "10.77.0.2"];

impl Hosts {
    /// Makes them; the reason why not, if this machine or user cannot.
    ///
    /// # Errors
    /// If a step fails although it could.
    pub fn make() -> Result<std::result::Result<Self, String>> {
        Self::of_number(MADE.fetch_add(1, Ordering::Relaxed))
    }

    fn of_number(number: u32) -> Result<std::result::Result<Self, String>> {
        if !rustix::process::geteuid().is_root() {
            return Ok(Err("network namespaces take root".to_owned()));
        }
        if find("ip").is_none() || find("nsenter").is_none() {
            return Ok(Err("`ip` and `nsenter` are not installed".to_owned()));
        }
        let own = std::process::id();
        let names = ["a", "b"].map(|side| format!("bulkhead-{own}-{number}-{side}"));
        for name in &names {
            // Left by a killed process that had this number, if there is one.
            let _ = ip(&["netns", "del", name])?;
        }
        if let Err(why) = ip(&["netns", "add", &names[0]])? {
            return Ok(Err(format!("this machine makes no network namespace: {why}")));
        }
        // From here on they are removed with it.
        let hosts = Self { names };
        let [a, b] = hosts.names.each_ref().map(String::as_str);
        let [here, there] = INTERFACES;
        for arguments in [
            &["netns", "add", b][..],
            &["-n", a, "link", "add", here, "type", "veth", "peer", "name", there, "netns", b],
        ] {
            if let Err(why) = ip(arguments)? {
                return Ok(Err(format!("this machine makes no pair of virtual network interfaces: {why}")));
            }
        }
        for ((name, end), address) in [a, b].iter().zip(INTERFACES).zip(ADDRESSES) {
            let address = format!("{address}/30");
            for arguments in [
                &["-n", name, "address", "add", &address, "dev", end][..],
                &["-n", name, "link", "set", end, "up"],
                &["-n", name, "link", "set", "lo", "up"],
            ] {
                if let Err(why) = ip(arguments)? {
                    bail!("`ip {}` failed: {why}", arguments.join(" "));
                }
            }
        }
        Ok(Ok(hosts))
    }

    /// Program and arguments that run another one on this host.
    pub fn under(&self, host: usize) -> Vec<String> {
        let name = self.names.get(host).map_or("", String::as_str);
        vec!["nsenter".to_owned(), format!("--net=/run/netns/{name}")]
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        for name in &self.names {
            // The second may not be there; the interfaces go with them.
            let _ = Command::new("ip").args(["netns", "del", name]).output();
        }
    }
}

/// Runs it; what it says if it fails.
fn ip(arguments: &[&str]) -> Result<std::result::Result<(), String>> {
    let output = Command::new("ip").args(arguments).output().context("`ip` did not start")?;
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Ok(if output.status.success() { Ok(()) } else { Err(said) })
}

#[cfg(test)]
mod tests;
