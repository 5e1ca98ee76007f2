// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `cargo xtask demo`: from sources to an arm64 guest at work on isolated processes, one stage after another.
//!
//! Every stage is something seen, not something assumed: the guest's own answers on its console, and the
//! processes as `/proc` shows them. On failure the console's text is kept in the target folder.

mod confined;
mod smmu;

use std::{
    fs::File,
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant},
};

use ::tests::{
    SKIPPED,
    command::{show, write_whole},
    crash::kill_and_await,
    disk,
    guest::USER_SPACE_MARK,
    places,
    vm::{self, Vm},
};
use anyhow::{Context, Result, ensure};
use clap::Args;

use crate::{
    guest,
    product::{self, Profile},
    stages::Stages,
};

/// Limits, for a slow and busy machine; an idle one needs seconds for a boot and less for a command.
const BOOT: Duration = Duration::from_secs(180);
const COMMAND: Duration = Duration::from_secs(60);

const NAME: &str = "demo";

/// The guest's name for the NVMe, the image's length, and how much is written: enough for hundreds of commands.
const DISK: &str = "nvme0n1";
const IMAGE_LEN: u64 = 128 << 20;
const WRITTEN_MIB: u64 = 32;

/// The processes that are killed, each as often: fewer than a minute allows.
const VICTIMS: [&str; 3] = ["smmu0", "vfio0", "nvme0"];
const KILLS: usize = 3;

/// What the demo is to show.
#[derive(Args, Debug)]
#[group(id = "demo-options")]
pub struct Options {
    /// Give the guest's console to you instead of running the stages
    #[arg(long)]
    interactive: bool,
    /// Build with optimisation, as shipped
    #[arg(long)]
    release: bool,
    #[command(flatten)]
    guest: guest::Options,
}

/// The task.
pub fn run(options: &Options) -> Result<ExitCode> {
    let profile = Profile::of(options.release);
    if options.interactive {
        return interactive(options, profile);
    }
    let mut stages = Stages::default();
    let programs = stages.run_shown("programs built", || {
        let folder = product::build(profile)?;
        Ok((folder, format!("{} profile", profile.folder())))
    });
    let files = stages.run_shown("guest files", || {
        let files = guest::obtain(&options.guest)?;
        let seen = files.kernel.display().to_string();
        Ok((files, seen))
    });
    let folder = tempfile::tempdir().context("a folder for the disk's image")?;
    let image = folder.path().join("disk.img");
    File::create(&image).and_then(|file| file.set_len(IMAGE_LEN)).context("the disk's image")?;
    let vm_options = programs.zip(files).map(|(programs, files)| {
        let mut options = vm::Options::new(programs, files, NAME);
        options.nvme.push(image.clone());
        options
    });
    let launched = Instant::now();
    let mut vm = stages.run("launch", || launch(vm_options));

    stages.run("shell prompt", || {
        present(&mut vm)?.console.shell(BOOT)?;
        Ok(((), format!("{:.2} s after the launch", launched.elapsed().as_secs_f64())))
    });
    stages.run("uname -a", || {
        let answer = answer(&mut vm, "uname -a")?;
        ensure!(answer.contains("aarch64"), "the guest says it is {answer:?}");
        Ok(((), answer))
    });
    stages.run_shown("interrupts", || {
        let table = answer(&mut vm, "cat /proc/interrupts")?;
        let timer = table.lines().find(|line| line.contains("arch_timer")).context("no timer interrupt")?;
        ensure!(table.contains("GICv3"), "no interrupt goes through a GICv3");
        println!("{table}");
        Ok(((), timer.split_whitespace().collect::<Vec<_>>().join(" ")))
    });
    stages.run_shown("SMMU probed", || {
        let lines = answer(&mut vm, "dmesg | grep -i smmu")?;
        println!("{lines}");
        smmu::check(&lines).map(|seen| ((), seen))
    });
    stages.run("NVMe behind the SMMU", || nvme(&mut vm).map(|seen| ((), seen)));
    stages.run("processes killed", || crash(present(&mut vm)?).map(|seen| ((), seen)));
    stages.run("moved to another coordinator", || migrate(&mut vm).map(|seen| ((), seen)));
    let sum = stages.run("file system on it", || {
        let sum = disk::fill(&mut present(&mut vm)?.console, DISK, WRITTEN_MIB, COMMAND)?;
        let seen = format!("{WRITTEN_MIB} MiB written, caches dropped, read back: {sum}");
        Ok((sum, seen))
    });
    stages.run_shown("processes confined", || confined::check(present(&mut vm)?).map(|seen| ((), seen)));
    stages.run("power off", || {
        present(&mut vm)?.power_off(COMMAND)?;
        Ok(((), "`bulkhead run` ended with exit code 0".into()))
    });
    stages.run("nothing left behind", || {
        let left = present(&mut vm)?.left_over();
        ensure!(left.is_empty(), "left behind: {}", left.join(", "));
        Ok(((), "no process, no socket, no mount".into()))
    });
    stages.run("image from outside", || match disk::seen_from_outside(&image)? {
        Some(outside) => {
            ensure!(Some(&outside) == sum.as_ref(), "the file's sum in the image is {outside}");
            Ok(((), "a clean file system, the file as the guest saw it".into()))
        }
        None => Ok(((), format!("{SKIPPED}{}", disk::not_seen()))),
    });
    if let (false, Some(vm)) = (stages.all_ok(), &vm) {
        keep_transcript(vm)?;
    }
    Ok(stages.finish("demo"))
}

/// The guest moves to a second coordinator with processes of its own while it works on its disk, and goes on there.
fn migrate(vm: &mut Option<Vm>) -> Result<String> {
    let here = present(vm)?;
    here.console.output("rm -f /tmp/stop", COMMAND)?;
    disk::work::begin(&mut here.console, COMMAND)?;
    let mut there = here.other_host(COMMAND)?;
    let answer = here.migrate_to(&there, &["--json"])?;
    ensure!(
        answer.status.success(),
        "`bulkhead migrate`: {}",
        String::from_utf8_lossy(&answer.stderr).trim()
    );
    let report: serde_json::Value =
        serde_json::from_slice(&answer.stdout).context("its answer is not JSON")?;
    let status = here.console.wait_exit(COMMAND)?;
    ensure!(status.success(), "the machine that the guest has left ended with {status}");
    disk::work::another_round(&mut there.console, COMMAND)?;
    let work = disk::work::end_unnoticed(&mut there.console, COMMAND)?;
    *vm = Some(there);
    let number = |field: &str| report.get(field).and_then(serde_json::Value::as_u64).unwrap_or(0);
    let rounds = report.get("rounds").and_then(serde_json::Value::as_array).map_or(0, Vec::len);
    Ok(format!(
        "{} MiB in {rounds} rounds, stood still for {} ms; {work} rounds of disk I/O, none failed",
        number("sent_len") >> 20,
        number("downtime_us") / 1000
    ))
}

fn launch(options: Option<vm::Options>) -> Result<(Vm, String)> {
    let mut vm = Vm::launch(options.context("nothing to launch")?)?;
    // `bulkhead run` says on standard error why it ends early: that is worth more than a missing line.
    if let Err(error) = vm.console.wait_for(USER_SPACE_MARK, BOOT) {
        keep_transcript(&vm)?;
        let errors = vm.console.errors();
        return match errors.lines().last() {
            Some(why) => Err(error.context(why.to_string())),
            None => Err(error.context("the guest did not reach user space")),
        };
    }
    let status = vm.control_json("status")?;
    let status: serde_json::Value = serde_json::from_str(&status).context("`bulkhead status` is not JSON")?;
    let word = |name: &str| status.get(name).and_then(|value| value.as_str()).unwrap_or("?").to_string();
    ensure!(word("phase") == "running", "the machine's phase is {:?}", word("phase"));
    Ok((vm, format!("{} is {}", word("machine"), word("phase"))))
}

/// The disk's DMA must be translated by tables of the guest, and its interrupts be messages.
fn nvme(vm: &mut Option<Vm>) -> Result<String> {
    let domain = answer(vm, &format!("cat /sys/block/{DISK}/device/device/iommu_group/type"))
        .context("the guest has no NVMe in an IOMMU group")?;
    ensure!(domain.trim() == "DMA", "the NVMe's IOMMU group has type {domain:?}, not DMA");
    let function = answer(vm, &format!("basename $(readlink -f /sys/block/{DISK}/device/device)"))?;
    let interrupts = answer(vm, "grep -c 'ITS-MSI.*nvme' /proc/interrupts")?;
    Ok(format!("{} in a group of type DMA, {} MSI-X vectors", function.trim(), interrupts.trim()))
}

/// The vSMMU's process and both of the disk are killed, one at a time, while the guest works on it, and come back.
fn crash(vm: &mut Vm) -> Result<String> {
    disk::work::begin(&mut vm.console, COMMAND)?;
    let mut seen = Vec::new();
    for victim in VICTIMS {
        let mut gaps = Vec::new();
        for _ in 0..KILLS {
            gaps.push(kill_and_await(vm, victim, COMMAND)?.as_millis().to_string());
            disk::work::another_round(&mut vm.console, COMMAND)?;
        }
        seen.push(format!("{victim} {} ms", gaps.join(", ")));
    }
    let rounds = disk::work::end_unnoticed(&mut vm.console, COMMAND)?;
    Ok(format!("back after: {}; {rounds} rounds of disk I/O, none failed", seen.join("; ")))
}

/// A stage after the launch runs only if there is a machine: `Stages` sees to that.
fn present(vm: &mut Option<Vm>) -> Result<&mut Vm> {
    vm.as_mut().context("no machine")
}

/// What the guest prints for a command that ends well.
fn answer(vm: &mut Option<Vm>, command: &str) -> Result<String> {
    let answer = present(vm)?.console.run(command, COMMAND)?;
    ensure!(answer.code == 0, "`{command}` ended with code {} in the guest: {}", answer.code, answer.output);
    Ok(answer.output)
}

fn interactive(options: &Options, profile: Profile) -> Result<ExitCode> {
    let programs = product::build(profile)?;
    let files = guest::obtain(&options.guest)?;
    let runtime = tempfile::tempdir().context("a runtime folder for the machine")?;
    eprintln!("the guest's console is yours; `poweroff -f` ends it");
    eprintln!("from another terminal: XDG_RUNTIME_DIR={} bulkhead ps {NAME}", runtime.path().display());
    let ended_well = show(&mut vm::Options::new(programs, files, NAME).command(runtime.path()))?;
    Ok(if ended_well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn keep_transcript(vm: &Vm) -> Result<()> {
    let file: PathBuf = places::target().join("demo-transcript.txt");
    let text = format!("{}\n--- standard error ---\n{}", vm.console.transcript(), vm.console.errors());
    write_whole(&file, text.as_bytes())?;
    eprintln!("the console's text is in {}", file.display());
    Ok(())
}
