// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The rules of a configuration, one function each: name, command line, memory, vCPUs, boot files.
//!
//! Each refusal says what is wrong, with which value, and what would be right. Rules about the host (its
//! memory, its files) stand apart, because they can only be checked where the VM is about to run.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use machine::boot::KERNEL_LEN_MAX;
use machine::layout::VCPU_COUNT_MAX;

use super::size;
use crate::printable;
use crate::problem::Problem;
use crate::system::CpuKind;

/// Longest name: with the directory and the suffix it must fit the 108 bytes of a socket address.
pub const NAME_LEN_MAX: usize = 32;
/// An arm64 kernel ignores what is beyond its own `COMMAND_LINE_SIZE`; we refuse instead.
pub const CMDLINE_LEN_MAX: usize = 2047;
/// RAM is mapped, logged and migrated in pages of this size.
pub const PAGE_LEN: u64 = 4096;
/// The boot protocol wants the Image at a 2 MiB boundary and the device tree behind it: less cannot boot.
pub const MEMORY_LEN_MIN: u64 = 16 << 20;
/// RAM starts at 1 GiB and must end below the 64-bit PCI window at 512 GiB (`bulkhead-virt-1`).
const MEMORY_LEN_MAX: u64 = (512 << 30) - (1 << 30);
/// The smallest file that can hold an arm64 Image header.
const KERNEL_LEN_MIN: u64 = 64;

/// A name is a file name, a host name and a word on a command line at once.
pub fn name(name: &str) -> Result<(), Problem> {
    let good = name.len() <= NAME_LEN_MAX
        && name.starts_with(|first: char| first.is_ascii_lowercase() || first.is_ascii_digit())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
    if good {
        return Ok(());
    }
    Err(Problem::usage(
        format!("{name:?} cannot be the name of a VM"),
        "name",
        format!("use at most {NAME_LEN_MAX} of a-z, 0-9 and '-', beginning with a letter or digit"),
    ))
}

/// The command line becomes a device tree string: bounded, and without the byte that ends it.
pub fn cmdline(cmdline: &str) -> Result<(), Problem> {
    if cmdline.len() > CMDLINE_LEN_MAX {
        return Err(Problem::usage(
            format!("the kernel command line has {} bytes", cmdline.len()),
            "cmdline",
            format!("an arm64 kernel reads at most {CMDLINE_LEN_MAX}"),
        ));
    }
    match cmdline.chars().find(|c| c.is_control()) {
        None => Ok(()),
        Some(found) => Err(Problem::usage(
            format!("the kernel command line contains the control character {found:?}"),
            "cmdline",
            "leave it out",
        )),
    }
}

/// Guest RAM: room for a kernel, inside the machine's memory map, and whole pages. In this order: what is advised about
/// the last rule keeps the other two.
pub fn memory_len(len: u64) -> Result<(), Problem> {
    let refuse = |what: String, advice: String| Err(Problem::usage(what, "memory", advice));
    if len < MEMORY_LEN_MIN {
        // Other VMMs read a bare number as MiB.
        let hint = if (16..=16384).contains(&len) {
            format!("; a size without a unit is in bytes, {len}M is MiB")
        } else {
            String::new()
        };
        return refuse(
            format!("no arm64 kernel starts in {} of memory", as_given(len)),
            format!("give at least {}{hint}", size::display(MEMORY_LEN_MIN)),
        );
    }
    if len > MEMORY_LEN_MAX {
        return refuse(
            format!("{} of memory do not fit the machine's address map", as_given(len)),
            format!("give at most {}", size::display(MEMORY_LEN_MAX)),
        );
    }
    if !len.is_multiple_of(PAGE_LEN) {
        let whole = len.next_multiple_of(1 << 20).min(MEMORY_LEN_MAX);
        return refuse(
            format!("{len} bytes of memory are not whole pages"),
            format!("give a multiple of {PAGE_LEN} bytes, such as {}", size::display(whole)),
        );
    }
    Ok(())
}

/// Software vCPUs at most: what the litmus tests and guests were run with. A thread each, so a host has few cores for
/// more.
const SOFT_VCPU_COUNT_MAX: u32 = 8;

/// A size of memory as whoever chose it wrote it, where that was in units.
fn as_given(len: u64) -> String {
    for (unit, name) in [(1 << 30, "G"), (1 << 20, "M")] {
        if len != 0 && len.is_multiple_of(unit) {
            return format!("{}{name}", len / unit);
        }
    }
    size::about(len)
}

/// As many as the machine has interrupt controllers for; of software CPUs, fewer.
pub fn vcpu_count(count: u64, cpu: Option<CpuKind>) -> Result<u16, Problem> {
    let max = match cpu {
        Some(CpuKind::Soft) => u64::from(SOFT_VCPU_COUNT_MAX),
        Some(CpuKind::Kvm) | None => u64::from(VCPU_COUNT_MAX),
    };
    match u16::try_from(count) {
        Ok(0) => Err(Problem::usage("a guest needs a virtual CPU", "vcpus", "give 1")),
        Ok(fitting) if count <= max => Ok(fitting),
        _ if count <= u64::from(VCPU_COUNT_MAX) => Err(Problem::usage(
            format!("{count} virtual CPUs are too many where CPUs are software"),
            "vcpus",
            format!("give at most {max}, or run on an arm64 host with KVM (`--cpu kvm`)"),
        )),
        _ => Err(Problem::usage(
            format!("{count} virtual CPUs are more than the machine has room for"),
            "vcpus",
            format!("give at most {max}"),
        )),
    }
}

/// The largest limit of deaths within a minute.
const RESTARTS_MAX: u32 = 1000;

/// A limit of deaths: none at all is what `never` is for, and thousands in a minute are no limit.
/// `table` is where it is given.
pub fn restarts(count: u64, table: &str) -> Result<u32, Problem> {
    u32::try_from(count).ok().filter(|count| (1..=RESTARTS_MAX).contains(count)).ok_or_else(|| {
        Problem::usage(
            format!("{count} restarts of a process within a minute cannot be allowed"),
            format!("{table}.restarts-per-minute"),
            format!("give 1 to {RESTARTS_MAX}, or `restart = \"never\"`"),
        )
    })
}

/// The shortest and the longest time until a process counts as hung: a busy host must not look like one, and a guest
/// must not wait for an hour.
const HANG_DEADLINES: std::ops::RangeInclusive<u32> = 2..=3600;

/// The seconds until a process counts as hung, or 0.
pub fn hang_deadline(seconds: u64) -> Result<u32, Problem> {
    let fits = |seconds: &u32| *seconds == 0 || HANG_DEADLINES.contains(seconds);
    u32::try_from(seconds).ok().filter(fits).ok_or_else(|| {
        let (min, max) = (HANG_DEADLINES.start(), HANG_DEADLINES.end());
        Problem::usage(
            format!("a process cannot count as hung after {seconds} s"),
            "hang-deadline",
            format!("give {min} to {max} seconds, or 0 for a process that may be stopped, as by a debugger"),
        )
    })
}

/// A share as the kernel counts it: 100 is what a control group has by itself.
pub fn cpu_weight(weight: u64) -> Result<u64, Problem> {
    if (1..=10_000).contains(&weight) {
        return Ok(weight);
    }
    Err(Problem::usage(
        format!("a CPU weight of {weight} is no share"),
        "cpu-weight",
        "give 1 to 10000; 100 is usual",
    ))
}

/// The VM must fit the memory that the host has at all; swap is not guest RAM.
pub fn memory_fits_host(len: u64) -> Result<(), Problem> {
    let text = std::fs::read_to_string("/proc/meminfo").map_err(|error| {
        Problem::host(format!("the host's memory size is unknown: {error}"), "/proc/meminfo", "mount /proc")
            .because_of(&error)
    })?;
    match mem_total_len(&text) {
        Some(total) if len > total => Err(Problem::usage(
            format!("{} of memory are more than this host has ({})", as_given(len), size::about(total)),
            "memory",
            "give less, or use a larger host",
        )),
        Some(_) => Ok(()),
        None => Err(Problem::host("there is no MemTotal line", "/proc/meminfo", "mount a Linux /proc")),
    }
}

/// The bytes of memory that a `/proc/meminfo` text tells of.
pub fn mem_total_len(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// Opens the kernel and checks what can be seen from outside; its format is parsed by the sealed coordinator.
pub fn open_kernel(path: &Path, memory_len: u64) -> Result<File, Problem> {
    let (file, len) = open_boot_file("kernel", path)?;
    let place = printable::path(path);
    if len < KERNEL_LEN_MIN {
        return Err(Problem::usage(
            format!("the kernel has only {len} bytes"),
            place,
            "give an arm64 Linux Image; this file may be a truncated copy",
        ));
    }
    if len > KERNEL_LEN_MAX {
        return Err(Problem::usage(
            format!("a file of {} is no kernel", size::about(len)),
            place,
            format!("give an arm64 Linux Image; none is larger than {}", size::display(KERNEL_LEN_MAX)),
        ));
    }
    if len > memory_len {
        return Err(Problem::usage(
            format!("a kernel of {} does not fit a guest of {}", size::about(len), size::display(memory_len)),
            place,
            "give an arm64 Linux Image, or more memory",
        ));
    }
    Ok(file)
}

/// Opens the initramfs; it must leave room for a kernel.
pub fn open_initramfs(path: &Path, memory_len: u64) -> Result<File, Problem> {
    let (file, len) = open_boot_file("initramfs", path)?;
    let place = printable::path(path);
    if len == 0 {
        return Err(Problem::usage("the initramfs is empty", place, "give a cpio archive, or leave it out"));
    }
    if len >= memory_len {
        return Err(Problem::usage(
            format!(
                "an initramfs of {} does not fit a guest of {}",
                size::about(len),
                size::display(memory_len)
            ),
            place,
            "give a smaller initramfs, or more memory",
        ));
    }
    Ok(file)
}

fn open_boot_file(kind: &'static str, path: &Path) -> Result<(File, u64), Problem> {
    let place = printable::path(path);
    let refused = |error: io::Error| {
        let advice = match error.kind() {
            ErrorKind::PermissionDenied => {
                "let this user read it, and search the folders above it".to_owned()
            }
            _ => format!("check the path given as `{kind}`"),
        };
        Problem::usage(format!("the {kind} cannot be opened: {error}"), &place, advice).because_of(&error)
    };
    // Not blocking: a FIFO given by mistake must be refused below, not waited for.
    let nonblock = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(nonblock).open(path).map_err(refused)?;
    let metadata = file.metadata().map_err(refused)?;
    if metadata.is_dir() {
        return Err(Problem::usage(
            format!("the {kind} is a directory"),
            place,
            format!("give the path of a file as `{kind}`"),
        ));
    }
    if !metadata.is_file() {
        return Err(Problem::usage(
            format!("the {kind} is not a regular file"),
            place,
            "copy its content to a regular file first",
        ));
    }
    Ok((file, metadata.len()))
}
