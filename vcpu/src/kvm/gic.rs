// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! KVM's GICv3 and its ITS: made where the machine has them, saved and restored register by register.
//!
//! Pending LPIs and the ITS's tables have no registers: KVM writes them into the guest's own tables in RAM when asked
//! to ([`Gic::write_tables`], at every pause, before the last harvest of the dirty log) and reads them back on restore.

use super::registers::{self, GITS_CTLR, ICC_CTLR_EL1, affinity, level_words, priority_bits};
use super::saved::{KvmGicV1, KvmRedistributorV1};
use super::sys;
use ipc::protocol::control::Failure;
use kvm_bindings::{
    KVM_DEV_ARM_ITS_RESTORE_TABLES, KVM_DEV_ARM_ITS_SAVE_TABLES, KVM_DEV_ARM_VGIC_CTRL_INIT,
    KVM_DEV_ARM_VGIC_GRP_ADDR, KVM_DEV_ARM_VGIC_GRP_CPU_SYSREGS, KVM_DEV_ARM_VGIC_GRP_CTRL,
    KVM_DEV_ARM_VGIC_GRP_DIST_REGS, KVM_DEV_ARM_VGIC_GRP_ITS_REGS, KVM_DEV_ARM_VGIC_GRP_LEVEL_INFO,
    KVM_DEV_ARM_VGIC_GRP_NR_IRQS, KVM_DEV_ARM_VGIC_GRP_REDIST_REGS, KVM_DEV_ARM_VGIC_SAVE_PENDING_TABLES,
    KVM_VGIC_ITS_ADDR_TYPE, KVM_VGIC_V3_ADDR_TYPE_DIST, KVM_VGIC_V3_ADDR_TYPE_REDIST, kvm_create_device,
    kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_ITS, kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_V3,
};
use kvm_ioctls::{DeviceFd, VmFd};
use machine::layout::{GIC_DISTRIBUTOR, GIC_ITS, GIC_REDISTRIBUTORS, SPI_BASE, SPI_COUNT};
use std::fmt::Display;

/// Both devices.
pub struct Gic {
    vcpu_count: u32,
    gic: DeviceFd,
    its: DeviceFd,
}

fn fail(what: &str) -> impl FnOnce(vmm_sys_util::errno::Error) -> Failure {
    let what = what.to_owned();
    move |errno| Failure::new(what, errno)
}

fn refuse(what: &str, why: impl Display) -> Failure {
    Failure::new(what.to_owned(), why)
}

impl Gic {
    /// Both at reset, in a VM that has all its vCPUs.
    pub fn new(vm: &VmFd, vcpu_count: u32) -> Result<Self, Failure> {
        let make = |kind| vm.create_device(&mut kvm_create_device { type_: kind, fd: 0, flags: 0 });
        let gic = make(kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_V3).map_err(fail("create the GICv3"))?;
        let its = make(kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_ITS).map_err(fail("create the ITS"))?;
        for (device, kind, place) in [
            (&gic, KVM_VGIC_V3_ADDR_TYPE_DIST, GIC_DISTRIBUTOR),
            (&gic, KVM_VGIC_V3_ADDR_TYPE_REDIST, GIC_REDISTRIBUTORS),
            (&its, KVM_VGIC_ITS_ADDR_TYPE, GIC_ITS),
        ] {
            sys::set_attr(device, KVM_DEV_ARM_VGIC_GRP_ADDR, kind.into(), place.base)
                .map_err(fail("set the addresses of the interrupt controller"))?;
        }
        sys::set_attr(&gic, KVM_DEV_ARM_VGIC_GRP_NR_IRQS, 0, SPI_BASE + SPI_COUNT)
            .map_err(fail("set the number of interrupts"))?;
        for device in [&gic, &its] {
            sys::command(device, KVM_DEV_ARM_VGIC_GRP_CTRL, KVM_DEV_ARM_VGIC_CTRL_INIT.into())
                .map_err(fail("initialise the interrupt controller"))?;
        }
        Ok(Self { vcpu_count, gic, its })
    }

    /// Makes KVM write pending LPIs and the ITS's tables into guest RAM. No vCPU may run.
    pub fn write_tables(&self) -> Result<(), Failure> {
        for (device, command) in
            [(&self.its, KVM_DEV_ARM_ITS_SAVE_TABLES), (&self.gic, KVM_DEV_ARM_VGIC_SAVE_PENDING_TABLES)]
        {
            sys::command(device, KVM_DEV_ARM_VGIC_GRP_CTRL, command.into())
                .map_err(fail("write the ITS's tables into guest memory"))?;
        }
        Ok(())
    }

    /// All registers of the GIC.
    pub fn save(&self) -> Result<KvmGicV1, Failure> {
        let word = |group, attr: u64| -> Result<u32, Failure> {
            sys::get_attr(&self.gic, group, attr)
                .map_err(|errno| refuse(&format!("save GIC register {attr:#x} of group {group}"), errno))
        };
        let redistributor = |vcpu| -> Result<KvmRedistributorV1, Failure> {
            let registers = registers::redistributor()
                .into_iter()
                .map(|offset| word(KVM_DEV_ARM_VGIC_GRP_REDIST_REGS, affinity(vcpu) | u64::from(offset)))
                .collect::<Result<_, _>>()?;
            let levels = word(KVM_DEV_ARM_VGIC_GRP_LEVEL_INFO, affinity(vcpu))?;
            Ok(KvmRedistributorV1 { registers, levels })
        };
        Ok(KvmGicV1 {
            distributor: registers::distributor()
                .into_iter()
                .map(|offset| word(KVM_DEV_ARM_VGIC_GRP_DIST_REGS, offset.into()))
                .collect::<Result<_, _>>()?,
            levels: level_words()
                .map(|first| word(KVM_DEV_ARM_VGIC_GRP_LEVEL_INFO, first.into()))
                .collect::<Result<_, _>>()?,
            redistributors: (0..self.vcpu_count).map(redistributor).collect::<Result<_, _>>()?,
            cpu_interfaces: (0..self.vcpu_count)
                .map(|vcpu| self.cpu_interface(vcpu)?.into_iter().map(|name| self.icc(vcpu, name)).collect())
                .collect::<Result<_, Failure>>()?,
        })
    }

    fn icc(&self, vcpu: u32, name: u64) -> Result<u64, Failure> {
        sys::get_attr(&self.gic, KVM_DEV_ARM_VGIC_GRP_CPU_SYSREGS, affinity(vcpu) | name)
            .map_err(|errno| refuse(&format!("save ICC register {name:#x} of vCPU {vcpu}"), errno))
    }

    /// How many bits of an interrupt's priority a vCPU has.
    pub fn priority_bits(&self, vcpu: u32) -> Result<u32, Failure> {
        Ok(priority_bits(self.icc(vcpu, ICC_CTLR_EL1)?))
    }

    /// The names of a vCPU's ICC registers on this host.
    fn cpu_interface(&self, vcpu: u32) -> Result<Vec<u64>, Failure> {
        Ok(registers::cpu_interface(self.priority_bits(vcpu)?))
    }

    /// Restores saved registers; those of the vCPUs are restored already.
    pub fn restore(&self, saved: &KvmGicV1) -> Result<(), Failure> {
        let KvmGicV1 { distributor, levels, redistributors, cpu_interfaces } = saved;
        let set = |group, attr: u64, value: u32| {
            sys::set_attr(&self.gic, group, attr, value).map_err(|errno| {
                refuse(&format!("restore GIC register {attr:#x} of group {group} to {value:#x}"), errno)
            })
        };
        let count = usize::try_from(self.vcpu_count).unwrap_or(usize::MAX);
        if redistributors.len() != count || cpu_interfaces.len() != count {
            return Err(refuse("restore the interrupt controller", "it was saved for other vCPUs"));
        }
        // The distributor first: KVM drops interrupts that become pending while it is disabled.
        for (offset, value) in same_length(registers::distributor(), distributor)? {
            set(KVM_DEV_ARM_VGIC_GRP_DIST_REGS, offset.into(), value)?;
        }
        for (first, value) in same_length(level_words().collect(), levels)? {
            set(KVM_DEV_ARM_VGIC_GRP_LEVEL_INFO, first.into(), value)?;
        }
        for (vcpu, redistributor) in (0..).zip(redistributors) {
            let KvmRedistributorV1 { registers, levels } = redistributor;
            for (offset, value) in same_length(registers::redistributor(), registers)? {
                set(KVM_DEV_ARM_VGIC_GRP_REDIST_REGS, affinity(vcpu) | u64::from(offset), value)?;
            }
            // After the enables: KVM does not re-evaluate a wire that is high before its interrupt is enabled, and
            // since it is high already the timer behind it causes no edge.
            set(KVM_DEV_ARM_VGIC_GRP_LEVEL_INFO, affinity(vcpu), *levels)?;
        }
        for (vcpu, values) in (0..).zip(cpu_interfaces) {
            for (name, value) in same_length(self.cpu_interface(vcpu)?, values)? {
                sys::set_attr(&self.gic, KVM_DEV_ARM_VGIC_GRP_CPU_SYSREGS, affinity(vcpu) | name, value)
                    .map_err(|errno| {
                        refuse(&format!("restore ICC register {name:#x} to {value:#x}"), errno)
                    })?;
            }
        }
        Ok(())
    }

    /// The registers of the ITS.
    pub fn save_its(&self) -> Result<Vec<u64>, Failure> {
        registers::its().map(|offset| self.its_register(offset)).collect()
    }

    fn its_register(&self, offset: u64) -> Result<u64, Failure> {
        sys::get_attr(&self.its, KVM_DEV_ARM_VGIC_GRP_ITS_REGS, offset)
            .map_err(|errno| refuse(&format!("read ITS register {offset:#x}"), errno))
    }

    /// Restores saved registers, and the tables from guest RAM. A register that has its value already is not written:
    /// KVM sets bits at a write that are clear after reset.
    pub fn restore_its(&self, saved: &[u64]) -> Result<(), Failure> {
        for (offset, value) in same_length(registers::its().collect(), saved)? {
            if offset == GITS_CTLR {
                let command = KVM_DEV_ARM_ITS_RESTORE_TABLES.into();
                sys::command(&self.its, KVM_DEV_ARM_VGIC_GRP_CTRL, command)
                    .map_err(fail("read the ITS's tables back from guest memory"))?;
            }
            if self.its_register(offset)? != value {
                sys::set_attr(&self.its, KVM_DEV_ARM_VGIC_GRP_ITS_REGS, offset, value).map_err(|errno| {
                    refuse(&format!("restore ITS register {offset:#x} to {value:#x}"), errno)
                })?;
            }
        }
        Ok(())
    }
}

/// Pairs register names with saved values; the counts must be equal.
fn same_length<N, V: Copy>(names: Vec<N>, values: &[V]) -> Result<impl Iterator<Item = (N, V)>, Failure> {
    if names.len() != values.len() {
        let why = format!("{} registers were saved, this host has {}", values.len(), names.len());
        return Err(refuse("restore a part of the interrupt controller", why));
    }
    Ok(names.into_iter().zip(values.iter().copied()))
}
