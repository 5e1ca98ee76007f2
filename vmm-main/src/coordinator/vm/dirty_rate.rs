// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The coordinator's end of the dirty logs while it measures how fast a guest dirties its memory.
//!
//! Each process's log is harvested by itself, so that it can be said who writes how much; a page that several have
//! written counts once in the sum. What a log is believed is the harvest's business: a process that answers nonsense,
//! or dies, costs a wrong figure, and no more.

use std::time::{Duration, Instant};

use ipc::addr::PAGE_LEN;
use ipc::instance::InstanceId;
use ipc::protocol::control::{DirtyLogState, Exactness};
use ipc::protocol::ram::RamLayout;
use ipc::shm::dirty_log::{self, Answer, DirtyLog, Harvest, Harvester, Moment, OwedMap};
use ipc::shm::region::Region;

use super::driver::refused;
use crate::api::types::{DirtyPages, DirtyRate};
use crate::coordinator::objects::Objects;
use crate::problem::Problem;
use crate::system::{EdgeKind, ObjectId};

/// The logs, and what they have told.
#[derive(Debug)]
pub(super) struct Measurement {
    layout: RamLayout,
    logs: Vec<Log>,
    begun: Instant,
    measured: Option<DirtyRate>,
}

#[derive(Debug)]
struct Log {
    instance: InstanceId,
    end: Harvester,
    /// What its process has said to the last order.
    said: Option<DirtyLogState>,
}

impl Measurement {
    /// Maps and empties the logs of all processes.
    pub fn open(objects: &Objects, layout: &RamLayout, epoch: u64) -> Result<Self, Problem> {
        let mut logs = Vec::new();
        for process in objects.system().processes() {
            let object = ObjectId { kind: EdgeKind::DirtyLog, owner: process.id, index: 0 };
            // A process that writes no guest RAM has none.
            let Some(memory) = objects.get(object) else { continue };
            let fd = memory.try_clone_to_owned().map_err(|error| refused("open a dirty log", &error))?;
            let mut end = Region::from_fd(fd, DirtyLog::region_len(layout))
                .and_then(|region| Harvester::attach(&region, layout))
                .map_err(|error| refused("map a dirty log", &error))?;
            end.begin(epoch);
            logs.push(Log { instance: process.id, end, said: None });
        }
        Ok(Self { layout: layout.clone(), logs, begun: Instant::now(), measured: None })
    }

    /// Every process logs from here on.
    pub fn begin(&mut self) {
        self.begun = Instant::now();
    }

    /// A process is given another order: what it has said was about the one before.
    pub fn ordered(&mut self, instance: InstanceId) {
        if let Some(log) = self.log(instance) {
            log.said = None;
        }
    }

    /// A process has followed its order.
    pub fn said(&mut self, instance: InstanceId, state: DirtyLogState) {
        if let Some(log) = self.log(instance) {
            log.said = Some(state);
        }
    }

    fn log(&mut self, instance: InstanceId) -> Option<&mut Log> {
        self.logs.iter_mut().find(|log| log.instance == instance)
    }

    /// Harvests every log. `lives` says whether there is a process that may still be writing.
    pub fn harvest(&mut self, lives: impl Fn(InstanceId) -> bool) {
        let span = self.begun.elapsed();
        let mut sum = OwedMap::new(&self.layout);
        let mut processes = Vec::new();
        for Log { instance, end, said } in &mut self.logs {
            let answer = match said {
                Some(state) => Answer::Rearmed(*state),
                None if lives(*instance) => Answer::Failed,
                None => Answer::Ended,
            };
            let mut own = OwedMap::new(&self.layout);
            let judged = dirty_log::harvest(&mut [Harvest { log: end, answer }], Moment::Running, &mut own);
            own.ranges().for_each(|range| sum.mark(range.start(), range.len()));
            let seen = judged.first().map_or("everything", |exactness| as_str(*exactness));
            processes.push(DirtyPages {
                process: instance.to_string(),
                page_count: own.count(),
                seen: seen.to_owned(),
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

    /// What came of it.
    pub fn measured(self) -> Option<DirtyRate> {
        self.measured
    }
}

/// Bytes in pages, for a second.
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
