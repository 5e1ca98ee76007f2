// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Raw disk images, opened with the user's rights and locked for one VM.
//!
//! Invalid images are refused here, where the message can name the file: the sealed controller knows no path.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use ipc::protocol::budget;
use rustix::fs::{FlockOperation, OFlags, SeekFrom, flock, seek};
use rustix::io::Errno;

use super::{holder, log};
use crate::config::size;
use crate::coordinator::roles::NVME_BLOCK_LEN;
use crate::coordinator::spans::STOP_SPAN;
use crate::printable;
use crate::problem::Problem;

/// For a VM that is ending: its processes exist for a moment longer.
const ENDING_SPAN: Duration = Duration::from_secs(1);
/// For one whose launcher was killed: the time its coordinator gives its processes, with slack for a busy host.
const ORPHANED_SPAN: Duration = budget::sum(&[STOP_SPAN, budget::SLACK]);
/// Poll interval: flock has no timeout.
const LOCK_INTERVAL: Duration = Duration::from_millis(20);

/// Opens an image for this VM alone: two guests that write one file system destroy it. One that is only read may be
/// shared with others that only read it.
pub fn open(image: &Path, readonly: bool) -> Result<File, Problem> {
    let file = open_unlocked(image, readonly)?;
    let kind = match readonly {
        true => FlockOperation::NonBlockingLockShared,
        false => FlockOperation::NonBlockingLockExclusive,
    };
    lock(&file, kind, &printable::path(image))?;
    Ok(file)
}

/// Opens an image that is still in use by the host that its guest comes from: it is locked when that has let go of it.
pub fn open_unlocked(image: &Path, readonly: bool) -> Result<File, Problem> {
    let place = printable::path(image);
    let access = if readonly { "reading" } else { "reading and writing" };
    let refused = |error: io::Error| {
        let advice = match error.kind() {
            ErrorKind::NotFound => "check the path, or make an image, such as by `truncate -s 10G FILE`",
            ErrorKind::PermissionDenied if readonly => {
                "let this user read it, and search the folders above it"
            }
            ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
                "let this user read and write it, and search the folders above it; or give `readonly = true` for the device"
            }
            _ => "give a raw image file or a block device",
        };
        Problem::usage(format!("the image cannot be opened for {access}: {error}"), &place, advice)
            .because_of(&error)
    };
    // Before it is opened: opening a device may have side effects.
    check_kind(&fs::metadata(image).map_err(refused)?, &place)?;
    let flags = (OFlags::NONBLOCK | OFlags::NOCTTY).bits().cast_signed();
    let file =
        OpenOptions::new().read(true).write(!readonly).custom_flags(flags).open(image).map_err(refused)?;
    check_kind(&file.metadata().map_err(refused)?, &place)?;
    // The length of a block device is where its end is.
    let len = seek(&file, SeekFrom::End(0)).map_err(|errno| refused(errno.into()))?;
    check_len(len, &place)?;
    Ok(file)
}

/// Locks the image. A VM that is just ending is waited for: also one whose launcher was killed, and whose processes are
/// still there for a moment.
fn lock(file: &File, kind: FlockOperation, place: &str) -> Result<(), Problem> {
    let begun = Instant::now();
    let mut told = false;
    loop {
        match flock(file, kind) {
            Ok(()) => return Ok(()),
            Err(Errno::WOULDBLOCK) => {}
            Err(errno) => {
                let error = io::Error::from(errno);
                let what = format!("the image cannot be locked against a second user: {error}");
                let advice = "put it on a file system with locks (flock)";
                return Err(Problem::usage(what, place, advice).because_of(&error));
            }
        }
        let waited = begun.elapsed();
        if waited >= ENDING_SPAN && holder::of_lock_lives(file) || waited >= ORPHANED_SPAN {
            return Err(in_use(file, place));
        }
        if waited >= ENDING_SPAN && !std::mem::replace(&mut told, true) {
            let seconds = ORPHANED_SPAN.as_secs();
            log::tell(&format!(
                "{place} is in use by processes whose launcher has ended: waiting for {seconds} s at most"
            ));
        }
        std::thread::sleep(LOCK_INTERVAL);
    }
}

fn check_kind(metadata: &Metadata, place: &str) -> Result<(), Problem> {
    let kind = metadata.file_type();
    let kind = match () {
        () if kind.is_file() || kind.is_block_device() => return Ok(()),
        () if kind.is_dir() => "a directory",
        () if kind.is_fifo() => "a FIFO",
        () if kind.is_char_device() => "a character device",
        () if kind.is_socket() => "a socket",
        () => "something else",
    };
    Err(Problem::usage(
        format!("an image is a regular file or a block device, and this is {kind}"),
        place,
        "give a raw image file or a block device",
    ))
}

fn check_len(len: u64, place: &str) -> Result<(), Problem> {
    let block_len = u64::from(NVME_BLOCK_LEN);
    if len == 0 {
        return Err(Problem::usage(
            "the image is empty",
            place,
            "give it the size that the disk shall have, such as by `truncate -s 10G FILE`",
        ));
    }
    if !len.is_multiple_of(block_len) {
        let over = len % block_len;
        return Err(Problem::usage(
            format!(
                "the image's {} ({len} bytes) are {over} more than a whole number of blocks of {block_len} bytes",
                size::about(len)
            ),
            place,
            format!(
                "check that it is a raw image and a whole copy; `truncate -s %{block_len} FILE` fills up the last block"
            ),
        ));
    }
    Ok(())
}

fn in_use(file: &File, place: &str) -> Problem {
    let unseen = || {
        "a process that this user cannot see: another user's, or on another host or in a container".to_owned()
    };
    let holder = holder::of_lock(file).unwrap_or_else(unseen);
    Problem::usage(
        format!("the image is in use by {holder}"),
        place,
        "stop that first, or give this VM an image of its own",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(path: &Path) -> Problem {
        let problem = open(path, false).unwrap_err();
        assert_eq!(problem.class, crate::problem::Class::Usage, "{problem}");
        assert_eq!(problem.place, printable::path(path));
        problem
    }

    #[test]
    fn image_that_cannot_be_a_disk_is_refused_by_name_and_reason() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let sized = |name: &str, len: u64| {
            File::create(at(name)).unwrap().set_len(len).unwrap();
            at(name)
        };
        assert!(refused(&sized("empty", 0)).what.contains("is empty"));
        let odd = refused(&sized("odd", 1_000_001));
        assert!(odd.what.contains("976.5 KiB (1000001 bytes)") && odd.advice.contains("raw image"), "{odd}");
        rustix::fs::mkfifoat(rustix::fs::CWD, at("fifo"), rustix::fs::Mode::RWXU).unwrap();
        assert!(refused(&at("fifo")).what.contains("is a FIFO"));
        let _listener = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
        assert!(refused(&at("socket")).what.contains("is a socket"));
        assert!(refused(folder.path()).what.contains("is a directory"));
        assert!(refused(Path::new("/dev/null")).what.contains("is a character device"));
        assert!(refused(&at("none")).advice.contains("truncate -s"));
        assert!(open(&sized("good", 1 << 20), false).is_ok());
    }

    #[test]
    fn image_that_is_only_read_is_shared_with_readers_and_with_nobody_else() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(4096).unwrap();
        let reader = open(file.path(), true).unwrap();
        let _other = open(file.path(), true).unwrap();
        assert!(refused(file.path()).what.contains("in use"));
        let written = std::io::Write::write(&mut &reader, b"x");
        assert!(written.is_err(), "the descriptor itself takes no writes");
        drop((reader, _other));
        let _writer = open(file.path(), false).unwrap();
        assert!(open(file.path(), true).unwrap_err().what.contains("in use"));
    }

    #[test]
    fn image_in_use_says_by_whom() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(4096).unwrap();
        let first = open(file.path(), false).unwrap();
        let problem = refused(file.path());
        assert!(problem.what.contains("in use by this VM itself"), "{problem}");
        drop(first);
        assert!(open(file.path(), false).is_ok());
    }
}
