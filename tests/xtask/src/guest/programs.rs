// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Compiling the guest's programs (`tests/guest/*/`) with the arm64 cross compiler.
//!
//! A program is kept in the cache under a checksum of its sources and flags, so that it is compiled again
//! only when one of them changed. Flags: the self-test's integer parts must not use vector registers, so that a machine
//! without them can still run those parts; contraction is off, so that a product and a sum round twice.

use std::{
    fs,
    path::{Path, PathBuf},
};

use ::tests::{
    command::{capture, write_whole},
    places,
    tools::Ready,
};
use anyhow::{Context, Result};

use super::format;

const FLAGS: [&str; 11] = [
    "-std=gnu17",
    "-O2",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-ffreestanding",
    "-fno-strict-aliasing",
    "-fwrapv",
    "-fno-stack-protector",
    "-fno-pie",
    "-mno-outline-atomics",
];
const LINK_FLAGS: [&str; 4] = ["-nostdlib", "-static", "-no-pie", "-Wl,--build-id=none"];
/// Segments that kernels of these pages can map.
const OF_4K: &str = "-Wl,-z,max-page-size=4096";
const OF_64K: &str = "-Wl,-z,max-page-size=65536";

/// Computes with general registers only.
const GENERAL: &str = "-mgeneral-regs-only";

/// A program: its name, which is its folder's; each source with a flag of its own; and headers.
pub struct Sources {
    pub name: &'static str,
    sources: &'static [(&'static str, &'static str)],
    headers: &'static [&'static str],
    pages: &'static str,
}

/// The self-test, `tests/guest/selftest`.
pub const SELFTEST: Sources = Sources {
    name: "selftest",
    sources: &[
        ("main.c", GENERAL),
        ("integer.c", GENERAL),
        ("memory.c", GENERAL),
        ("process.c", GENERAL),
        ("vector.c", "-ffp-contract=off"),
    ],
    headers: &["selftest.h"],
    pages: OF_4K,
};

/// What measures a disk, `tests/guest/diskrate`.
pub const DISKRATE: Sources =
    Sources { name: "diskrate", sources: &[("main.c", GENERAL)], headers: &AIO, pages: OF_4K };

/// What keeps a disk busy, `tests/guest/work`.
pub const WORK: Sources =
    Sources { name: "work", sources: &[("main.c", GENERAL)], headers: &AIO, pages: OF_4K };

/// What starts another kernel, `tests/guest/kexec`.
pub const KEXEC: Sources = Sources {
    name: "kexec",
    sources: &[("main.c", GENERAL)],
    headers: &["../selftest/selftest.h"],
    pages: OF_4K,
};

/// What drives an NVMe controller by VFIO, `tests/guest/userdriver`.
pub const USERDRIVER: Sources =
    Sources { name: "userdriver", sources: &[("main.c", GENERAL)], headers: &AIO, pages: OF_64K };

/// Headers of the programs that drive a disk.
const AIO: [&str; 2] = ["../aio.h", "../selftest/selftest.h"];

impl Sources {
    /// The compiled program.
    pub fn program(&self, compiler: &Ready, cache: &Path) -> Result<Vec<u8>> {
        let folder = places::root().join("tests/guest").join(self.name);
        let file = cache.join(format!("{}-{:08x}", self.name, self.key(&folder)?));
        if let Ok(program) = fs::read(&file) {
            return Ok(program);
        }
        let work = tempfile::tempdir_in(cache).context("a folder to compile in")?;
        let mut objects: Vec<PathBuf> = Vec::new();
        for (source, flag) in self.sources {
            let object = work.path().join(source).with_extension("o");
            let mut command = compiler.command();
            command.args(FLAGS).args([flag, "-c", "-o"]).arg(&object).arg(folder.join(source));
            capture(&mut command).with_context(|| format!("the guest program {}'s {source}", self.name))?;
            objects.push(object);
        }
        let linked = work.path().join(self.name);
        capture(compiler.command().args(LINK_FLAGS).arg(self.pages).arg("-o").arg(&linked).args(&objects))
            .with_context(|| format!("linking the guest program {}", self.name))?;
        let program = fs::read(&linked).context("the linked guest program")?;
        format::static_program(&program).with_context(|| format!("the linked {}", self.name))?;
        write_whole(&file, &program)?;
        Ok(program)
    }

    /// A checksum of everything the program is made from.
    fn key(&self, folder: &Path) -> Result<u32> {
        let mut sum = crc32fast::Hasher::new();
        for word in FLAGS.iter().chain(&LINK_FLAGS).chain([&self.pages]) {
            sum.update(word.as_bytes());
        }
        let headers = self.headers.iter().map(|name| (*name, ""));
        for (name, flag) in self.sources.iter().copied().chain(headers) {
            let text = fs::read(folder.join(name))
                .with_context(|| format!("the guest program {}'s source {name}", self.name))?;
            sum.update(flag.as_bytes());
            sum.update(&text);
        }
        Ok(sum.finalize())
    }
}
