// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A cache is trusted only as far as its manifest matches it.

use std::fs;

use super::{FILE, FileRecord, Manifest};

fn cache_with_file(content: &[u8]) -> (tempfile::TempDir, Manifest) {
    let cache = tempfile::tempdir().unwrap();
    fs::write(cache.path().join("Image"), content).unwrap();
    let mut manifest = Manifest::default();
    manifest.put(FileRecord::new("Image", "linux", "6.1", content));
    (cache, manifest)
}

#[test]
fn manifest_saved_and_loaded_is_equal() {
    let (cache, manifest) = cache_with_file(b"kernel");
    manifest.save(cache.path()).unwrap();
    assert_eq!(Manifest::load(cache.path()), manifest);
}

#[test]
fn manifest_missing_or_damaged_is_empty() {
    let cache = tempfile::tempdir().unwrap();
    assert_eq!(Manifest::load(cache.path()), Manifest::default());
    fs::write(cache.path().join(FILE), b"{\"files\": [").unwrap();
    assert_eq!(Manifest::load(cache.path()), Manifest::default());
}

#[test]
fn manifest_holds_only_unchanged_files() {
    let (cache, manifest) = cache_with_file(b"kernel");
    assert!(manifest.holds(cache.path(), "Image"));
    assert!(!manifest.holds(cache.path(), "busybox"));
    fs::write(cache.path().join("Image"), b"kernek").unwrap();
    assert!(!manifest.holds(cache.path(), "Image"));
    fs::remove_file(cache.path().join("Image")).unwrap();
    assert!(!manifest.holds(cache.path(), "Image"));
}

#[test]
fn manifest_put_replaces_the_record_of_the_same_name() {
    let (cache, mut manifest) = cache_with_file(b"kernel");
    fs::write(cache.path().join("Image"), b"newer kernel").unwrap();
    manifest.put(FileRecord::new("Image", "linux", "6.2", b"newer kernel"));
    assert!(manifest.holds(cache.path(), "Image"));
    assert_eq!(manifest.files.len(), 1);
}

#[test]
fn manifest_names_and_forgets_the_files_of_one_folder_only() {
    let (cache, mut manifest) = cache_with_file(b"kernel");
    for name in ["modules-16k/01.ko", "modules-16k/00.ko", "modules-64k/00.ko"] {
        manifest.put(FileRecord::new(name, "linux", "6.1", b"module"));
    }
    assert_eq!(manifest.names_in("modules-16k"), ["modules-16k/00.ko", "modules-16k/01.ko"]);
    manifest.forget_folder("modules-16k");
    assert!(manifest.names_in("modules-16k").is_empty());
    assert_eq!(manifest.names_in("modules-64k"), ["modules-64k/00.ko"]);
    assert!(manifest.holds(cache.path(), "Image"));
}
