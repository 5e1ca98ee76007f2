// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! How fast a guest dirties its memory, as the dirty logs of its processes show.
//!
//! The log of each process is harvested on its own, to show how much each process writes; a page that several have
//! written counts once in the sum.

use std::time::{Duration, Instant};

use ipc::addr::PAGE_LEN;
use ipc::instance::InstanceId;
use ipc::protocol::control::Exactness;
use ipc::protocol::ram::RamLayout;
use ipc::shm::dirty_log::OwedMap;

use super::dirty_logs::DirtyLogs;
use crate::api::types::{DirtyPages, DirtyRate};
use crate::coordinator::objects::Objects;
use crate::problem::Problem;

/// The logs, and what has been harvested.
#[derive(Debug)]
pub(super) struct Measurement {
    layout: RamLayout,
    pub logs: DirtyLogs,
    begun: Instant,
    measured: Option<DirtyRate>,
}

impl Measurement {
    /// Maps and empties the logs of all processes.
    pub fn open(objects: &Objects, layout: &RamLayout, epoch: u64) -> Result<Self, Problem> {
        let logs = DirtyLogs::open(objects, layout, epoch)?;
        Ok(Self { layout: layout.clone(), logs, begun: Instant::now(), measured: None })
    }

    /// From here on every process logs.
    pub fn begin(&mut self) {
        self.begun = Instant::now();
    }

    /// Harvests every log. `lives` returns whether the process may still be writing.
    pub fn harvest(&mut self, lives: impl Fn(InstanceId) -> bool) {
        let span = self.begun.elapsed();
        let mut sum = OwedMap::new(&self.layout);
        let mut processes = Vec::new();
        for log in self.logs.iter_mut() {
            let mut own = OwedMap::new(&self.layout);
            let judged = log.harvest(&lives, &mut own);
            own.ranges().for_each(|range| sum.mark(range.start(), range.len()));
            processes.push(DirtyPages {
                process: log.instance.to_string(),
                page_count: own.count(),
                seen: judged.map_or("everything", as_str).to_owned(),
            });
        }
        let page_count = sum.count();
        self.measured = Some(DirtyRate {
            span_us: u64::try_from(span.as_micros()).unwrap_or(u64::MAX),
            page_len: PAGE_LEN,
            page_count,
            bytes_per_second: rate(page_count, span),
            processes,
        });
    }

    /// The result.
    pub fn measured(self) -> Option<DirtyRate> {
        self.measured
    }
}

/// Bytes per second.
fn rate(page_count: u64, span: Duration) -> u64 {
    let bytes = u128::from(page_count) * u128::from(PAGE_LEN);
    let rate = bytes.saturating_mul(1_000_000) / span.as_micros().max(1);
    u64::try_from(rate).unwrap_or(u64::MAX)
}

const fn as_str(exactness: Exactness) -> &'static str {
    match exactness {
        Exactness::Exact => "exact",
        Exactness::Everything => "everything",
        Exactness::Unseen => "unseen",
    }
}
