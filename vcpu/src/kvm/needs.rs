// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Required KVM capabilities, and the error that names a missing one.

use ipc::protocol::control::Failure;

use machine::layout::IPA_BITS;

/// A capability by number and name, the least value required, and what it is needed for.
type Need = (u32, &'static str, i32, &'static str);

/// Numbers are those of Linux, include/uapi/linux/kvm.h.
const NEEDS: [Need; 13] = [
    (25, "KVM_CAP_IRQ_ROUTING", 1, "messages of physical devices"),
    (32, "KVM_CAP_IRQFD", 1, "interrupts of other processes"),
    (70, "KVM_CAP_ONE_REG", 1, "saving and restoring"),
    (77, "KVM_CAP_SIGNAL_MSI", 1, "message-signalled interrupts"),
    (81, "KVM_CAP_READONLY_MEM", 1, "the vSMMU's register page"),
    (82, "KVM_CAP_IRQFD_RESAMPLE", 1, "the INTx pins of PCI functions"),
    (102, "KVM_CAP_ARM_PSCI_0_2", 1, "switching CPUs and the machine on and off"),
    (136, "KVM_CAP_IMMEDIATE_EXIT", 1, "pausing"),
    (165, "KVM_CAP_ARM_VM_IPA_SIZE", IPA_BITS.cast_signed(), "the machine's address map"),
    (168, "KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2", 1, "the dirty log"),
    (177, "KVM_CAP_ARM_NISV_TO_USER", 1, "guest accesses that no device can answer"),
    (178, "KVM_CAP_ARM_INJECT_EXT_DABT", 1, "guest accesses that no device can answer"),
    (227, "KVM_CAP_COUNTER_OFFSET", 1, "guest time that goes on where it stopped (Linux 6.4)"),
];

/// Required as well for a guest with performance monitors.
const PMU: Need = (126, "KVM_CAP_ARM_PMU_V3", 1, "performance monitors (`pmu = true`)");

/// Checks every capability by `extension`; the error names the first that is missing.
pub fn check(pmu: bool, extension: impl Fn(u32) -> i32) -> Result<(), Failure> {
    match NEEDS.iter().chain(pmu.then_some(&PMU)).find(|(number, _, least, _)| extension(*number) < *least) {
        None => Ok(()),
        Some((number, name, least, what)) => Err(Failure::new(
            "use the host's KVM",
            format!("its {name} is {}, at least {least} is needed for {what}", extension(*number)),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn check_names_the_missing_capability_and_its_purpose() {
        assert_eq!(check(true, |_| 64), Ok(()));
        let without = |number| if number == 126 { 0 } else { 64 };
        assert_eq!(check(false, without), Ok(()));
        assert!(check(true, without).unwrap_err().why.contains("KVM_CAP_ARM_PMU_V3 is 0"));
        let old = check(false, |number| if number == 227 { 0 } else { 64 }).unwrap_err();
        assert!(old.why.contains("KVM_CAP_COUNTER_OFFSET is 0") && old.why.contains("guest time"), "{old:?}");
        let small = check(false, |number| if number == 165 { 36 } else { 1 }).unwrap_err();
        assert!(small.why.contains("is 36, at least 40"), "{small:?}");
        #[cfg(target_arch = "aarch64")]
        assert_eq!(
            [NEEDS[12].0, PMU.0],
            [kvm_bindings::KVM_CAP_COUNTER_OFFSET, kvm_bindings::KVM_CAP_ARM_PMU_V3]
        );
    }
}
