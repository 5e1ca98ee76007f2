// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The vCPU process on the host's KVM (arm64): what the software one has, KVM's ioctls by number, and a signal of its
//! own to call a thread back out of the guest.
//!
//! KVM answers only the process that made the VM, so that this one is sealed first and makes it then: the ioctls that
//! build a VM are here beside those that run it. `/dev/kvm` is given by name and its own ioctls work on that only;
//! VMs, vCPUs and devices are made later and may have any number, but the kernel knows each ioctl on its own kind only.
//! Spawned by the sealed coordinator, so every rule here is also the coordinator's, on arm64.

use crate::profile::{Arch, Check, Limits, Profile, RootKind, Rule, union};
use crate::profiles::{common, vcpu_soft};

pub fn profile(arch: Arch) -> Profile {
    Profile {
        name: "vcpu-kvm",
        arch,
        root: RootKind::Inherited,
        // A VM, two devices, 64 vCPUs with a file of statistics each, eventfds of interrupts.
        // 64 vCPUs, the console, control and interrupt threads.
        // What it is given, and what each device brings, is added for the machine.
        limits: Limits {
            nofile_count: 256,
            nproc_count: 80,
            fsize_len: super::SAVED_LEN_MAX,
            data_len: 512 << 20,
            address_len: (512 << 20) + super::SHARED_LEN,
            locked_len: Some(0),
        },
        landlock_abi_min: super::LANDLOCK_ABI_MIN,
        memory_files: None,
        rules: rules(),
        absent: common::ABSENT,
    }
}

pub fn rules() -> Vec<Rule> {
    let of_kvm = "this ioctl is for /dev/kvm alone";
    let system = |request: u32| vec![Check::descriptor(0, "kvm", of_kvm), Check::int(1, request, KNOWN)];
    let of_others = OF_VM.iter().chain(&OF_VCPU).chain(&OF_DEVICE);
    let mut when: Vec<Vec<Check>> = OF_SYSTEM.iter().map(|request| system(*request)).collect();
    when.extend(of_others.map(|request| vec![Check::int(1, *request, KNOWN)]));
    union(&[
        &vcpu_soft::rules(),
        // What a vector has signalled while the guest was paused goes with its state.
        &common::shared_eventfds(),
        &[
            Rule::alternatives("ioctl", when)
                .needed_for("KVM: the VM, its CPUs and its interrupt controller"),
            Rule::any("rt_sigreturn").needed_for("the end of the handler of a kick"),
            // A sealed process is always pid 1 of its own pid namespace.
            Rule::when(
                "tgkill",
                &[Check::int(0, 1, KICK), Check::int(2, libc::SIGUSR1.cast_unsigned(), KICK)],
            )
            .needed_for("a CPU's thread is called back out of the guest"),
        ],
    ])
}

const KNOWN: &str = "only the listed ioctls of KVM are needed";
const KICK: &str = "a process may only call its own threads";

/// KVM_CREATE_VM, KVM_GET_VCPU_MMAP_SIZE. (Linux, include/uapi/linux/kvm.h; the same on every architecture.)
const OF_SYSTEM: [u32; 2] = [0xae01, 0xae04];

/// Of a VM, in this order: KVM_CHECK_EXTENSION, KVM_ENABLE_CAP, KVM_SET_USER_MEMORY_REGION, KVM_CREATE_VCPU,
/// KVM_CREATE_DEVICE, KVM_ARM_PREFERRED_TARGET, KVM_IRQ_LINE, KVM_IRQFD, KVM_SET_GSI_ROUTING (what an
/// irqfd's number is: physical devices' messages), KVM_SIGNAL_MSI, KVM_GET_DIRTY_LOG, KVM_CLEAR_DIRTY_LOG,
/// KVM_ARM_SET_COUNTER_OFFSET.
const OF_VM: [u32; 13] = [
    0xae03,
    0x4068_aea3,
    0x4020_ae46,
    0xae41,
    0xc00c_aee0,
    0x8020_aeaf,
    0x4008_ae61,
    0x4020_ae76,
    0x4008_ae6a,
    0x4020_aea5,
    0x4010_ae42,
    0xc018_aec0,
    0x4010_aeb5,
];

/// Of a vCPU: KVM_ARM_VCPU_INIT, KVM_RUN, KVM_GET_REG_LIST, KVM_GET_ONE_REG, KVM_SET_ONE_REG, KVM_GET_MP_STATE,
/// KVM_SET_MP_STATE, KVM_GET_VCPU_EVENTS, KVM_SET_VCPU_EVENTS, KVM_GET_STATS_FD.
const OF_VCPU: [u32; 10] = [
    0x4020_aeae,
    0xae80,
    0xc008_aeb0,
    0x4010_aeab,
    0x4010_aeac,
    0x8004_ae98,
    0x4004_ae99,
    0x8040_ae9f,
    0x4040_aea0,
    0xaece,
];

/// Of the interrupt controller and its ITS: KVM_SET_DEVICE_ATTR, KVM_GET_DEVICE_ATTR.
const OF_DEVICE: [u32; 2] = [0x4018_aee1, 0x4018_aee2];
