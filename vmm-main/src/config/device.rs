// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The assigned devices of a VM: what is behind each, and where the guest finds it.
//!
//! Every device is a PCI function on the guest's bus 0, behind the vSMMUv3. One that names no slot gets the lowest
//! free one, in the order of the configuration, so that a guest's devices keep their addresses.

use std::path::PathBuf;

use machine::layout::PCI_SLOT_COUNT;
use serde::{Deserialize, Serialize};

use super::{RESTARTS_DEFAULT, RestartPolicy, check};
use crate::problem::Problem;
use crate::system::{DEVICES_MAX, DeviceKind};

/// What is behind a device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Behind {
    /// A vfio-user server that listens on this socket.
    VfioUser(PathBuf),
    /// An NVMe controller of ours over a raw image.
    Nvme(Disk),
    /// The physical PCI device of the host with this address, `0000:01:00.0`, bound to vfio-pci.
    Physical(String),
}

/// A raw image and how a guest sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// Path of the file.
    pub image: PathBuf,
    /// The guest cannot write to it.
    pub readonly: bool,
    /// The serial number; `None`: it follows from the file, wherever that is and in whichever slot.
    pub serial: Option<String>,
}

impl From<PathBuf> for Disk {
    fn from(image: PathBuf) -> Self {
        Self { image, readonly: false, serial: None }
    }
}

/// A device as configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceSettings {
    /// What is behind it.
    pub behind: Behind,
    /// Its device number on bus 0.
    pub slot: Option<u64>,
    /// Whether its server is given guest RAM while its stream is in bypass.
    pub direct_dma: bool,
    /// Whether the VM must not run without it. Default: it runs without, but a server whose socket does not exist at
    /// the start is reported as a mistake in the path.
    pub required: Option<bool>,
    /// What the death of its processes comes to; left open: what the VM's other settings say.
    pub restart: Restarts,
}

/// What the death of a device's processes comes to, with each choice left open.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Restarts {
    /// Whether they are started anew.
    pub policy: Option<RestartPolicy>,
    /// How many deaths of one of them within a minute are survived.
    pub per_minute: Option<u64>,
}

impl Restarts {
    /// Takes from `below` what this leaves open.
    #[must_use]
    pub fn over(self, below: Self) -> Self {
        Self { policy: self.policy.or(below.policy), per_minute: self.per_minute.or(below.per_minute) }
    }
}

/// A device with its place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceConfig {
    /// What is behind it.
    pub behind: Behind,
    /// Its device number on bus 0.
    pub slot: u8,
    /// Whether its server is given guest RAM while its stream is in bypass.
    pub direct_dma: bool,
    /// Whether the VM must not run without it. Default: it runs without, but a server whose socket does not exist at
    /// the start is reported as a mistake in the path.
    pub required: Option<bool>,
    /// What the death of its processes comes to.
    pub restart: RestartPolicy,
    /// How many deaths of one of them within a minute are survived.
    pub restarts: u32,
}

impl DeviceConfig {
    /// What the system table needs to know of it.
    pub const fn kind(&self) -> DeviceKind {
        match self.behind {
            Behind::VfioUser(_) => DeviceKind::VfioUser,
            Behind::Nvme(_) => DeviceKind::Nvme,
            Behind::Physical(_) => DeviceKind::Physical,
        }
    }
}

impl Behind {
    /// The file or socket, if it is one.
    pub const fn path_mut(&mut self) -> Option<&mut PathBuf> {
        match self {
            Self::VfioUser(path) | Self::Nvme(Disk { image: path, .. }) => Some(path),
            Self::Physical(_) => None,
        }
    }
}

/// Gives every device a slot of its own. `below` is what devices do not say of their processes' deaths.
pub fn resolve(devices: Vec<DeviceSettings>, below: Restarts) -> Result<Vec<DeviceConfig>, Problem> {
    let refuse = |what: String, advice: String| Err(Problem::usage(what, "device", advice));
    let most = DEVICES_MAX;
    if devices.len() > most {
        return refuse(
            format!("{} assigned devices are too many", devices.len()),
            format!("give at most {most}"),
        );
    }
    let mut taken: Vec<u64> = devices.iter().filter_map(|device| device.slot).collect();
    let mut placed = Vec::new();
    for DeviceSettings { behind, slot, direct_dma, required, restart } in devices {
        let comes_back = matches!(restart.policy, Some(RestartPolicy::Always | RestartPolicy::Ask));
        if comes_back && direct_dma {
            return refuse(
                "the process of a device with `direct-dma` is not started anew if it dies".to_owned(),
                "leave `restart` out, or give \"never\"".to_owned(),
            );
        }
        let restart = restart.over(below);
        if direct_dma && !matches!(behind, Behind::VfioUser(_)) {
            return refuse(
                "only the server of a `vfio-user` device can be given guest memory".to_owned(),
                "leave `direct-dma` out".to_owned(),
            );
        }
        if let Behind::Nvme(Disk { serial: Some(serial), .. }) = &behind {
            check_serial(serial)?;
        }
        if let Behind::Physical(address) = &behind {
            check_address(address)?;
            if placed.iter().any(|other: &DeviceConfig| other.behind == behind) {
                return refuse(
                    format!("the host's device {address} is assigned twice"),
                    "leave one of them out".to_owned(),
                );
            }
        }
        // Slot 0 is the host bridge's by custom.
        let free = (1..u64::from(PCI_SLOT_COUNT)).find(|slot| !taken.contains(slot));
        let wanted = slot.or(free).unwrap_or(0);
        if slot.is_none() {
            taken.push(wanted);
        }
        let checked = u8::try_from(wanted).ok().filter(|slot| (1..PCI_SLOT_COUNT).contains(slot));
        let Some(slot) = checked else {
            return refuse(
                format!("there is no slot {wanted} for a device"),
                format!("give a number from 1 to {}", PCI_SLOT_COUNT - 1),
            );
        };
        if placed.iter().any(|other: &DeviceConfig| other.slot == slot) {
            return refuse(
                format!("two devices are in slot {slot}"),
                "give each a slot of its own".to_owned(),
            );
        }
        let restarts = check::restarts(restart.per_minute.unwrap_or(RESTARTS_DEFAULT), "device")?;
        let restart = restart.policy.unwrap_or_default();
        placed.push(DeviceConfig { behind, slot, direct_dma, required, restart, restarts });
    }
    Ok(placed)
}

/// What the field in an NVMe controller's identification holds, and no shell or udev rule stumbles over.
fn check_serial(serial: &str) -> Result<(), Problem> {
    let visible = serial.bytes().all(|byte| byte.is_ascii_graphic());
    if visible && (1..=SERIAL_LEN_MAX).contains(&serial.len()) {
        return Ok(());
    }
    Err(Problem::usage(
        format!("{serial:?} is not a serial number"),
        "device",
        format!(
            "give 1 to {SERIAL_LEN_MAX} visible ASCII characters, or leave it out: it then follows from the image"
        ),
    ))
}

/// Bytes of the serial number in NVMe's Identify Controller.
const SERIAL_LEN_MAX: usize = 20;

/// A PCI address in full, as the host's sysfs has it: domain, bus, device, function, in hexadecimal.
fn check_address(address: &str) -> Result<(), Problem> {
    let shape: String = address
        .chars()
        .map(|c| if c.is_ascii_digit() || ('a'..='f').contains(&c) { 'x' } else { c })
        .collect();
    let function = address.rsplit('.').next();
    if shape == "xxxx:xx:xx.x" && function.is_some_and(|digit| ("0"..="7").contains(&digit)) {
        return Ok(());
    }
    Err(Problem::usage(
        format!("{address:?} is not the address of a PCI device"),
        "device",
        "give it in full and in small letters, such as 0000:01:00.0; `lspci -D` shows them",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(slot: Option<u64>) -> DeviceSettings {
        let disk = Disk::from(PathBuf::from("disk.img"));
        let restart = Restarts::default();
        DeviceSettings { behind: Behind::Nvme(disk), slot, direct_dma: false, required: None, restart }
    }

    fn resolve(devices: Vec<DeviceSettings>) -> Result<Vec<DeviceConfig>, Problem> {
        super::resolve(devices, Restarts::default())
    }

    #[test]
    fn devices_get_the_lowest_free_slots_in_order() {
        let placed = resolve(vec![device(None), device(Some(1)), device(None)]).unwrap();
        let slots: Vec<u8> = placed.iter().map(|device| device.slot).collect();
        assert_eq!(slots, [2, 1, 3]);
    }

    #[test]
    fn host_devices_are_named_in_full_and_once() {
        let real = |address: &str| {
            let behind = Behind::Physical(address.into());
            DeviceSettings { behind, ..device(None) }
        };
        assert_eq!(resolve(vec![real("0000:0a:1f.7")]).unwrap()[0].kind(), DeviceKind::Physical);
        for bad in
            ["", "01:00.0", "0000:01:00", "0000:01:00.8", "0000:0A:00.0", "0000:01:00.0/..", "../../etc"]
        {
            assert!(resolve(vec![real(bad)]).unwrap_err().what.contains("not the address"), "{bad}");
        }
        let twice = resolve(vec![real("0000:01:00.0"), real("0000:01:00.0")]).unwrap_err();
        assert!(twice.what.contains("assigned twice"), "{twice}");
    }

    #[test]
    fn processes_of_devices_come_back_as_the_device_says_or_else_the_vm() {
        let below = Restarts { policy: Some(RestartPolicy::Never), per_minute: Some(9) };
        let said = Restarts { policy: Some(RestartPolicy::Always), per_minute: None };
        let devices = vec![DeviceSettings { restart: said, ..device(None) }, device(None)];
        let placed = super::resolve(devices, below).unwrap();
        let restarts: Vec<_> = placed.iter().map(|device| (device.restart, device.restarts)).collect();
        assert_eq!(restarts, [(RestartPolicy::Always, 9), (RestartPolicy::Never, 9)]);
        let placed = resolve(vec![device(None)]).unwrap();
        assert_eq!((placed[0].restart, placed[0].restarts), (RestartPolicy::Always, 5));
        let other = DeviceSettings {
            behind: Behind::VfioUser("sock".into()),
            restart: said,
            direct_dma: true,
            ..device(None)
        };
        let refused = resolve(vec![other]).unwrap_err();
        assert!(refused.what.contains("is not started anew if it dies"), "{refused}");
        for behind in [Behind::VfioUser("sock".into()), Behind::Physical("0000:01:00.0".into())] {
            let other = DeviceSettings { behind, restart: said, ..device(None) };
            assert_eq!(resolve(vec![other]).unwrap()[0].restart, RestartPolicy::Always);
        }
        let often = Restarts { policy: None, per_minute: Some(u64::MAX) };
        assert!(resolve(vec![DeviceSettings { restart: often, ..device(None) }]).is_err());
    }

    #[test]
    fn serial_numbers_are_what_a_guest_can_be_told() {
        let named = |serial: &str| {
            let disk = Disk { serial: Some(serial.to_owned()), ..Disk::from(PathBuf::from("disk.img")) };
            resolve(vec![DeviceSettings { behind: Behind::Nvme(disk), ..device(None) }])
        };
        assert!(named("S").is_ok() && named("twenty-characters-20").is_ok());
        for bad in ["", "twenty-one-characters", "with space", "d\u{fc}nn", "a\n"] {
            assert!(named(bad).unwrap_err().what.contains("not a serial number"), "{bad:?}");
        }
    }

    #[test]
    fn devices_in_no_slot_or_the_same_one_are_refused() {
        let refused = |devices| resolve(devices).unwrap_err().what;
        assert!(refused(vec![device(Some(0))]).contains("no slot 0"));
        assert!(refused(vec![device(Some(32))]).contains("no slot 32"));
        assert!(refused(vec![device(Some(u64::MAX))]).contains("no slot"));
        assert!(refused(vec![device(Some(4)), device(Some(4))]).contains("in slot 4"));
        assert!(refused(vec![device(None); 32]).contains("too many"));
        let direct = DeviceSettings { direct_dma: true, ..device(None) };
        assert!(refused(vec![direct.clone()]).contains("only the server of a `vfio-user` device"));
        let server = DeviceSettings { behind: Behind::VfioUser("sock".into()), ..direct };
        assert!(resolve(vec![server]).unwrap()[0].direct_dma);
    }
}
