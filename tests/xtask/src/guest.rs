// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `cargo xtask guest`: the files that a guest boots from, fetched, checked, built and cached.
//!
//! The cache (`target/guest`, or `BULKHEAD_CACHE`) holds `Image`, `busybox`, `initramfs.cpio` and a manifest
//! of versions and checksums. A whole cache is used as it is, without the network; `--update` asks apt again.
//! The initramfs is built anew each time from the cached busybox: it is quick, and never out of date.

pub mod apt;
pub mod cpio;
pub mod format;
pub mod initramfs;
mod manifest;
mod pages;
mod programs;
pub mod tools;

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use ::tests::{
    SKIPPED,
    command::write_whole,
    guest::GuestFiles,
    places,
    tools::{CROSS, QEMU, find_file},
};
use anyhow::{Context, Result};
use clap::Args;

use self::{
    apt::{Apt, Installed, Suites},
    manifest::{FileRecord, Manifest},
    programs::{DISKRATE, KEXEC, SELFTEST, WORK},
};
use crate::progress::Step;

/// The package that always depends on the newest kernel for virtual machines.
const KERNEL_PACKAGE: &str = "linux-image-cloud-arm64";
const BUSYBOX_PACKAGE: &str = "busybox-static";

/// How many packages to follow from the kernel's name to the one that holds its image: the name, the image,
/// and one more on newer Debian, which packs the binary apart.
const KERNEL_PACKAGE_DEPTH: usize = 3;

/// Advice that goes with every failure to fetch.
const ADVICE: &str = "no packages could be fetched here. Give files of your own instead: `--kernel IMAGE` (an \
uncompressed arm64 Image with arm-smmu-v3, GICv3, 8250 console, NVMe and ext4 built in) and either `--busybox FILE` (static, \
arm64) or `--initramfs CPIO`";

/// Where the guest's files come from.
#[derive(Args, Debug, Clone, Default)]
#[group(id = "guest-files")]
pub struct Options {
    /// Use this arm64 kernel Image instead of Debian's
    #[arg(long, value_name = "IMAGE")]
    kernel: Option<PathBuf>,
    /// Use this initramfs as it is; the shell prompt must be "bulkhead-guest:" for the demo to find it
    #[arg(long, value_name = "CPIO")]
    initramfs: Option<PathBuf>,
    /// Build the initramfs around this static arm64 busybox instead of Debian's
    #[arg(long, value_name = "FILE", conflicts_with = "initramfs")]
    busybox: Option<PathBuf>,
    /// Ask the package index again even if everything is cached
    #[arg(long)]
    update: bool,
    /// Also unpack qemu-system-aarch64 into the cache, for benches and comparisons
    #[arg(long)]
    qemu: bool,
    /// Also unpack the arm64 C cross compiler into the cache, for guest test programs
    #[arg(long)]
    cross: bool,
    /// Also fetch a kernel with pages of 16 KiB, and the modules that it needs for an NVMe disk
    #[arg(long)]
    page_sizes: bool,
}

/// The task.
pub fn run(options: &Options) -> Result<ExitCode> {
    let files = obtain(options)?;
    println!("kernel     {}", files.kernel.display());
    println!("initramfs  {}", files.initramfs.display());
    if options.qemu {
        println!("qemu       {}", tools::obtain(&QEMU, &places::cache())?.version()?);
    }
    if options.cross {
        println!("compiler   {}", tools::obtain(&CROSS, &places::cache())?.version()?);
    }
    if options.page_sizes {
        pages::report(&places::cache(), options.update);
    }
    match with_selftest(options)? {
        Some(files) => println!("self-test  {}", files.initramfs.display()),
        None => println!("self-test  {SKIPPED}{}", CROSS.missing()),
    }
    Ok(ExitCode::SUCCESS)
}

/// Fetches or builds whatever of the guest's files is missing, and returns where they are.
pub fn obtain(options: &Options) -> Result<GuestFiles> {
    let cache = places::cache();
    let _lock = lock(&cache)?;
    let store = Store { cache: &cache };
    let mut files = GuestFiles::in_cache(&cache);
    let kernel_wanted = options.kernel.is_none();
    let busybox_wanted = options.initramfs.is_none() && options.busybox.is_none();
    store.fill(kernel_wanted, busybox_wanted, options.update)?;

    if let Some(kernel) = &options.kernel {
        format::bootable_kernel(&read(kernel)?).with_context(|| format!("{}", kernel.display()))?;
        files.kernel = absolute(kernel)?;
    }
    if let Some(initramfs) = &options.initramfs {
        format::initramfs(&read(initramfs)?).with_context(|| format!("{}", initramfs.display()))?;
        files.initramfs = absolute(initramfs)?;
        return Ok(files);
    }
    let busybox = match &options.busybox {
        Some(own) => {
            let bytes = read(own)?;
            format::static_program(&bytes).with_context(|| format!("{}", own.display()))?;
            files.initramfs = cache.join("initramfs-own.cpio");
            bytes
        }
        None => read(&store.file("busybox"))?,
    };
    write_if_other(&files.initramfs, &initramfs::build(&busybox, &[])?)?;
    Ok(files)
}

/// Two tasks at once would fetch the same files: the second waits, until the first drops this, and finds them.
fn lock(cache: &Path) -> Result<fs::File> {
    fs::create_dir_all(cache)
        .with_context(|| format!("cache folder {} could not be made", cache.display()))?;
    let lock = fs::File::create(cache.join(".lock")).context("the cache's lock file")?;
    lock.lock().context("the cache could not be locked")?;
    Ok(lock)
}

/// The same guest with our programs in `/bin` (`selftest`, `diskrate`, `work`, `kexec`); `None` where there is no
/// compiler for them.
pub fn with_selftest(options: &Options) -> Result<Option<GuestFiles>> {
    let Some(compiler) = CROSS.installed() else { return Ok(None) };
    let cache = places::cache();
    let kernel = obtain(options)?.kernel;
    let sources = [SELFTEST, DISKRATE, WORK, KEXEC];
    let contents =
        sources.iter().map(|program| program.program(&compiler, &cache)).collect::<Result<Vec<_>>>()?;
    let programs: Vec<_> = sources
        .iter()
        .zip(&contents)
        .map(|(program, content)| initramfs::Program { name: program.name, content })
        .collect();
    let busybox = read(&options.busybox.clone().unwrap_or_else(|| cache.join("busybox")))?;
    let files = GuestFiles { kernel, initramfs: cache.join("initramfs-selftest.cpio") };
    write_if_other(&files.initramfs, &initramfs::build(&busybox, &programs)?)?;
    Ok(Some(files))
}

/// Fetches and builds what the suites boot, as far as this machine allows.
pub fn prepare_for_suites() -> Result<()> {
    let options = Options::default();
    obtain(&options)?;
    with_selftest(&options)?;
    // Those that were fetched before get the initramfs of today.
    pages::refresh(&places::cache())
}

/// The fetched part of the cache.
struct Store<'a> {
    cache: &'a Path,
}

impl Store<'_> {
    fn file(&self, name: &str) -> PathBuf {
        self.cache.join(name)
    }

    /// Fetches what is wanted and not there.
    fn fill(&self, kernel: bool, busybox: bool, update: bool) -> Result<()> {
        let mut manifest = Manifest::load(self.cache);
        let kernel = kernel && (update || !manifest.holds(self.cache, "Image"));
        let busybox = busybox && (update || !manifest.holds(self.cache, "busybox"));
        if !kernel && !busybox {
            return Ok(());
        }
        let step = Step::begin("guest files");
        step.at("package index");
        let apt = Apt::prepare(&self.cache.join("apt-arm64"), "arm64", Installed::Nothing, Suites::AsHere)
            .context(ADVICE)?;
        let mut fetched = Vec::new();
        if kernel {
            step.at("kernel");
            fetched.push(self.fetch_kernel(&apt).context(ADVICE)?);
        }
        if busybox {
            step.at("busybox");
            fetched.push(self.fetch_busybox(&apt).context(ADVICE)?);
        }
        apt.clean()?;
        let names: Vec<String> =
            fetched.iter().map(|file| format!("{} {}", file.package, file.version)).collect();
        for file in fetched {
            manifest.put(file);
        }
        manifest.save(self.cache)?;
        step.done(&names.join(", "));
        Ok(())
    }

    fn fetch_kernel(&self, apt: &Apt) -> Result<FileRecord> {
        let mut name = KERNEL_PACKAGE.to_string();
        for _ in 0..KERNEL_PACKAGE_DEPTH {
            let candidate = apt.candidate(&name)?;
            let folder = unpacked(apt, &candidate)?;
            if let Some(image) = find_file(&folder.path().join("boot"), "vmlinuz-") {
                let bytes = read(&image)?;
                format::kernel_image(&bytes)?;
                write_whole(&self.file("Image"), &bytes)?;
                return Ok(FileRecord::new("Image", &candidate.package, &candidate.version, &bytes));
            }
            let next = candidate.depends.iter().find(|name| {
                ["linux-image-", "linux-binary-"].iter().any(|start| name.starts_with(start))
                    && name.contains("arm64")
            });
            name = next.with_context(|| format!("package {name} has no kernel and leads to none"))?.clone();
        }
        anyhow::bail!("no kernel found within {KERNEL_PACKAGE_DEPTH} packages of {KERNEL_PACKAGE}")
    }

    fn fetch_busybox(&self, apt: &Apt) -> Result<FileRecord> {
        let candidate = apt.candidate(BUSYBOX_PACKAGE)?;
        let folder = unpacked(apt, &candidate)?;
        let program = ["bin/busybox", "usr/bin/busybox"]
            .iter()
            .map(|path| folder.path().join(path))
            .find(|path| path.is_file())
            .context("package busybox-static holds no bin/busybox")?;
        let bytes = read(&program)?;
        format::static_program(&bytes).context("the packaged busybox")?;
        write_whole(&self.file("busybox"), &bytes)?;
        Ok(FileRecord::new("busybox", &candidate.package, &candidate.version, &bytes))
    }
}

/// Downloads a package and unpacks it into a folder that vanishes with the returned value.
fn unpacked(apt: &Apt, candidate: &apt::Candidate) -> Result<tempfile::TempDir> {
    let package = apt.download(candidate)?;
    let folder = tempfile::tempdir_in(package.parent().context("a package without a folder")?)
        .context("a folder to unpack a package into")?;
    apt::unpack(&package, folder.path())?;
    Ok(folder)
}

fn read(file: &Path) -> Result<Vec<u8>> {
    fs::read(file).with_context(|| format!("{} could not be read", file.display()))
}

fn absolute(file: &Path) -> Result<PathBuf> {
    std::path::absolute(file).with_context(|| format!("{} has no absolute path", file.display()))
}

/// Leaves a file alone that has these bytes already: a guest may be booting from it.
fn write_if_other(file: &Path, content: &[u8]) -> Result<()> {
    if fs::read(file).is_ok_and(|present| present == content) {
        return Ok(());
    }
    write_whole(file, content)
}
