// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! One reviewed file per role; `common` holds what every role needs, with the reason for each call.
//!
//! A role's rules are computed from these lists for an [`Arch`], so the two architectures are compiled and
//! tested on either host. Calls that exist on one architecture only stand under its name in the file.

mod common;
mod coordinator;
mod mover;
mod nvme;
mod smmu;
mod vcpu_kvm;
mod vcpu_soft;
mod vfio;
mod vfio_kernel;

use crate::memory_file::MemoryFiles;
use crate::profile::{Arch, Profile};

/// The ABI of Linux 5.19 and 6.1: every path right but truncating. What the kernel can deny beyond that is denied too;
/// what it cannot must be denied by another mechanism (`landlock::Gap`).
const LANDLOCK_ABI_MIN: u32 = 2;

/// The longest file that a process writes its state units into. 64 MiB is far above the largest, and keeps a
/// compromised process from filling the host's memory.
const SAVED_LEN_MAX: u64 = 64 << 20;

/// The same of a process that also saves a device's own state: the most that the coordinator accepts.
const DEVICE_SAVED_LEN_MAX: u64 = 16 << 30;

/// What a process maps beside private memory and guest RAM: its program, rings, register pages.
const SHARED_LEN: u64 = 256 << 20;

/// Calls that a trace of a running VM does not show in every role that may make them, and why they are allowed
/// nevertheless. `cargo xtask syscalls` requires a reason for each.
pub const UNSEEN: &[(&str, &str)] = &[
    ("brk", "the C library's allocator"),
    ("capget", "verified before sealing, by the C library's number of it where there is one"),
    ("clock_gettime", "asked of the kernel where the vDSO has no clock to read"),
    ("clock_nanosleep", "between two looks at whether a software CPU has left guest code"),
    ("clone", "a thread is made when there is work for it"),
    ("clone3", "answered ENOSYS, so that the C library takes clone"),
    ("close", "descriptors that came and go"),
    ("epoll_pwait", "the runtime's wait on arm64"),
    ("eventfd2", "interrupt vectors, when the guest makes them"),
    ("exit", "the end of a thread"),
    ("exit_group", "the end, and the end after a refused call"),
    ("fadvise64", "images of a guest that moved here"),
    ("fallocate", "zeroing, when the guest asks for it"),
    ("fcntl", "duplicates and seals of descriptors"),
    ("fdatasync", "a flush, when the guest asks for it"),
    ("fstat", "a memory file that comes later is measured"),
    ("fstatfs", "memory that a device offers, and the empty root before sealing, are looked at"),
    ("futex", "locks, when two threads meet"),
    ("getpid", "abort, to name itself"),
    ("getrandom", "seeds of hash tables, and the guest's own"),
    ("getrusage", "whether a thread that took long has waited"),
    ("gettid", "the name of a thread in a report"),
    (
        "ioctl",
        "the console is made non-blocking, and the listed ioctls of other CPUs and devices are its children's",
    ),
    ("lseek", "the length of an image"),
    ("madvise", "the stack of a thread that ended is given back"),
    ("memfd_create", "states and crash pages"),
    ("mmap", "memory, when there is need of more"),
    ("mprotect", "the stack of a thread that is made later"),
    ("mremap", "a large block of memory grows"),
    ("munmap", "memory is given back"),
    ("pidfd_send_signal", "a child that does not end is killed"),
    ("poll", "the standard library, before sealing, where a standard descriptor may be closed"),
    ("prctl", "the names of threads"),
    ("pread64", "a state that is restored"),
    ("preadv", "from an image into memory that a client has handed over"),
    ("preadv2", "the same without waiting, from what is cached"),
    ("pwrite64", "a state that is saved"),
    ("pwritev", "from such memory into an image"),
    ("read", "counts of eventfds"),
    ("readlink", "the C library looks for its own path before sealing; Landlock refuses"),
    ("readlinkat", "the C library looks for its own path before sealing; Landlock refuses"),
    ("recvfrom", "doorbells, what is typed, and clients"),
    ("recvmmsg", "messages to and from a foreign server, of which the kernel writes how far they came"),
    ("restart_syscall", "a wait goes on after SIGSTOP and SIGCONT"),
    ("rseq", "the C library, at the start of a thread"),
    ("rt_sigaction", "the C library's own handlers, at the first thread"),
    ("rt_sigprocmask", "around the start of a thread, and in abort"),
    ("sched_getaffinity", "the C library asks for the bounds of a thread's stack"),
    ("sched_yield", "a thread that waits for another's few instructions"),
    ("sendmmsg", "messages to and from a foreign server, of which the kernel writes how far they came"),
    ("sendmsg", "descriptors that are handed on, and data in several pieces"),
    ("sendto", "an answer without descriptors"),
    ("set_robust_list", "the C library, at the start of a thread"),
    ("shutdown", "a peer that breaks the contract is cut off"),
    ("sigaltstack", "the standard library, at the start and end of a thread"),
    ("statx", "the standard library asks how long a file is before it is read"),
    ("newfstatat", "the C library's fstat"),
    ("tgkill", "abort, of itself"),
    ("write", "the log, and eventfds"),
    ("writev", "answers to clients"),
];

/// The coordinator: process supervisor, memory owner, control API. Spawns the others from inside its sandbox.
pub fn coordinator() -> Profile {
    coordinator::profile(Arch::host(), MemoryFiles::of_kernel())
}

/// The software vCPU process.
pub fn vcpu_soft() -> Profile {
    vcpu_soft::profile(Arch::host())
}

/// The vCPU process on KVM.
pub fn vcpu_kvm() -> Profile {
    vcpu_kvm::profile(Arch::host())
}

/// The vSMMUv3 process.
pub fn smmu() -> Profile {
    smmu::profile(Arch::host())
}

/// The process of an assigned device behind vfio-user.
pub fn vfio() -> Profile {
    vfio::profile(Arch::host())
}

/// The process of a physical device, by VFIO.
pub fn vfio_kernel() -> Profile {
    vfio_kernel::profile(Arch::host())
}

/// The NVMe controller process, spawned by the coordinator.
pub fn nvme() -> Profile {
    nvme::profile(Arch::host())
}

/// The NVMe controller process, spawned by its own launcher.
pub fn nvme_standalone() -> Profile {
    nvme::standalone(Arch::host())
}

/// The mover's process.
pub fn mover() -> Profile {
    mover::profile(Arch::host())
}

/// Every profile as it is on `arch`, and on the running kernel.
pub fn all(arch: Arch) -> Vec<Profile> {
    all_with(arch, MemoryFiles::of_kernel())
}

fn all_with(arch: Arch, memory_files: MemoryFiles) -> Vec<Profile> {
    let mut all = vec![coordinator::profile(arch, memory_files)];
    all.extend(of_children(arch));
    all.push(nvme::standalone(arch));
    all
}

/// The profiles of the processes that the coordinator starts, which also run under its own filter.
fn of_children(arch: Arch) -> Vec<Profile> {
    let mut all = vec![
        vcpu_soft::profile(arch),
        smmu::profile(arch),
        vfio::profile(arch),
        vfio_kernel::profile(arch),
        nvme::profile(arch),
        mover::profile(arch),
    ];
    // KVM runs guests of the host's own architecture only, and they are arm64.
    if arch == Arch::Aarch64 {
        all.push(vcpu_kvm::profile(arch));
    }
    all
}

#[cfg(test)]
mod tests;
