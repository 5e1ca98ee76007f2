// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Migration states of the server: its registers, and any number of bytes behind them that are never held.

use std::sync::Mutex;

use ipc::vfio_user::feature::{
    FeatureHeader, FeatureOp, MIG_DEVICE_STATE, MIGRATION, MigDeviceState, MigState, MigrationFlags,
};
use ipc::vfio_user::header::Command;
use ipc::vfio_user::migration::MigData;
use rustix::io::Errno;
use zerocopy::IntoBytes;

const REGISTERS_LEN: u64 = 64;

/// The states, and how far the data went.
pub struct Migration {
    behind_len: u64,
    inner: Mutex<Inner>,
}

struct Inner {
    state: MigState,
    /// Bytes that were read, or written.
    done: u64,
    registers: Vec<u8>,
    is_garbage: bool,
    path: Vec<MigState>,
}

/// The bytes behind the registers are the same for so long.
const RUN_LEN: u64 = 4096;

/// Runs of equal bytes in a range behind the registers: how many, and which.
fn runs(start: u64, end: u64) -> impl Iterator<Item = (usize, u8)> {
    let mut at = start;
    std::iter::from_fn(move || {
        let next = ((at / RUN_LEN + 1) * RUN_LEN).min(end);
        let run = (at < end).then(|| (usize::try_from(next - at).unwrap(), (at / RUN_LEN).to_le_bytes()[0]));
        at = next.max(at);
        run
    })
}

impl Migration {
    pub fn new(behind_len: u64) -> Migration {
        let inner = Inner {
            state: MigState::Running,
            done: 0,
            registers: Vec::new(),
            is_garbage: false,
            path: vec![],
        };
        Migration { behind_len, inner: Mutex::new(inner) }
    }

    pub fn reset(&self) {
        self.inner.lock().unwrap().state = MigState::Running;
    }

    pub fn state(&self) -> MigState {
        self.inner.lock().unwrap().state
    }

    /// The states that it was asked for.
    pub fn path(&self) -> Vec<MigState> {
        self.inner.lock().unwrap().path.clone()
    }

    pub fn answer(
        &self,
        command: Command,
        body: &[u8],
        registers: &Mutex<Vec<u8>>,
    ) -> Result<Vec<u8>, Errno> {
        let inner = &mut *self.inner.lock().unwrap();
        match command {
            Command::DEVICE_FEATURE => {
                let (header, feature, op, data) = FeatureHeader::decode(body).map_err(|_| Errno::INVAL)?;
                match (feature, op) {
                    (MIGRATION, FeatureOp::Get) => {
                        let flags = MigrationFlags { flags: MigrationFlags::STOP_COPY.into() };
                        Ok([header.as_bytes(), flags.as_bytes()].concat())
                    }
                    (MIG_DEVICE_STATE, FeatureOp::Set) => {
                        let to = MigDeviceState::decode(data).map_err(|_| Errno::INVAL)?;
                        inner.path.push(to);
                        self.go(inner, to, registers)?;
                        Ok(body.to_vec())
                    }
                    _ => Err(Errno::NOTSUP),
                }
            }
            Command::MIG_DATA_READ if inner.state == MigState::StopCopy => {
                let wanted = MigData::decode_read(body).map_err(|_| Errno::INVAL)? as u64;
                let end = (REGISTERS_LEN + self.behind_len).min(inner.done + wanted);
                let mut piece = Vec::new();
                if inner.done == 0 {
                    piece.extend_from_slice(&registers.lock().unwrap());
                }
                for (len, byte) in runs(inner.done.max(REGISTERS_LEN), end) {
                    piece.resize(piece.len() + len, byte);
                }
                inner.done = end;
                Ok([MigData::new(piece.len()).as_bytes(), &piece].concat())
            }
            Command::MIG_DATA_WRITE if inner.state == MigState::Resuming => {
                let piece = MigData::decode_write(body).map_err(|_| Errno::INVAL)?;
                let end = inner.done + piece.len() as u64;
                let own = usize::try_from(REGISTERS_LEN.saturating_sub(inner.done)).unwrap().min(piece.len());
                let (own, mut behind) = piece.split_at(own);
                inner.registers.extend_from_slice(own);
                for (len, byte) in runs(inner.done.max(REGISTERS_LEN), end) {
                    let run = behind.split_off(..len).unwrap();
                    inner.is_garbage |= run != vec![byte; len];
                }
                inner.done = end;
                Ok(Vec::new())
            }
            _ => Err(Errno::NOTSUP),
        }
    }

    fn go(&self, inner: &mut Inner, to: MigState, registers: &Mutex<Vec<u8>>) -> Result<(), Errno> {
        while inner.state != to {
            let next = inner.state.next(to).ok_or(Errno::INVAL)?;
            if inner.state == MigState::Resuming {
                if inner.is_garbage || inner.done != REGISTERS_LEN + self.behind_len {
                    inner.state = MigState::Error;
                    return Err(Errno::INVAL);
                }
                *registers.lock().unwrap() = std::mem::take(&mut inner.registers);
            }
            inner.done = 0;
            inner.state = next;
        }
        Ok(())
    }
}
