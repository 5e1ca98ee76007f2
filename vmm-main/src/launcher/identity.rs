// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The files by which another host knows this one, as sealed memory files: opened with the user's rights, by the
//! launcher of a VM that receives its guest, or by the client that has one moved.
//!
//! What is in them is copied inside the kernel: a private key is in the memory of the mover, and of no other process.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use ipc::protocol::mover::{IDENTITY_LEN_MAX, IdentityFile};
use ipc::shm::memory_file;
use rustix::fs::Access;

use super::sealed_copy::sealed_copy;
use crate::config::tls::Tls;
use crate::printable;
use crate::problem::Problem;

/// A whole identity.
pub type Identity = [(IdentityFile, OwnedFd); 3];

/// Opens all of it.
///
/// # Errors
/// If a file cannot be read, or is too long to be what it should be.
pub fn open(tls: &Tls) -> Result<Identity, Problem> {
    let Tls { ca, cert, key, peer: _ } = tls;
    Ok([
        (IdentityFile::Authority, open_one(ca, "--tls-ca")?),
        (IdentityFile::Chain, open_one(cert, "--tls-cert")?),
        (IdentityFile::Key, open_one(key, "--tls-key")?),
    ])
}

fn open_one(path: &Path, flag: &'static str) -> Result<OwnedFd, Problem> {
    copy(path).map_err(|error| {
        let what = format!("the file cannot be used for TLS: {error}");
        Problem::usage(what, printable::path(path), format!("give a readable PEM file with {flag}"))
            .because_of(&error)
    })
}

fn copy(path: &Path) -> io::Result<OwnedFd> {
    sealed_copy(path, Access::READ_OK, memory_file::create("identity")?, IDENTITY_LEN_MAX)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::FileExt;

    use super::*;

    fn written(folder: &Path, name: &str, bytes: &[u8]) -> std::path::PathBuf {
        let path = folder.join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }

    #[test]
    fn identity_is_a_sealed_copy_of_each_file() {
        let folder = tempfile::tempdir().unwrap();
        let [ca, cert, key] = ["ca", "cert", "key"].map(|name| written(folder.path(), name, name.as_bytes()));
        let tls = Tls { ca, cert, key, peer: "host-b".to_owned() };
        let files = open(&tls).unwrap();
        assert_eq!(files.each_ref().map(|(file, _)| *file), IdentityFile::ALL);
        for ((_, memory), expected) in files.into_iter().zip(["ca", "cert", "key"]) {
            let file = File::from(memory);
            let mut bytes = vec![0; expected.len()];
            file.read_exact_at(&mut bytes, 0).unwrap();
            assert_eq!(bytes, expected.as_bytes());
            assert!(file.write_at(b"x", 0).is_err(), "nobody changes it behind the mover's back");
        }
    }

    #[test]
    fn file_that_is_missing_empty_too_long_or_no_regular_one_is_refused_by_its_flag() {
        let folder = tempfile::tempdir().unwrap();
        let good = written(folder.path(), "good", b"x");
        let long = vec![b'x'; usize::try_from(IDENTITY_LEN_MAX).unwrap() + 1];
        let fifo = folder.path().join("fifo");
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        for (key, why) in [
            (folder.path().join("missing"), "No such file"),
            (written(folder.path(), "empty", b""), "it is empty"),
            (written(folder.path(), "long", &long), "it is longer than 1 MiB"),
            (folder.path().to_owned(), "it is not a regular file"),
            // Nobody writes it: who opens it waits.
            (fifo, "it is not a regular file"),
        ] {
            let tls = Tls { ca: good.clone(), cert: good.clone(), key, peer: "host-b".to_owned() };
            let problem = open(&tls).unwrap_err();
            assert!(problem.advice.contains("--tls-key") && problem.what.contains(why), "{problem}");
        }
    }
}
