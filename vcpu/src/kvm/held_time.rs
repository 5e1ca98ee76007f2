// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Guest time that does not pass while the vCPUs are held and the machine runs, as arithmetic on the host's counter.
//!
//! The guest's counter cannot be stopped: what the host's has gone on meanwhile is taken off when the vCPUs go on, and
//! from what a pause records.

/// Since when guest time stands.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct HeldTime {
    since: Option<u64>,
}

impl HeldTime {
    /// It stands from now on. vCPUs that were kicked a moment ago may read the guest's counter for another `leaving`
    /// ticks, and must not see it go back later: these pass.
    pub fn begin(&mut self, host_ticks: u64, leaving: u64) {
        self.since.get_or_insert(host_ticks.wrapping_add(leaving));
    }

    /// Behind a pause, in which guest time stood for another reason.
    pub fn begin_anew(&mut self, host_ticks: u64) {
        self.since = self.since.map(|_| host_ticks);
    }

    /// How many ticks of the host's counter are not the guest's.
    pub fn ticks(&self, host_ticks: u64) -> u64 {
        self.since.map_or(0, |since| host_ticks.saturating_sub(since))
    }

    /// Guest time goes on.
    pub fn end(&mut self) {
        self.since = None;
    }

    /// Whether it stands.
    pub const fn is_held(&self) -> bool {
        self.since.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn held_ticks_are_those_behind_the_way_out_until_the_end() {
        let mut held = HeldTime::default();
        assert_eq!((held.ticks(1000), held.is_held()), (0, false));
        held.begin(1000, 10);
        held.begin(1500, 10);
        assert_eq!(held.ticks(1005), 0, "vCPUs may still be on their way out");
        assert_eq!(held.ticks(2010), 1000, "since the first");
        held.end();
        assert_eq!((held.ticks(3000), held.is_held()), (0, false));
    }

    #[test]
    fn pause_in_the_middle_counts_once() {
        let mut held = HeldTime::default();
        held.begin(1000, 0);
        assert_eq!(held.ticks(1500), 500, "taken off from what the pause records");
        held.begin_anew(9000);
        assert_eq!(held.ticks(9100), 100, "the machine resumed at 9000, with the vCPUs still held");
        held.end();
        held.begin_anew(9500);
        assert!(!held.is_held(), "a machine that resumes without a hold begins none");
    }
}
