// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A program that claims to be one of ours is seen while it runs, and gone when it ended.

use std::{fs, os::unix::fs::PermissionsExt, process::Command, time::Duration};

use super::Scope;

/// A folder with a copy of `sleep` under the name of one of the product's programs.
fn scope() -> (tempfile::TempDir, Scope) {
    let folder = tempfile::tempdir().unwrap();
    let scope = Scope { programs: folder.path().join("programs"), sockets: folder.path().join("sockets") };
    fs::create_dir_all(&scope.programs).unwrap();
    fs::create_dir_all(&scope.sockets).unwrap();
    let program = scope.programs.join("bulkhead-test");
    fs::copy("/bin/sleep", &program).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    (folder, scope)
}

#[test]
fn process_of_the_product_is_left_over_until_it_ends() {
    let (_folder, scope) = scope();
    let before = scope.present();
    let mut child = Command::new(scope.programs.join("bulkhead-test")).arg("60").spawn().unwrap();
    let seen = scope.beyond(&before, Duration::ZERO);
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(seen, [format!("process {} (bulkhead-test)", child.id())]);
    assert!(scope.beyond(&before, Duration::from_secs(5)).is_empty());
}

#[test]
fn process_of_a_machine_that_goes_on_is_not_left_over() {
    let (_folder, scope) = scope();
    let before = scope.present();
    let [mut one, mut other] = ["60", "61"]
        .map(|span| Command::new(scope.programs.join("bulkhead-test")).arg(span).spawn().unwrap());
    let seen = scope.beyond_beside(&before, Some(other.id()), Duration::ZERO);
    for child in [&mut one, &mut other] {
        child.kill().unwrap();
        child.wait().unwrap();
    }
    assert_eq!(seen, [format!("process {} (bulkhead-test)", one.id())]);
}

#[test]
fn socket_file_is_left_over() {
    let (_folder, scope) = scope();
    let before = scope.present();
    fs::write(scope.sockets.join("demo.sock"), b"").unwrap();
    let seen = scope.beyond(&before, Duration::ZERO);
    assert_eq!(seen.len(), 1);
    assert!(seen[0].ends_with("demo.sock"), "{seen:?}");
}

#[test]
fn program_of_another_build_is_not_ours() {
    let (_folder, scope) = scope();
    let (_other_folder, other) = self::scope();
    let before = scope.present();
    let mut child = Command::new(other.programs.join("bulkhead-test")).arg("60").spawn().unwrap();
    let seen = scope.beyond(&before, Duration::ZERO);
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(seen.is_empty(), "{seen:?}");
}
