// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a migration has done so far, and what it came to: rounds, bytes, and how long the guest stood still.

use std::time::{Duration, Instant};

use ipc::addr::PAGE_LEN;
use ipc::instance::InstanceId;
use ipc::protocol::control::Request;
use ipc::protocol::mover::RoundReport;

use super::super::driver::Vm;
use crate::api::types::{Migrated, MigrationProgress, MigrationRound, Stage, UnitLen};
use crate::coordinator::process::TaskMessage;
use crate::migration::convergence::Round;
use crate::migration::message::Side;

/// For who watches, and for who asked.
#[derive(Debug)]
pub struct Report {
    begun: Instant,
    /// When the stage began that is under way.
    last: Instant,
    stages: Vec<Stage>,
    rounds: Vec<MigrationRound>,
    /// What the latest has brought over, and how long it took.
    latest: Option<(u64, Duration)>,
    owed_len: u64,
    /// How much of their time is taken from the guest's CPUs, and the most that was.
    throttle_percent: u8,
    throttle_percent_max: u8,
    /// For how long the guest would stand still for these.
    downtime_estimate: Option<Duration>,
    /// Since when the guest stands still.
    stands_since: Option<Instant>,
    stood: Duration,
}

/// The stage after which the guest stands still.
const PRECOPY: &str = "precopy";

impl Report {
    pub fn new() -> Self {
        let now = Instant::now();
        Self {
            begun: now,
            last: now,
            stages: Vec::new(),
            rounds: Vec::new(),
            latest: None,
            owed_len: 0,
            throttle_percent: 0,
            throttle_percent_max: 0,
            downtime_estimate: None,
            stands_since: None,
            stood: Duration::ZERO,
        }
    }

    /// A stage is over.
    pub fn lap(&mut self, name: &str, now: Instant) {
        let took_us = micros(now.saturating_duration_since(self.last));
        self.stages.push(Stage { name: name.to_owned(), took_us });
        self.last = now;
        if name == PRECOPY {
            self.stands_since = Some(now);
        }
    }

    /// The guest's CPUs lose so much of their time from now on.
    pub fn throttled(&mut self, percent: u8) {
        self.throttle_percent = percent;
        self.throttle_percent_max = self.throttle_percent_max.max(percent);
    }

    /// A round was sent.
    pub fn sent(&mut self, report: RoundReport) {
        let RoundReport { round: _, page_count, zero_count, sent_len, took_us } = report;
        self.latest = Some((report.carried_len(), Duration::from_micros(took_us)));
        self.rounds.push(MigrationRound { page_count, zero_page_count: zero_count, sent_len, took_us });
    }

    /// So many bytes of pages are owed, after the latest round.
    pub fn owed(&mut self, owed_len: u64) {
        self.owed_len = owed_len;
        self.downtime_estimate = self.latest.map(|(carried_len, took)| {
            Round { carried_len, took, owed_len, overhead: Duration::ZERO }.downtime()
        });
    }

    /// The guest goes on, at the other host.
    pub fn runs_there(&mut self) {
        let now = Instant::now();
        self.lap("commit", now);
        self.stood = self.stands_since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
    }

    fn sent_len(&self) -> u64 {
        self.rounds.iter().map(|round| round.sent_len).fold(0, u64::saturating_add)
    }

    /// How far it is.
    pub fn progress(&self, side: Side, to: &str, state: &'static str, memory_len: u64) -> MigrationProgress {
        let rate = |round: &MigrationRound| {
            let per_second = u128::from(round.sent_len) * 1_000_000 / u128::from(round.took_us.max(1));
            u64::try_from(per_second).unwrap_or(u64::MAX)
        };
        MigrationProgress {
            side: match side {
                Side::Source => "source",
                Side::Destination => "destination",
            }
            .to_owned(),
            state: state.to_owned(),
            to: to.to_owned(),
            round_count: u32::try_from(self.rounds.len()).unwrap_or(u32::MAX),
            sent_len: self.sent_len(),
            owed_page_count: self.owed_len / PAGE_LEN,
            memory_len,
            bytes_per_second: self.rounds.last().map(rate),
            downtime_estimate_us: self.downtime_estimate.map(micros),
            throttle_percent: self.throttle_percent,
            took_us: micros(self.begun.elapsed()),
        }
    }

    /// What it came to.
    pub fn migrated(&self, to: &str, units: Vec<(InstanceId, u64)>) -> Migrated {
        let units = units.into_iter().map(|(instance, len)| UnitLen { process: instance.to_string(), len });
        Migrated {
            to: to.to_owned(),
            stages: self.stages.clone(),
            rounds: self.rounds.clone(),
            sent_len: self.sent_len(),
            units: units.collect(),
            downtime_us: micros(self.stood),
            throttle_percent: self.throttle_percent_max,
            took_us: micros(self.begun.elapsed()),
        }
    }
}

impl Vm {
    /// Takes so many percent of their time from the guest's CPUs.
    pub(super) fn throttle(&mut self, percent: u8) {
        if let Some(migration) = &mut self.migration {
            migration.report.throttled(percent);
        }
        if let Some(process) = self.machine.cpus().and_then(|cpus| self.processes.get(&cpus)) {
            process.send(TaskMessage::Notification(Request::Throttle { percent }));
        }
        match percent {
            0 => tracing::info!("the guest's CPUs have all of their time again"),
            _ => tracing::info!(
                "the guest's CPUs are slowed down by {percent} % of their time: rounds do not shrink"
            ),
        }
    }

    /// A stage is over.
    pub(in crate::coordinator::vm) fn lap_of_migration(&mut self, stage: &'static str) {
        if let Some(migration) = &mut self.migration {
            migration.report.lap(stage, Instant::now());
        }
    }
}

fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}
