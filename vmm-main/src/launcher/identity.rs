// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The files by which another host knows this one, as sealed memory files: opened with the user's rights, by the
//! launcher of a VM that receives its guest, or by the client that has one moved.
//!
//! What is in them is copied by the kernel: a private key is in the memory of the mover, and of no other process.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::Path;

use ipc::protocol::mover::{IDENTITY_LEN_MAX, IdentityFile};
use ipc::shm::memory_file;
use rustix::fs::{SealFlags, fcntl_add_seals};

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
    sealed_copy(path).map_err(|error| {
        let what = format!("the file cannot be used for TLS: {error}");
        Problem::usage(what, printable::path(path), format!("give a readable PEM file with {flag}"))
            .because_of(&error)
    })
}

fn sealed_copy(path: &Path) -> io::Result<OwnedFd> {
    let from = File::open(path)?;
    if !from.metadata()?.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    let mut memory = File::from(memory_file::create("identity")?);
    // By the kernel, from file to file.
    let len = io::copy(&mut from.take(IDENTITY_LEN_MAX + 1), &mut memory)?;
    if !(1..=IDENTITY_LEN_MAX).contains(&len) {
        return Err(io::Error::other(format!("it has {len} bytes, or more")));
    }
    fcntl_add_seals(&memory, SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
    Ok(memory.into())
}

#[cfg(test)]
mod tests {
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
    fn file_that_is_missing_empty_too_long_or_a_folder_is_refused_by_its_flag() {
        let folder = tempfile::tempdir().unwrap();
        let good = written(folder.path(), "good", b"x");
        let long = vec![b'x'; usize::try_from(IDENTITY_LEN_MAX).unwrap() + 1];
        for key in [
            folder.path().join("missing"),
            written(folder.path(), "empty", b""),
            written(folder.path(), "long", &long),
            folder.path().to_owned(),
        ] {
            let tls = Tls { ca: good.clone(), cert: good.clone(), key, peer: "host-b".to_owned() };
            let problem = open(&tls).unwrap_err();
            assert!(problem.advice.contains("--tls-key"), "{problem}");
        }
    }
}
