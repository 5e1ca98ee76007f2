// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The coordinator's end of the dirty logs of all processes, while the guest's writes are logged.
//!
//! The harvest decides how far a log is trusted: a hostile or dead process makes pages count as written that were not,
//! and has no other effect.

use ipc::instance::InstanceId;
use ipc::protocol::control::{DirtyLogState, Exactness};
use ipc::protocol::ram::RamLayout;
use ipc::shm::dirty_log::{self, Answer, DirtyLog, Harvest, Harvester, Moment, OwedMap};
use ipc::shm::region::Region;

use super::driver::refused;
use crate::coordinator::objects::Objects;
use crate::problem::Problem;
use crate::system::{EdgeKind, ObjectId};

/// One for each process that writes guest RAM.
#[derive(Debug)]
pub(super) struct DirtyLogs(Vec<Log>);

/// One of them.
#[derive(Debug)]
pub(super) struct Log {
    /// Whose.
    pub instance: InstanceId,
    end: Harvester,
    /// Its process's reply to the last request about the log.
    said: Option<DirtyLogState>,
}

impl DirtyLogs {
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
        Ok(Self(logs))
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
        self.0.iter_mut().find(|log| log.instance == instance)
    }

    /// Each log.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Log> {
        self.0.iter_mut()
    }

    /// Harvests all logs. `lives` returns whether the process may still be writing.
    pub fn harvest(&mut self, moment: Moment, lives: impl Fn(InstanceId) -> bool, owed: &mut OwedMap) {
        let mut harvests: Vec<_> = self
            .0
            .iter_mut()
            .map(|log| {
                let answer = log.answer(&lives);
                Harvest { log: &mut log.end, answer }
            })
            .collect();
        dirty_log::harvest(&mut harvests, moment, owed);
    }
}

impl Log {
    fn answer(&self, lives: impl Fn(InstanceId) -> bool) -> Answer {
        match self.said {
            Some(state) => Answer::Rearmed(state),
            None if lives(self.instance) => Answer::Failed,
            None => Answer::Ended,
        }
    }

    /// Harvests this log alone, while the guest runs, and returns how far it is to be believed.
    pub fn harvest(&mut self, lives: impl Fn(InstanceId) -> bool, owed: &mut OwedMap) -> Option<Exactness> {
        let answer = self.answer(lives);
        let judged = dirty_log::harvest(&mut [Harvest { log: &mut self.end, answer }], Moment::Running, owed);
        judged.first().copied()
    }
}
