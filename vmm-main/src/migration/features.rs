// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a guest can tell of the processes that its machine consists of, by name and value, and the versions of their
//! states, as they have said it themselves; and how two hosts differ in that.

use std::collections::BTreeMap;

use ipc::hello::Role;
use ipc::instance::InstanceId;
use ipc::protocol::features::{FEATURES_MAX, Feature, STATE};

/// Of one process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Features(BTreeMap<String, String>);

/// Which features are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// Those that both hosts know: before RAM is sent, when devices are not open here.
    Known,
    /// All that either host knows.
    All,
}

/// A guest's processes in an offer, each with its features.
pub type Processes = Vec<(InstanceId, Vec<(String, String)>)>;

impl Features {
    /// Adds what a process says, in place of what it has said under the same names.
    ///
    /// # Errors
    /// If it says more than its contract allows.
    pub fn add(&mut self, features: Vec<Feature>) -> Result<(), String> {
        for feature in features {
            if !feature.fits() {
                return Err("it has a feature with a longer name or value than there may be".to_owned());
            }
            self.0.insert(printable(&feature.name), printable(&feature.value));
        }
        if self.0.len() > FEATURES_MAX {
            return Err(format!("it has more than {FEATURES_MAX} features"));
        }
        Ok(())
    }

    /// As they travel.
    pub fn to_list(&self) -> Vec<(String, String)> {
        self.0.iter().map(|(name, value)| (name.clone(), value.clone())).collect()
    }
}

/// A sentence for each difference between a guest's processes where it is and those here. An offer of the version
/// before has no features, and is not compared.
pub fn differences(source: &Processes, here: &BTreeMap<InstanceId, Features>, extent: Extent) -> Vec<String> {
    let mut found = Vec::new();
    for (process, theirs) in source {
        let none = Features::default();
        let ours = here.get(process).unwrap_or(&none);
        let theirs: BTreeMap<&str, &str> = theirs.iter().map(|(name, value)| (&**name, &**value)).collect();
        let names = theirs.keys().copied().chain(ours.0.keys().map(|name| &**name));
        let names: std::collections::BTreeSet<&str> = names.collect();
        for name in names {
            let (there, here) = (theirs.get(name).copied(), ours.0.get(name).map(|value| &**value));
            if there == here || (extent == Extent::Known && (there.is_none() || here.is_none())) {
                continue;
            }
            if name.starts_with(STATE) && is_loaded(there, here) {
                continue;
            }
            let say = |value: Option<&str>| value.map_or_else(|| "none".to_owned(), printable);
            let (there, here) = (say(there), say(here));
            found.push(format!(
                "{process}, {}: {there} at the source, {here} here: {}",
                printable(name),
                advice(process.role, name)
            ));
        }
    }
    found
}

/// Whether a state of the source's version is one that this host loads. A source that says nothing of its version is
/// older than this rule.
fn is_loaded(there: Option<&str>, here: Option<&str>) -> bool {
    let version = |text: &str| text.parse::<u16>().ok();
    let Some(there) = there else { return true };
    matches!((version(there), here.and_then(version)), (Some(there), Some(here)) if there <= here)
}

/// Where a feature is changed.
fn advice(role: Role, name: &str) -> &'static str {
    match role {
        _ if name.starts_with(STATE) => "move the guest to a host of the same release, or a newer one",
        Role::Vcpu => "move the guest to a host with the same CPUs and the same release",
        Role::Vfio => "give `receive` a device of the same kind, of the same server or firmware",
        _ => "run the same release on both hosts",
    }
}

/// What another host, or a process, has written.
fn printable(text: &str) -> String {
    crate::printable::line(text.as_bytes())
}

#[cfg(test)]
mod tests;
