// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Guest kernels with other pages than 4 KiB, and the modules that they need to use an NVMe disk, and to have a program
//! use one by VFIO.
//!
//! Debian packs a kernel with pages of 16 KiB; where the machine's release is older than that, its backports have
//! it. It is not the cloud kernel: NVMe and ext4 are modules, so these and what they depend on go into an
//! initramfs of its own. The cache holds `Image-16k`, `modules-16k/` and `initramfs-16k.cpio`.
//!
//! Debian packs none with pages of 64 KiB. The suites boot an `Image-64k` that was put into the cache by hand.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use ::tests::{
    SKIPPED,
    command::{capture, remove_folder, write_whole},
    tools::{CROSS, find_file},
};
use anyhow::{Context, Result, bail, ensure};

use super::{
    KERNEL_PACKAGE_DEPTH,
    apt::{Apt, Installed, Suites},
    format, initramfs, lock,
    manifest::{FileRecord, Manifest},
    programs::USERDRIVER,
    read, unpacked, write_if_other,
};
use crate::progress::Step;

/// The package that always depends on the newest kernel with pages of 16 KiB.
const PACKAGE_16K: &str = "linux-image-arm64-16k";
const IMAGE_16K: &str = "Image-16k";
const MODULES_16K: &str = "modules-16k";
const INITRAMFS_16K: &str = "initramfs-16k.cpio";

/// What a guest needs for a file system on an NVMe disk, and for VFIO. The checksum is named by ext4 as an algorithm,
/// not as a module, so no dependency leads to it, nor to VFIO's IOMMU.
const WANTED: [&str; 5] = ["crc32c_generic", "nvme", "ext4", "vfio_iommu_type1", "vfio_pci"];

/// More modules than any of these depends on.
const MODULE_COUNT_MAX: usize = 64;

/// Fetches what can be had, and says what cannot.
pub fn report(cache: &Path, update: bool) {
    match fetch(cache, update).and_then(|()| refresh(cache)) {
        Ok(()) => println!("16K pages  {}", cache.join(IMAGE_16K).display()),
        Err(error) => println!("16K pages  {SKIPPED}{error:#}"),
    }
    match cache.join("Image-64k") {
        own if own.is_file() => println!("64K pages  {}", own.display()),
        own => println!(
            "64K pages  {SKIPPED}Debian packs no such kernel. One of your own, with nvme and ext4 built in, is \
             booted if it is put at {}",
            own.display()
        ),
    }
}

/// Builds the initramfs for what was fetched, if anything was.
pub fn refresh(cache: &Path) -> Result<()> {
    let _lock = lock(cache)?;
    let manifest = Manifest::load(cache);
    if !manifest.holds(cache, IMAGE_16K) {
        return Ok(());
    }
    let names = manifest.names_in(MODULES_16K);
    let modules = names.iter().map(|name| read(&cache.join(name))).collect::<Result<Vec<_>>>()?;
    let busybox = read(&cache.join("busybox"))?;
    let driver = CROSS.installed().map(|compiler| USERDRIVER.program(&compiler, cache)).transpose()?;
    let driver = driver.as_ref().map(|content| initramfs::Program { name: USERDRIVER.name, content });
    let archive = initramfs::build_with_modules(&busybox, driver.as_slice(), &modules)?;
    write_if_other(&cache.join(INITRAMFS_16K), &archive)
}

fn fetch(cache: &Path, update: bool) -> Result<()> {
    let _lock = lock(cache)?;
    let mut manifest = Manifest::load(cache);
    let modules = manifest.names_in(MODULES_16K);
    // The last one that is wanted is among them, unless they were fetched when less was.
    let has_last = modules.iter().any(|name| WANTED.last().is_some_and(|last| name.contains(last)));
    let whole = has_last && modules.iter().all(|name| manifest.holds(cache, name));
    if whole && manifest.holds(cache, IMAGE_16K) && !update {
        return Ok(());
    }
    let step = Step::begin("16K kernel");
    step.at("package index");
    // An index of its own: the machine's other packages must not come from backports.
    let apt = Apt::prepare(&cache.join("apt-arm64-16k"), "arm64", Installed::Nothing, Suites::Backports)?;
    step.at("kernel");
    let mut name = PACKAGE_16K.to_string();
    for _ in 0..KERNEL_PACKAGE_DEPTH {
        let candidate = apt.candidate(&name)?;
        let folder = unpacked(&apt, &candidate)?;
        if let Some(image) = find_file(&folder.path().join("boot"), "vmlinuz-") {
            let image = read(&image)?;
            format::kernel_image(&image)?;
            step.at("modules");
            let modules = with_dependencies(&Modules::of(folder.path())?)?;
            manifest.forget_folder(MODULES_16K);
            remove_folder(&cache.join(MODULES_16K))?;
            let mut keep = |file: &str, content: &[u8]| -> Result<()> {
                write_whole(&cache.join(file), content)?;
                manifest.put(FileRecord::new(file, &candidate.package, &candidate.version, content));
                Ok(())
            };
            for (index, module) in modules.iter().enumerate() {
                keep(&format!("{MODULES_16K}/{index:02}-{}.ko", module.name), &module.content)?;
            }
            keep(IMAGE_16K, &image)?;
            manifest.save(cache)?;
            apt.clean()?;
            step.done(&format!("{} {}, {} modules", candidate.package, candidate.version, modules.len()));
            return Ok(());
        }
        let next = candidate.depends.iter().find(|name| name.starts_with("linux-image-"));
        name = next.with_context(|| format!("package {name} holds no kernel and leads to none"))?.clone();
    }
    bail!("no 16K kernel found within {KERNEL_PACKAGE_DEPTH} packages of {PACKAGE_16K}")
}

/// A module, unpacked.
#[derive(Debug, PartialEq, Eq)]
struct Module {
    name: String,
    content: Vec<u8>,
}

/// The modules of an unpacked kernel package.
struct Modules {
    files: Vec<PathBuf>,
    /// The kernel's own list of what it has built in, a path a line.
    builtin: String,
}

impl Modules {
    fn of(root: &Path) -> Result<Self> {
        let folder = ["usr/lib/modules", "lib/modules"]
            .iter()
            .find_map(|place| fs::read_dir(root.join(place)).ok()?.flatten().next())
            .context("the kernel package holds no modules")?
            .path();
        let mut files = Vec::new();
        let mut folders = vec![folder.join("kernel")];
        while let Some(next) = folders.pop() {
            for entry in fs::read_dir(&next).with_context(|| format!("{}", next.display()))?.flatten() {
                let path = entry.path();
                if path.is_dir() { folders.push(path) } else { files.push(path) }
            }
        }
        let builtin = fs::read_to_string(folder.join("modules.builtin")).unwrap_or_default();
        Ok(Self { files, builtin })
    }

    /// The module's bytes; nothing for one that the kernel has built in.
    fn load(&self, name: &str) -> Result<Option<Vec<u8>>> {
        if self.builtin.lines().any(|line| name_of(Path::new(line)) == Some(name.into())) {
            return Ok(None);
        }
        let file = self.files.iter().find(|file| name_of(file).as_deref() == Some(name));
        let file = file.with_context(|| format!("the kernel package has no module {name}"))?;
        let content = match file.extension().and_then(|extension| extension.to_str()) {
            Some("ko") => read(file)?,
            Some("xz") => {
                capture(Command::new("xz").arg("-dk").arg(file)).context("unpacking a kernel module")?;
                read(&file.with_extension(""))?
            }
            _ => bail!("module {} is packed in a way that is not known here", file.display()),
        };
        ensure!(content.starts_with(b"\x7fELF"), "module {name} is no ELF file");
        Ok(Some(content))
    }
}

/// The module that a file is: `-` and `_` in names are the same, and compression adds an ending.
fn name_of(file: &Path) -> Option<String> {
    let (name, _) = file.file_name()?.to_str()?.split_once(".ko")?;
    Some(name.replace('-', "_"))
}

/// All that is wanted, each after what it depends on.
fn with_dependencies(modules: &Modules) -> Result<Vec<Module>> {
    let mut ordered: Vec<Module> = Vec::new();
    let mut todo: Vec<(String, bool)> = WANTED.iter().rev().map(|name| ((*name).into(), false)).collect();
    let mut loaded: Vec<Module> = Vec::new();
    while let Some((name, expanded)) = todo.pop() {
        ensure!(todo.len() < MODULE_COUNT_MAX, "the modules depend on each other without end");
        if expanded {
            let place = loaded.iter().position(|module| module.name == name);
            ordered.extend(place.map(|place| loaded.swap_remove(place)));
            continue;
        }
        if ordered.iter().chain(&loaded).any(|module| module.name == name) {
            continue;
        }
        let Some(content) = modules.load(&name)? else { continue };
        let needs = depends(&content);
        loaded.push(Module { name: name.clone(), content });
        todo.push((name, true));
        todo.extend(needs.into_iter().map(|need| (need, false)));
    }
    Ok(ordered)
}

/// The names after `depends=` in the module's list of NUL-terminated words (its section .modinfo).
fn depends(module: &[u8]) -> Vec<String> {
    let words = module.split(|byte| *byte == 0);
    let list = words.filter_map(|word| word.strip_prefix(b"depends=")).next().unwrap_or_default();
    let names = String::from_utf8_lossy(list);
    names.split(',').filter(|name| !name.is_empty()).map(|name| name.replace('-', "_")).collect()
}

#[cfg(test)]
mod tests;
