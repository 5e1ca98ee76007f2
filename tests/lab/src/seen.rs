// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the lab server's kernel says about itself: its log, its PCI devices and their IOMMU groups.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};
use tests::command::capture;

/// The kernel's log.
pub fn kernel_log() -> Result<String> {
    capture(Command::new("dmesg").arg("-r")).context("the kernel's log")
}

/// The first line of `log` with `text` in it, without its time.
pub fn line<'a>(log: &'a str, text: &str) -> Option<&'a str> {
    let line = log.lines().find(|line| line.contains(text))?;
    Some(line.split_once("] ").map_or(line, |(_, rest)| rest))
}

/// A PCI function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Function {
    /// Its address, such as `0000:00:02.0`.
    pub address: String,
    /// Vendor and device, such as `1b36:0010`.
    pub id: String,
    /// The driver that has it.
    pub driver: Option<String>,
    /// Its IOMMU group's number, and the kind of domain that the kernel gave it (`DMA`, `identity`, ...).
    pub group: Option<(String, String)>,
}

/// What the emulator's teaching device, edu, is called on the bus.
pub const EDU: &str = "1234:11e8";

/// What the emulator's NVMe controllers are called on the bus.
pub const NVME: &str = "1b36:0010";

/// The capability of power management (PCI, capability IDs).
pub const POWER_MANAGEMENT: u8 = 1;

impl Function {
    fn read(folder: &Path) -> Option<Self> {
        let text = |name: &str| Some(fs::read_to_string(folder.join(name)).ok()?.trim().to_string());
        let hex = |name: &str| Some(text(name)?.trim_start_matches("0x").to_string());
        let end_of_link = |name: &str| {
            let target = fs::read_link(folder.join(name)).ok()?;
            Some(target.file_name()?.to_string_lossy().into_owned())
        };
        let group = end_of_link("iommu_group").and_then(|number| {
            let kind = text("iommu_group/type")?;
            Some((number, kind))
        });
        Some(Self {
            address: folder.file_name()?.to_string_lossy().into_owned(),
            id: format!("{}:{}", hex("vendor")?, hex("device")?),
            driver: end_of_link("driver"),
            group,
        })
    }

    /// Its folder in sysfs.
    pub fn folder(&self) -> PathBuf {
        Path::new("/sys/bus/pci/devices").join(&self.address)
    }

    /// Takes it from its driver and gives it to `vfio-pci`; returns the path of its character device.
    pub fn bind_to_vfio(&self) -> Result<PathBuf> {
        let folder = self.folder();
        self.rebind("vfio-pci")?;
        let mut entries = fs::read_dir(folder.join("vfio-dev"))
            .with_context(|| format!("vfio-pci did not take {}", self.address))?;
        let entry = entries.next().context("vfio-pci made no character device")?.context("vfio-dev")?;
        Ok(Path::new("/dev/vfio/devices").join(entry.file_name()))
    }
}

impl Function {
    /// Where in its configuration space the capability with this id is, if it has one.
    pub fn capability(&self, id: u8) -> Result<Option<u64>> {
        const CAPABILITIES: usize = 0x34;
        let space = fs::read(self.folder().join("config")).context("its configuration space")?;
        let byte = |at: usize| space.get(at).copied().unwrap_or(0);
        let mut at = usize::from(byte(CAPABILITIES));
        // More steps than there is room for are a loop.
        for _ in 0..48 {
            if at == 0 || byte(at) == id {
                break;
            }
            at = usize::from(byte(at + 1));
        }
        Ok((at != 0 && byte(at) == id).then_some(at as u64))
    }

    /// Takes it from the driver that it has and gives it to this one.
    pub fn rebind(&self, driver: &str) -> Result<()> {
        let folder = self.folder();
        let write = |file: PathBuf, text: &str| {
            fs::write(&file, text).with_context(|| format!("{text:?} into {}", file.display()))
        };
        write(folder.join("driver_override"), driver)?;
        if folder.join("driver").exists() {
            write(folder.join("driver/unbind"), &self.address)?;
        }
        write("/sys/bus/pci/drivers_probe".into(), &self.address)
    }
}

/// All PCI functions, in the order of their addresses.
pub fn functions() -> Result<Vec<Function>> {
    let entries = fs::read_dir("/sys/bus/pci/devices").context("this machine has no PCI")?;
    let mut all: Vec<Function> =
        entries.flatten().filter_map(|entry| Function::read(&entry.path())).collect();
    all.sort_by(|a, b| a.address.cmp(&b.address));
    Ok(all)
}

/// The functions with this id.
pub fn functions_with(id: &str) -> Result<Vec<Function>> {
    Ok(functions()?.into_iter().filter(|function| function.id == id).collect())
}
