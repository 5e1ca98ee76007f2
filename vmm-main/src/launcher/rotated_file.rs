// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A file of bounded size: at its limit it is renamed to `NAME.1`, and a new one is begun.
//!
//! The newest output is kept, between one and two limits of it, and the writer is never blocked. Only files of ours
//! are replaced: `NAME.1` if this run made it or if it was there beside `NAME` at the start, as an earlier run leaves
//! the two; at a default path, if it begins with one of our heads.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, OFlags, flock};

/// Such a file.
#[derive(Debug)]
pub struct RotatedFile {
    path: PathBuf,
    older: PathBuf,
    file: File,
    len: u64,
    len_max: u64,
    /// What each new file begins with.
    head: String,
}

impl RotatedFile {
    /// Appends to the file at `path`, which the user chose: its contents are kept for one rotation at least.
    ///
    /// # Errors
    /// If it is not a regular file, is written by another process, or `NAME.1` is not of an earlier run.
    pub fn append(path: &Path, len_max: u64) -> io::Result<Self> {
        let older = older(path);
        let is_new = is_missing(path)?;
        match fs::symlink_metadata(&older) {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
            Ok(found) if found.is_file() && !is_new => {}
            Ok(_) => return Err(taken(&older)),
        }
        let file = open(path, OpenOptions::new().create(true).append(true))?;
        let len = file.metadata()?.len();
        Ok(Self { path: path.to_owned(), older, file, len, len_max, head: String::new() })
    }

    /// Begins a new file with the line `head`; the last run's becomes `NAME.1`. For a default path: a file that does
    /// not begin with one of `heads` is not ours, and is not moved.
    ///
    /// # Errors
    /// If one of the two is not ours, or the host refuses.
    pub fn begin(path: &Path, len_max: u64, head: &str, heads: &[&str]) -> io::Result<Self> {
        let older = older(path);
        for path in [path, &older] {
            if !is_missing(path)? && !begins_with(path, heads)? {
                return Err(taken(path));
            }
        }
        if !is_missing(path)? {
            fs::rename(path, &older)?;
        }
        let file = open(path, OpenOptions::new().create_new(true).append(true))?;
        let mut begun = Self { path: path.to_owned(), older, file, len: 0, len_max, head: head.to_owned() };
        begun.write_all(head.as_bytes())?;
        Ok(begun)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn rotate(&mut self) -> io::Result<()> {
        match fs::symlink_metadata(&self.path) {
            Ok(found) if is_same(&found, &self.file.metadata()?) => fs::rename(&self.path, &self.older)?,
            // Another program has made a file of that name: it is not ours to move.
            Ok(_) => return Err(taken(&self.path)),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        self.file = open(&self.path, OpenOptions::new().create_new(true).append(true))?;
        self.len = u64::try_from(self.head.len()).unwrap_or(u64::MAX);
        self.file.write_all(self.head.as_bytes())
    }
}

impl Write for RotatedFile {
    /// Takes all of `bytes` or fails.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let len = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        if self.len > 0 && self.len.saturating_add(len) > self.len_max {
            self.rotate()?;
        }
        self.len = self.len.saturating_add(len);
        self.file.write_all(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Opens a regular file and locks it for writing. Opening a FIFO would block, and a symbolic link may lead anywhere.
fn open(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    let flags = i32::try_from((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits()).unwrap_or(0);
    let file = options.mode(0o600).custom_flags(flags).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(ErrorKind::InvalidInput, "it is not a regular file"));
    }
    flock(&file, FlockOperation::NonBlockingLockExclusive)
        .map_err(|_| io::Error::new(ErrorKind::ResourceBusy, "another process writes it"))?;
    Ok(file)
}

/// Whether it is a regular file that begins with one of `heads`.
fn begins_with(path: &Path, heads: &[&str]) -> io::Result<bool> {
    if !fs::symlink_metadata(path)?.is_file() {
        return Ok(false);
    }
    let longest = heads.iter().map(|head| head.len()).max().unwrap_or(0);
    let mut bytes = Vec::new();
    File::open(path)?.take(u64::try_from(longest).unwrap_or(0)).read_to_end(&mut bytes)?;
    Ok(heads.iter().any(|head| bytes.starts_with(head.as_bytes())))
}

fn older(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".1");
    name.into()
}

fn is_missing(path: &Path) -> io::Result<bool> {
    match fs::symlink_metadata(path) {
        Ok(_) => Ok(false),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(true),
        Err(error) => Err(error),
    }
}

fn is_same(one: &Metadata, other: &Metadata) -> bool {
    (one.dev(), one.ino()) == (other.dev(), other.ino())
}

fn taken(path: &Path) -> io::Error {
    let what = format!("{} is there and was not made by it: move it away", crate::printable::path(path));
    io::Error::new(ErrorKind::AlreadyExists, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(path: &Path) -> String {
        fs::read_to_string(path).unwrap()
    }

    #[test]
    fn rotated_file_keeps_the_newest_within_two_limits() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let mut file = RotatedFile::append(&path, 1000).unwrap();
        for number in 0..10_000 {
            file.write_all(format!("{number:09}\n").as_bytes()).unwrap();
        }
        let kept = read(&older(&path)) + &read(&path);
        assert!((1000..=2000).contains(&kept.len()), "{}", kept.len());
        assert!(kept.ends_with("000009999\n"));
        let first: usize = kept[..9].parse().unwrap();
        assert_eq!(kept.lines().count(), 10_000 - first, "without a gap");
        // A piece longer than the limit is written all the same.
        file.write_all(&[b'x'; 3000]).unwrap();
        assert_eq!(read(&path).len(), 3000);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    }

    #[test]
    fn rotated_file_goes_on_where_an_earlier_run_ended() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        RotatedFile::append(&path, 10).unwrap().write_all(b"earlier\n").unwrap();
        let mut file = RotatedFile::append(&path, 10).unwrap();
        assert_eq!(RotatedFile::append(&path, 10).unwrap_err().kind(), ErrorKind::ResourceBusy);
        file.write_all(b"x\n").unwrap();
        assert_eq!(read(&path), "earlier\nx\n");
        file.write_all(b"later\n").unwrap();
        assert_eq!((read(&older(&path)).as_str(), read(&path).as_str()), ("earlier\nx\n", "later\n"));
        drop(file);
        // Both are known now.
        RotatedFile::append(&path, 10).unwrap().write_all(b"and later\n").unwrap();
        assert_eq!(read(&older(&path)), "later\n");
    }

    #[test]
    fn rotated_file_at_a_path_that_nobody_chose_moves_only_its_own_kind() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vm.log");
        let begin = || RotatedFile::begin(&path, 20, "ours\n", &["ours\n", "also ours\n"]);
        begin().unwrap().write_all(b"first\n").unwrap();
        let mut second = begin().unwrap();
        assert_eq!((read(&older(&path)).as_str(), read(&path).as_str()), ("ours\nfirst\n", "ours\n"));
        second.write_all(b"0123456789012\n").unwrap();
        second.write_all(b"x\n").unwrap();
        assert_eq!(
            (read(&older(&path)).as_str(), read(&path).as_str()),
            ("ours\n0123456789012\n", "ours\nx\n")
        );
        for (foreign, other) in [(path.clone(), older(&path)), (older(&path), path.clone())] {
            fs::write(&foreign, "notes").unwrap();
            fs::write(&other, "also ours\n").unwrap();
            assert!(begin().unwrap_err().to_string().contains("move it away"));
            assert_eq!((read(&foreign).as_str(), read(&other).as_str()), ("notes", "also ours\n"));
        }
    }

    #[test]
    fn rotated_file_replaces_nothing_that_it_did_not_make() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        fs::write(older(&path), "precious").unwrap();
        assert!(RotatedFile::append(&path, 10).unwrap_err().to_string().contains("move it away"));
        assert_eq!(read(&older(&path)), "precious");
        assert!(!path.exists());
        fs::remove_file(older(&path)).unwrap();
        // Moved away and another put there while it runs.
        let mut file = RotatedFile::append(&path, 10).unwrap();
        file.write_all(b"12345678\n").unwrap();
        fs::rename(&path, folder.path().join("kept")).unwrap();
        fs::write(&path, "precious").unwrap();
        assert!(file.write_all(b"12345678\n").is_err());
        assert_eq!(read(&path), "precious");
        fs::remove_file(&path).unwrap();
        file.write_all(b"again\n").unwrap();
        assert_eq!(read(&path), "again\n");
        for (name, what) in [("folder", 0), ("fifo", 1), ("link", 2)] {
            let at = folder.path().join(name);
            match what {
                0 => fs::create_dir(&at).unwrap(),
                1 => rustix::fs::mknodat(
                    rustix::fs::CWD,
                    &at,
                    rustix::fs::FileType::Fifo,
                    rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
                    0,
                )
                .unwrap(),
                _ => std::os::unix::fs::symlink(&path, &at).unwrap(),
            }
            assert!(RotatedFile::append(&at, 10).is_err(), "{name}");
        }
    }
}
