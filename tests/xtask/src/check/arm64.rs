// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Does it all compile for arm64, the architecture that the product is for?
//!
//! Two ways lead there: rustup's standard library for the target, or Debian's own compiler with its arm64
//! library (packages rustc-web and libstd-rust-web-dev:arm64). One compiler per target folder.

use std::{env, path::Path, process::Command};

use ::tests::{command::capture, places};

use crate::product::cargo;

const TARGET: &str = "aarch64-unknown-linux-gnu";
/// Found by its name, as cargo's build scripts find it.
const C_COMPILER: &str = "aarch64-linux-gnu-gcc";
const DEBIAN_COMPILER: &str = "/usr/bin/rustc";

/// The command that checks every target of the workspace for arm64, or why there is none.
pub fn check_command() -> Result<Command, String> {
    if env::consts::ARCH == "aarch64" {
        return Err("this machine is arm64: the ordinary build is the check".into());
    }
    if capture(Command::new(C_COMPILER).arg("--version")).is_err() {
        return Err(format!(
            "no `{C_COMPILER}` for a library's C and assembly (package gcc-aarch64-linux-gnu)"
        ));
    }
    let own = Command::new("rustc");
    let compiler = if has_library(own) {
        None
    } else if Path::new(DEBIAN_COMPILER).exists() && has_library(Command::new(DEBIAN_COMPILER)) {
        Some(DEBIAN_COMPILER)
    } else {
        return Err(format!(
            "no standard library for {TARGET} (`rustup target add {TARGET}`, or Debian's rustc-web and \
             libstd-rust-web-dev:arm64)"
        ));
    };
    let mut command = cargo();
    command.args(["check", "--workspace", "--all-targets", "--target", TARGET]);
    if let Some(compiler) = compiler {
        command.env("RUSTC", compiler).arg("--target-dir").arg(places::target().join("arm64-debian"));
    }
    Ok(command)
}

/// True if `compiler` has the standard library for arm64.
pub fn has_library(mut compiler: Command) -> bool {
    let folder = capture(compiler.args(["--print", "target-libdir", "--target", TARGET]));
    let Ok(folder) = folder else { return false };
    std::fs::read_dir(folder.trim()).is_ok_and(|mut files| {
        files.any(|file| file.is_ok_and(|file| file.file_name().to_string_lossy().starts_with("libstd-")))
    })
}
