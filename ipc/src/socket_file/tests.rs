// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What is at the path is replaced only if it is a socket that nobody listens on; what was bound is removed only if it
//! is still the same.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixDatagram, UnixStream};

use tempfile::TempDir;

use super::*;

fn names(folder: &TempDir) -> Vec<String> {
    let entries = fs::read_dir(folder.path()).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort_unstable();
    names
}

#[test]
fn path_that_is_free_is_bound_with_its_mode_and_removed_with_its_owner() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("free.sock");
    let (listener, file) = bind(&path, 0o600).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let _client = UnixStream::connect(file.path()).unwrap();
    listener.accept().unwrap();
    drop(file);
    assert!(names(&folder).is_empty());
}

#[test]
fn socket_that_nobody_listens_on_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("dead.sock");
    drop(UnixListener::bind(&path).unwrap());
    let (_listener, _file) = bind(&path, 0o777).unwrap();
    UnixStream::connect(&path).unwrap();
    assert_eq!(names(&folder), ["dead.sock"]);
}

#[test]
fn socket_that_somebody_listens_on_is_refused_and_stays() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("live.sock");
    let live = UnixListener::bind(&path).unwrap();
    // With no room for clients: each look takes a place and keeps it, and a connect that waits would wait for ever.
    rustix::net::listen(&live, 0).unwrap();
    for _ in 0..3 {
        assert!(matches!(bind(&path, 0o777), Err(BindError::InUse(_))));
    }
    live.accept().unwrap();
    assert_eq!(names(&folder), ["live.sock"]);
}

#[test]
fn whatever_is_no_socket_for_streams_is_refused_and_stays() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::write(at("file"), "precious").unwrap();
    fs::create_dir(at("folder")).unwrap();
    drop(UnixListener::bind(at("dead.sock")).unwrap());
    std::os::unix::fs::symlink(at("dead.sock"), at("link")).unwrap();
    rustix::fs::mknodat(CWD, at("fifo"), rustix::fs::FileType::Fifo, Mode::RUSR, 0).unwrap();
    let _datagrams = UnixDatagram::bind(at("datagrams")).unwrap();
    let before = names(&folder);
    for (name, kind) in
        [("file", "a regular file"), ("folder", "a folder"), ("link", "a symbolic link"), ("fifo", "a FIFO")]
    {
        let error = bind(&at(name), 0o777).unwrap_err();
        assert!(
            matches!(error, BindError::NotASocket { kind: found, .. } if found == kind),
            "{name}: {error}"
        );
    }
    assert!(matches!(bind(&at("datagrams"), 0o777), Err(BindError::InUse(_))));
    assert_eq!(names(&folder), before);
    assert_eq!(fs::read(at("file")).unwrap(), b"precious");
}

#[test]
fn owner_removes_neither_a_newer_socket_nor_a_file_at_its_path() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("name.sock");
    let (old_listener, old) = bind(&path, 0o777).unwrap();
    drop(old_listener);
    // The newer one finds the old one dead; its inode may have the same number.
    let (_listener, newer) = bind(&path, 0o777).unwrap();
    drop(old);
    UnixStream::connect(&path).unwrap();
    fs::remove_file(&path).unwrap();
    fs::write(&path, "precious").unwrap();
    drop(newer);
    assert_eq!(fs::read(&path).unwrap(), b"precious");
    assert_eq!(names(&folder), ["name.sock"]);
}

#[test]
fn socket_that_comes_alive_at_the_moment_of_removal_is_put_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("late.sock");
    let _live = UnixListener::bind(&path).unwrap();
    let id = FileId::of(&fs::symlink_metadata(&path).unwrap());
    remove(&path, id, is_dead).unwrap();
    UnixStream::connect(&path).unwrap();
    assert_eq!(names(&folder), ["late.sock"]);
}

#[test]
fn file_that_takes_the_path_at_the_moment_of_removal_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("swapped.sock");
    drop(UnixListener::bind(&path).unwrap());
    let id = FileId::of(&fs::symlink_metadata(&path).unwrap());
    // Somebody writes a file there while the socket is looked at aside, and the socket has come alive: both are kept.
    let error = remove(&path, id, |_| {
        fs::write(&path, "precious").unwrap();
        false
    });
    let kept = error.unwrap_err().to_string();
    assert!(kept.contains("what was there is now"), "{kept}");
    assert_eq!(fs::read(&path).unwrap(), b"precious");
    assert_eq!(names(&folder).len(), 2);
}
