// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The lab server's kernel: given, found beside the repository, cached, or built.
//!
//! Debian's own kernels have no iommufd, so none of them will do. In this order: the file that
//! `BULKHEAD_LAB_KERNEL` names, `../shared/lab/Image-lab-*.xz` beside the repository, one built earlier, and one built
//! now from Debian's unpatched package of Linux sources with `tests/lab/kernel.config`.

use std::{
    env,
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
};

use ::tests::{
    command::{capture, find, remove_folder, write_whole},
    places,
    tools::{Ready, Tool},
};
use anyhow::{Context, Result, bail, ensure};

use crate::{
    guest::{
        apt::{self, Apt, Candidate, Installed, Suites},
        format, tools,
    },
    progress::Step,
};

/// The variable that names a kernel: an `Image`, or one compressed with xz.
const VARIABLE: &str = "BULKHEAD_LAB_KERNEL";

/// The package that always depends on the newest sources.
const SOURCES: &str = "linux-source";

/// What building a kernel needs from the machine, besides the cross compiler.
const BUILD_TOOLS: [&str; 4] = ["make", "cc", "tar", "xz"];

/// What it needs and few machines have; unpacked in the cache where it is missing.
const GENERATORS: [&str; 3] = ["flex", "bison", "bc"];
const GENERATORS_TOOL: Tool = Tool {
    whole: &[],
    program: "flex",
    packages: &GENERATORS,
    folder: "kernel-tools",
    task: "cargo xtask lab",
    device: None,
    newer: false,
    backports: false,
    // Only those that the machine does not have are unpacked.
    suits: |ready| {
        GENERATORS.iter().all(|name| find(name).is_some() || ready.program().with_file_name(name).is_file())
    },
};

/// Where the compiled kernel is in its tree.
const IMAGE: &str = "arch/arm64/boot/Image";

/// A kernel that is there, unpacked; `None` if one must be built.
pub fn present(folder: &Path) -> Result<Option<PathBuf>> {
    if let Some(given) = env::var_os(VARIABLE) {
        return unpacked(Path::new(&given), folder)
            .with_context(|| format!("the kernel of {VARIABLE}"))
            .map(Some);
    }
    if let Some(shared) = shared() {
        return unpacked(&shared, folder).map(Some);
    }
    built(folder)
}

/// A kernel that was built earlier with the options of today.
pub fn built(folder: &Path) -> Result<Option<PathBuf>> {
    let image = image(folder)?;
    Ok(image.is_file().then_some(image))
}

/// Builds a kernel, in some ten minutes of both cores.
pub fn build(folder: &Path, linker: &Ready) -> Result<PathBuf> {
    for tool in BUILD_TOOLS {
        ensure!(find(tool).is_some(), "{tool} is not installed, and a kernel cannot be built without it");
    }
    let image = image(folder)?;
    let maker = Maker { linker, generators: tools::obtain(&GENERATORS_TOOL, &places::cache())? };
    let step = Step::begin("lab kernel");
    step.at("sources");
    let apt = Apt::prepare(&folder.join("apt-kernel"), "arm64", Installed::Nothing, Suites::Newest)?;
    let name = apt.candidate(SOURCES)?.depends.into_iter().find(|name| name.starts_with("linux-source-"));
    let candidate = apt.candidate(&name.context("package linux-source leads to no sources")?)?;
    let work = folder.join("kernel-build");
    let tree = unpack(&apt, &candidate, &work)?;

    let config = places::root().join(CONFIG);
    maker.make(&tree, &[&format!("KCONFIG_ALLCONFIG={}", config.display()), "allnoconfig"])?;
    refused_options(&fs::read_to_string(&config)?, &fs::read_to_string(tree.join(".config"))?)?;
    step.at("compiling");
    maker.make(&tree, &["Image"])?;
    let bytes = fs::read(tree.join(IMAGE)).context("the compiled kernel")?;
    format::kernel_image(&bytes)?;
    write_whole(&image, &bytes)?;
    remove_folder(&work)?;
    step.done(&format!("{} {}", candidate.package, candidate.version));
    Ok(image)
}

/// The tree of these sources in `work`; one that an interrupted build left is used again.
fn unpack(apt: &Apt, candidate: &Candidate, work: &Path) -> Result<PathBuf> {
    let tree = work.join(&candidate.package);
    let (mark, version) = (work.join("unpacked"), format!("{} {}", candidate.package, candidate.version));
    if fs::read_to_string(&mark).is_ok_and(|unpacked| unpacked == version) {
        return Ok(tree);
    }
    remove_folder(work)?;
    apt::unpack(&apt.download(candidate)?, work)?;
    apt.clean()?;
    let archive = work.join("usr/src").join(format!("{}.tar.xz", candidate.package));
    capture(Command::new("tar").arg("-xf").arg(&archive).arg("-C").arg(work))?;
    write_whole(&mark, version.as_bytes())?;
    Ok(tree)
}

/// The options that the lab's kernel is built with.
const CONFIG: &str = "tests/lab/kernel.config";

/// Runs the kernel's own build.
struct Maker<'a> {
    linker: &'a Ready,
    generators: Ready,
}

impl Maker<'_> {
    fn make(&self, tree: &Path, arguments: &[&str]) -> Result<()> {
        let mut command = Command::new("make");
        // Unpacked tools find their own libraries and files by the environment, which all of the build shares.
        let environment = [self.linker, &self.generators].map(Ready::command);
        let libraries = environment.iter().flat_map(Command::get_envs).filter_map(|(_, value)| value);
        command.env("LD_LIBRARY_PATH", libraries.collect::<Vec<_>>().join(OsStr::new(":")));
        let folder = self.generators.program().parent().context("flex is in no folder")?;
        let mut path = vec![folder.to_path_buf()];
        path.extend(env::split_paths(&env::var_os("PATH").unwrap_or_default()));
        command.env("PATH", env::join_paths(path).context("the path of programs")?);
        for (name, file) in
            [("M4", folder.join("m4")), ("BISON_PKGDATADIR", folder.with_file_name("share").join("bison"))]
        {
            if file.exists() {
                command.env(name, file);
            }
        }

        let prefix = self.linker.program().display().to_string();
        let prefix = prefix.strip_suffix("gcc").context("the cross compiler is not called gcc")?;
        let jobs = thread::available_parallelism().map_or(1, usize::from);
        command.arg("-C").arg(tree).arg(format!("-j{jobs}")).arg("-s").arg("ARCH=arm64");
        command.arg(format!("CROSS_COMPILE={prefix}")).args(arguments);
        capture(&mut command).map(drop)
    }
}

/// An option that the sources no longer know, or that lacks another one, would silently be left out.
fn refused_options(wanted: &str, made: &str) -> Result<()> {
    let missing: Vec<&str> = wanted
        .lines()
        .filter(|line| line.starts_with("CONFIG_"))
        .filter(|line| !made.lines().any(|made| made == *line))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    bail!("these sources do not take {} of {CONFIG}", missing.join(", "))
}

/// The name of a built kernel says what it was built with.
fn image(folder: &Path) -> Result<PathBuf> {
    let config =
        fs::read(places::root().join(CONFIG)).with_context(|| format!("{CONFIG} could not be read"))?;
    Ok(folder.join(format!("Image-built-{:08x}", crc32fast::hash(&config))))
}

/// The newest kernel that lies beside the repository.
fn shared() -> Option<PathBuf> {
    let folder = places::root().parent()?.join("shared/lab");
    let mut files: Vec<PathBuf> = fs::read_dir(folder).ok()?.flatten().map(|entry| entry.path()).collect();
    files.retain(|file| {
        file.file_name().is_some_and(|name| {
            let name = name.to_string_lossy();
            name.starts_with("Image-lab-") && name.ends_with(".xz")
        })
    });
    files.sort();
    files.pop()
}

/// The kernel in `file` as an uncompressed Image: `file` itself, or a copy in the cache.
fn unpacked(file: &Path, folder: &Path) -> Result<PathBuf> {
    if file.extension().is_none_or(|extension| extension != "xz") {
        let bytes = fs::read(file).with_context(|| format!("{} could not be read", file.display()))?;
        format::kernel_image(&bytes)?;
        return std::path::absolute(file).context("the kernel's path");
    }
    let packed = fs::read(file).with_context(|| format!("{} could not be read", file.display()))?;
    let copy = folder.join(format!("Image-{:08x}", crc32fast::hash(&packed)));
    if !copy.is_file() {
        let output = Command::new("xz")
            .arg("-dc")
            .arg(file)
            .stdin(Stdio::null())
            .output()
            .context("xz is not installed (package xz-utils)")?;
        ensure!(
            output.status.success(),
            "{} is damaged: {}",
            file.display(),
            String::from_utf8_lossy(&output.stderr)
        );
        format::kernel_image(&output.stdout)?;
        write_whole(&copy, &output.stdout)?;
    }
    Ok(copy)
}

#[cfg(test)]
mod tests {
    use super::refused_options;

    #[test]
    fn options_that_were_left_out_are_named() {
        let wanted = "# for the SMMU\nCONFIG_A=y\nCONFIG_B=y\n";
        assert!(refused_options(wanted, "CONFIG_B=y\nCONFIG_A=y\n").is_ok());
        let error =
            format!("{:#}", refused_options(wanted, "CONFIG_A=y\n# CONFIG_B is not set\n").unwrap_err());
        assert!(error.contains("CONFIG_B=y") && !error.contains("CONFIG_A"), "{error}");
    }
}
