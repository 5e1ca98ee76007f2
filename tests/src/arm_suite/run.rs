// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! One case on one machine: the image is started by the product's command line, moved into new processes where the
//! guest asks for a migration, and judged by what it printed.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::{Context, Result};

use super::{Outcome, cases::Case, image, outcome::EXIT_MARK};
use crate::vm::{Options, Vm};

/// Guest RAM.
const MEMORY_MIB: u32 = 256;

/// How a guest asks for a migration; it goes on when a key is pressed, or looks at its console meanwhile.
const MIGRATE_MARK: &str = "Now migrate the VM";

/// What it says where it leaves the migration out; it waits for the key all the same.
const NO_MIGRATION_MARK: &str = "Skipped VM migration";

/// The kind of machine a case runs on.
#[derive(Debug, Clone)]
pub struct Machine {
    /// The folder of the built programs.
    pub programs: PathBuf,
    /// `soft` or `kvm`.
    pub cpu: &'static str,
    /// How many.
    pub cpus: u32,
}

impl Machine {
    /// Runs a case with its image from `images`. An error is a machine that could not be run.
    pub fn run(&self, case: &Case, images: &Path) -> Result<Outcome> {
        let flat = images.join(format!("{}.flat", case.image));
        if !flat.is_file() {
            return Ok(Outcome::Skip(format!("there is no {}", flat.display())));
        }
        let folder = tempfile::tempdir().context("a folder for the image")?;
        let kernel = folder.path().join("Image");
        let program = fs::read(&flat).with_context(|| format!("{} cannot be read", flat.display()))?;
        fs::write(&kernel, image::from_flat(&program)).context("the image cannot be written")?;
        let mut options = Options::bare(self.programs.clone(), kernel, "arm-suite");
        options.memory = format!("{MEMORY_MIB}M");
        options.extra = case.command_line(self.cpus, MEMORY_MIB);
        options.arguments = ["--cpu", self.cpu, "--vcpus", &self.cpus.to_string()].map(String::from).into();
        if case.needs_pmu() {
            options.arguments.push("--pmu".into());
        }
        let mut vm = Vm::launch(options)?;
        self.follow(case, &mut vm)?;
        Ok(Outcome::of(&vm.console.transcript()))
    }

    /// Follows the guest until it has ended or its time is over; what it prints is judged afterwards.
    fn follow(&self, case: &Case, vm: &mut Vm) -> Result<()> {
        let deadline = Instant::now() + case.limit;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let Ok((found, _)) = vm.console.wait_for_any(&[EXIT_MARK, MIGRATE_MARK, NO_MIGRATION_MARK], left)
            else {
                return Ok(());
            };
            if found == EXIT_MARK {
                // The rest of the line; a guest that then stays is ended with its console.
                let _ = vm.console.wait_for("\n", left);
                return Ok(());
            }
            if found == MIGRATE_MARK {
                vm.control_json("save-restore")?;
            }
            vm.console.send("\n")?;
        }
    }
}
