// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The workspace's tasks, started as `cargo xtask TASK`.
//!
//! `demo` and `test` are the README's two commands; `check` is what continuous integration runs besides the tests;
//! `guest`, `interop`, `bench` and `fuzz` are their parts, to be run alone; `lab` is an arm64 server. Every task ends
//! with exit code 0 only if all it set out to do was done; what it left out, and why, is printed and counted.

mod arm_suite;
mod bench;
mod check;
mod demo;
mod ext4;
mod fuzz;
mod guest;
mod interop;
mod lab;
mod product;
mod progress;
mod role;
mod stages;
mod syscalls;
mod system;
mod test;
mod userland;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Tasks of the Bulkhead workspace", disable_version_flag = true)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Build, fetch a guest, boot it across its processes, ask it questions, power off; a table of stages
    Demo(demo::Options),
    /// Run everything that needs no special hardware
    Test(test::Options),
    /// Run what continuous integration runs besides the tests: rules, formatting, lints, the arm64 build
    Check(check::Options),
    /// Measure, beside a reference in the same run
    Bench(bench::Options),
    /// Run a public suite of arm64 guests, from images built outside the tree
    ArmSuite(arm_suite::Options),
    /// Run the fuzz targets
    Fuzz(fuzz::Options),
    /// Boot the Arm lab, an emulated arm64 server, and run the programs there on the real kernel interfaces
    Lab(lab::Options),
    /// Run both ends of vfio-user against third-party ones
    Interop(interop::Options),
    /// Add a role to a copy of the tree, and see that nothing but template, profile and program is needed
    Role,
    /// Print the system table of a VM: its processes, what connects them, and what each is given; and draw it
    System(system::Options),
    /// Trace the sealed programs, and write down which system calls each makes beside those that it may
    Syscalls(syscalls::Options),
    /// Fetch an arm64 kernel and busybox as packages, check them, and build the guest's initramfs
    Guest(guest::Options),
    /// Install a Debian from its packages on the software machine, boot it, ask systemd; the same on QEMU
    Userland(userland::Options),
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().task {
        Task::Demo(options) => demo::run(&options),
        Task::Test(options) => test::run(&options),
        Task::Check(options) => check::run(&options),
        Task::Bench(options) => bench::run(&options),
        Task::ArmSuite(options) => arm_suite::run(&options),
        Task::Fuzz(options) => fuzz::run(&options),
        Task::Lab(options) => lab::run(&options),
        Task::Interop(options) => interop::run(&options),
        Task::Syscalls(options) => syscalls::run(&options),
        Task::Role => role::run(),
        Task::System(options) => system::run(&options),
        Task::Guest(options) => guest::run(&options),
        Task::Userland(options) => userland::run(&options),
    };
    match outcome {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn arguments_of_all_tasks_are_consistent() {
        super::Arguments::command().debug_assert();
    }
}
