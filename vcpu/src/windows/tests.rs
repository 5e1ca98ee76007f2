// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Windows as the process of a function asks for them, honest and not.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use ipc::addr::Bdf;
use ipc::hello::Role;
use ipc::instance::InstanceId;
use ipc::protocol::vfio::{CONFIG_REGION, IO_REGION};
use ipc::shm::memory_file;
use rustix::fs::{SealFlags, fcntl_add_seals, ftruncate};

use super::*;

/// The life of the function's process.
pub const LIFE: u32 = 3;
pub const AREA: u64 = 0x1100_0000;
const AREA_LEN: u64 = 0x100_0000;

fn area(region: u16, start: u64, len: u64) -> FunctionWindow {
    FunctionWindow { region, range: GpaRange::new(Gpa(start), len).unwrap() }
}

pub fn function(windows: Vec<FunctionWindow>, host_device: Option<u64>) -> RemoteFunction {
    let peer = InstanceId::new(Role::Vfio, 0);
    RemoteFunction { peer, bdf: Bdf(8), windows, intx_spi: 0, host_device, has_next_life: false }
}

pub fn areas() -> Vec<FunctionWindow> {
    let io = area(IO_REGION, 0x0f00_8000, 0x8000);
    vec![area(CONFIG_REGION, 0x3000_8000, 0x1000), area(AREA32_REGION, AREA, AREA_LEN), io]
}

pub fn windows() -> Windows {
    Windows::new(&function(areas(), None), false, LIFE)
}

/// `/dev/zero` stands for VFIO's file: a character device that can be mapped.
pub fn zero() -> (OwnedFd, u64) {
    let file = OwnedFd::from(std::fs::File::options().read(true).write(true).open("/dev/zero").unwrap());
    let number = rustix::fs::fstat(&file).unwrap().st_rdev;
    (file, number)
}

/// A hypervisor that writes down where it has memory, and takes none that is reached through caches.
#[derive(Debug, Default)]
pub struct Recorder {
    slots: Mutex<BTreeMap<u32, u64>>,
    /// It does not remove what it has.
    pub keeps: AtomicBool,
}

impl Recorder {
    pub fn places(&self) -> Vec<u64> {
        self.slots.lock().unwrap().values().copied().collect()
    }
}

impl Mapper for Recorder {
    fn can_map(&self, memory: &WindowMemory) -> bool {
        !memory.is_sealed()
    }

    fn map(&self, memory: &Arc<WindowMemory>) -> Result<u32, String> {
        let mut slots = self.slots.lock().unwrap();
        let number = (0..).find(|number| !slots.contains_key(number)).unwrap();
        slots.insert(number, memory.place().start().0);
        Ok(number)
    }

    fn unmap(&self, slot: u32) -> Result<(), String> {
        if self.keeps.load(Ordering::SeqCst) {
            return Err("it is kept".to_owned());
        }
        self.slots.lock().unwrap().remove(&slot).map(drop).ok_or_else(|| "no such slot".to_owned())
    }
}

pub fn memory(len: u64) -> OwnedFd {
    let file = memory_file::create("device").unwrap();
    ftruncate(&file, len).unwrap();
    fcntl_add_seals(&file, SealFlags::SHRINK).unwrap();
    file
}

pub fn window(offset: u64, len: u64) -> DeviceWindow {
    DeviceWindow { region: 1, offset, len, file_offset: 0, writable: true }
}

#[test]
fn windows_are_reached_only_while_they_are_shown() {
    let windows = windows();
    windows.add(LIFE, &window(0x2000, 0x1000), memory(0x1000)).unwrap();
    assert_eq!(windows.read(AREA + 0x2000, 4), None);
    assert!(!windows.write(AREA + 0x2000, 4, 1) && !windows.any_shown());
    windows.show(LIFE, true).unwrap();
    assert!(windows.write(AREA + 0x2ffc, 4, 0x1234_5678) && windows.any_shown());
    assert_eq!(windows.read(AREA + 0x2ffc, 4), Some(0x1234_5678));
    assert_eq!(windows.read(AREA + 0x2ffc, 8), None, "half of it is not memory");
    assert_eq!(windows.read(AREA + 0x1ff8, 8), None);
    windows.show(LIFE, false).unwrap();
    assert_eq!(windows.read(AREA + 0x2ffc, 4), None);
}

#[test]
fn windows_outside_the_functions_areas_or_on_others_are_refused() {
    let windows = windows();
    windows.add(LIFE, &window(0x2000, 0x2000), memory(0x2000)).unwrap();
    let elsewhere = |region, offset| DeviceWindow { region, ..window(offset, 0x1000) };
    for (bad, why) in [
        (elsewhere(CONFIG_REGION, 0), "memory areas"),
        (elsewhere(IO_REGION, 0), "memory areas"),
        (elsewhere(2, 0), "memory areas"),
        (window(AREA_LEN, 0x1000), "memory areas"),
        (window(AREA_LEN - 0x1000, 0x2000), "memory areas"),
        (window(!0xfff, 0x1000), "memory areas"),
        (window(0x8000, 0), "empty"),
        (window(0x3000, 0x1000), "overlaps"),
        (window(0x1000, 0x2000), "overlaps"),
        (window(0x10_0800, 0x1000), "page-aligned"),
        (window(0x10_0000, 0x4000), "bytes"),
    ] {
        let said = windows.add(LIFE, &bad, memory(0x2000)).unwrap_err();
        assert!(said.contains(why), "{bad:?}: {said}");
    }
    let unsealed = memory_file::create("device").unwrap();
    ftruncate(&unsealed, 0x1000).unwrap();
    assert!(windows.add(LIFE, &window(0x8000, 0x1000), unsealed).unwrap_err().contains("F_SEAL_SHRINK"));
}

#[test]
fn windows_are_bounded_in_number_and_length() {
    let windows = windows();
    for index in 0..8 {
        windows.add(LIFE, &window(index * 0x1000, 0x1000), memory(0x1000)).unwrap();
    }
    assert!(windows.add(LIFE, &window(0x8000, 0x1000), memory(0x1000)).unwrap_err().contains("8 windows"));

    let windows = Windows::new(&function(vec![area(2, 1 << 39, 1 << 34)], None), false, LIFE);
    let large = DeviceWindow { region: 2, ..window(0, (1 << 30) + 0x1000) };
    assert!(windows.add(LIFE, &large, memory(0x1000)).unwrap_err().contains("more than"));
}

#[test]
fn host_devices_memory_is_in_the_guest_while_it_is_shown_and_never_touched_here() {
    let (file, number) = zero();
    let windows = Windows::new(&function(areas(), Some(number)), true, LIFE);
    windows.add(LIFE, &window(0x2000, 0x1000), file.try_clone().unwrap()).unwrap();
    // More than a server may have: these pages take no memory.
    let wide = Windows::new(&function(vec![area(2, 1 << 39, 1 << 34)], Some(number)), true, LIFE);
    wide.add(LIFE, &DeviceWindow { region: 2, ..window(0, 2 << 30) }, file.try_clone().unwrap()).unwrap();
    windows.show(LIFE, true).unwrap();
    let recorder = Arc::new(Recorder::default());
    windows.connect(Arc::clone(&recorder) as Arc<dyn Mapper>);
    assert_eq!(recorder.places(), [AREA + 0x2000], "what was shown before there was a VM");
    assert_eq!(windows.read(AREA + 0x2000, 4), None);
    assert!(!windows.write(AREA + 0x2000, 4, 1) && windows.any_shown());
    windows.add(LIFE, &window(0x4000, 0x1000), file).unwrap();
    windows.show(LIFE, true).unwrap();
    assert_eq!(recorder.places(), [AREA + 0x2000, AREA + 0x4000]);
    windows.show(LIFE, false).unwrap();
    assert_eq!(recorder.places(), [0; 0]);
    assert_eq!(windows.withdrawals(), 1);
}

#[test]
fn host_devices_memory_that_does_not_answer_is_withdrawn_until_it_is_shown_anew() {
    let (file, number) = zero();
    let windows = Windows::new(&function(areas(), Some(number)), true, LIFE);
    let recorder = Arc::new(Recorder::default());
    windows.connect(Arc::clone(&recorder) as Arc<dyn Mapper>);
    windows.add(LIFE, &window(0, 0x1000), file).unwrap();
    windows.show(LIFE, true).unwrap();
    assert_eq!(recorder.places(), [AREA]);
    assert!(windows.withdraw());
    assert!(recorder.places().is_empty() && windows.any_shown(), "accesses go through the ring, in order");
    assert!(!windows.withdraw(), "there is nothing left that a touch could have failed at");
    assert_eq!(windows.withdrawals(), 1);
    windows.show(LIFE, false).unwrap();
    windows.show(LIFE, true).unwrap();
    assert_eq!(recorder.places(), [AREA]);
}

#[test]
fn servers_memory_is_a_slot_only_where_the_guest_sees_through_caches() {
    let windows = Windows::new(&function(areas(), None), true, LIFE);
    let recorder = Arc::new(Recorder::default());
    windows.connect(Arc::clone(&recorder) as Arc<dyn Mapper>);
    windows.add(LIFE, &window(0, 0x1000), memory(0x1000)).unwrap();
    windows.show(LIFE, true).unwrap();
    assert!(recorder.places().is_empty());
    assert!(windows.write(AREA, 4, 7) && windows.read(AREA, 4) == Some(7), "accesses are made here");
    assert!(!windows.withdraw(), "it cannot fail");
}

#[test]
fn host_devices_memory_is_of_that_device_and_for_hypervisors_only() {
    let (file, number) = zero();
    let software = Windows::new(&function(areas(), Some(number)), false, LIFE);
    let refused = software.add(LIFE, &window(0, 0x1000), file.try_clone().unwrap()).unwrap_err();
    assert!(refused.contains("software"), "{refused}");
    let other = Windows::new(&function(areas(), Some(number + 1)), true, LIFE);
    let refused = other.add(LIFE, &window(0, 0x1000), file.try_clone().unwrap()).unwrap_err();
    assert!(refused.contains("another device"), "{refused}");
    let refused = other.add(LIFE, &window(0, 0x1000), memory(0x1000)).unwrap_err();
    assert!(refused.contains("no character device"), "{refused}");
    let sealed = Windows::new(&function(areas(), None), true, LIFE);
    let refused = sealed.add(LIFE, &window(0, 0x1000), file).unwrap_err();
    assert!(refused.contains("F_SEAL_SHRINK"), "{refused}");
}
