// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The shape of a VM, which decides its processes: its CPUs and its devices.

use machine::layout;

/// The most assigned devices: the guest's bus 0 has a slot for each but the host bridge's own.
pub const DEVICES_MAX: usize = layout::PCI_SLOT_COUNT as usize - 1;

/// What executes guest code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum CpuKind {
    /// The host's own CPUs, by KVM.
    Kvm,
    /// CPUs in software, on any host.
    Soft,
}

impl CpuKind {
    /// The text in configuration and API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Soft => "soft",
        }
    }
}

/// What is behind an assigned device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum DeviceKind {
    /// A foreign vfio-user server.
    VfioUser,
    /// An NVMe controller of ours, over an image.
    Nvme,
    /// A physical device of the host, by VFIO.
    Physical,
}

impl DeviceKind {
    /// The text in an offer.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::VfioUser => "vfio-user",
            Self::Nvme => "nvme",
            Self::Physical => "physical",
        }
    }
}

/// The shape of a VM.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Shape {
    /// What executes guest code.
    pub cpu: CpuKind,
    /// Whether the guest is given an initramfs.
    pub initramfs: bool,
    /// The assigned devices, in order.
    pub devices: Vec<DeviceKind>,
}

impl Shape {
    /// A VM without devices and without an initramfs.
    pub const fn new(cpu: CpuKind) -> Self {
        Self { cpu, initramfs: false, devices: Vec::new() }
    }

    /// The same with these devices.
    #[must_use]
    pub fn with_devices(self, devices: impl IntoIterator<Item = DeviceKind>) -> Self {
        Self { devices: devices.into_iter().collect(), ..self }
    }

    /// What is behind the assigned device `index`.
    pub fn device(&self, index: u8) -> Option<DeviceKind> {
        self.devices.get(usize::from(index)).copied()
    }

    /// The indexes of the devices that `wanted` is true of.
    pub fn indexes(&self, wanted: impl Fn(DeviceKind) -> bool) -> Vec<u8> {
        (0..).zip(&self.devices).filter_map(|(index, kind)| wanted(*kind).then_some(index)).collect()
    }
}
