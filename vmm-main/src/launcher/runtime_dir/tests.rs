// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The folder and the socket in it: private, replaced when dead, refused when alive, gone when dropped.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;

use super::*;

fn uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

#[test]
fn runtime_dir_of_wrong_kind_mode_or_owner_is_refused() {
    let base = tempfile::tempdir().unwrap();
    let path = base.path().join("bulkhead");
    assert!(RuntimeDir::at(path.clone(), uid()).is_ok());
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o700);
    assert!(RuntimeDir::at(path.clone(), uid() + 1).is_err());
    fs::set_permissions(&path, Permissions::from_mode(0o750)).unwrap();
    assert!(RuntimeDir::at(path.clone(), uid()).is_err());
    let link = base.path().join("link");
    std::os::unix::fs::symlink(base.path(), &link).unwrap();
    assert!(RuntimeDir::at(link, uid()).is_err());
    assert!(RuntimeDir::at(base.path().join("no/such"), uid()).is_err());
}

#[test]
fn control_socket_is_private_and_goes_with_its_owner() {
    let base = tempfile::tempdir().unwrap();
    let folder = RuntimeDir::at(base.path().join("b"), uid()).unwrap();
    let socket = folder.bind("one").unwrap();
    let path = socket.path().to_owned();
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
    assert_eq!(folder.names().unwrap(), ["one"]);
    drop(socket);
    assert!(!path.exists());
}

#[test]
fn control_socket_of_a_live_vm_is_refused_and_a_dead_one_replaced() {
    let base = tempfile::tempdir().unwrap();
    let folder = RuntimeDir::at(base.path().join("b"), uid()).unwrap();
    let socket = folder.bind("one").unwrap();
    let problem = folder.bind("one").unwrap_err();
    assert_eq!(problem.class, Class::State);
    assert!(socket.path().exists(), "the refused launcher left the live socket alone");
    let path = socket.path().to_owned();
    drop(socket);
    // What a killed launcher leaves behind: a bound path that nobody listens on.
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    assert!(folder.bind("one").is_ok());
}

#[test]
fn control_socket_never_takes_the_place_of_a_file() {
    let base = tempfile::tempdir().unwrap();
    let folder = RuntimeDir::at(base.path().join("b"), uid()).unwrap();
    let path = folder.socket_path("one");
    fs::write(&path, "notes").unwrap();
    let problem = folder.bind("one").unwrap_err();
    assert!(problem.what.contains("a regular file"), "{problem}");
    assert_eq!(fs::read(&path).unwrap(), b"notes");
}

#[test]
fn control_socket_of_an_older_vm_leaves_a_newer_one_alone() {
    let base = tempfile::tempdir().unwrap();
    let folder = RuntimeDir::at(base.path().join("b"), uid()).unwrap();
    let older = folder.bind("one").unwrap();
    // Something cleaned the folder while it ran.
    fs::remove_file(older.path()).unwrap();
    let newer = folder.bind("one").unwrap();
    drop(older);
    assert!(UnixStream::connect(newer.path()).is_ok());
}

#[test]
fn control_socket_path_that_cannot_be_an_address_is_refused() {
    let base = tempfile::tempdir().unwrap();
    let long = base.path().join("x".repeat(90));
    let folder = RuntimeDir::at(long, uid()).unwrap();
    assert_eq!(folder.bind("one").unwrap_err().class, Class::Usage);
}
