// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a host offers for physical devices, tried out call by call: a line for each, and what to do where it is
//! missing.
//!
//! With a device, every step of assigning it is done on a small piece of memory, and undone. Run by hand (`bulkhead
//! host-check`), without a sandbox.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use ipc::shm::memory_file;
use ipc::vfio_user::feature::{DMA_LOGGING_START, MigrationFlags};
use rustix::io::Errno;
use smmu_arch::{Model, Options};

use super::compat;
use super::device::{self, Bound};
use super::error::{KernelError, of_events, of_map_file, of_parent, of_viommu, plain, refused};
use super::objects::Objects;
use super::sys::cdev;
use super::sys::iommufd::{self, ARM_SMMUV3, ObjectId};

/// Enough to map; a huge page of the largest granule is not needed.
const SCRAP_LEN: u64 = 2 << 20;
/// Where guest RAM begins.
const SCRAP_IOVA: u64 = 0x4000_0000;
const STREAM: u32 = 8;

/// The result of one check.
#[derive(Debug, Default)]
pub struct Findings {
    lines: Vec<(String, Verdict, String)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Has,
    Lacks,
    /// Missing, and not needed.
    Without,
}

impl Findings {
    fn add(&mut self, what: impl Into<String>, verdict: Verdict, detail: impl ToString) {
        self.lines.push((what.into(), verdict, detail.to_string()));
    }

    fn has<T>(&mut self, what: &str, found: Result<T, KernelError>) -> Option<T> {
        match found {
            Ok(value) => {
                self.add(what, Verdict::Has, "");
                Some(value)
            }
            Err(error) => {
                self.add(what, Verdict::Lacks, error);
                None
            }
        }
    }

    /// Whether everything that a VM needs is there.
    pub fn is_well(&self) -> bool {
        self.lines.iter().all(|(_, verdict, _)| *verdict != Verdict::Lacks)
    }

    /// One line of text for each check: what, verdict, detail.
    pub fn table(&self) -> String {
        let width = self.lines.iter().map(|(what, ..)| what.chars().count()).max().unwrap_or(0);
        let mut table = String::new();
        for (what, verdict, detail) in &self.lines {
            let word = match verdict {
                Verdict::Has => "yes",
                Verdict::Lacks => "NO",
                Verdict::Without => "-",
            };
            // Writing to a String cannot fail.
            let _ = writeln!(table, "{what:width$}  {word:3}  {detail}");
        }
        table
    }
}

/// Checks the host, and the device with this PCI address.
pub fn run(address: Option<&str>) -> Findings {
    let mut findings = Findings::default();
    let iommu = open(Path::new("/dev/iommu"));
    if let Err(error) = &iommu {
        let meaning = "the kernel has no CONFIG_IOMMUFD, or this user may not open it";
        findings.add("iommufd (/dev/iommu)", Verdict::Lacks, format!("{error}: {meaning}"));
    } else {
        findings.add("iommufd (/dev/iommu)", Verdict::Has, "");
    }
    if Path::new("/dev/kvm").exists() {
        findings.add("KVM (/dev/kvm)", Verdict::Has, "");
    } else {
        findings.add("KVM (/dev/kvm)", Verdict::Without, "guests run on CPUs in software");
    }
    match (iommu, address) {
        (Ok(iommu), Some(address)) => match find(address).and_then(|path| {
            open(&path).map(|cdev| (path.display().to_string(), cdev)).map_err(|error| error.to_string())
        }) {
            Ok((path, cdev)) => {
                findings.add(format!("VFIO device {address}"), Verdict::Has, path);
                check_device(&mut findings, cdev, iommu);
            }
            Err(why) => findings.add(format!("VFIO device {address}"), Verdict::Lacks, why),
        },
        (_, None) => findings.add(
            "a device",
            Verdict::Without,
            "not tried: what the SMMU can do is told of a device only (--device 0000:01:00.0)",
        ),
        (Err(_), Some(_)) => {}
    }
    findings
}

fn open(path: &Path) -> std::io::Result<OwnedFd> {
    File::options().read(true).write(true).open(path).map(OwnedFd::from)
}

fn find(address: &str) -> Result<std::path::PathBuf, String> {
    let folder = Path::new("/sys/bus/pci/devices").join(address);
    if !folder.exists() {
        return Err("there is no such PCI device".to_owned());
    }
    let entry = fs::read_dir(folder.join("vfio-dev")).ok().and_then(|mut entries| entries.next()?.ok());
    let name = entry.map(|entry| entry.file_name()).ok_or_else(|| {
        "it has no VFIO character device: bind it to vfio-pci; the kernel needs CONFIG_VFIO_DEVICE_CDEV"
            .to_owned()
    })?;
    Ok(Path::new("/dev/vfio/devices").join(name))
}

fn check_device(findings: &mut Findings, cdev: OwnedFd, iommu: OwnedFd) {
    let (cdev, mut objects) = (Arc::new(cdev), Objects::new(iommu));
    let id = device::bind(cdev.as_fd(), &objects).and_then(|bound| match bound {
        Bound::BehindIommu(id) => Ok(id),
        Bound::Software { .. } => Err(KernelError::NotSmmu),
    });
    let Some(id) = findings.has("bound to an iommufd, behind an IOMMU", id) else { return };
    check_smmu(findings, &objects, id);
    if let Some(ioas) = check_mapping(findings, &mut objects) {
        check_nesting(findings, &mut objects, id, ioas);
    }
    check_migration(findings, &cdev);
}

/// Whether the default vSMMU model fits this host, or only a smaller one.
fn check_smmu(findings: &mut Findings, objects: &Objects, id: ObjectId) {
    let info = iommufd::get_hw_info(objects.as_fd(), id).map_err(refused("IOMMU_GET_HW_INFO", plain));
    let Some(info) = findings.has("the IOMMU tells of itself", info) else { return };
    let Some(smmu) = info.smmu else {
        return findings.add("an SMMUv3", Verdict::Lacks, KernelError::NotSmmu);
    };
    let mut registers = String::new();
    for (index, value) in smmu.idr.iter().enumerate() {
        // Writing to a String cannot fail.
        let _ = write!(registers, "IDR{index}={value:#010x} ");
    }
    findings.add("an SMMUv3", Verdict::Has, registers.trim_end());
    for (name, options) in [
        ("the default vSMMU model", Options::default()),
        ("the same with `ssidsize = 0`", Options { ssidsize: 0, ..Options::default() }),
    ] {
        let Ok(model) = Model::new(smmu_arch::model::MODEL_NAME, options) else { continue };
        let lacking = compat::lacking(&model, &smmu);
        if lacking.is_empty() {
            findings.add(name, Verdict::Has, "");
        } else {
            findings.add(name, Verdict::Without, KernelError::Lacking(lacking));
        }
    }
}

fn check_mapping(findings: &mut Findings, objects: &mut Objects) -> Option<ObjectId> {
    let ioas = iommufd::ioas_alloc(objects.as_fd());
    let ioas = objects.keep(ioas).map_err(refused("IOMMU_IOAS_ALLOC", plain));
    let ioas = findings.has("an address space", ioas)?;
    let scrap = memory_file::create("bulkhead-host-check").and_then(|file| {
        rustix::fs::ftruncate(&file, SCRAP_LEN)?;
        Ok(file)
    });
    let mapped = scrap
        .and_then(|file| {
            iommufd::ioas_map_file(objects.as_fd(), ioas, file.as_fd(), 0, SCRAP_LEN, SCRAP_IOVA)
        })
        .map_err(refused("IOMMU_IOAS_MAP_FILE", of_map_file));
    findings.has("memory by file (IOAS_MAP_FILE)", mapped).map(|()| ioas)
}

fn check_nesting(findings: &mut Findings, objects: &mut Objects, id: ObjectId, ioas: ObjectId) {
    let logs = iommufd::hwpt_alloc_parent(objects.as_fd(), id, ioas, true);
    match logs {
        Ok(parent) => {
            objects.destroy(parent);
            findings.add("dirty tracking in stage 2", Verdict::Has, "");
        }
        Err(errno) => findings.add("dirty tracking in stage 2", Verdict::Without, errno),
    }
    let parent = iommufd::hwpt_alloc_parent(objects.as_fd(), id, ioas, false);
    let parent = objects.keep(parent).map_err(refused("IOMMU_HWPT_ALLOC (nesting parent)", of_parent));
    let Some(parent) = findings.has("a nesting parent", parent) else { return };
    let viommu = iommufd::viommu_alloc(objects.as_fd(), &ARM_SMMUV3, id, parent);
    let viommu = objects.keep(viommu).map_err(refused("IOMMU_VIOMMU_ALLOC", of_viommu));
    let Some(viommu) = findings.has("guest stage 1 (CANWBS or FWB)", viommu) else { return };
    let vdevice = iommufd::vdevice_alloc(objects.as_fd(), id, viommu, STREAM);
    findings
        .has("the guest's StreamIDs", objects.keep(vdevice).map_err(refused("IOMMU_VDEVICE_ALLOC", plain)));
    match iommufd::veventq_alloc(objects.as_fd(), &ARM_SMMUV3, viommu, 64) {
        Ok((queue, file)) => {
            drop(file);
            objects.destroy(queue);
            findings.add("faults for the guest", Verdict::Has, "");
        }
        Err(errno) => {
            findings.add(
                "faults for the guest",
                Verdict::Lacks,
                refused("IOMMU_VEVENTQ_ALLOC", of_events)(errno),
            );
        }
    }
}

fn check_migration(findings: &mut Findings, cdev: &OwnedFd) {
    match cdev::migration_flags(cdev.as_fd()) {
        Ok(flags) => {
            let names = [
                (MigrationFlags::STOP_COPY, "STOP_COPY"),
                (MigrationFlags::P2P, "P2P"),
                (MigrationFlags::PRE_COPY, "PRE_COPY"),
            ];
            let has: Vec<_> =
                names.iter().filter(|(bit, _)| flags & bit != 0).map(|(_, name)| *name).collect();
            findings.add("migration states of the device", Verdict::Has, has.join(" "));
        }
        Err(Errno::NOTTY) => {
            findings.add("migration states of the device", Verdict::Without, "its driver has none");
        }
        Err(errno) => findings.add("migration states of the device", Verdict::Without, errno),
    }
    let logs = cdev::probe_feature(cdev.as_fd(), DMA_LOGGING_START, false);
    let verdict = if logs.is_ok() { Verdict::Has } else { Verdict::Without };
    findings.add(
        "dirty tracking by the device",
        verdict,
        logs.map_or_else(|errno| errno.to_string(), |()| String::new()),
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_lines_up_and_lacks_decide() {
        let mut findings = Findings::default();
        findings.add("short", Verdict::Has, "");
        findings.add("rather longer", Verdict::Without, "why");
        assert!(findings.is_well());
        findings.has::<()>("x", Err(KernelError::NotSmmu));
        assert!(!findings.is_well());
        let table = findings.table();
        let columns: Vec<_> = table.lines().map(|line| line.get(15..18).unwrap()).collect();
        assert_eq!(columns, ["yes", "-  ", "NO "]);
    }

    #[test]
    fn host_without_that_device_says_so() {
        let findings = run(Some("ffff:ff:1f.7"));
        assert!(!findings.is_well());
        let table = findings.table();
        assert!(table.contains("no such PCI device") || table.contains("CONFIG_IOMMUFD"), "{table}");
    }
}
