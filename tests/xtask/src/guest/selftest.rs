// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Compiling the guest self-test (`tests/guest/selftest`) with the arm64 cross compiler.
//!
//! The program is kept in the cache under a checksum of its sources and flags, so that it is compiled again
//! only when one of them changed. Flags: the integer parts must not use vector registers, so that a machine
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
const LINK_FLAGS: [&str; 5] =
    ["-nostdlib", "-static", "-no-pie", "-Wl,--build-id=none", "-Wl,-z,max-page-size=4096"];

/// Sources that compute with general registers only, and those that do not.
const SOURCES: [(&str, &str); 5] = [
    ("main.c", "-mgeneral-regs-only"),
    ("integer.c", "-mgeneral-regs-only"),
    ("memory.c", "-mgeneral-regs-only"),
    ("process.c", "-mgeneral-regs-only"),
    ("vector.c", "-ffp-contract=off"),
];

/// The compiled program.
pub fn program(compiler: &Ready, cache: &Path) -> Result<Vec<u8>> {
    let folder = places::root().join("tests/guest/selftest");
    let file = cache.join(format!("selftest-{:08x}", key(&folder)?));
    if let Ok(program) = fs::read(&file) {
        return Ok(program);
    }
    let work = tempfile::tempdir_in(cache).context("a folder to compile in")?;
    let mut objects: Vec<PathBuf> = Vec::new();
    for (source, flag) in SOURCES {
        let object = work.path().join(source).with_extension("o");
        let mut command = compiler.command();
        command.args(FLAGS).args([flag, "-c", "-o"]).arg(&object).arg(folder.join(source));
        capture(&mut command).with_context(|| format!("the guest self-test's {source}"))?;
        objects.push(object);
    }
    let linked = work.path().join("selftest");
    capture(compiler.command().args(LINK_FLAGS).arg("-o").arg(&linked).args(&objects))
        .context("linking the guest self-test")?;
    let program = fs::read(&linked).context("the linked guest self-test")?;
    format::static_program(&program).context("the linked guest self-test")?;
    write_whole(&file, &program)?;
    Ok(program)
}

/// A checksum of everything the program is made from.
fn key(folder: &Path) -> Result<u32> {
    let mut sum = crc32fast::Hasher::new();
    for word in FLAGS.iter().chain(&LINK_FLAGS) {
        sum.update(word.as_bytes());
    }
    for (name, flag) in SOURCES.iter().chain(&[("selftest.h", "")]) {
        let text =
            fs::read(folder.join(name)).with_context(|| format!("the guest self-test's source {name}"))?;
        sum.update(flag.as_bytes());
        sum.update(&text);
    }
    Ok(sum.finalize())
}
