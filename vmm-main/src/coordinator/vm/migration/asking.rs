// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Asking the other host where a guest is, and answering: a connection of its own, without a mover.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;

use ipc::migration::frame::MigrationId;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::timeout;

use super::super::driver::Vm;
use super::super::event::MigrationEvent;
use super::random;
use crate::launcher_channel::FromCoordinator;
use crate::migration::question::{ANSWER_LEN, ANSWER_SPAN, Key, QUESTION_LEN};
use crate::migration::source::Whereabouts;
use crate::readiness;

/// Who is heard at once: whoever asks is one host.
const ASKERS_MAX: usize = 4;

/// Those who have connected, and may have a question.
#[derive(Debug, Default)]
pub struct Askers {
    tasks: JoinSet<()>,
    oldest_first: VecDeque<AbortHandle>,
}

impl Askers {
    /// Hears another one. The oldest gives up its place if there is none: who asks does so at once, and who says
    /// nothing must not keep others from it.
    fn hear(&mut self, asker: impl Future<Output = ()> + Send + 'static) {
        while self.tasks.try_join_next().is_some() {}
        self.oldest_first.retain(|asker| !asker.is_finished());
        if self.oldest_first.len() >= ASKERS_MAX
            && let Some(oldest) = self.oldest_first.pop_front()
        {
            oldest.abort();
        }
        self.oldest_first.push_back(self.tasks.spawn(asker));
    }
}

impl Vm {
    /// What authenticates a question about the migration that is known.
    pub(super) fn key(&self) -> Option<Key> {
        let migration = self.migration.as_ref()?;
        let id: MigrationId = migration.id?;
        Some(Key::new(id, migration.secret.clone()))
    }

    /// Has the launcher connect to the other host, for a question.
    pub(super) fn ask_where(&mut self) -> Result<(), MigrationEvent> {
        self.dial(true).map_err(|problem| no_answer(&problem.what))
    }

    /// The connection is there, or why it is not.
    pub(super) fn put_question(&mut self, socket: io::Result<OwnedFd>) {
        let Some(key) = self.key() else { return };
        let nonce = random();
        self.work.spawn(async move {
            let asked = async {
                let nonce = nonce.map_err(|problem| problem.what)?;
                let socket = socket.map_err(|error| format!("the other host cannot be reached: {error}"))?;
                timeout(ANSWER_SPAN, asked(socket, &key, nonce))
                    .await
                    .map_err(|_| "it does not answer".to_owned())?
            };
            match asked.await {
                Ok(Whereabouts::There) => {
                    said(Whereabouts::There, "the other host says that it has the guest")
                }
                Ok(place) => said(place, "the other host says that it knows of no such guest"),
                Err(why) => no_answer(&why),
            }
        });
    }

    /// Whether this VM's guest has come from another host, which may not know yet.
    pub(super) fn guest_has_come(&self) -> bool {
        self.origin.is_some() || self.machine.guest_has_come()
    }

    /// Somebody has connected who may have a question.
    pub(super) fn answer_question(&mut self, socket: OwnedFd) {
        let Some(key) = self.origin.clone().or_else(|| self.key()) else { return };
        self.askers.hear(async move {
            let answered = timeout(ANSWER_SPAN, answer(socket, &key)).await;
            match answered {
                Ok(Ok(true)) => tracing::info!("another host was told that the guest is here, or not known"),
                Ok(Ok(false)) => {
                    tracing::warn!("a question of another host is not authentic, and not answered")
                }
                Ok(Err(_)) | Err(_) => tracing::warn!("whoever has connected asks nothing"),
            }
        });
    }

    /// The other host knows that the guest is here: the launcher need not listen any more.
    pub(super) fn settle(&mut self) {
        // A launcher that does not read ends this VM elsewhere.
        let _ = self.to_launcher.try_send(FromCoordinator::Settled);
    }
}

impl Vm {
    /// What has become of the question, for whoever asks for the VM's status.
    pub(in crate::coordinator::vm) fn note_asked(&mut self, event: &MigrationEvent) {
        if let MigrationEvent::Asked(_, said) = event {
            self.other_host = Some(said.clone());
        }
    }
}

fn said(place: Whereabouts, sentence: &str) -> MigrationEvent {
    MigrationEvent::Asked(place, sentence.to_owned())
}

fn no_answer(why: &str) -> MigrationEvent {
    said(Whereabouts::NoAnswer, &format!("the other host could not be asked: {why}"))
}

async fn asked(socket: OwnedFd, key: &Key, nonce: [u8; 16]) -> Result<Whereabouts, String> {
    let lost = |error: io::Error| format!("it does not answer: {error}");
    let (question, bytes) = key.ask(nonce).ok_or("no key can be made of the secret")?;
    let socket = readiness::watch(socket, Interest::READABLE | Interest::WRITABLE).map_err(lost)?;
    write(&socket, &bytes).await.map_err(lost)?;
    let mut answer = [0; ANSWER_LEN];
    read(&socket, &mut answer).await.map_err(lost)?;
    key.read(&question, &answer).ok_or_else(|| "its answer is not authentic".to_owned())
}

/// False: whoever asks does not have the secret.
async fn answer(socket: OwnedFd, key: &Key) -> io::Result<bool> {
    let socket = readiness::watch(socket, Interest::READABLE | Interest::WRITABLE)?;
    let mut question = [0; QUESTION_LEN];
    read(&socket, &mut question).await?;
    let Some(answer) = key.answer(&question) else { return Ok(false) };
    write(&socket, &answer).await?;
    Ok(true)
}

async fn read(socket: &AsyncFd<OwnedFd>, mut into: &mut [u8]) -> io::Result<()> {
    while !into.is_empty() {
        let read = |socket: &OwnedFd| Ok(rustix::io::read(socket, &mut *into)?);
        let count = socket.async_io(Interest::READABLE, read).await?;
        if count == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it has closed the connection"));
        }
        into = into.get_mut(count..).unwrap_or_default();
    }
    Ok(())
}

async fn write(socket: &AsyncFd<OwnedFd>, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        let write = |socket: &OwnedFd| Ok(rustix::io::write(socket, bytes)?);
        let count = socket.async_io(Interest::WRITABLE, write).await?;
        bytes = bytes.get(count..).unwrap_or_default();
    }
    Ok(())
}
