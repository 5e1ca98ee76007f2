// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The flags of `bulkhead run`: one for every key of the configuration file, and they win over it.

use std::path::PathBuf;

use clap::Args;

use crate::config::{
    Behind, ConsoleMode, DeviceSettings, OnReset, RestartPolicy, Restarts, STDERR_NAME, Settings,
    SmmuSettings, VmConfig, file, size, tls::TlsSettings,
};
use crate::launcher::ids::{self, Ids};
use crate::problem::Problem;
use crate::system::CpuKind;

/// Flags of `bulkhead run`.
#[derive(Debug, Default, Args)]
pub struct RunFlags {
    /// Return when the guest runs; its launcher lives on without a terminal, and its log is NAME.log beside the control
    /// socket
    #[arg(long)]
    detach: bool,
    /// (internal) The launcher that lives on
    #[arg(long, hide = true, conflicts_with = "detach")]
    detached: bool,
    /// Configuration file (TOML); flags win over it
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Arm64 Linux Image, as it is or packed with gzip, zstd or in EFI zboot
    #[arg(long, value_name = "FILE")]
    kernel: Option<PathBuf>,
    /// Archive (cpio) of the first file system, plain or compressed
    #[arg(long, value_name = "FILE")]
    initramfs: Option<PathBuf>,
    /// Kernel command line
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    cmdline: Option<String>,
    /// Guest memory, such as 512M or 1.5G
    #[arg(long, value_name = "SIZE", value_parser = size::parse, allow_hyphen_values = true)]
    memory: Option<u64>,
    /// Number of virtual CPUs
    #[arg(long, value_name = "COUNT")]
    vcpus: Option<u64>,
    /// What executes guest code [default: KVM where the host has it, else software]
    #[arg(long, value_enum)]
    cpu: Option<CpuKind>,
    /// Performance monitors (PMUv3) for the guest [default: true with software CPUs, false with KVM]
    #[arg(long, num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    pmu: Option<bool>,
    /// Name of the VM
    #[arg(long)]
    name: Option<String>,
    /// Where the guest's console goes [default: stdio, or socket with --detach]
    #[arg(long, value_enum)]
    console: Option<ConsoleMode>,
    /// Keep what the console prints in FILE, at most 16 MiB of it; older output goes to FILE.1
    #[arg(long, value_name = "FILE")]
    console_file: Option<PathBuf>,
    /// Log to FILE, at most 1 MiB, older lines to FILE.1; `-` is standard error [default: standard error, but NAME.log
    /// beside the control socket while the console has the same terminal]
    #[arg(long, value_name = "FILE")]
    log_file: Option<PathBuf>,
    /// Log as JSON lines
    #[arg(long, num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    json_log: Option<bool>,
    /// What happens when the guest resets itself [default: reboot]
    #[arg(long, value_enum, value_name = "ACTION")]
    on_reset: Option<OnReset>,
    /// User id of the host for the VM's processes: shared, subuid (of /etc/subuid), or one of FIRST:COUNT [default: for
    /// root, the range of `bulkhead` in /etc/subuid if there is one; else shared]
    #[arg(long, value_name = "RANGE", value_parser = ids::parse, help_heading = "Bounds")]
    ids: Option<Ids>,
    /// Control group (v2) of this user's in which the VM gets one of its own [default: a delegated one that `bulkhead
    /// run` is alone in]
    #[arg(long, value_name = "PATH", help_heading = "Bounds")]
    cgroup: Option<PathBuf>,
    /// The VM's share of the CPUs where it has a control group; 100 is usual
    #[arg(long, value_name = "SHARE", help_heading = "Bounds")]
    cpu_weight: Option<u64>,
    /// NVMe controller over a raw image, behind the vSMMUv3; may be given again
    #[arg(long, value_name = "FILE", help_heading = "Assigned devices")]
    nvme: Vec<PathBuf>,
    /// PCI device of a vfio-user server, behind the vSMMUv3; may be given again
    #[arg(long, value_name = "SOCKET", help_heading = "Assigned devices")]
    vfio_user: Vec<PathBuf>,
    /// Physical PCI device of the host, bound to vfio-pci, such as 0000:01:00.0; may be given again
    #[arg(long, value_name = "ADDRESS", help_heading = "Assigned devices")]
    vfio: Vec<String>,
    /// StreamID bits of the vSMMUv3 (IDR1.SIDSIZE)
    #[arg(long, value_name = "BITS", help_heading = "vSMMUv3 model")]
    smmu_sidsize: Option<u64>,
    /// SubstreamID bits of the vSMMUv3, 0 for none (IDR1.SSIDSIZE)
    #[arg(long, value_name = "BITS", help_heading = "vSMMUv3 model")]
    smmu_ssidsize: Option<u64>,
    /// Output address bits of the vSMMUv3 (IDR5.OAS)
    #[arg(long, value_name = "BITS", help_heading = "vSMMUv3 model")]
    smmu_oas: Option<u64>,
    /// Translation granules of the vSMMUv3, such as 4K,64K
    #[arg(long, value_name = "LIST", value_delimiter = ',', help_heading = "vSMMUv3 model")]
    smmu_granules: Option<Vec<String>>,
    /// Range invalidation of the vSMMUv3 (IDR3.RIL)
    #[arg(long, value_name = "BOOL", help_heading = "vSMMUv3 model")]
    smmu_ril: Option<bool>,
    /// Stream table levels of the vSMMUv3, 1 or 2
    #[arg(long, value_name = "COUNT", help_heading = "vSMMUv3 model")]
    smmu_stream_table_levels: Option<u64>,
    /// Whether the vSMMUv3's process is started anew under the running guest if it dies [default: always]
    #[arg(long, value_enum, value_name = "WHEN", help_heading = "Failures")]
    smmu_restart: Option<RestartPolicy>,
    /// How often within a minute; if it dies more often the guest is held until `restart` [default: 5]
    #[arg(long, value_name = "COUNT", help_heading = "Failures")]
    smmu_restarts_per_minute: Option<u64>,
    /// After how many seconds a process that makes no progress is killed, as if it had died; 0: never [default: 10]
    #[arg(long, value_name = "SECONDS", help_heading = "Failures")]
    hang_deadline: Option<u64>,
    /// Whether the processes of a device are started anew if one dies, where the device does not say [default: always]
    #[arg(long, value_enum, value_name = "WHEN", help_heading = "Failures")]
    device_restart: Option<RestartPolicy>,
    /// How often within a minute; if one dies more often the guest is held until `restart` [default: 5]
    #[arg(long, value_name = "COUNT", help_heading = "Failures")]
    device_restarts_per_minute: Option<u64>,
}

/// Where the launcher runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// In this process, with the user's terminal.
    Here,
    /// In a process that this one is to start.
    Detaching,
    /// In this process, which lives on without a terminal.
    Detached,
}

impl RunFlags {
    /// The configuration that these flags, over their file, describe.
    pub fn resolve(self) -> Result<VmConfig, Problem> {
        let below = self.config.as_deref().map(file::load).transpose()?.unwrap_or_default();
        let place = self.place();
        let settings = self.settings().over(below);
        let settings = if place == Place::Here { settings } else { without_terminal(settings)? };
        settings.resolve()
    }

    /// The same with this name, if there is one.
    pub fn named(self, name: Option<String>) -> Self {
        Self { name: name.or(self.name), ..self }
    }

    /// Where the launcher runs.
    pub const fn place(&self) -> Place {
        match (self.detach, self.detached) {
            (true, _) => Place::Detaching,
            (false, true) => Place::Detached,
            (false, false) => Place::Here,
        }
    }

    fn settings(self) -> Settings {
        let nvme = self.nvme.into_iter().map(|image| Behind::Nvme(image.into()));
        let behind = nvme
            .chain(self.vfio_user.into_iter().map(Behind::VfioUser))
            .chain(self.vfio.into_iter().map(Behind::Physical));
        Settings {
            // Flags of `receive` and `migrate` only.
            tls: TlsSettings::default(),
            devices: behind
                .map(|behind| DeviceSettings {
                    behind,
                    slot: None,
                    direct_dma: false,
                    required: None,
                    restart: Restarts::default(),
                })
                .collect(),
            name: self.name,
            kernel: self.kernel,
            initramfs: self.initramfs,
            cmdline: self.cmdline,
            memory_len: self.memory,
            vcpu_count: self.vcpus,
            cpu: self.cpu,
            pmu: self.pmu,
            console: self.console,
            console_file: self.console_file,
            log_file: self.log_file,
            json_log: self.json_log,
            on_reset: self.on_reset,
            ids: self.ids,
            cgroup: self.cgroup,
            cpu_weight: self.cpu_weight,
            smmu_restart: self.smmu_restart,
            smmu_restarts: self.smmu_restarts_per_minute,
            hang_deadline: self.hang_deadline,
            device_restart: Restarts {
                policy: self.device_restart,
                per_minute: self.device_restarts_per_minute,
            },
            smmu: SmmuSettings {
                sidsize: self.smmu_sidsize,
                ssidsize: self.smmu_ssidsize,
                oas: self.smmu_oas,
                granules: self.smmu_granules,
                ril: self.smmu_ril,
                stream_table_levels: self.smmu_stream_table_levels,
            },
        }
    }
}

/// The settings of a launcher that has no terminal and no standard error.
fn without_terminal(mut settings: Settings) -> Result<Settings, Problem> {
    let refused = |what, advice| {
        Err(Problem::usage(format!("the VM is to be detached, and {what}"), "--detach", advice))
    };
    if *settings.console.get_or_insert(ConsoleMode::Socket) == ConsoleMode::Stdio {
        return refused("its console cannot be the terminal", "use the console \"socket\" or \"none\"");
    }
    if settings.log_file.as_deref().is_some_and(|path| path.as_os_str() == STDERR_NAME) {
        return refused("its log cannot be standard error", "name a file, or leave --log-file out");
    }
    Ok(settings)
}
