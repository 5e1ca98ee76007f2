// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What executes guest code on this host: as configured, or detected. `/dev/kvm` is opened with the user's rights.

use std::fs::{File, OpenOptions};
use std::os::fd::OwnedFd;

use crate::problem::Problem;
use crate::system::CpuKind;

const KVM: &str = "/dev/kvm";

/// The kind of CPU that a VM gets, and what it needs of the host.
#[derive(Debug)]
pub struct Chosen {
    /// By KVM or in software.
    pub kind: CpuKind,
    /// The descriptor of `/dev/kvm`, if the kind is KVM.
    pub kvm: Option<OwnedFd>,
}

/// Chooses the configured kind, or else KVM if it is available. A configured kind that is not available is an error.
pub fn choose(asked: Option<CpuKind>) -> Result<Chosen, Problem> {
    let soft = Chosen { kind: CpuKind::Soft, kvm: None };
    match asked {
        Some(CpuKind::Soft) => Ok(soft),
        Some(CpuKind::Kvm) => open_kvm(),
        None => Ok(open_kvm().unwrap_or(soft)),
    }
}

fn open_kvm() -> Result<Chosen, Problem> {
    if std::env::consts::ARCH != "aarch64" {
        return Err(Problem::usage(
            format!("an arm64 guest cannot run on this host's KVM: the host is {}", std::env::consts::ARCH),
            "cpu",
            "leave --cpu out, or give --cpu soft",
        ));
    }
    let opened: Result<File, _> = OpenOptions::new().read(true).write(true).open(KVM);
    let file = opened.map_err(|error| {
        Problem::host(
            format!("the host's KVM cannot be opened: {error}"),
            KVM,
            "let this user read and write it (usually group kvm), and see that the kernel was started with \
             virtualization; or give --cpu soft",
        )
        .because_of(&error)
    })?;
    Ok(Chosen { kind: CpuKind::Kvm, kvm: Some(file.into()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn software_cpus_are_had_everywhere_and_kvm_is_not_promised() {
        assert_eq!(choose(Some(CpuKind::Soft)).unwrap().kind, CpuKind::Soft);
        let open = choose(None).unwrap();
        assert_eq!(open.kind == CpuKind::Kvm, open.kvm.is_some());
        if std::env::consts::ARCH != "aarch64" {
            assert_eq!(open.kind, CpuKind::Soft);
            assert!(choose(Some(CpuKind::Kvm)).unwrap_err().what.contains("the host is x86_64"));
        }
    }
}
