// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What one VM is made of: from a TOML file ([`mod@file`]), from equal command-line flags, checked ([`check`]).
//!
//! A configuration is a stack of layers ([`Settings`], all fields open): flags over file over defaults.
//! [`VmConfig`] is the checked result. Only the launcher parses; the coordinator gets the result by memfd.

pub mod check;
pub mod device;
pub mod file;
pub mod smmu;
pub mod tls;

use std::fmt;
use std::path::PathBuf;

use ipc::protocol::smmu::Model;
pub use machine::size;
use serde::{Deserialize, Serialize};

pub use device::{Behind, DeviceConfig, DeviceSettings, Disk, Restarts};
pub use smmu::SmmuSettings;
use tls::{Tls, TlsSettings};

use crate::launcher::ids::Ids;
use crate::launcher::other_host::Address;
use crate::problem::Problem;
use crate::system::CpuKind;

/// Default memory of a VM.
const MEMORY_LEN_DEFAULT: u64 = 512 << 20;
/// Default name of a VM.
const NAME_DEFAULT: &str = "vm";
/// A quiet, correct start for a Linux guest on this machine's UART.
const CMDLINE_DEFAULT: &str = "console=ttyS0 earlycon=uart8250,mmio,0x9000000";

/// How a log file is called that is standard error.
pub const STDERR_NAME: &str = "-";

/// Where the guest's console goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum ConsoleMode {
    /// To and from the terminal of `bulkhead run`.
    Stdio,
    /// To and from the client that attaches with `bulkhead console`.
    Socket,
    /// Output is dropped, there is no input.
    None,
}

/// What happens when the guest resets itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum OnReset {
    /// It boots again, in new processes.
    #[default]
    Reboot,
    /// The VM ends, as if it had switched itself off.
    Exit,
}

/// How many deaths of a process within a minute are survived by default: enough for whoever kills it by hand, and few
/// enough for one that dies of what it finds in its checkpoint.
pub const RESTARTS_DEFAULT: u64 = 5;

/// After how many seconds a process that does not make progress counts as hung by default: more than any of them takes
/// on a busy host, and less than a guest's driver waits for its disk (Linux: 30 s).
pub const HANG_DEADLINE_DEFAULT: u64 = 10;

/// What becomes of a process that died and left a checkpoint.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum RestartPolicy {
    /// It is started anew under the running guest; if that happens too often, by order only.
    #[default]
    Always,
    /// It is started anew by order only, and the guest is held until then.
    Ask,
    /// The VM ends, or the device has failed.
    Never,
}

impl RestartPolicy {
    /// How many deaths within a minute are followed by another life without an order, of the `count` that are allowed;
    /// none: no life follows.
    pub const fn limit(self, count: u32) -> Option<u32> {
        match self {
            Self::Always => Some(count),
            Self::Ask => Some(0),
            Self::Never => None,
        }
    }
}

/// One layer of configuration: what it leaves `None`, the layer below decides.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    /// Name of the VM.
    pub name: Option<String>,
    /// Path of the kernel Image.
    pub kernel: Option<PathBuf>,
    /// Path of the initramfs.
    pub initramfs: Option<PathBuf>,
    /// Kernel command line.
    pub cmdline: Option<String>,
    /// Bytes of guest RAM.
    pub memory_len: Option<u64>,
    /// Number of virtual CPUs.
    pub vcpu_count: Option<u64>,
    /// What executes guest code.
    pub cpu: Option<CpuKind>,
    /// Whether the guest has performance monitors.
    pub pmu: Option<bool>,
    /// Where the console goes.
    pub console: Option<ConsoleMode>,
    /// File that keeps what the console prints.
    pub console_file: Option<PathBuf>,
    /// File that the log goes to; `-` is standard error.
    pub log_file: Option<PathBuf>,
    /// Log as JSON lines.
    pub json_log: Option<bool>,
    /// What a reset does.
    pub on_reset: Option<OnReset>,
    /// Where its user id comes from.
    pub ids: Option<Ids>,
    /// The control group in which its own is made.
    pub cgroup: Option<PathBuf>,
    /// Its share of the CPUs, beside other control groups.
    pub cpu_weight: Option<u64>,
    /// The SMMU model.
    pub smmu: SmmuSettings,
    /// What the death of its process comes to.
    pub smmu_restart: Option<RestartPolicy>,
    /// How many deaths of it within a minute are survived.
    pub smmu_restarts: Option<u64>,
    /// After how many seconds a process that does not make progress counts as hung; 0: never.
    pub hang_deadline: Option<u64>,
    /// What the death of devices' processes comes to, where a device does not say.
    pub device_restart: Restarts,
    /// Assigned devices. A layer that names some replaces those below.
    pub devices: Vec<DeviceSettings>,
    /// By what it is known to a host that its guest comes from.
    pub tls: TlsSettings,
}

impl Settings {
    /// Takes from `below` what this layer leaves open.
    pub fn over(self, below: Self) -> Self {
        Self {
            name: self.name.or(below.name),
            kernel: self.kernel.or(below.kernel),
            initramfs: self.initramfs.or(below.initramfs),
            cmdline: self.cmdline.or(below.cmdline),
            memory_len: self.memory_len.or(below.memory_len),
            vcpu_count: self.vcpu_count.or(below.vcpu_count),
            cpu: self.cpu.or(below.cpu),
            pmu: self.pmu.or(below.pmu),
            console: self.console.or(below.console),
            console_file: self.console_file.or(below.console_file),
            log_file: self.log_file.or(below.log_file),
            json_log: self.json_log.or(below.json_log),
            on_reset: self.on_reset.or(below.on_reset),
            ids: self.ids.or(below.ids),
            cgroup: self.cgroup.or(below.cgroup),
            cpu_weight: self.cpu_weight.or(below.cpu_weight),
            smmu: self.smmu.over(below.smmu),
            smmu_restart: self.smmu_restart.or(below.smmu_restart),
            smmu_restarts: self.smmu_restarts.or(below.smmu_restarts),
            hang_deadline: self.hang_deadline.or(below.hang_deadline),
            device_restart: self.device_restart.over(below.device_restart),
            devices: if self.devices.is_empty() { below.devices } else { self.devices },
            tls: self.tls.over(below.tls),
        }
    }

    /// Fills in the defaults and checks every rule that does not depend on the host.
    pub fn resolve(self) -> Result<VmConfig, Problem> {
        let config = VmConfig {
            name: self.name.unwrap_or_else(|| NAME_DEFAULT.to_owned()),
            kernel: self.kernel.ok_or_else(|| {
                Problem::usage(
                    "no kernel is given",
                    "configuration",
                    "name an arm64 Linux Image with --kernel or `kernel = \"...\"`",
                )
            })?,
            initramfs: self.initramfs,
            cmdline: self.cmdline.unwrap_or_else(|| CMDLINE_DEFAULT.to_owned()),
            memory_len: self.memory_len.unwrap_or(MEMORY_LEN_DEFAULT),
            vcpu_count: check::vcpu_count(self.vcpu_count.unwrap_or(1), self.cpu)?,
            cpu: self.cpu,
            pmu: self.pmu,
            console: self.console.unwrap_or(ConsoleMode::Stdio),
            console_file: self.console_file,
            log_file: self.log_file,
            json_log: self.json_log.unwrap_or(false),
            on_reset: self.on_reset.unwrap_or_default(),
            ids: self.ids,
            cgroup: self.cgroup,
            cpu_weight: self.cpu_weight.map(check::cpu_weight).transpose()?,
            smmu: self.smmu.resolve()?,
            smmu_restart: self.smmu_restart.unwrap_or_default(),
            smmu_restarts: check::restarts(self.smmu_restarts.unwrap_or(RESTARTS_DEFAULT), "smmu")?,
            hang_deadline: check::hang_deadline(self.hang_deadline.unwrap_or(HANG_DEADLINE_DEFAULT))?,
            devices: device::resolve(self.devices, self.device_restart)?,
            tls: self.tls,
            receive: None,
        };
        check::name(&config.name)?;
        check::cmdline(&config.cmdline)?;
        check::memory_len(config.memory_len)?;
        Ok(config)
    }
}

/// A checked configuration: every field decided, every rule kept that can be checked without the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmConfig {
    /// Name of the VM: also the name of its control socket.
    pub name: String,
    /// Path of the kernel Image.
    pub kernel: PathBuf,
    /// Path of the initramfs.
    pub initramfs: Option<PathBuf>,
    /// Kernel command line.
    pub cmdline: String,
    /// Bytes of guest RAM.
    pub memory_len: u64,
    /// Number of virtual CPUs.
    pub vcpu_count: u16,
    /// What executes guest code; open, the host decides.
    pub cpu: Option<CpuKind>,
    /// Whether the guest has performance monitors; open, software CPUs have them and KVM's do not.
    pub pmu: Option<bool>,
    /// Where the console goes.
    pub console: ConsoleMode,
    /// File that keeps what the console prints, of bounded size.
    pub console_file: Option<PathBuf>,
    /// File that the log goes to, of bounded size; `-` is standard error.
    pub log_file: Option<PathBuf>,
    /// Log as JSON lines.
    pub json_log: bool,
    /// What a reset does.
    pub on_reset: OnReset,
    /// Where its user id comes from; open, the host decides.
    pub ids: Option<Ids>,
    /// The control group in which its own is made; open, one that was delegated to the launcher.
    pub cgroup: Option<PathBuf>,
    /// Its share of the CPUs.
    pub cpu_weight: Option<u64>,
    /// The SMMU model.
    pub smmu: Model,
    /// What the death of its process comes to.
    pub smmu_restart: RestartPolicy,
    /// How many deaths of it within a minute are survived.
    pub smmu_restarts: u32,
    /// After how many seconds a process that does not make progress counts as hung; 0: never.
    pub hang_deadline: u32,
    /// Assigned devices.
    pub devices: Vec<DeviceConfig>,
    /// By what it is known to a host that its guest comes from, as far as the file says.
    pub tls: TlsSettings,
    /// The guest is not booted, but comes from another host.
    pub receive: Option<Receive>,
}

/// How a guest comes from another host.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receive {
    /// Where to listen.
    pub listen: Address,
    /// What both coordinators know, and nobody else.
    pub secret: Vec<u8>,
    /// By what the hosts know each other; nothing in the clear.
    pub tls: Option<Tls>,
    /// In the clear from another host too.
    pub insecure: bool,
}

impl fmt::Debug for Receive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { listen, secret: _, tls, insecure } = self;
        f.debug_struct("Receive")
            .field("listen", listen)
            .field("tls", tls)
            .field("insecure", insecure)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
