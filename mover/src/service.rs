// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The process: requests of the coordinator onto the tasks of one migration.
//!
//! The control thread queues, and waits for nothing; tasks run on threads of their own. The source begins when it has
//! all its lanes, the destination when it has the first connection.

use std::convert::Infallible;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, PoisonError};

use ipc::hello::Role;
use ipc::instance::InstanceId;
use ipc::migration::LANES_MAX;
use ipc::protocol::control::{DirtyLogOp, DirtyLogState, Failure, Quiescence, RoleConfig, StreamReplay};
use ipc::protocol::inspect::Inspect;
use ipc::protocol::mover::{
    IDENTITY_LEN_MAX, IdentityFile, MESSAGE_LEN_MAX, MoverConfig, MoverNotice, MoverRequest, Security, Side,
};
use ipc::shm::dirty_log::SharedOwed;
use ipc::shm::region::Region;
use ipc::slot::SlotKind;
use process::{Configured, Context, Program, Source};
use rustix::fs::{OFlags, SealFlags};
use sandbox::{Inherited, InheritedError};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc;

use crate::connection::Securing;
use crate::destination::{self, CONNECTIONS_MAX};
use crate::ram::Ram;
use crate::source;
use crate::states::Outgoing;
use crate::tls::{self, Identity};
use crate::work::{ORDERS_MAX, Order, Work};

/// What the process was given at exec, besides channel, crash page and log.
#[derive(Debug)]
pub struct Descriptors {
    /// Guest RAM.
    pub ram: OwnedFd,
    /// The pages that the other host has not got.
    pub owed_map: OwnedFd,
}

impl Descriptors {
    /// Takes them by their names.
    ///
    /// # Errors
    /// If one is not there.
    pub fn take(fds: &mut Inherited) -> Result<Self, InheritedError> {
        Ok(Self { ram: fds.take(SlotKind::Ram)?, owed_map: fds.take(SlotKind::OwedMap)? })
    }
}

/// The mover's program.
pub struct MoverProgram;

/// A configured mover.
pub struct Ready {
    side: Side,
    security: Security,
    owed: Arc<SharedOwed>,
    work: Arc<Work>,
    orders: mpsc::Sender<Order>,
    front: Mutex<Front>,
    /// Last: its threads end before what they use.
    runtime: Runtime,
}

/// What comes before the migration is under way.
struct Front {
    /// Files of the identity, until they are all there.
    identity: IdentityFiles,
    /// How a socket becomes a connection, once that is known; for the first one.
    securing: Option<Securing>,
    stage: Stage,
}

#[derive(Default)]
struct IdentityFiles {
    authority: Option<Vec<u8>>,
    chain: Option<Vec<u8>>,
    key: Option<Vec<u8>>,
}

enum Stage {
    /// The source has not got all its lanes, the destination none.
    Waiting { sockets: Vec<OwnedFd>, orders: mpsc::Receiver<Order> },
    /// Tasks carry. The destination takes connections until one migration is whole.
    Carrying { sockets: Option<mpsc::Sender<OwnedFd>> },
    /// Its identity cannot be used: there are no tasks and will be none, and it has no other use.
    Unusable,
    /// It is over.
    Closed,
}

fn fail(what: &str, why: impl ToString) -> Failure {
    Failure::new(what, why)
}

impl Ready {
    /// A file of the identity.
    fn take_identity(&self, file: IdentityFile, memory: OwnedFd) -> Result<(), Failure> {
        let what = "take a file of the identity";
        if self.security == Security::Plain {
            return Err(fail(what, "TLS is not spoken"));
        }
        let bytes = read_sealed(memory).map_err(|error| fail(what, error))?;
        let mut front = self.front.lock().unwrap_or_else(PoisonError::into_inner);
        let is_whole = front.securing.is_some();
        let place = match file {
            IdentityFile::Authority => &mut front.identity.authority,
            IdentityFile::Chain => &mut front.identity.chain,
            IdentityFile::Key => &mut front.identity.key,
        };
        if place.is_some() || is_whole {
            return Err(fail(what, format!("it has {file:?} already")));
        }
        *place = Some(bytes);
        if front.identity.is_whole() {
            let files = std::mem::take(&mut front.identity);
            match files.securing(&self.side, &self.security) {
                Ok(securing) => front.securing = Some(securing),
                // Its user is to know before anybody has connected.
                Err(failure) => {
                    front.stage = Stage::Unusable;
                    return Err(failure);
                }
            }
        }
        Ok(())
    }

    fn take_lane(&self, index: u8, socket: OwnedFd) -> Result<(), Failure> {
        let what = "take a connection";
        // A socket that blocks would hold up every other lane.
        let flags = rustix::fs::fcntl_getfl(&socket).map_err(|error| fail(what, error))?;
        if !flags.contains(OFlags::NONBLOCK) {
            return Err(fail(what, "it is not non-blocking"));
        }
        let mut front = self.front.lock().unwrap_or_else(PoisonError::into_inner);
        match std::mem::replace(&mut front.stage, Stage::Closed) {
            Stage::Waiting { mut sockets, orders } => {
                let lane_count = match self.side {
                    Side::Source { lane_count, .. } => lane_count,
                    Side::Destination => 1,
                };
                if matches!(self.side, Side::Source { .. }) && usize::from(index) != sockets.len() {
                    let why = format!("lane {index} comes where lane {} is due", sockets.len());
                    front.stage = Stage::Waiting { sockets, orders };
                    return Err(fail(what, why));
                }
                sockets.push(socket);
                if sockets.len() < usize::from(lane_count) {
                    front.stage = Stage::Waiting { sockets, orders };
                    return Ok(());
                }
                front.stage = Stage::Unusable;
                let Some(securing) = front.securing.take() else { return Err(front.identity.missing()) };
                front.stage = self.begin(sockets, securing, orders);
                Ok(())
            }
            Stage::Carrying { sockets: Some(sockets) } => {
                // Anybody can connect, at any time: who is one too many is closed, and nothing of the guest's fails.
                match sockets.try_send(socket) {
                    Ok(()) => {}
                    Err(mpsc::error::TrySendError::Full(_)) => {
                        ipc::log::warn!("a connection is closed: too many wait");
                    }
                    Err(mpsc::error::TrySendError::Closed(_)) => {
                        ipc::log::warn!("a connection is closed: a migration is under way");
                    }
                }
                front.stage = Stage::Carrying { sockets: Some(sockets) };
                Ok(())
            }
            Stage::Closed if matches!(self.side, Side::Destination) => {
                ipc::log::warn!("a connection is closed: the migration is over");
                Ok(())
            }
            stage @ (Stage::Carrying { sockets: None } | Stage::Closed) => {
                front.stage = stage;
                Err(fail(what, "it has all its lanes"))
            }
            Stage::Unusable => {
                front.stage = Stage::Unusable;
                Err(fail(what, "its identity cannot be used"))
            }
        }
    }

    /// Starts the tasks.
    fn begin(&self, sockets: Vec<OwnedFd>, securing: Securing, orders: mpsc::Receiver<Order>) -> Stage {
        let (work, tasks) = (Arc::clone(&self.work), Arc::clone(&self.work));
        match self.side {
            Side::Source { migration, packing, .. } => {
                let owed = Arc::clone(&self.owed);
                let source = source::run(sockets, securing, migration, orders, owed, packing, tasks);
                self.runtime.spawn(async move { work.until_closed(source).await });
                Stage::Carrying { sockets: None }
            }
            Side::Destination => {
                let (give, taken) = mpsc::channel(CONNECTIONS_MAX);
                for socket in sockets {
                    // It has room for more than there are.
                    let _ = give.try_send(socket);
                }
                let destination = destination::run(taken, securing, orders, tasks);
                self.runtime.spawn(async move { work.until_closed(destination).await });
                Stage::Carrying { sockets: Some(give) }
            }
        }
    }

    fn order(&self, what: &str, side: bool, order: Order) -> Result<(), Failure> {
        if !side {
            return Err(fail(what, "it is the other side's to do"));
        }
        if self.work.is_closing() {
            return Err(fail(what, "its connections are being closed"));
        }
        self.orders.try_send(order).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => fail(what, "too much is queued already"),
            mpsc::error::TrySendError::Closed(_) => fail(what, "the connection to the other host is lost"),
        })
    }

    fn close(&self) {
        self.work.close();
        let mut front = self.front.lock().unwrap_or_else(PoisonError::into_inner);
        match std::mem::replace(&mut front.stage, Stage::Closed) {
            // There are no tasks that would say it.
            Stage::Waiting { .. } | Stage::Unusable => self.work.tell(MoverNotice::Closed),
            Stage::Carrying { .. } | Stage::Closed => {}
        }
    }
}

/// What the files are for.
const MAKE: &str = "make an identity of its files";

impl IdentityFiles {
    fn is_whole(&self) -> bool {
        self.authority.is_some() && self.chain.is_some() && self.key.is_some()
    }

    /// How a socket becomes a connection.
    fn securing(&self, side: &Side, security: &Security) -> Result<Securing, Failure> {
        let Security::Tls { peer } = security else { return Ok(Securing::Plain) };
        let (Some(authority), Some(chain), Some(key)) = (&self.authority, &self.chain, &self.key) else {
            return Err(self.missing());
        };
        let identity = Identity { authority, chain, key };
        let securing = match side {
            Side::Source { .. } => {
                tls::connecting(&identity, peer).map(|(config, name)| Securing::Connecting(config, name))
            }
            Side::Destination => tls::accepting(&identity, peer).map(Securing::Accepting),
        };
        securing.map_err(|error| fail(MAKE, error))
    }

    /// Which file is not there.
    fn missing(&self) -> Failure {
        let files = [
            (&self.authority, "authority's certificate"),
            (&self.chain, "certificate"),
            (&self.key, "private key"),
        ];
        let file = files.iter().find(|(file, _)| file.is_none()).map_or("file", |(_, name)| name);
        fail(MAKE, format!("it was given no {file}"))
    }
}

/// Reads a memory object that nobody writes any more.
fn read_sealed(memory: OwnedFd) -> std::io::Result<Vec<u8>> {
    let refuse = |why| Err(std::io::Error::new(std::io::ErrorKind::InvalidInput, why));
    let seals = rustix::fs::fcntl_get_seals(memory.as_fd())?;
    if !seals.contains(SealFlags::WRITE | SealFlags::SHRINK) {
        return refuse("its memory is not sealed");
    }
    let len = u64::try_from(rustix::fs::fstat(memory.as_fd())?.st_size).unwrap_or(u64::MAX);
    if len > IDENTITY_LEN_MAX {
        return refuse("it is longer than 1 MiB");
    }
    let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
    File::from(memory).read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

impl Program for MoverProgram {
    const ROLE: Role = Role::Mover;
    const WHAT: &'static str = "the mover";
    type Given = Descriptors;
    type Config = MoverConfig;
    type Ready = Ready;
    type Loaded = Infallible;
    type Armed = Infallible;

    fn accept(config: RoleConfig) -> Result<MoverConfig, Failure> {
        let what = "configure the mover";
        let RoleConfig::Mover(config) = config else {
            return Err(fail(what, "the configuration is for another role"));
        };
        if let Side::Source { lane_count, .. } = config.side
            && !(1..=LANES_MAX).contains(&lane_count)
        {
            return Err(fail(what, format!("{lane_count} lanes; there are 1 to {LANES_MAX}")));
        }
        Ok(config)
    }

    fn configure(config: MoverConfig, given: Descriptors, context: &Context) -> Result<Ready, Failure> {
        let MoverConfig { side, ram: layout, security } = config;
        let ram =
            Region::from_fd(given.ram, layout.file_len()).map_err(|error| fail("open guest RAM", error))?;
        let owed = Region::from_fd(given.owed_map, SharedOwed::region_len(&layout))
            .and_then(|region| SharedOwed::attach(&region, &layout))
            .map_err(|error| fail("map the owed map", error))?;
        let runtime = Builder::new_multi_thread()
            .worker_threads(WORKERS)
            .max_blocking_threads(1)
            .thread_name("lanes")
            .enable_all()
            .build()
            .map_err(|error| fail("start the mover's threads", error))?;
        let work = Arc::new(Work::new(Ram::new(Arc::clone(ram.file()), layout), context.events.clone()));
        let (orders, ordered) = mpsc::channel(ORDERS_MAX);
        let stage = Stage::Waiting { sockets: Vec::new(), orders: ordered };
        let securing = (security == Security::Plain).then_some(Securing::Plain);
        let front = Mutex::new(Front { identity: IdentityFiles::default(), securing, stage });
        Ok(Ready { side, security, owed: Arc::new(owed), work, orders, front, runtime })
    }

    fn carry(
        configured: Configured<'_, Self>,
        request: MoverRequest,
        descriptor: Option<OwnedFd>,
    ) -> Result<(), Failure> {
        let ready = ready(configured);
        // As many as the request's contract says: the channel has checked.
        let given = |what| descriptor.ok_or_else(|| fail(what, "the request carries no descriptor"));
        let is_source = matches!(ready.side, Side::Source { .. });
        match request {
            MoverRequest::TakeIdentity(file) => ready.take_identity(file, given("take a file")?),
            MoverRequest::TakeLane { index } => ready.take_lane(index, given("take a connection")?),
            MoverRequest::SendRound { round } => ready.order("send a round", is_source, Order::Round(round)),
            MoverRequest::SendState { instance, len } => {
                let what = "send a state";
                let state = Outgoing::new(instance, given(what)?, len).map_err(|error| fail(what, error))?;
                ready.order(what, is_source, Order::State(state))
            }
            MoverRequest::TakeState { instance } => {
                let what = "take a state";
                let memory = given(what)?;
                if is_source || !ready.work.states.expect(instance, memory) {
                    return Err(fail(
                        what,
                        format!("that of {instance} is not to come, or is expected already"),
                    ));
                }
                Ok(())
            }
            MoverRequest::Say(message) if message.len() > MESSAGE_LEN_MAX => {
                Err(fail("say something", format!("{:#x} bytes are too long", message.len())))
            }
            MoverRequest::Say(message) => ready.order("say something", true, Order::Say(message)),
            MoverRequest::Close => {
                ready.close();
                Ok(())
            }
        }
    }

    fn load(_ready: Ready, _source: Source, _context: &Context) -> Result<Infallible, Failure> {
        Err(fail("load the mover", "it has no state"))
    }

    fn arm(loaded: Infallible, _context: &Context) -> Result<Infallible, Failure> {
        match loaded {}
    }

    fn replay(armed: &Infallible) -> Result<Option<Vec<StreamReplay>>, Failure> {
        match *armed {}
    }

    fn go(armed: &Infallible, _context: &Context) {
        match *armed {}
    }

    fn pause(armed: &Infallible) -> Result<(), Failure> {
        match *armed {}
    }

    fn resume(armed: &Infallible) -> Result<(), Failure> {
        match *armed {}
    }

    fn in_flight(armed: &Infallible) -> Quiescence {
        match *armed {}
    }

    fn check_save(armed: &Infallible) -> Result<(), Failure> {
        match *armed {}
    }

    fn save(armed: &Infallible, _into: &mut dyn Write) -> Result<(), Failure> {
        match *armed {}
    }

    fn dirty_log(_configured: Configured<'_, Self>, _op: DirtyLogOp) -> Result<DirtyLogState, Failure> {
        // At the destination nobody runs yet whose writes a log would be about.
        Err(fail("switch the mover's dirty log", "it has none"))
    }

    fn dma_ended(_configured: Configured<'_, Self>, device: InstanceId) -> Result<(), Failure> {
        process::no_device_behind(device)
    }

    fn inspect(configured: Configured<'_, Self>, inspect: &mut Inspect) {
        let ready = ready(configured);
        inspect.counter("owed_pages", ready.owed.count());
        ready.work.counters.inspect(inspect);
    }
}

/// The threads of all lanes: as many as there can be lanes, of which those without work cost nothing.
const WORKERS: usize = LANES_MAX as usize;

fn ready<'a>(configured: Configured<'a, MoverProgram>) -> &'a Ready {
    match configured {
        Configured::Ready(ready) => ready,
        Configured::Loaded(never) | Configured::Armed(never) => match *never {},
    }
}
