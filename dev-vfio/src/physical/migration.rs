// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The state of a physical device by VFIO's migration v2: out of a stopped one in pieces, and into another in pieces.
//!
//! STOP does no DMA and keeps what was begun; STOP_COPY gives the state by a file, RESUMING takes it by one, and both
//! are left for STOP, at which the device checks what it was given. The bytes are opaque. They are never held in
//! memory but for one piece.
//!
//! Only a device without DMA through the host's IOMMU is saved: what it is attached to there is this process's. On the
//! same host the next life has the same open device: it leaves the state where it is, in the stopped device, and reads
//! past the stream. To load it there would put at risk what the life before needs if the move fails.

use std::io::Write;
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering::Relaxed;

use ipc::deadline::Deadline;
use ipc::protocol::budget;
use ipc::protocol::control::{Failure, SAVED_LEN_MAX};
use ipc::saved::SavedState;
use ipc::saved::stream::{StreamError, UnitWriter};
use ipc::vfio_user::feature::MigState;
use rustix::io::Errno;

use super::device::{Bound, PhysicalDevice};
use super::error::{KernelError, plain, refused};
use super::sys::cdev;
use crate::backend::Units;
use crate::saved::{DATA, DATA_PIECE_MAX, DATA_VERSION, DataEndV1, PhysicalV1, out_of_place};

/// One piece of state.
const PIECE_LEN: usize = if DATA_PIECE_MAX < 1 << 20 { DATA_PIECE_MAX } else { 1 << 20 };

const CALL: &str = "VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE";

/// A saved state, of which the device's own follows in the stream.
pub struct Saved {
    unit: PhysicalV1,
    rest: Units,
}

impl Saved {
    /// Reads the unit after the function's.
    ///
    /// # Errors
    /// If it is of another kind of device.
    pub(super) fn load(mut units: Units) -> Result<Saved, Failure> {
        let unit = units.next_of::<PhysicalV1>();
        unit.map(|unit| Saved { unit, rest: units })
            .map_err(|error| Failure::new("read the state of the physical device", error))
    }

    /// Brings the device to this state, stopped.
    ///
    /// # Errors
    /// If it refuses the state, or the stream is damaged.
    pub(super) fn enter(mut self, device: &PhysicalDevice, bound: Bound) -> Result<(), KernelError> {
        let is_kept = bound == (Bound::Software { anew: false })
            && self.unit.device == number(device)?
            && cdev::migration_state(device.fd()).map_err(refused(CALL, plain))? == Some(MigState::Stop);
        let until = Deadline::after(budget::vfio::DATA);
        if is_kept {
            return self.each_piece(until, |_| Ok(()));
        }
        let file = change(device, MigState::Stop).and_then(|_| change(device, MigState::Resuming))?;
        let file = file.ok_or(KernelError::NoStateFile)?;
        self.each_piece(until, |piece| write_all(&file, piece))?;
        drop(file);
        change(device, MigState::Stop).map(drop)
    }

    /// All pieces; the last unit has their total length.
    fn each_piece(
        &mut self,
        until: Deadline,
        mut take: impl FnMut(&[u8]) -> Result<(), KernelError>,
    ) -> Result<(), KernelError> {
        let mut len: u64 = 0;
        loop {
            if until.has_passed() {
                return Err(KernelError::StateSlow);
            }
            let missing = || StreamError::from(ipc::saved::SavedError::Missing { kind: DataEndV1::KIND });
            let unit = self.rest.next_unit()?.ok_or_else(missing)?;
            if unit.kind == DATA && unit.version == DATA_VERSION && unit.body().len() <= DATA_PIECE_MAX {
                take(unit.body())?;
                len = len.saturating_add(unit.body().len() as u64);
                continue;
            }
            let end: DataEndV1 = unit.decode().map_err(StreamError::from)?;
            if end.len != len {
                return Err(KernelError::StateLen { stated: end.len, found: len });
            }
            return match self.rest.next_unit()? {
                None => Ok(()),
                Some(unit) => Err(out_of_place(unit.kind).into()),
            };
        }
    }
}

/// Whether the device could be saved now.
///
/// # Errors
/// Why it could not.
pub(super) fn check(device: &PhysicalDevice) -> Result<(), String> {
    if !device.is_software() {
        return Err("it is a physical device of this host whose DMA goes through the host's SMMU: what it is attached \
                    to there cannot be taken to another process"
            .to_owned());
    }
    if !device.is_stoppable() {
        return Err(
            "it has no migration states (VFIO_MIGRATION_STOP_COPY): its state cannot be read".to_owned()
        );
    }
    Ok(())
}

/// Writes the state of a stopped device, which is stopped after it.
///
/// # Errors
/// If the device or the stream fails, or the state is too long.
pub(super) fn save(
    device: &PhysicalDevice,
    units: &mut UnitWriter<&mut dyn Write>,
) -> Result<(), KernelError> {
    check(device).map_err(|_| KernelError::NotSaved)?;
    units.append(&PhysicalV1 { device: number(device)? })?;
    let until = Deadline::after(budget::vfio::DATA);
    let file = change(device, MigState::StopCopy)?.ok_or(KernelError::NoStateFile)?;
    let copied = copy(&file, until, units);
    drop(file);
    // A failed attempt leaves it stopped too, if possible.
    let stopped = change(device, MigState::Stop).map(drop);
    let len = copied.and_then(|len| stopped.map(|()| len))?;
    device.lent.store(true, Relaxed);
    Ok(units.append(&DataEndV1 { len })?)
}

/// Copies what the file has, piece by piece; returns its length.
fn copy(file: &OwnedFd, until: Deadline, units: &mut UnitWriter<&mut dyn Write>) -> Result<u64, KernelError> {
    let mut piece = vec![0; PIECE_LEN];
    let mut len: u64 = 0;
    loop {
        if until.has_passed() {
            return Err(KernelError::StateSlow);
        }
        let read = match rustix::io::read(file, piece.as_mut_slice()) {
            Err(Errno::INTR) => continue,
            read => read.map_err(refused("reading the device's state", plain))?,
        };
        let Some(bytes) = piece.get(..read).filter(|bytes| !bytes.is_empty()) else { return Ok(len) };
        len = len.saturating_add(bytes.len() as u64);
        if len > SAVED_LEN_MAX {
            return Err(KernelError::StateLong);
        }
        units.append_bytes(DATA, DATA_VERSION, bytes)?;
    }
}

/// Takes the device back after a failed move, in which a next life may have used it: stopped, with its interrupts.
///
/// # Errors
/// If the next life has left it in another state.
pub(super) fn take_back(device: &PhysicalDevice) -> Result<(), KernelError> {
    if !device.lent.swap(false, Relaxed) {
        return Ok(());
    }
    let state = cdev::migration_state(device.fd()).map_err(refused(CALL, plain))?;
    if state != Some(MigState::Stop) {
        return Err(KernelError::NotStopped(state));
    }
    device.interrupts().reconnect()
}

/// The number of its character device.
fn number(device: &PhysicalDevice) -> Result<u64, KernelError> {
    rustix::fs::fstat(device.fd()).map(|stat| stat.st_rdev).map_err(refused("fstat", plain))
}

fn change(device: &PhysicalDevice, state: MigState) -> Result<Option<OwnedFd>, KernelError> {
    cdev::set_migration_state(device.fd(), state).map_err(refused(CALL, plain))
}

fn write_all(file: &OwnedFd, mut bytes: &[u8]) -> Result<(), KernelError> {
    while !bytes.is_empty() {
        match rustix::io::write(file, bytes) {
            Err(Errno::INTR) => {}
            Ok(0) => return Err(KernelError::NoStateFile),
            written => {
                let written = written.map_err(refused("writing the device's state", plain))?;
                bytes = bytes.get(written..).unwrap_or_default();
            }
        }
    }
    Ok(())
}
