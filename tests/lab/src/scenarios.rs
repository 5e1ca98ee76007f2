// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The table of scenarios. How to add one: `tests/lab/DESIGN.md`.

mod arm_suite;
mod cgroup;
mod guest;
mod host;
mod isolation;
mod nested;
mod vfio_guest;
mod vfio_interrupts;
mod vfio_killed;

use std::time::Duration;

use anyhow::Result;

use crate::report::Report;

/// The outcome of a scenario that did not fail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Everything that it is to show was observed.
    Shown,
    /// It cannot be tried here; why.
    Skipped(String),
}

/// The server that a scenario needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Server {
    /// The IORT says that device writes snoop as the CPU's attributes ask (CANWBS), so the kernel offers nesting.
    Nesting,
    /// With the firmware's own IORT, which does not say so: the kernel must refuse nesting.
    NoNesting,
    /// As `Nesting`, but the kernel leaves iommufd out (`initcall_blacklist`).
    NoIommufd,
}

impl Server {
    /// All kinds, in the order in which they are booted.
    pub const ALL: [Self; 3] = [Self::Nesting, Self::NoNesting, Self::NoIommufd];
}

/// When a scenario is run, besides by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// Always.
    Default,
    /// In the long run: it takes many minutes.
    Long,
    /// Never: it costs a boot for itself, or needs files that the lab does not have.
    Named,
}

/// A test that runs inside the server, with its row in the table.
#[derive(Debug)]
pub struct Scenario {
    /// Its name, for the command line.
    pub name: &'static str,
    /// What it shows, in a few words.
    pub about: &'static str,
    /// The server it runs on.
    pub server: Server,
    /// When it is run.
    pub when: When,
    /// How long it may take on a slow and busy machine.
    pub limit: Duration,
    /// Runs it; an error is what was observed instead.
    pub run: fn(&mut Report<'_>) -> Result<Verdict>,
}

/// All of them, in the order in which they are run.
pub const ALL: &[Scenario] = &[
    Scenario {
        name: "host",
        about: "the server has KVM at EL2, a nesting SMMUv3, iommufd and VFIO, and devices in groups",
        server: Server::Nesting,
        when: When::Default,
        limit: Duration::from_secs(20),
        run: host::nesting,
    },
    Scenario {
        name: "host-no-nesting",
        about: "without CANWBS in the IORT the same server offers no nesting",
        server: Server::NoNesting,
        when: When::Named,
        limit: Duration::from_secs(20),
        run: host::no_nesting,
    },
    Scenario {
        name: "nested",
        about: "edu's DMA through guest stage 1 and host stage 2: invalidation, faults, messages, refusals",
        server: Server::Nesting,
        when: When::Default,
        limit: Duration::from_secs(90),
        run: nested::edu,
    },
    Scenario {
        name: "nested-refused",
        about: "a host without CANWBS is refused, by that name",
        server: Server::NoNesting,
        when: When::Default,
        limit: Duration::from_secs(30),
        run: nested::refused,
    },
    Scenario {
        name: "no-iommufd",
        about: "a host without iommufd is refused by that name, and nothing of the attempt is left",
        server: Server::NoIommufd,
        when: When::Default,
        limit: Duration::from_secs(60),
        run: nested::no_iommufd,
    },
    Scenario {
        name: "mock",
        about: "iommufd's mock: a stage 2 that logs writes, exact partial invalidation, events lost and counted",
        server: Server::Nesting,
        when: When::Default,
        limit: Duration::from_secs(60),
        run: nested::mock,
    },
    Scenario {
        name: "mtty",
        about: "a device with VFIO's migration states through all of them, and its process moved, to another device too",
        server: Server::Nesting,
        when: When::Default,
        limit: Duration::from_secs(90),
        run: nested::migration,
    },
    Scenario {
        name: "mtty-moved-often",
        about: "the process of such a device moved a hundred times, with characters in its FIFO",
        server: Server::Nesting,
        when: When::Long,
        limit: Duration::from_secs(600),
        run: nested::moved_often,
    },
    Scenario {
        name: "vfio-guest",
        about: "a KVM guest's disk is the server's NVMe, nested: a file system, checksums, messages, reset",
        server: Server::Nesting,
        when: When::Default,
        limit: Duration::from_secs(240),
        run: vfio_guest::nvme,
    },
    Scenario {
        name: "vfio-intx",
        about: "the same by a guest without messages (pci=nomsi): the NVMe interrupts by its pin",
        server: Server::Nesting,
        when: When::Default,
        limit: Duration::from_secs(240),
        run: vfio_guest::intx,
    },
    Scenario {
        name: "vfio-shared-line",
        about: "two of the server's NVMe on one interrupt line, busy at the same time",
        server: Server::Nesting,
        when: When::Default,
        limit: Duration::from_secs(120),
        run: vfio_interrupts::shared,
    },
    Scenario {
        name: "vfio-soft",
        about: "the server's NVMe with software CPUs: its process brings its messages",
        server: Server::Nesting,
        when: When::Default,
        limit: Duration::from_secs(240),
        run: vfio_interrupts::soft,
    },
    Scenario {
        name: "vfio-modes",
        about: "two of the server's NVMe behind one vSMMU, with lazy invalidation and in bypass",
        server: Server::Nesting,
        when: When::Default,
        limit: Duration::from_secs(240),
        run: vfio_guest::modes,
    },
    Scenario {
        name: "vfio-faults",
        about: "a KVM guest's edu is the server's, nested: its faults in the guest's own queue and log, whole records",
        server: Server::Nesting,
        when: When::Default,
        limit: Duration::from_secs(240),
        run: vfio_guest::told_faults,
    },
    Scenario {
        name: "vfio-killed",
        about: "the process of the server's NVMe killed under the guest's I/O: adopted each time, and nobody notices",
        server: Server::Nesting,
        when: When::Default,
        limit: Duration::from_secs(300),
        run: vfio_killed::everyday,
    },
    Scenario {
        name: "vfio-killed-often",
        about: "the same a hundred times",
        server: Server::Nesting,
        when: When::Long,
        limit: Duration::from_secs(1200),
        run: vfio_killed::often,
    },
    Scenario {
        name: "vfio-lost",
        about: "one of two devices lost for good under I/O: the other's goes on, and nobody holds the lost one",
        server: Server::Nesting,
        when: When::Default,
        limit: Duration::from_secs(240),
        run: vfio_killed::lost,
    },
    Scenario {
        name: "soft-guest",
        about: "the programs boot a guest on software vCPUs, sealed",
        server: Server::Nesting,
        when: When::Default,
        limit: Duration::from_secs(120),
        run: guest::software,
    },
    Scenario {
        name: "kvm-engine",
        about: "the engine on KVM alone: the log of written pages, kicks, moves, aborts, refused state",
        server: Server::Nesting,
        when: When::Default,
        limit: Duration::from_secs(60),
        run: guest::kvm_engine,
    },
    Scenario {
        name: "kvm-guest",
        about: "the programs boot a guest on KVM, sealed; reads of the SMMU's registers do not leave the guest",
        server: Server::Nesting,
        when: When::Default,
        limit: Duration::from_secs(120),
        run: guest::kvm,
    },
    Scenario {
        name: "kvm-guest-two",
        about: "the same with two CPUs, both at work",
        server: Server::Nesting,
        when: When::Default,
        limit: Duration::from_secs(120),
        run: guest::kvm_two,
    },
    Scenario {
        name: "kvm-moved",
        about: "a guest on KVM with two busy vCPUs is saved and restored, and goes on where it was",
        server: Server::Nesting,
        when: When::Default,
        limit: Duration::from_secs(240),
        run: guest::kvm_moved,
    },
    Scenario {
        name: "kvm-moved-often",
        about: "the same a hundred times: what one move of many loses would show",
        server: Server::Nesting,
        when: When::Long,
        limit: Duration::from_secs(1800),
        run: guest::kvm_moved_often,
    },
    Scenario {
        name: "arm-suite",
        about: "a public suite of guests on KVM with 1, 2 and 4 CPUs, from images built outside the tree",
        server: Server::Nesting,
        when: When::Named,
        limit: Duration::from_secs(3600),
        run: arm_suite::kvm,
    },
    Scenario {
        name: "sealed",
        about: "a process sealed with each profile of the sandbox, attacked from inside and audited from outside",
        server: Server::Nesting,
        when: When::Default,
        limit: Duration::from_secs(180),
        run: isolation::sealed,
    },
    Scenario {
        name: "isolation",
        about: "every role of a running machine, seen from outside and attacked from inside",
        server: Server::Nesting,
        when: When::Default,
        limit: Duration::from_secs(600),
        run: isolation::roles,
    },
    Scenario {
        name: "cgroup",
        about: "a machine in a control group of its own, whose limits hold",
        server: Server::Nesting,
        when: When::Default,
        limit: Duration::from_secs(180),
        run: cgroup::bounded,
    },
    Scenario {
        name: "isolation-vfio",
        about: "the process of a physical device, attacked from inside",
        server: Server::Nesting,
        when: When::Default,
        limit: Duration::from_secs(300),
        run: isolation::real_device,
    },
];

/// The scenario of this name.
pub fn named(name: &str) -> Option<&'static Scenario> {
    ALL.iter().find(|scenario| scenario.name == name)
}

#[cfg(test)]
mod tests {
    use super::ALL;

    #[test]
    fn names_are_unique_and_fit_a_command_line() {
        let mut names: Vec<&str> = ALL.iter().map(|scenario| scenario.name).collect();
        assert!(
            names
                .iter()
                .all(|name| name.chars().all(|c| c.is_ascii_lowercase() || c == '-' || c.is_ascii_digit()))
        );
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), ALL.len());
    }
}
