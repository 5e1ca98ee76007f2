// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! How often a process has died, and how many of its deaths count towards the limit of its restarts.

use std::collections::BTreeSet;
use std::time::Duration;

use ipc::instance::InstanceId;

use super::StateMachine;

/// How long a death counts towards the limit.
pub const DEATHS_SPAN: Duration = Duration::from_secs(60);

/// The deaths of a process that the guest went on after, or waits behind.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Deaths {
    /// How many.
    pub count: u32,
    /// How it died last.
    pub last: String,
    /// The numbers of those that count towards the limit.
    recent: BTreeSet<u32>,
}

impl Deaths {
    /// It has died once more, so. The number of this death, and how many count towards the limit now.
    pub fn add(&mut self, how: &str) -> (u32, u32) {
        self.count = self.count.saturating_add(1);
        how.clone_into(&mut self.last);
        self.recent.insert(self.count);
        (self.count, self.recent_count())
    }

    /// How many count towards the limit.
    pub fn recent_count(&self) -> u32 {
        u32::try_from(self.recent.len()).unwrap_or(u32::MAX)
    }

    /// Somebody has ordered its next life: the count begins anew.
    pub fn begin_anew(&mut self) {
        self.recent.clear();
    }
}

impl StateMachine {
    /// A death was long enough ago not to count any more.
    pub(super) fn forget_death(&mut self, instance: InstanceId, number: u32) {
        if let Some(deaths) = self.deaths.get_mut(&instance) {
            deaths.recent.remove(&number);
        }
    }
}
