// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The coordinator's end of the dirty logs while it measures how fast a guest dirties its memory.
//!
//! The log of each process is harvested on its own, to show how much each process writes; a page that several have
//! written counts once in the sum. The harvest decides how far a log is trusted: a hostile or dead process makes the
//! figures wrong, and has no other effect.

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

/// The logs, and what has been harvested.
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
    /// Its process's reply to the last request about the log.
    said: Option<DirtyLogState>,
}

impl Measurement {
    /// Maps and empties the logs of all processes.
    pub fn open(objects: &Objects, layout: &RamLayout, epoch: u64) -> Result<Self, Problem> {
        let mut logs = Vec::new();
        for process in objects.system().processes() {
            let object = ObjectId { kind: EdgeKind::DirtyLog, owner: process.id, index: 0 };
            // Only processes that write guest RAM have one.
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

    /// From here on every process logs.
    pub fn begin(&mut self) {
        self.begun = Instant::now();
    }

    /// A process was sent another request: its last reply is out of date.
    pub fn requested(&mut self, instance: InstanceId) {
        if let Some(log) = self.log(instance) {
            log.said = None;
        }
    }

    /// A process has replied.
    pub fn said(&mut self, instance: InstanceId, state: DirtyLogState) {
        if let Some(log) = self.log(instance) {
            log.said = Some(state);
        }
    }

    fn log(&mut self, instance: InstanceId) -> Option<&mut Log> {
        self.logs.iter_mut().find(|log| log.instance == instance)
    }

    /// Harvests every log. `lives` returns whether the process may still be writing.
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
