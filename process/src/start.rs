// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! From the first instruction of a program to its service loop, and to its end.
//!
//! Arguments: the process's name, its generation, and the names of its descriptors in the order of their numbers. There
//! is no environment. A program that is run by hand ends with a message that `bulkhead run` starts it, and changes
//! nothing: without arguments it has no generation, and with made-up ones it has neither the descriptors nor the
//! namespaces that it verifies.

use std::sync::Arc;
use std::time::Duration;

use ipc::channel::Channel;
use ipc::deadline::Deadline;
use ipc::hello::{Hello, Role};
use ipc::instance::{InstanceId, UnknownInstance};
use ipc::protocol::control::Event;
use ipc::shm::ring;
use ipc::slot::SlotKind;
use sandbox::{CrashPage, Inherited, InheritedError, Locked, Profile, SealError};

use crate::context::{Context, Events};
use crate::life::{Life, Program};
use crate::serve::serve;

/// For the coordinator's hello, which it sends at once after starting the process.
const HELLO_DEADLINE: Duration = Duration::from_secs(10);

/// Why a program did not start, or what ended it.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An argument is missing.
    #[error("no {0} given: this program is started by `bulkhead run`, not by hand")]
    NoArgument(&'static str),
    /// The generation is no number.
    #[error("the generation is not a number: {0:?}")]
    Generation(String),
    /// The name is not that of a process.
    #[error("this program's name: {0}")]
    Name(#[from] UnknownInstance),
    /// The name is that of another program's process.
    #[error("{name} is started with the program of a {role}")]
    OtherRole {
        /// As given in the arguments.
        name: InstanceId,
        /// The program's role.
        role: Role,
    },
    /// A descriptor is missing.
    #[error(transparent)]
    Inherited(#[from] InheritedError),
    /// The crash page is invalid.
    #[error("the crash page: {0}")]
    CrashPage(std::io::Error),
    /// The process could not be sealed.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// The coordinator is gone, or broke the contract.
    #[error(transparent)]
    Channel(#[from] ipc::error::Error),
}

/// The arguments of a program.
struct Arguments {
    name: InstanceId,
    generation: u32,
    /// The names of the descriptors.
    slots: Vec<String>,
}

impl Arguments {
    /// Reads the arguments after the program's name.
    fn read(mut words: impl Iterator<Item = String>) -> Result<Self, StartError> {
        let name = words.next().ok_or(StartError::NoArgument("name"))?.parse()?;
        let generation = words.next().ok_or(StartError::NoArgument("generation"))?;
        let generation = generation.parse().map_err(|_| StartError::Generation(generation))?;
        Ok(Self { name, generation, slots: words.collect() })
    }
}

/// Takes the descriptors of this process, those of the program itself by `take`; seals it with `profile`; serves until
/// `Quit`.
///
/// # Errors
/// Why the program did not start, or what ended it.
pub fn run<P: Program>(
    profile: &Profile,
    take: impl FnOnce(&mut Inherited) -> Result<P::Given, InheritedError>,
) -> Result<(), StartError> {
    // An argument that is not UTF-8 names nothing.
    let words = std::env::args_os().skip(1).map(|word| word.into_string().unwrap_or_default());
    let Arguments { name, generation, slots } = Arguments::read(words)?;
    if name.role != P::ROLE {
        return Err(StartError::OtherRole { name, role: P::ROLE });
    }
    // It stays in the program's file.
    std::hint::black_box(&ipc::hello::PROGRAM_MARK);
    // Before sealing, since it opens files.
    let spin = ring::spin_for_host();
    let mut fds = Inherited::take_all(slots)?;
    let control = fds.take(SlotKind::Control)?;
    let crash_page = CrashPage::from_fd(fds.take(SlotKind::CrashPage)?).map_err(StartError::CrashPage)?;
    let given = take(&mut fds)?;
    let locked = sandbox::seal(profile, fds.names(), crash_page)?;
    let channel = Arc::new(Channel::from_fd(control, Hello::new(P::ROLE, generation)));
    let events = Events::over(&channel).exiting();
    let context = Context { generation, spin, events };
    greet_and_serve(&locked, &channel, &mut Life::<P>::new(given, context))
}

/// Exchanges hello with the coordinator, reports what is enforced, and serves. `locked` is the proof of being sealed.
fn greet_and_serve<P: Program>(
    locked: &Locked,
    channel: &Channel,
    life: &mut Life<P>,
) -> Result<(), StartError> {
    channel.hello(Role::Coordinator, Deadline::after(HELLO_DEADLINE))?;
    life.context().events.tell(Event::Sealed(locked.enforced().lines()));
    Ok(serve(channel, life)?)
}

#[cfg(test)]
mod tests;
