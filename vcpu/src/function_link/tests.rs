// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A function's process at the other end of its link.

use ipc::channel;
use ipc::doorbell;
use ipc::shm::memory_file;
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{SealFlags, fcntl_add_seals, ftruncate};

use super::*;
use crate::interrupts::intx::Pin;
use crate::windows::tests::{AREA, memory, window, windows};

/// Of no other memory in this process.
const MEMORY_NAME: &str = "memory-behind-a-function-link";

#[test]
fn function_link_answers_its_function_and_the_device_ends_with_it() {
    let (device, vcpu) = channel::pair().unwrap();
    let windows = Arc::new(windows());
    let new_eventfd = || eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap();
    let ((_, raised), (ended, told)) = (doorbell::pair().unwrap(), doorbell::pair().unwrap());
    let pins = Arc::new(Pins::new(vec![Pin { raised, ended, intid: 41 }]));
    let vectors = Arc::new(Vectors::new(true));
    let health = Health::new("vfio0");
    let link = FunctionLink {
        windows: Arc::clone(&windows),
        health: Arc::clone(&health),
        pins: Arc::clone(&pins),
        vectors: Arc::clone(&vectors),
        device_id: 8,
        intid: 41,
    };
    let thread = std::thread::spawn(move || link.serve(vcpu, 3));
    let soon = || Deadline::after(Duration::from_secs(10));
    let channel = Channel::<protocol::FunctionLink>::from_fd(device, Hello::new(Role::Vfio, 3));
    channel.hello(Role::Vcpu, soon()).unwrap();
    let add = FunctionRequest::AddWindow(window(0, 0x1000));
    let named = memory_file::create(MEMORY_NAME).unwrap();
    ftruncate(&named, 0x1000).unwrap();
    fcntl_add_seals(&named, SealFlags::SHRINK).unwrap();
    assert_eq!(channel.request(&add, &[named], soon()).unwrap().0, FunctionReply::Done);
    let (again, _) = channel.request(&add, &[memory(0x1000)], soon()).unwrap();
    assert!(matches!(again, FunctionReply::Refused(why) if why.contains("overlaps")));
    let show = FunctionRequest::ShowWindows { shown: true };
    assert_eq!(channel.request::<OwnedFd>(&show, &[], soon()).unwrap().0, FunctionReply::Done);
    assert_eq!(windows.read(AREA, 8), Some(0));
    assert!(!told.take());
    let lower = FunctionRequest::LowerIntx;
    assert_eq!(channel.request::<OwnedFd>(&lower, &[], soon()).unwrap().0, FunctionReply::Done);
    assert!(told.take());
    let add = FunctionRequest::AddVector { index: 2 };
    assert_eq!(channel.request(&add, &[new_eventfd()], soon()).unwrap().0, FunctionReply::Done);
    let route = |index| FunctionRequest::RouteVector { index, event: Some(0x30) };
    assert_eq!(channel.request::<OwnedFd>(&route(2), &[], soon()).unwrap().0, FunctionReply::Done);
    let (other, _) = channel.request::<OwnedFd>(&route(3), &[], soon()).unwrap();
    assert!(matches!(other, FunctionReply::Refused(why) if why.contains("no vector 3")));
    let listed: Vec<_> = vectors.list().iter().map(|vector| (vector.device_id, vector.event)).collect();
    assert_eq!(listed, [(8, Some(0x30))], "the function does not say the device's number");
    let mapped = || std::fs::read_to_string("/proc/self/maps").unwrap().matches(MEMORY_NAME).count();
    assert_eq!(mapped(), 1);
    drop(channel);
    thread.join().unwrap();
    assert_eq!(windows.read(AREA, 8), None);
    assert_eq!(mapped(), 0, "its file is not held any longer");
}
