// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A device that signals at the worst moment: when it is asked to stop, between the pause of the CPUs and the save.
//!
//! It is in a vfio-user server of this process, which stays through every move. Asked to stop, it writes to memory,
//! reads where nothing is mapped, sends a message, and asserts its pin, each before it answers. It knows how often it
//! did what, and that every write that was posted to it came once and in order.

use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock};
use std::thread;
use std::time::Duration;

use ipc::deadline::Deadline;
use ipc::vfio_user::connection::{Connection, ConnectionError};
use ipc::vfio_user::dma::DmaAccess;
use ipc::vfio_user::feature::{FeatureHeader, FeatureOp, MIG_DEVICE_STATE, MigDeviceState, MigState};
use ipc::vfio_user::header::Command;
use ipc::vfio_user::region::{RegionAccess, decode_multi};
use rustix::io::Errno;
use zerocopy::IntoBytes;

use crate::server::migration::Migration;
use crate::server::{Device, INTX_DONE, Server};
use crate::support::COMMAND;

/// Registers of BAR 0: what is posted in order, whether the pin is asserted, and what ends that.
pub const POSTED: u64 = 8;
pub const ASSERTED: u64 = 40;
pub const DONE: u64 = INTX_DONE as u64;
/// The vector that is sent when it is asked to stop. The other one is the test's.
pub const STOP_VECTOR: usize = 1;

/// What it does when it is asked to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AtStop {
    /// Writes how often it was stopped to `data`; reads at `nowhere`, a page further each time; sends its vector.
    Dma {
        /// An address that is mapped.
        data: u64,
        /// The first of [`NOWHERE_COUNT`] pages that are not.
        nowhere: u64,
    },
    /// Asserts its pin.
    Pin,
}

/// Pages without a mapping that are taken in turn.
pub const NOWHERE_COUNT: u64 = 64;

/// The device.
pub struct Signaller {
    /// Where its server listens.
    pub socket: PathBuf,
    state: Arc<State>,
}

struct State {
    at_stop: AtStop,
    device: OnceLock<(Arc<Connection>, Arc<Device>)>,
    /// Whether it runs: a device that is stopped does nothing. Held while it does something.
    runs: Mutex<bool>,
    goes_on: Condvar,
    stops: AtomicU64,
    /// How often the pin has risen.
    rises: AtomicU64,
    posted: Mutex<Posted>,
}

/// What was posted: 1, 2, 3 and so on.
#[derive(Clone, Debug, Default)]
struct Posted {
    last: u32,
    wrong: Vec<(u32, u32)>,
}

impl Signaller {
    /// Listens in `folder`, for one client.
    pub fn start(folder: &Path, name: &str, at_stop: AtStop) -> Self {
        let socket = folder.join(name);
        let listener = UnixListener::bind(&socket).unwrap();
        let state = Arc::new(State {
            at_stop,
            device: OnceLock::new(),
            runs: Mutex::new(true),
            goes_on: Condvar::new(),
            stops: AtomicU64::new(0),
            rises: AtomicU64::new(0),
            posted: Mutex::default(),
        });
        let theirs = Arc::clone(&state);
        thread::spawn(move || {
            let (client, _) = listener.accept().unwrap();
            let device = Device {
                registers: Mutex::new(vec![0; 64]),
                intx: (at_stop == AtStop::Pin).then(Mutex::default),
                migration: Some(Migration::new(0)),
                ..Device::default()
            };
            let bent = Arc::clone(&theirs);
            let server =
                Server::on(client.into(), device, Box::new(move |command, body| bent.bend(command, body)));
            let known = (Arc::clone(&server.connection), Arc::clone(&server.device));
            assert!(theirs.device.set(known).is_ok());
        });
        Self { socket, state }
    }

    /// How often it was asked to stop, and has signalled.
    pub fn stops(&self) -> u64 {
        self.state.stops.load(Ordering::SeqCst)
    }

    /// How often its pin has risen.
    pub fn rises(&self) -> u64 {
        self.state.rises.load(Ordering::SeqCst)
    }

    /// The last number that was posted; panics if one was lost, doubled or overtaken.
    pub fn posted(&self) -> u32 {
        let posted = self.state.posted.lock().unwrap().clone();
        assert_eq!(posted.wrong, [], "what was posted, and what came before it");
        posted.last
    }

    /// Sends the vector that is the test's, as soon as it runs.
    pub fn send(&self) {
        let _turn = self.state.turn();
        self.state.send(0);
    }

    /// Asserts the pin, as soon as it runs.
    pub fn raise(&self) {
        let _turn = self.state.turn();
        self.state.raise();
    }

    /// Writes 64 bits of guest memory, as soon as it runs.
    pub fn write(&self, iova: u64, value: u64) {
        let _turn = self.state.turn();
        self.state.write(iova, value);
    }
}

impl State {
    fn known(&self) -> &(Arc<Connection>, Arc<Device>) {
        self.device.get().unwrap()
    }

    fn bend(&self, command: Command, body: &[u8]) -> Option<Result<Vec<u8>, Errno>> {
        match command {
            Command::DEVICE_FEATURE => match ordered(body) {
                Some(MigState::Stop) => self.stop(),
                Some(MigState::Running) => {
                    *self.runs.lock().unwrap() = true;
                    self.goes_on.notify_all();
                }
                _ => {}
            },
            Command::REGION_WRITE => {
                let (access, data) = RegionAccess::decode_write(body).unwrap();
                self.note(&access, data);
            }
            Command::REGION_WRITE_MULTI => {
                for write in decode_multi(body).unwrap() {
                    self.note(&write.access, write.bytes());
                }
            }
            Command::REGION_READ => {
                let (access, count) = RegionAccess::decode_read(body).unwrap();
                if (access.region.get(), access.offset.get()) == (0, ASSERTED) {
                    let mut data = vec![0; count];
                    data[0] = u8::from(self.is_asserted());
                    return Some(Ok([access.as_bytes(), &data].concat()));
                }
            }
            _ => {}
        }
        None
    }

    fn note(&self, access: &RegionAccess, data: &[u8]) {
        if (access.region.get(), access.offset.get()) != (0, POSTED) {
            return;
        }
        let number = u32::from_le_bytes(data.try_into().unwrap());
        let mut posted = self.posted.lock().unwrap();
        if number != posted.last.wrapping_add(1) && posted.wrong.len() < 8 {
            let before = posted.last;
            posted.wrong.push((number, before));
        }
        posted.last = number;
    }

    /// The right to do something.
    fn turn(&self) -> MutexGuard<'_, bool> {
        let runs = self.runs.lock().unwrap();
        let (runs, waited) = self.goes_on.wait_timeout_while(runs, COMMAND, |runs| !*runs).unwrap();
        assert!(!waited.timed_out(), "it does not go on");
        runs
    }

    /// The CPUs stand still by now, and the device's process waits for the answer.
    fn stop(&self) {
        let mut runs = self.runs.lock().unwrap();
        if !*runs {
            return;
        }
        let number = self.stops.load(Ordering::SeqCst) + 1;
        match self.at_stop {
            AtStop::Dma { data, nowhere } => {
                self.write(data, number);
                let read = DmaAccess::new(nowhere + ((number % NOWHERE_COUNT) << 12), 8);
                let refused = self.known().0.request(Command::DMA_READ, &[read.as_bytes()], &[], soon());
                assert!(matches!(refused, Err(ConnectionError::Remote { .. })), "{refused:?}");
                self.send(STOP_VECTOR);
            }
            AtStop::Pin => self.raise(),
        }
        self.stops.store(number, Ordering::SeqCst);
        *runs = false;
    }

    fn write(&self, iova: u64, value: u64) {
        let (access, bytes) = (DmaAccess::new(iova, 8), value.to_le_bytes());
        self.known().0.request(Command::DMA_WRITE, &[access.as_bytes(), &bytes], &[], soon()).unwrap();
    }

    fn send(&self, vector: usize) {
        let vectors = self.known().1.vectors.lock().unwrap();
        rustix::io::write(&vectors[vector], &1_u64.to_ne_bytes()).unwrap();
    }

    fn is_asserted(&self) -> bool {
        let pin = self.known().1.intx.as_ref();
        pin.is_some_and(|pin| pin.lock().unwrap().asserted)
    }

    fn raise(&self) {
        if self.known().1.raise_intx() {
            self.rises.fetch_add(1, Ordering::SeqCst);
        }
    }
}

fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(10))
}

/// The state that a feature orders, if it does.
fn ordered(body: &[u8]) -> Option<MigState> {
    let (_, feature, op, data) = FeatureHeader::decode(body).ok()?;
    let is_order = (feature, op) == (MIG_DEVICE_STATE, FeatureOp::Set);
    is_order.then(|| MigDeviceState::decode(data).ok()).flatten()
}
