// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The programs of a VM, found next to the running one and opened before anything is sealed; and the one that a user
//! names for a process that is started anew.
//!
//! The coordinator executes them by descriptor, since it can open no path. They are opened for reading because the
//! spawner looks at the ELF header to refuse what cannot run in an empty root. What it may execute was settled when it
//! was sealed, but for files in memory: so a later program is copied into one, sealed against every change. What runs
//! is what was read, whatever becomes of the file.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};

use ipc::hello::{PROGRAM_MARK_HEAD, PROTOCOL};
use ipc::shm::memory_file;
use rustix::fs::Access;

use super::sealed_copy::sealed_copy;
use crate::printable;
use crate::problem::Problem;

/// The longest program that is copied: one with all of its debug information has some 100 MiB.
const COPY_LEN_MAX: u64 = 512 << 20;

/// Copies the program at `path`, as the user may read and execute it, into a memory file that cannot be changed.
///
/// # Errors
/// If it is none that this user may execute, or the host has no room for it.
pub fn copy(path: &Path) -> io::Result<OwnedFd> {
    if !path.is_absolute() {
        return Err(io::Error::other("its path is not absolute"));
    }
    let name = path.file_name().map_or_else(|| "program".into(), |name| name.to_string_lossy());
    // Whoever asks is not to be given what could only be read.
    let wanted = Access::READ_OK | Access::EXEC_OK;
    let copy = sealed_copy(path, wanted, memory_file::create_executable(&name)?, COPY_LEN_MAX)?;
    let spoken = protocols(&File::from(copy.try_clone()?))?;
    if spoken.contains(&PROTOCOL) {
        return Ok(copy);
    }
    Err(io::Error::other(match spoken.first() {
        Some(other) => format!("it speaks protocol {other}, and this VM protocol {PROTOCOL}"),
        None => "it is not a program of Bulkhead's processes (it has no protocol mark)".to_owned(),
    }))
}

/// The protocols behind each mark in a program.
fn protocols(program: &File) -> io::Result<Vec<u32>> {
    const PIECE_LEN: usize = 1 << 20;
    let mark_len = PROGRAM_MARK_HEAD.len() + size_of::<u32>();
    let (mut spoken, mut piece, mut at) = (Vec::new(), vec![0; PIECE_LEN], 0);
    loop {
        let len = program.read_at(&mut piece, at)?;
        let found = piece.get(..len).unwrap_or_default();
        let marks = found.windows(mark_len).filter_map(|window| window.strip_prefix(&PROGRAM_MARK_HEAD));
        spoken.extend(marks.filter_map(|protocol| Some(u32::from_le_bytes(protocol.try_into().ok()?))));
        if len < mark_len {
            return Ok(spoken);
        }
        // A mark may begin at the end of the piece.
        at += (len + 1).saturating_sub(mark_len) as u64;
    }
}

/// Opens `name` in the folder of the running program.
pub fn open(name: &str) -> Result<File, Problem> {
    open_in(&folder()?, name)
}

/// The path of `name` in the folder of the running program.
pub fn path(name: &str) -> Result<PathBuf, Problem> {
    Ok(folder()?.join(name))
}

fn folder() -> Result<PathBuf, Problem> {
    let own = std::env::current_exe().map_err(|error| {
        Problem::host(
            format!("the running program's path is unknown: {error}"),
            "/proc/self/exe",
            "mount /proc",
        )
        .because_of(&error)
    })?;
    Ok(own.parent().unwrap_or(Path::new("/")).to_path_buf())
}

/// Opens the running program itself.
pub fn open_own() -> Result<File, Problem> {
    File::open("/proc/self/exe").map_err(|error| {
        Problem::host(
            format!("the running program cannot be opened: {error}"),
            "/proc/self/exe",
            "make it readable for this user",
        )
        .because_of(&error)
    })
}

/// Opens the program `name` in `folder`.
fn open_in(folder: &Path, name: &str) -> Result<File, Problem> {
    let path = folder.join(name);
    let place = printable::path(&path);
    let advice = "install the programs of one build of Bulkhead in one folder";
    let file = File::open(&path).map_err(|error| {
        let what = format!("a program of the VM cannot be opened: {error}");
        Problem::host(what, place.clone(), advice).because_of(&error)
    })?;
    let metadata = file.metadata().map_err(|error| {
        let what = format!("a program of the VM cannot be looked at: {error}");
        Problem::host(what, place.clone(), advice).because_of(&error)
    })?;
    if !metadata.is_file() || metadata.permissions().mode() & 0o111 == 0 {
        return Err(Problem::host("a program of the VM is not an executable file", place, advice));
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copy_of_a_program_cannot_be_changed_and_what_is_none_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let program = |name: &str, before: usize, protocol: u32| {
            let path = folder.path().join(name);
            let mark =
                [&vec![b'p'; before][..], &PROGRAM_MARK_HEAD, &protocol.to_le_bytes(), b"rest"].concat();
            std::fs::write(&path, mark).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).unwrap();
            path
        };
        // The mark in the middle of a piece, and over the ends of two.
        for before in [0, 7, (1 << 20) - 51, (1 << 20) - 1, 1 << 20] {
            let copied = File::from(copy(&program("program", before, PROTOCOL)).unwrap());
            assert_eq!(copied.metadata().unwrap().len(), before as u64 + 56);
            assert!(copied.set_len(0).is_err() && io::Write::write(&mut &copied, b"x").is_err());
        }
        let other = copy(&program("other", 9, PROTOCOL + 1)).unwrap_err().to_string();
        assert_eq!(other, format!("it speaks protocol {}, and this VM protocol {PROTOCOL}", PROTOCOL + 1));
        let cut = program("cut", 9, PROTOCOL);
        File::options().write(true).open(&cut).unwrap().set_len(9 + 50).unwrap();
        assert!(copy(&cut).unwrap_err().to_string().contains("no protocol mark"));
        let text = folder.path().join("text");
        std::fs::write(&text, "x").unwrap();
        assert_eq!(copy(&text).unwrap_err().kind(), io::ErrorKind::PermissionDenied);
        assert_eq!(copy(folder.path()).unwrap_err().to_string(), "it is not a regular file");
        assert!(copy(Path::new("bulkhead-nvme")).unwrap_err().to_string().contains("not absolute"));
    }

    #[test]
    fn program_missing_or_not_executable_is_refused_by_path() {
        let folder = tempfile::tempdir().unwrap();
        let missing = open_in(folder.path(), "bulkhead-smmu").unwrap_err();
        assert!(missing.place.ends_with("/bulkhead-smmu"), "{missing}");
        std::fs::write(folder.path().join("bulkhead-smmu"), "x").unwrap();
        assert!(open_in(folder.path(), "bulkhead-smmu").unwrap_err().what.contains("not an executable"));
        assert!(open_in(folder.path(), ".").unwrap_err().what.contains("not an executable"));
        assert!(open_own().is_ok());
    }
}
