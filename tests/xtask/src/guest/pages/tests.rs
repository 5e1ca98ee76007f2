// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Modules made up here: what depends on what, what is built in, and what leads nowhere.

use std::{fs, path::Path};

use super::{Modules, depends, name_of, with_dependencies};

fn module(depends: &str) -> Vec<u8> {
    [b"\x7fELF code\0license=GPL\0depends=", depends.as_bytes(), b"\0name=x\0"].concat()
}

/// A kernel's package, whose VFIO is built in.
fn package(files: &[(&str, &str)], builtin: &str) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("usr/lib/modules/6.12-16k");
    for (name, needs) in files {
        let file = folder.join("kernel").join(name);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, module(needs)).unwrap();
    }
    let vfio = "kernel/drivers/vfio/vfio_iommu_type1.ko\nkernel/drivers/vfio/pci/vfio-pci.ko\n";
    fs::write(folder.join("modules.builtin"), [builtin, vfio].concat()).unwrap();
    root
}

fn order(root: &tempfile::TempDir) -> anyhow::Result<Vec<String>> {
    let modules = with_dependencies(&Modules::of(root.path())?)?;
    Ok(modules.into_iter().map(|module| module.name).collect())
}

#[test]
fn modules_come_after_what_they_depend_on() {
    let files = [
        ("drivers/nvme.ko", "nvme-core"),
        ("drivers/nvme-core.ko", "nvme_auth"),
        ("drivers/nvme-auth.ko", ""),
        ("fs/ext4.ko", "jbd2,mbcache"),
        ("fs/jbd2.ko", "mbcache"),
        ("fs/mbcache.ko", ""),
    ];
    let names = order(&package(&files, "kernel/crypto/crc32c_generic.ko\n")).unwrap();
    let place = |name: &str| names.iter().position(|other| other == name).unwrap();
    assert_eq!(names.len(), 6, "{names:?}");
    assert!(place("nvme_auth") < place("nvme_core") && place("nvme_core") < place("nvme"), "{names:?}");
    assert!(place("mbcache") < place("jbd2") && place("jbd2") < place("ext4"), "{names:?}");
}

#[test]
fn module_that_is_not_there_is_named() {
    let error = order(&package(&[("crypto/crc32c_generic.ko", "")], "")).unwrap_err().to_string();
    assert!(error.contains("nvme"), "{error}");
}

#[test]
fn modules_that_depend_on_each_other_end() {
    let files = [("nvme.ko", "ext4"), ("ext4.ko", "nvme"), ("crc32c_generic.ko", "")];
    assert_eq!(order(&package(&files, "")).unwrap().len(), 3);
}

#[test]
fn dependencies_are_read_from_the_module() {
    assert_eq!(depends(&module("jbd2,nvme-core")), ["jbd2", "nvme_core"]);
    assert!(depends(&module("")).is_empty());
    assert!(depends(b"\x7fELF without a word about it").is_empty());
}

#[test]
fn names_of_modules_have_no_dash_and_no_ending() {
    assert_eq!(name_of(Path::new("kernel/a/nvme-core.ko.xz")).as_deref(), Some("nvme_core"));
    assert_eq!(name_of(Path::new("a/Makefile")), None);
}
