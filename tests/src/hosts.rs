// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Two hosts of one machine: network namespaces that see each other over a pair of virtual network interfaces, and
//! nothing else.
//!
//! Programs run in one by `nsenter`, which becomes the program: it keeps its parent, and its Unix sockets are reached
//! from everywhere. Making a namespace takes root and iproute2.

use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::command::find;

/// The two.
#[derive(Debug)]
pub struct Hosts {
    names: [String; 2],
}

/// A network that nobody else on this machine has: each pair is alone in its namespaces.
pub const ADDRESSES: [&str; 2] = ["10.77.0.1", "10.77.0.2"];

impl Hosts {
    /// Makes them; the reason why not, if this machine or user cannot.
    ///
    /// # Errors
    /// If a step fails although it could.
    pub fn make() -> Result<std::result::Result<Self, &'static str>> {
        if !rustix::process::geteuid().is_root() {
            return Ok(Err("network namespaces take root"));
        }
        if find("ip").is_none() || find("nsenter").is_none() {
            return Ok(Err("`ip` and `nsenter` are not installed"));
        }
        let own = std::process::id();
        let names = ["a", "b"].map(|side| format!("bulkhead-{own}-{side}"));
        if !ip(&["netns", "add", &names[0]])? {
            return Ok(Err("this machine makes no network namespace"));
        }
        // From here on they are removed with it.
        let hosts = Self { names };
        let [a, b] = hosts.names.each_ref().map(String::as_str);
        let ends = [format!("bh{own}a"), format!("bh{own}b")];
        for arguments in [
            &["netns", "add", b][..],
            &["-n", a, "link", "add", &ends[0], "type", "veth", "peer", "name", &ends[1], "netns", b],
        ] {
            if !ip(arguments)? {
                return Ok(Err("this machine makes no pair of virtual network interfaces"));
            }
        }
        for ((name, end), address) in [a, b].iter().zip(&ends).zip(ADDRESSES) {
            let address = format!("{address}/30");
            for arguments in [
                &["-n", name, "address", "add", &address, "dev", end][..],
                &["-n", name, "link", "set", end, "up"],
                &["-n", name, "link", "set", "lo", "up"],
            ] {
                if !ip(arguments)? {
                    bail!("`ip {}` failed", arguments.join(" "));
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

fn ip(arguments: &[&str]) -> Result<bool> {
    Ok(Command::new("ip").args(arguments).output().context("`ip` did not start")?.status.success())
}
