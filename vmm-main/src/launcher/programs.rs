// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The programs of a VM, found next to the running one and opened before anything is sealed.
//!
//! The coordinator executes them by descriptor, since it can open no path. They are opened for reading because the
//! spawner looks at the ELF header to refuse what cannot run in an empty root.

use std::fs::File;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::printable;
use crate::problem::Problem;

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
