// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! From the first instruction of a program to its service loop, and to its end.
//!
//! Arguments: the process's name, its generation, and the names of its descriptors in the order of their numbers. There
//! is no environment. Run by hand a program ends with a line that says who starts it: without arguments it has no
//! generation, and with made-up ones it has neither these descriptors nor the namespaces it verifies before it serves;
//! nothing is opened, created or changed.

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

/// The coordinator greets at once: it has just started us.
const HELLO_DEADLINE: Duration = Duration::from_secs(10);

/// Why a program could not begin, or what ended it.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An argument is not there.
    #[error("no {0} given: this program is started by `bulkhead run`, not by hand")]
    NoArgument(&'static str),
    /// The generation is no number.
    #[error("the generation is not a number: {0:?}")]
    Generation(String),
    /// The name is no process's.
    #[error("this program's name: {0}")]
    Name(#[from] UnknownInstance),
    /// The name is another program's.
    #[error("{name} is started with the program of a {role}")]
    OtherRole {
        /// The name.
        name: InstanceId,
        /// What the program is.
        role: Role,
    },
    /// A descriptor is not there.
    #[error(transparent)]
    Inherited(#[from] InheritedError),
    /// What is called a crash page is none.
    #[error("the crash page: {0}")]
    CrashPage(std::io::Error),
    /// It is not sealed.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// The coordinator is gone, or broke the contract.
    #[error(transparent)]
    Channel(#[from] ipc::error::Error),
}

/// What the parent says at exec.
struct Arguments {
    name: InstanceId,
    generation: u32,
    /// The names of the descriptors.
    slots: Vec<String>,
}

impl Arguments {
    /// Reads them, behind the program's own name.
    fn read(mut words: impl Iterator<Item = String>) -> Result<Self, StartError> {
        let name = words.next().ok_or(StartError::NoArgument("name"))?.parse()?;
        let generation = words.next().ok_or(StartError::NoArgument("generation"))?;
        let generation = generation.parse().map_err(|_| StartError::Generation(generation))?;
        Ok(Self { name, generation, slots: words.collect() })
    }
}

/// Takes the descriptors of this process, `take` those that are the program's own; seals it with `profile`, and serves
/// until the coordinator tells it to quit.
///
/// # Errors
/// Why it could not begin, or what ended it.
pub fn run<P: Program>(
    profile: &Profile,
    take: impl FnOnce(&mut Inherited) -> Result<P::Given, InheritedError>,
) -> Result<(), StartError> {
    // An argument that is no text is no name of anything.
    let words = std::env::args_os().skip(1).map(|word| word.into_string().unwrap_or_default());
    let Arguments { name, generation, slots } = Arguments::read(words)?;
    if name.role != P::ROLE {
        return Err(StartError::OtherRole { name, role: P::ROLE });
    }
    // Asks the kernel for files that a sealed process cannot open.
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

/// Greets the coordinator, says what is enforced, and serves. `locked` is the proof that this process is sealed.
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
