// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the coordinator has of a migration: the secret, the mover's queue, the owed map, the report.
//!
//! Requests to the mover go one at a time, in the order in which they were made, and each is answered at once. What
//! takes long and needs no process (hashing a kernel, a digest of gigabytes of state, waiting for a lock) is done by a
//! thread, whose outcome is an event. Messages are sealed and opened here: neither the mover nor the other host can
//! make one.

mod asking;
mod carrier;
mod describe;
mod digest;
mod disks;
mod report;

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use ipc::instance::InstanceId;
use ipc::migration::frame::MigrationId;
use ipc::protocol::control::RoleConfig;
use ipc::protocol::mover::{IdentityFile, MoverConfig, MoverRequest, Packing, Security};
use ipc::protocol::{mover, ram::RamLayout};
use ipc::shm::dirty_log::{Moment, OwedMap, SharedOwed};
use machine::boot::BootInfo;
use machine::layout;
use rustix::rand::{GetRandomFlags, getrandom};
use tokio::sync::oneshot;

pub(super) use self::asking::Askers;
use self::report::Report;
use super::action::MigrationAction;
use super::dirty_logs::DirtyLogs;
use super::driver::{Shared, Vm, Waiting, refused};
use super::event::{self, Event, LifeId, MigrationEvent};
use super::saved_state::{NotKept, SavedState};
use super::state_machine::bug;
use crate::api::command::{Answer, MigrationOrder};
use crate::api::types::{MigrateRequest, Migrated, MigrationProgress};
use crate::coordinator::handover::HandedReceive;
use crate::coordinator::objects::Objects;
use crate::coordinator::roles::Configs;
use crate::migration::convergence::{Limits, Otherwise};
use crate::migration::features::{self, Processes};
use crate::migration::message::{Message, Session, Side};
use crate::migration::offer::Offer;
use crate::problem::Problem;

/// One end of a move between hosts, from the command or the offer to the end of the mover.
#[derive(Debug)]
pub(super) struct Migration {
    side: Side,
    /// The other host, as the user has named it; nothing at the destination.
    to: String,
    secret: Vec<u8>,
    id: Option<MigrationId>,
    session: Option<Session>,
    lane_count: u8,
    packing: Packing,
    /// The request for its connections; 0 at the destination.
    dial: u8,
    /// How the other host is known.
    security: Security,
    /// Files for that, which the mover was not given yet.
    identity: Vec<(IdentityFile, OwnedFd)>,
    /// In the clear to another host too.
    insecure: bool,
    /// The connection that is awaited is for a question.
    asks: bool,
    /// Connections that the mover was not given yet.
    lanes: Vec<(u8, OwnedFd)>,
    /// Whether it takes them.
    takes_lanes: bool,
    /// The mover's objects.
    objects: Option<Objects>,
    owed: Option<Arc<SharedOwed>>,
    pub logs: Option<DirtyLogs>,
    mover: Option<LifeId>,
    /// What the mover was not asked yet.
    queue: VecDeque<(MoverRequest, Vec<OwnedFd>)>,
    /// What it was asked, and has not answered.
    asked: Option<Asked>,
    /// The objects of a guest that is to come.
    guest: Option<Objects>,
    /// What it can tell of its processes where it is.
    offered: Processes,
    report: Report,
}

/// What a refusal of a mover is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    /// A file that the user gave for TLS.
    Identity,
    Other,
}

impl Migration {
    /// To another host.
    pub fn to(request: &MigrateRequest, identity: Vec<OwnedFd>) -> Result<Self, Problem> {
        let secret = request.secret.clone().into_bytes();
        let mut new = Self::new(Side::Source, request.to.clone(), secret, request.lane_count);
        new.identify(MigrationId(random()?))?;
        new.security = security(request.tls_peer.clone());
        new.identity = IdentityFile::ALL.into_iter().zip(identity).collect();
        new.insecure = request.insecure;
        new.packing = if request.compresses { Packing::Lz4 } else { Packing::Plain };
        Ok(new)
    }

    /// From another host; what that knows this one by is still to come.
    pub fn from_elsewhere(receive: &HandedReceive) -> Self {
        let new = Self::new(Side::Destination, String::new(), receive.secret.clone(), 0);
        Self { security: security(receive.tls_peer.clone()), ..new }
    }

    fn new(side: Side, to: String, secret: Vec<u8>, lane_count: u8) -> Self {
        Self {
            side,
            to,
            secret,
            id: None,
            session: None,
            lane_count,
            packing: Packing::Plain,
            dial: 0,
            security: Security::Plain,
            identity: Vec::new(),
            insecure: false,
            asks: false,
            lanes: Vec::new(),
            takes_lanes: false,
            objects: None,
            owed: None,
            logs: None,
            mover: None,
            queue: VecDeque::new(),
            asked: None,
            guest: None,
            offered: Processes::new(),
            report: Report::new(),
        }
    }

    /// Its number is known, and with it the keys.
    fn identify(&mut self, id: MigrationId) -> Result<(), Problem> {
        let session = match self.side {
            Side::Source => Session::source(&self.secret, id),
            Side::Destination => Session::destination(&self.secret, id, random()?),
        };
        let session = session.ok_or_else(|| bug("a secret of any length makes a key"))?;
        (self.id, self.session) = (Some(id), Some(session));
        Ok(())
    }

    /// The mover's configuration.
    pub fn config(&self, ram: RamLayout) -> Result<RoleConfig, Problem> {
        let side = match (self.side, self.id) {
            (Side::Source, Some(migration)) => {
                mover::Side::Source { migration, lane_count: self.lane_count, packing: self.packing }
            }
            (Side::Source, None) => return Err(bug("a migration has no number")),
            (Side::Destination, _) => mover::Side::Destination,
        };
        Ok(RoleConfig::Mover(MoverConfig { side, ram, security: self.security.clone() }))
    }

    /// How far it is, beside its state.
    pub fn progress(&self, state: &'static str, memory_len: u64) -> MigrationProgress {
        self.report.progress(self.side, &self.to, state, memory_len)
    }

    /// The pages that the other host has not got, of a guest that is leaving.
    pub fn owed(&self) -> Option<Arc<SharedOwed>> {
        self.owed.clone().filter(|_| self.side == Side::Source)
    }

    /// What it came to.
    pub fn migrated(&self, units: Vec<(InstanceId, u64)>) -> Migrated {
        self.report.migrated(&self.to, units)
    }
}

impl Vm {
    /// Carries out a part of a migration.
    pub(super) fn migrate(&mut self, action: MigrationAction) {
        if let Err(event) = self.try_migrate(action) {
            self.results.push_back(Event::Migration(event));
        }
    }

    /// The same; an event is what it has come to at once.
    fn try_migrate(&mut self, action: MigrationAction) -> Result<(), MigrationEvent> {
        match action {
            MigrationAction::Describe(runs) => {
                self.clock.begin();
                let described =
                    self.describe(runs).map_err(|problem| MigrationEvent::Offered(Err(problem)))?;
                self.spawn_work(move || MigrationEvent::Offered(described.encoded()));
            }
            MigrationAction::Dial => {
                self.dial(false).map_err(|problem| MigrationEvent::Dialled(Err(problem)))?
            }
            MigrationAction::Open => return Err(MigrationEvent::Opened(self.open_guest())),
            MigrationAction::TakeLanes => self.take_lanes(),
            MigrationAction::OweAll => {
                let mut all = OwedMap::new(&self.layout);
                all.mark_all();
                self.owe(&all);
            }
            MigrationAction::Harvest(moment) => {
                return Err(MigrationEvent::Harvested(self.harvest_owed(moment)));
            }
            MigrationAction::SendRound(round) => self.carry(MoverRequest::SendRound { round }, vec![]),
            MigrationAction::SendStates => {
                self.send_states().map_err(|problem| MigrationEvent::StatesQueued(Err(problem)))?;
            }
            MigrationAction::Say(message) => self.say(&message),
            MigrationAction::ReleaseDisks => {
                return Err(MigrationEvent::DisksReleased(disks::release(&self.given.objects)));
            }
            MigrationAction::LockDisks => {
                let disks = self.disks().map_err(|problem| MigrationEvent::DisksLocked(Err(problem)))?;
                self.spawn_work(move || MigrationEvent::DisksLocked(disks::lock(&disks)));
            }
            MigrationAction::Compare(offer) => {
                let offer = Offer::from_bytes(&offer);
                let offer = offer.map_err(|error| MigrationEvent::Compared(Err(not_understood(&error))))?;
                let described = self
                    .describe(offer.machine.runs)
                    .map_err(|problem| MigrationEvent::Compared(Err(problem)))?;
                if let Some(migration) = &mut self.migration {
                    migration.offered.clone_from(&offer.processes);
                }
                self.spawn_work(move || {
                    let Offer { machine, processes: _ } = offer;
                    let compared = described.offer();
                    MigrationEvent::Compared(
                        compared.map(|here| (machine.differences(&here.machine), machine.runs)),
                    )
                });
            }
            MigrationAction::Prepare => {
                let prepared = self.prepare_guest();
                self.results.push_back(Event::Prepared(prepared));
            }
            MigrationAction::CompareFeatures(extent) => {
                let here = self.features().map(|(id, features)| (id, features.clone())).collect();
                let offered = self.migration.as_ref().map(|migration| &migration.offered);
                let found = offered.map(|offered| features::differences(offered, &here, extent));
                return Err(MigrationEvent::FeaturesCompared(found.unwrap_or_default()));
            }
            MigrationAction::TakeStates => self.take_states().map_err(lost)?,
            MigrationAction::Check(last) => {
                self.check_states(last).map_err(|problem| MigrationEvent::Checked(Err(problem)))?;
            }
            MigrationAction::Ask => self.ask_where()?,
            MigrationAction::Settle => self.settle(),
            MigrationAction::Throttle(percent) => self.throttle(percent),
            MigrationAction::Close => self.close_lanes()?,
            MigrationAction::Forget => self.forget_migration(),
        }
        Ok(())
    }

    fn owe(&mut self, owed: &OwedMap) -> u64 {
        let Some(migration) = &mut self.migration else { return 0 };
        let Some(shared) = &migration.owed else { return 0 };
        shared.add(owed);
        let owed_len = shared.count().saturating_mul(ipc::addr::PAGE_LEN);
        migration.report.owed(owed_len);
        owed_len
    }

    /// Takes what the dirty logs have into the owed map; how many bytes are owed then.
    fn harvest_owed(&mut self, moment: Moment) -> u64 {
        let mut owed = OwedMap::new(&self.layout);
        let machine = &self.machine;
        let lives =
            |instance| machine.life_of(instance).is_some_and(|life| self.processes.contains_key(&life));
        match self.migration.as_mut().and_then(|migration| migration.logs.as_mut()) {
            Some(logs) => logs.harvest(moment, lives, &mut owed),
            // What was written is not known.
            None => owed.mark_all(),
        }
        self.owe(&owed)
    }

    /// What every process has saved is queued for the mover; the digest of it is made meanwhile.
    fn send_states(&mut self) -> Result<(), Problem> {
        let mut states = Vec::new();
        for process in self.system.processes() {
            let state = self.saved.get(&process.id);
            let state = state.ok_or_else(|| bug(format!("{} has saved nothing", process.id)))?;
            states.push((
                process.id,
                state.len,
                state.memory_for(process.id)?,
                state.memory_for(process.id)?,
            ));
        }
        let mut digested = Vec::new();
        for (instance, len, memory, again) in states {
            self.carry(MoverRequest::SendState { instance, len }, vec![memory]);
            digested.push((instance, len, again));
        }
        self.spawn_work(move || MigrationEvent::StatesQueued(digest::last(digested)));
        Ok(())
    }

    /// Gives the mover an empty memory file for each process's state.
    fn take_states(&mut self) -> Result<(), Problem> {
        let system = Arc::clone(&self.system);
        for process in system.processes() {
            let (state, theirs) = SavedState::new(process.id)?;
            self.saved.insert(process.id, state);
            self.carry(MoverRequest::TakeState { instance: process.id }, vec![theirs]);
        }
        Ok(())
    }

    /// Seals the states that have come, and has them compared with what the source says of them.
    fn check_states(&mut self, last: Message) -> Result<(), Problem> {
        let Message::Last { units, digest } = last else {
            return Err(bug("states are checked against the last message"));
        };
        let wrong = |what: String| {
            Problem::host(
                what,
                "migration",
                "the guest is where it was; see the logs on both hosts, and try again",
            )
        };
        let expected: Vec<InstanceId> = self.system.processes().iter().map(|process| process.id).collect();
        if !units.iter().map(|(instance, _)| *instance).eq(expected) {
            return Err(wrong(
                "the source has sent the states of other processes than there are here".to_owned(),
            ));
        }
        let mut states = Vec::new();
        for (instance, len) in units {
            let state = self.saved.get_mut(&instance).ok_or_else(|| bug("a state has no memory"))?;
            state.keep(len).map_err(|not_kept| match not_kept {
                NotKept::Host(problem) => problem,
                NotKept::Claim(_) => wrong(format!("the state of {instance} has not come whole")),
            })?;
            states.push((instance, len, state.memory_for(instance)?));
        }
        self.spawn_work(move || {
            let checked = digest::of(&states).and_then(|found| match found == digest {
                true => Ok(()),
                false => {
                    Err(wrong("the states that have come are not those that the source has sent".to_owned()))
                }
            });
            MigrationEvent::Checked(checked)
        });
        Ok(())
    }

    /// Makes the objects of a guest that is to come: nothing of it is started.
    fn open_guest(&mut self) -> Result<(), Problem> {
        let name = &self.given.handover.name;
        let objects = Objects::for_boot(name, &self.given.objects, &self.system, &self.layout)?;
        let Some(migration) = &mut self.migration else { return Err(bug("there is no migration")) };
        migration.guest = Some(objects);
        Ok(())
    }

    /// The guest that was offered fits: its processes are to be started.
    fn prepare_guest(&mut self) -> Result<(), Problem> {
        let guest = self.migration.as_mut().and_then(|migration| migration.guest.take());
        let objects = guest.ok_or_else(|| bug("there is no guest that comes"))?;
        // It begins where it was, and not at its kernel's entry: a reset loads that anew.
        let boot = BootInfo { entry: layout::RAM_BASE, fdt: layout::RAM_BASE };
        let handover = &self.given.handover;
        let configs =
            Configs::new(&self.system, handover, &self.layout, boot, |id| objects.device_number(id))?;
        self.current = Some(Shared { objects, configs });
        Ok(())
    }

    fn close_lanes(&mut self) -> Result<(), MigrationEvent> {
        let migration = self.migration.as_ref();
        let lives = |migration: &&Migration| {
            migration.takes_lanes && migration.mover.is_some_and(|life| self.processes.contains_key(&life))
        };
        if migration.filter(lives).is_none() {
            return Err(MigrationEvent::Closed);
        }
        self.carry(MoverRequest::Close, vec![]);
        Ok(())
    }

    fn forget_migration(&mut self) {
        if self.migration.as_ref().is_some_and(|migration| migration.side == Side::Destination) {
            self.origin = self.key();
        }
        self.migration = None;
        self.saved.clear();
    }

    /// Has a thread do what takes long.
    fn spawn_work(&mut self, work: impl FnOnce() -> MigrationEvent + Send + 'static) {
        let (tell, told) = oneshot::channel();
        let begun = std::thread::Builder::new().name("migration".to_owned()).spawn(move || {
            // The receiver is dropped once the VM has ended.
            let _ = tell.send(work());
        });
        if let Err(error) = begun {
            return self.results.push_back(Event::Migration(lost(refused("start a thread", &error))));
        }
        self.work.spawn(async move {
            told.await.unwrap_or_else(|_| lost(bug("a thread of the migration failed")))
        });
    }

    /// What the VM begins with: its guest is booted, or comes from elsewhere.
    pub(super) fn begin(&mut self) -> Event {
        match &self.given.handover.receive {
            None => Event::Boot,
            Some(receive) => {
                self.migration = Some(Migration::from_elsewhere(receive));
                Event::Receive
            }
        }
    }

    /// A client wants the guest to move.
    pub(super) fn begin_migration(
        &mut self,
        request: MigrateRequest,
        identity: Vec<OwnedFd>,
        answer: Answer<Migrated>,
    ) -> Option<Event> {
        if self.machine.is_idle() {
            match Migration::to(&request, identity) {
                Ok(migration) => self.migration = Some(migration),
                Err(problem) => {
                    let _ = answer.send(Err(problem));
                    return None;
                }
            }
        }
        let limits = Limits {
            downtime: Duration::from_millis(request.downtime_limit_ms),
            rounds_max: request.round_count_max,
            otherwise: if request.gives_up { Otherwise::GiveUp } else { Otherwise::SwitchOver },
            throttle: request.throttles,
        };
        let ticket = self.issue(Waiting::Migration(answer));
        Some(Event::Command(ticket, event::Command::Migrate(request.to, limits)))
    }

    /// A client wants it stopped, or knows where the guest is to go on.
    pub(super) fn migration_order(&mut self, order: MigrationOrder) -> Event {
        Event::Migration(match order {
            MigrationOrder::Cancel(answer) => MigrationEvent::Cancel(self.issue(Waiting::Phase(answer))),
            MigrationOrder::Resolve(request, answer) => {
                if request.force {
                    self.other_host = Some("the other host was not asked: --force".to_owned());
                }
                MigrationEvent::Resolve(self.issue(Waiting::Phase(answer)), request)
            }
        })
    }
}

fn security(tls_peer: Option<String>) -> Security {
    tls_peer.map_or(Security::Plain, |peer| Security::Tls { peer })
}

/// Bytes that nobody can guess.
fn random<const LEN: usize>() -> Result<[u8; LEN], Problem> {
    let mut bytes = [0; LEN];
    getrandom(&mut bytes, GetRandomFlags::empty()).map_err(|error| refused("give random bytes", &error))?;
    Ok(bytes)
}

/// A failure of this host that no request waits for: the migration cannot go on.
fn lost(problem: Problem) -> MigrationEvent {
    MigrationEvent::LinkLost(problem.what)
}

fn not_understood(error: &dyn std::fmt::Display) -> Problem {
    Problem::host(error.to_string(), "migration", "migrate with the same release on both hosts")
}
