// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A control group (cgroup v2) for one VM: limits on memory, tasks and CPU of all of its processes together.
//!
//! Limits of a process hold without it (`system/size.rs`); this bounds their sum, what the kernel holds for them, and
//! their time. It is made where the user says, or inside the launcher's own group if that was delegated and has no
//! other process; the coordinator enters it before its first instruction, and its children inherit it. If the user
//! configured a group and it cannot be made, the start fails; otherwise the VM runs without one, and `bulkhead ps`
//! says so.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use crate::config::VmConfig;
use crate::problem::Problem;
use crate::system::{Size, System};

/// Controllers that must be enabled in the parent group.
const CONTROLLERS: &str = "+memory +pids +cpu";
/// Attempts to remove the group of a VM that has just ended: the kernel needs a moment to release the last process.
const REMOVALS: u32 = 50;
const REMOVAL_PAUSE: Duration = Duration::from_millis(20);

/// The VM's group; removed on drop.
#[derive(Debug)]
pub struct Cgroup {
    folder: PathBuf,
    procs: File,
}

impl AsFd for Cgroup {
    /// Its `cgroup.procs`.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.procs.as_fd()
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        for _ in 0..REMOVALS {
            match fs::remove_dir(&self.folder) {
                Err(error) if error.kind() == io::ErrorKind::ResourceBusy => thread::sleep(REMOVAL_PAUSE),
                Ok(()) | Err(_) => return,
            }
        }
    }
}

/// Makes the group of a VM, if there is a place for it.
pub fn make(config: &VmConfig, system: &System, size: Size) -> Result<Option<Cgroup>, Problem> {
    let asked = config.cgroup.is_some() || config.cpu_weight.is_some();
    let place = match &config.cgroup {
        Some(path) => Ok(path.clone()),
        None => delegated(),
    };
    let made = place.and_then(|above| {
        within(&above, &config.name, limits(config, system, size)).map_err(|error| error.to_string())
    });
    match made {
        Ok(group) => Ok(Some(group)),
        Err(why) if asked => Err(Problem::host(
            format!("the VM cannot have a control group: {why}"),
            config.cgroup.as_deref().unwrap_or(Path::new("cgroup")).display().to_string(),
            "give with --cgroup a folder of cgroup v2 that this user may write to, with the controllers memory, pids and cpu and \
             no process in it",
        )),
        Err(_) => Ok(None),
    }
}

/// Files of the group, and what is written there.
fn limits(config: &VmConfig, system: &System, size: Size) -> Vec<(&'static str, u64)> {
    let coordinator = system.profile_of(system.coordinator(), size).limits;
    // Private memory of each process, plus shared memory: guest RAM once, and memory of devices.
    let processes = system.processes().iter();
    let own = processes
        .clone()
        .map(|process| process.profile().limits.data_len)
        .fold(coordinator.data_len, u64::saturating_add);
    let shared = processes.map(|process| system.mapped_len(process, size.memory_len)).max().unwrap_or(0);
    let mut all = vec![
        ("memory.max", own.saturating_add(shared)),
        // A VM without one of its processes is useless: on OOM kill all.
        ("memory.oom.group", 1),
        ("pids.max", coordinator.nproc_count),
    ];
    all.extend(config.cpu_weight.map(|weight| ("cpu.weight", weight)));
    all
}

/// Makes the group of the VM called `name` inside of the one at `above`.
fn within(above: &Path, name: &str, limits: Vec<(&'static str, u64)>) -> io::Result<Cgroup> {
    let write = |path: PathBuf, text: &str| {
        // Never created here: without such a file the folder is not a cgroup.
        let file = OpenOptions::new().write(true).open(&path);
        file.and_then(|mut file| file.write_all(text.as_bytes()))
            .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
    };
    write(above.join("cgroup.subtree_control"), CONTROLLERS)?;
    let folder = above.join(format!("bulkhead-{name}"));
    // A killed launcher may have left one; a group with processes in it is not removed, and creating it fails.
    let _ = fs::remove_dir(&folder);
    fs::create_dir(&folder)?;
    let made = || {
        for (file, value) in limits {
            write(folder.join(file), &value.to_string())?;
        }
        OpenOptions::new().write(true).open(folder.join("cgroup.procs"))
    };
    match made() {
        Ok(procs) => Ok(Cgroup { folder, procs }),
        Err(error) => {
            let _ = fs::remove_dir(&folder);
            Err(error)
        }
    }
}

/// The launcher's own group, if systemd says that it was delegated, with the launcher moved into a group of its own in
/// it: the kernel has controllers only for groups inside of one that holds no process.
fn delegated() -> Result<PathBuf, String> {
    let own = own_group().ok_or("this host has no cgroup v2")?;
    let marked = ["user.delegate", "trusted.delegate"].into_iter().any(|name| {
        let mut value = [0; 8];
        rustix::fs::getxattr(&own, name, &mut value[..]).is_ok_and(|len| value.get(..len) == Some(b"1"))
    });
    if !marked {
        return Err(format!("{} was not delegated", own.display()));
    }
    let told = |error: io::Error| format!("{}: {error}", own.display());
    let pid = std::process::id().to_string();
    let all = fs::read_to_string(own.join("cgroup.procs")).map_err(told)?;
    if all.split_whitespace().ne([pid.as_str()]) {
        return Err(format!("other processes are in {}", own.display()));
    }
    let leaf = own.join(format!("launcher-{pid}"));
    fs::create_dir(&leaf).map_err(told)?;
    fs::write(leaf.join("cgroup.procs"), pid).map_err(told)?;
    Ok(own)
}

/// The group of this process.
fn own_group() -> Option<PathBuf> {
    group_of("self")
}

/// The group of process `pid` as a folder here.
fn group_of(pid: &str) -> Option<PathBuf> {
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    folder(&groups, &mounts)
}

/// From the texts of `/proc/PID/cgroup` and of `mountinfo`. cgroups(7), proc(5).
fn folder(groups: &str, mounts: &str) -> Option<PathBuf> {
    let own = groups.lines().find_map(|line| line.strip_prefix("0::"))?;
    mounts.lines().find_map(|line| {
        let (mount, filesystem) = line.split_once(" - ")?;
        filesystem.starts_with("cgroup2 ").then_some(())?;
        let mut words = mount.split(' ').skip(3);
        let (root, point) = (words.next()?, words.next()?);
        Some(Path::new(point).join(Path::new(own).strip_prefix(root).ok()?))
    })
}

/// The limits of the VM's group that process `pid` is in, as `ps` shows them.
pub fn seen(pid: i32) -> String {
    let Some(folder) = group_of(&pid.to_string()) else { return "no control group".to_owned() };
    let limit = |file: &str| {
        let text = fs::read_to_string(folder.join(file)).ok()?;
        text.trim().parse::<u64>().ok()
    };
    match (limit("memory.max"), limit("pids.max"), limit("cpu.weight")) {
        (Some(memory), Some(tasks), Some(weight)) => {
            format!("control group: {} MiB, {tasks} tasks, CPU weight {weight}", memory >> 20)
        }
        _ => "no control group of the VM's own".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::system::{CpuKind, DeviceKind, Shape};

    const MOUNTS: &str =
        "24 1 0:22 / /sys rw - sysfs sysfs rw\n30 24 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw\n";

    #[test]
    fn folder_is_the_groups_under_the_mount() {
        let of = |groups| folder(groups, MOUNTS);
        assert_eq!(of("0::/a.slice/b\n"), Some("/sys/fs/cgroup/a.slice/b".into()));
        assert_eq!(of("5:memory:/x\n0::/\n"), Some("/sys/fs/cgroup/".into()));
        assert_eq!(of("5:memory:/x\n"), None);
        assert_eq!(folder("0::/a\n", "30 24 0:26 / /sys rw - sysfs x rw\n"), None);
        // Seen from a container whose mount begins further down.
        let mounts = MOUNTS.replace("0:26 / ", "0:26 /docker/1 ");
        assert_eq!(folder("0::/docker/1/vm\n", &mounts), Some("/sys/fs/cgroup/vm".into()));
        assert_eq!(folder("0::/other\n", &mounts), None);
    }

    #[test]
    fn limits_hold_the_guest_and_all_that_its_processes_may_have() {
        let system = System::new(&Shape::new(CpuKind::Soft).with_devices([DeviceKind::Nvme]));
        let size = Size { memory_len: 1 << 30, image_len: 1 << 40 };
        let settings = crate::config::Settings {
            kernel: Some("Image".into()),
            cpu_weight: Some(50),
            ..Default::default()
        };
        let limits = limits(&settings.resolve().unwrap(), &system, size);
        let of = |file: &str| limits.iter().find(|(name, _)| *name == file).unwrap().1;
        assert!(of("memory.max") > size.memory_len + (1 << 30), "RAM and one device's memory");
        assert!(of("memory.max") < size.memory_len + (4 << 30), "whatever the image's length");
        assert_eq!((of("memory.oom.group"), of("cpu.weight")), (1, 50));
        assert!(
            of("pids.max")
                >= system.processes().iter().map(|process| process.profile().limits.nproc_count).sum()
        );
    }

    #[test]
    fn group_in_what_is_no_cgroup_is_refused_and_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let error = within(folder.path(), "vm", vec![("memory.max", 1)]).unwrap_err();
        assert!(error.to_string().contains("cgroup"), "{error}");
        assert!(!folder.path().join("bulkhead-vm").exists());
    }
}
