// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A shipped program of which a test has replaced some functions: everything else is the program's own.
//!
//! Such a program is this suite's executable in the place of the shipped one ([`crate::faulty`],
//! [`crate::unfaithful`]): no shipped program has a switch for what is tested here.

use std::io::Write;
use std::marker::PhantomData;
use std::os::fd::OwnedFd;

use ipc::hello::Role;
use ipc::instance::InstanceId;
use ipc::protocol::control::{DirtyLogOp, DirtyLogState, Failure, Quiescence, RoleConfig, StreamReplay};
use ipc::protocol::inspect::Inspect;
use ipc::protocol::mover::MoverRequest;
use process::{Configured, Context, Program, Source};

type Given<A> = <<A as Altered>::Of as Program>::Given;
type Config<A> = <<A as Altered>::Of as Program>::Config;
type Ready<A> = <<A as Altered>::Of as Program>::Ready;
type Loaded<A> = <<A as Altered>::Of as Program>::Loaded;
type Armed<A> = <<A as Altered>::Of as Program>::Armed;

/// The functions that a test may replace; each is the program's own unless it is.
pub trait Altered: Sized + 'static {
    /// The program.
    type Of: Program;

    fn configure(
        config: Config<Self>,
        given: Given<Self>,
        context: &Context,
    ) -> Result<Ready<Self>, Failure> {
        Self::Of::configure(config, given, context)
    }
    fn load(ready: Ready<Self>, source: Source, context: &Context) -> Result<Loaded<Self>, Failure> {
        Self::Of::load(ready, source, context)
    }
    fn arm(loaded: Loaded<Self>, context: &Context) -> Result<Armed<Self>, Failure> {
        Self::Of::arm(loaded, context)
    }
    fn replay(armed: &Armed<Self>) -> Result<Option<Vec<StreamReplay>>, Failure> {
        Self::Of::replay(armed)
    }
    fn go(armed: &Armed<Self>, context: &Context) {
        Self::Of::go(armed, context);
    }
    fn pause(armed: &Armed<Self>) -> Result<(), Failure> {
        Self::Of::pause(armed)
    }
    fn check_save(armed: &Armed<Self>) -> Result<(), Failure> {
        Self::Of::check_save(armed)
    }
    fn save(armed: &Armed<Self>, into: &mut dyn Write) -> Result<(), Failure> {
        Self::Of::save(armed, into)
    }
    fn dirty_log(configured: Configured<'_, Self::Of>, op: DirtyLogOp) -> Result<DirtyLogState, Failure> {
        Self::Of::dirty_log(configured, op)
    }
    fn rewire(armed: &Armed<Self>, peer: InstanceId, epoch: u32, channel: OwnedFd) -> Result<(), Failure> {
        Self::Of::rewire(armed, peer, epoch, channel)
    }
    fn turns(armed: &Armed<Self>) -> Option<u64> {
        Self::Of::turns(armed)
    }
}

/// The program, with what is replaced.
pub struct Alteration<A>(PhantomData<A>);

fn own<A: Altered>(configured: Configured<'_, Alteration<A>>) -> Configured<'_, A::Of> {
    match configured {
        Configured::Ready(ready) => Configured::Ready(ready),
        Configured::Loaded(loaded) => Configured::Loaded(loaded),
        Configured::Armed(armed) => Configured::Armed(armed),
    }
}

impl<A: Altered> Program for Alteration<A> {
    const ROLE: Role = A::Of::ROLE;
    const WHAT: &'static str = A::Of::WHAT;
    type Given = Given<A>;
    type Config = Config<A>;
    type Ready = Ready<A>;
    type Loaded = Loaded<A>;
    type Armed = Armed<A>;

    fn accept(config: RoleConfig) -> Result<Config<A>, Failure> {
        A::Of::accept(config)
    }
    fn configure(config: Config<A>, given: Given<A>, context: &Context) -> Result<Ready<A>, Failure> {
        A::configure(config, given, context)
    }
    fn load(ready: Ready<A>, source: Source, context: &Context) -> Result<Loaded<A>, Failure> {
        A::load(ready, source, context)
    }
    fn arm(loaded: Loaded<A>, context: &Context) -> Result<Armed<A>, Failure> {
        A::arm(loaded, context)
    }
    fn replay(armed: &Armed<A>) -> Result<Option<Vec<StreamReplay>>, Failure> {
        A::replay(armed)
    }
    fn go(armed: &Armed<A>, context: &Context) {
        A::go(armed, context);
    }
    fn begin_paused(armed: &Armed<A>) -> Result<(), Failure> {
        A::Of::begin_paused(armed)
    }
    fn pause(armed: &Armed<A>) -> Result<(), Failure> {
        A::pause(armed)
    }
    fn resume(armed: &Armed<A>) -> Result<(), Failure> {
        A::Of::resume(armed)
    }
    fn hold_cpus(armed: &Armed<A>, held: bool) -> Result<(), Failure> {
        A::Of::hold_cpus(armed, held)
    }
    fn in_flight(armed: &Armed<A>) -> Quiescence {
        A::Of::in_flight(armed)
    }
    fn check_save(armed: &Armed<A>) -> Result<(), Failure> {
        A::check_save(armed)
    }
    fn save(armed: &Armed<A>, into: &mut dyn Write) -> Result<(), Failure> {
        A::save(armed, into)
    }
    fn dirty_log(configured: Configured<'_, Self>, op: DirtyLogOp) -> Result<DirtyLogState, Failure> {
        A::dirty_log(own::<A>(configured), op)
    }
    fn dma_ended(configured: Configured<'_, Self>, device: InstanceId) -> Result<(), Failure> {
        A::Of::dma_ended(own::<A>(configured), device)
    }
    fn rewire(armed: &Armed<A>, peer: InstanceId, epoch: u32, channel: OwnedFd) -> Result<(), Failure> {
        A::rewire(armed, peer, epoch, channel)
    }
    fn carry(
        configured: Configured<'_, Self>,
        request: MoverRequest,
        descriptor: Option<OwnedFd>,
    ) -> Result<(), Failure> {
        A::Of::carry(own::<A>(configured), request, descriptor)
    }
    fn turns(armed: &Armed<A>) -> Option<u64> {
        A::turns(armed)
    }
    fn inspect(configured: Configured<'_, Self>, inspect: &mut Inspect) {
        A::Of::inspect(own::<A>(configured), inspect);
    }
}
