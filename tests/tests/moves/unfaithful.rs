// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Programs that do not keep a promise on which a migration rests, and say that they do: what is tested is whether that
//! is noticed by the check of the guest's data. And one that keeps all, and takes its time.
//!
//! Which it is, is a byte in the copy of this suite's executable that a machine is given.

use std::fs::{self, File};
use std::hint::black_box;
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, OnceLock};
use std::time::{Duration, Instant};

use dev_nvme::service::managed::NvmeProgram;
use dev_smmu::service::SmmuProgram;
use dev_vfio::iommu::HostIommu;
use dev_vfio::service::{Descriptors, VfioProgram};
use dev_vfio::vfio_user::VfioUserDevice;
use ipc::addr::{Iova, PAGE_LEN, StreamId};
use ipc::protocol::control::{DirtyLogOp, DirtyLogState, Failure, StreamReplay};
use ipc::protocol::stage1::Attachment;
use ipc::protocol::vfio::VfioConfig;
use ipc::shm::dirty_log::DirtyLog;
use ipc::shm::region::Region;
use process::{Configured, Context, Program, Source};

use crate::altered::Altered;
use crate::traffic::DMA_ADDRESSES;

/// Patched in each copy: its last byte.
static MARK: [u8; 27] = *b"MOVES-UNFAITHFUL-PROGRAM-AT";
const LAST: usize = MARK.len() - 1;

/// What a copy of the executable does in a program's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Breach {
    /// A device's process begins with its stream attached to abort.
    NoReplay,
    /// The vSMMU's process replays only after devices and CPUs have begun.
    LateReplay,
    /// A device's process remembers the IOVAs of what is written, and looks up their pages when its log is asked for.
    LogByIova,
    /// A disk's controller takes [`SLOW`] to load, and to save.
    Slow,
    /// A disk's controller ends when it looks at its checkpoint.
    BadCheckpoint,
}

impl Breach {
    const fn byte(self) -> u8 {
        match self {
            Self::NoReplay => b'0',
            Self::LateReplay => b'1',
            Self::LogByIova => b'2',
            Self::Slow => b'3',
            Self::BadCheckpoint => b'4',
        }
    }

    /// That of this executable, if it is such a copy.
    pub fn of_this() -> Option<Self> {
        let byte = black_box(&MARK)[LAST];
        let all = [Self::NoReplay, Self::LateReplay, Self::LogByIova, Self::Slow, Self::BadCheckpoint];
        all.into_iter().find(|breach| breach.byte() == byte)
    }

    /// Writes a copy of this executable that commits it.
    pub fn write(self, to: &Path) {
        let mut own = Vec::new();
        File::open("/proc/self/exe").unwrap().read_to_end(&mut own).unwrap();
        let marks: Vec<usize> = own
            .windows(MARK.len())
            .enumerate()
            .filter(|(_, part)| part[..LAST] == MARK[..LAST])
            .map(|(at, _)| at)
            .collect();
        assert!(!marks.is_empty());
        for at in marks {
            own[at + LAST] = self.byte();
        }
        fs::write(to, own).unwrap();
        fs::set_permissions(to, fs::Permissions::from_mode(0o755)).unwrap();
    }
}

type Smmu = SmmuProgram;
type Vfio = VfioProgram<VfioUserDevice>;

/// The device's stream.
static STREAM: OnceLock<StreamId> = OnceLock::new();

/// The device's process whose DMA begins attached to abort, as if nothing had been replayed. (A vSMMU that left it out
/// would do it in its first turn: it attaches whatever is not attached as its tables say.)
pub struct NoReplay;

impl Altered for NoReplay {
    type Of = Vfio;

    fn configure(
        config: VfioConfig,
        given: Descriptors<VfioUserDevice>,
        context: &Context,
    ) -> Result<<Vfio as Program>::Ready, Failure> {
        assert!(STREAM.set(config.stream).is_ok());
        Vfio::configure(config, given, context)
    }
    fn go(armed: &<Vfio as Program>::Armed, context: &Context) {
        armed.iommu().attach(*STREAM.get().unwrap(), Attachment::Abort).unwrap();
        Vfio::go(armed, context);
    }
}

/// How long a slow one loads, and saves.
pub const SLOW: Duration = Duration::from_millis(50);
/// What it logs before and behind a load, and a save.
pub const LOADS: [&str; 2] = ["a slow load begins", "a slow load is over"];
pub const SAVES: [&str; 2] = ["a slow save begins", "a slow save is over"];

/// The controller that takes its time.
pub struct Slow;

fn take_time([begins, is_over]: [&str; 2]) {
    ipc::log::info!("{begins}");
    // Sealed processes do not sleep, and nobody notifies this one.
    let (lock, never) = (Mutex::new(()), Condvar::new());
    let _ = never.wait_timeout_while(lock.lock().unwrap(), SLOW, |()| true);
    ipc::log::info!("{is_over}");
}

impl Altered for Slow {
    type Of = NvmeProgram;

    fn load(
        ready: <NvmeProgram as Program>::Ready,
        source: Source,
        context: &Context,
    ) -> Result<<NvmeProgram as Program>::Loaded, Failure> {
        take_time(LOADS);
        NvmeProgram::load(ready, source, context)
    }
    fn save(armed: &<NvmeProgram as Program>::Armed, into: &mut dyn Write) -> Result<(), Failure> {
        take_time(SAVES);
        NvmeProgram::save(armed, into)
    }
}

/// The controller that has a fault which its checkpoint brings out.
pub struct BadCheckpoint;

impl Altered for BadCheckpoint {
    type Of = NvmeProgram;

    fn load(
        ready: <NvmeProgram as Program>::Ready,
        source: Source,
        context: &Context,
    ) -> Result<<NvmeProgram as Program>::Loaded, Failure> {
        if matches!(source, Source::Checkpoint) {
            std::process::abort();
        }
        NvmeProgram::load(ready, source, context)
    }
}

/// How long devices and CPUs run before the replay.
const LATE: Duration = Duration::from_secs(1);

/// Since when they do, and what the vSMMU begins with.
static BEGUN: OnceLock<(Instant, Context)> = OnceLock::new();
static REPLAYED: AtomicBool = AtomicBool::new(false);

/// The vSMMU that replays late, and begins late: when it is asked for a heartbeat that comes long enough after all
/// others have begun.
pub struct LateReplay;

impl Altered for LateReplay {
    type Of = Smmu;

    fn replay(_armed: &<Smmu as Program>::Armed) -> Result<Option<Vec<StreamReplay>>, Failure> {
        Ok(Some(Vec::new()))
    }
    fn go(_armed: &<Smmu as Program>::Armed, context: &Context) {
        let _ = BEGUN.set((Instant::now(), context.clone()));
    }
    fn turns(armed: &<Smmu as Program>::Armed) -> Option<u64> {
        let due = BEGUN.get().filter(|(begun, _)| begun.elapsed() >= LATE);
        if let Some((_, context)) = due
            && !REPLAYED.swap(true, Ordering::Relaxed)
        {
            // What becomes of it is seen by the guest.
            let _ = Smmu::replay(armed);
            Smmu::go(armed, context);
        }
        Smmu::turns(armed)
    }
}

/// The log, as this alteration has it beside the program, and its memory object.
static LOG: OnceLock<(DirtyLog, Region)> = OnceLock::new();
/// The bitmaps are behind its header, which has a page.
const BITMAPS: u64 = PAGE_LEN;

/// The device's process that logs by IOVA.
///
/// It has the best such log there can be: every IOVA at which the test has a device write is held for written. The page
/// of each is what is mapped there when the log is asked for; what the program has marked itself by then is forgotten.
pub struct LogByIova;

impl Altered for LogByIova {
    type Of = Vfio;

    fn configure(
        config: VfioConfig,
        given: Descriptors<VfioUserDevice>,
        context: &Context,
    ) -> Result<<Vfio as Program>::Ready, Failure> {
        let object = given.dirty_log.try_clone().unwrap();
        let region = Region::from_fd(object, DirtyLog::region_len(&config.ram)).unwrap();
        let log = DirtyLog::attach(&region, &config.ram).unwrap();
        assert!(LOG.set((log, region)).is_ok());
        Vfio::configure(config, given, context)
    }
    fn go(armed: &<Vfio as Program>::Armed, context: &Context) {
        LOG.get().unwrap().0.adopt();
        Vfio::go(armed, context);
    }
    fn dirty_log(configured: Configured<'_, Vfio>, op: DirtyLogOp) -> Result<DirtyLogState, Failure> {
        let (log, object) = LOG.get().unwrap();
        match (&configured, op) {
            (_, DirtyLogOp::Enable { epoch }) => log.enable(epoch),
            (Configured::Armed(armed), DirtyLogOp::Rearm) => {
                // No transfer is under way while it is locked.
                let mut iommu = armed.iommu();
                let len = usize::try_from(object.len() - BITMAPS).unwrap();
                object.file().write_all_at(&vec![0; len], BITMAPS).unwrap();
                for iova in DMA_ADDRESSES.step_by(PAGE_LEN.try_into().unwrap()) {
                    if let Ok(gpa) = iommu.write_target(Iova(iova)) {
                        log.mark(gpa, 1);
                    }
                }
                // The guest is not told of addresses that it has not mapped: no device has used them.
                while iommu.next_fault().is_some() {}
            }
            _ => {}
        }
        Vfio::dirty_log(configured, op)
    }
}
