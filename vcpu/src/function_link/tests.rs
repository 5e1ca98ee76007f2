// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A function's process at the other end of its link.

use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, channel as queue};
use std::time::Duration;

use ipc::channel;
use ipc::doorbell;
use ipc::shm::memory_file;
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{SealFlags, fcntl_add_seals, ftruncate};

use super::*;
use crate::interrupts::intx::Pin;
use crate::window_memory::Mapper;
use crate::windows::tests::{AREA, LIFE, Recorder, areas, function, memory, window, windows, zero};

/// Of no other memory in this process.
const MEMORY_NAME: &str = "memory-behind-a-function-link";

/// A function without windows at a machine with a pin.
fn link() -> (Arc<FunctionLink>, ipc::doorbell::Doorbell) {
    link_of(windows(), Events::none())
}

fn link_of(windows: Windows, events: Events) -> (Arc<FunctionLink>, ipc::doorbell::Doorbell) {
    let ((_, raised), (ended, told)) = (doorbell::pair().unwrap(), doorbell::pair().unwrap());
    let link = FunctionLink {
        peer: InstanceId::new(Role::Vfio, 0),
        windows: Arc::new(windows),
        health: Health::new("vfio0"),
        pins: Arc::new(Pins::new(vec![Pin { raised, ended, intid: 41 }])),
        vectors: Arc::new(Vectors::new(true)),
        device_id: 8,
        intid: 41,
        lives: Lives::default(),
        events,
    };
    (Arc::new(link), told)
}

fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(10))
}

type Device = Channel<protocol::FunctionLink>;

/// A life of the function's process, which has greeted.
fn life(link: &Arc<FunctionLink>, epoch: u32) -> Device {
    let (device, vcpu) = channel::pair().unwrap();
    link.follow(link.expect(vcpu, epoch).unwrap()).unwrap();
    let channel = Channel::from_fd(device, Hello::new(Role::Vfio, epoch));
    channel.hello(Role::Vcpu, soon()).unwrap();
    channel
}

fn ask(device: &Device, request: &FunctionRequest) -> FunctionReply {
    device.request::<OwnedFd>(request, &[], soon()).unwrap().0
}

/// Adds and shows a window with this in its first bytes.
fn show(device: &Device, value: u64) {
    let file = memory(0x1000);
    rustix::io::pwrite(&file, &value.to_le_bytes(), 0).unwrap();
    let add = FunctionRequest::AddWindow(window(0, 0x1000));
    assert_eq!(device.request(&add, &[file], soon()).unwrap().0, FunctionReply::Done);
    assert_eq!(ask(device, &FunctionRequest::ShowWindows { shown: true }), FunctionReply::Done);
}

/// Waits, without an end but the test's own, until the thread of a life has noticed something.
fn until(noticed: impl Fn() -> bool) {
    while !noticed() {
        std::thread::yield_now();
    }
}

#[test]
fn windows_of_a_next_life_take_the_place_of_the_others_when_the_life_before_is_over() {
    let (link, _told) = link();
    let old = life(&link, LIFE);
    show(&old, 1);
    let next = life(&link, LIFE + 2);
    show(&next, 2);
    link.settle();
    assert_eq!(link.windows.read(AREA, 8), Some(1), "both live: the guest has what it had");
    let vector = FunctionRequest::RouteVector { index: 0, event: None };
    assert!(matches!(ask(&next, &vector), FunctionReply::Refused(_)));
    let third = channel::pair().unwrap().0;
    assert!(link.expect(third, LIFE + 3).unwrap_err().contains("next life already"));
    drop(old);
    // Whether its own thread has noticed or not.
    link.settle();
    assert_eq!(link.windows.read(AREA, 8), Some(2));
    assert_eq!(ask(&next, &FunctionRequest::ShowWindows { shown: false }), FunctionReply::Done);
    assert_eq!((link.windows.read(AREA, 8), link.health.failure()), (None, None));
    drop(next);
    until(|| link.health.failure().is_some());
}

#[test]
fn vectors_of_a_next_life_wait_for_the_end_of_the_life_before_and_take_the_place_of_its() {
    let new_eventfd = || eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap();
    let (link, _told) = link();
    let old = life(&link, LIFE);
    let add = FunctionRequest::AddVector { index: 0 };
    assert_eq!(old.request(&add, &[new_eventfd()], soon()).unwrap().0, FunctionReply::Done);
    let route = FunctionRequest::RouteVector { index: 0, event: Some(3) };
    assert_eq!(ask(&old, &route), FunctionReply::Done);
    let next = life(&link, LIFE + 1);
    let refused = next.request(&add, &[new_eventfd()], soon()).unwrap().0;
    assert!(matches!(refused, FunctionReply::Refused(_)), "both live: {refused:?}");
    let given = std::thread::spawn(move || (next.request(&add, &[new_eventfd()], soon()).unwrap().0, next));
    drop(old);
    let (reply, next) = given.join().unwrap();
    assert_eq!(reply, FunctionReply::Done);
    let events = || -> Vec<_> { link.vectors.list().iter().map(|vector| vector.event).collect() };
    assert_eq!(events(), [None], "the guest may have masked it meanwhile");
    assert_eq!(ask(&next, &route), FunctionReply::Done);
    assert_eq!(events(), [Some(3)]);
}

#[test]
fn next_life_that_does_not_come_to_be_changes_nothing() {
    let (link, _told) = link();
    let old = life(&link, LIFE);
    show(&old, 1);
    for epoch in 5..30 {
        let next = life(&link, epoch);
        show(&next, 2);
        drop(next);
        link.settle();
        assert_eq!((link.windows.read(AREA, 8), link.health.failure()), (Some(1), None));
    }
    assert_eq!(ask(&old, &FunctionRequest::ShowWindows { shown: false }), FunctionReply::Done);
    assert_eq!(link.windows.read(AREA, 8), None, "it is still heard");
}

#[test]
fn what_a_life_has_said_that_is_over_is_not_heard() {
    let (link, _told) = link();
    let (device, vcpu) = channel::pair().unwrap();
    let old = link.expect(vcpu, LIFE).unwrap();
    let next = life(&link, LIFE + 1);
    show(&next, 2);
    drop(device);
    link.settle();
    // As its thread would find it in the channel.
    let late = link.carry_out(&old, FunctionRequest::ShowWindows { shown: false }, vec![]);
    assert!(matches!(late, FunctionReply::Refused(_)));
    assert_eq!(link.windows.read(AREA, 8), Some(2));
}

#[test]
fn function_link_answers_its_function_and_the_device_ends_with_it() {
    let new_eventfd = || eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap();
    let (link, told) = link();
    let (windows, vectors) = (Arc::clone(&link.windows), Arc::clone(&link.vectors));
    let channel = life(&link, LIFE);
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
    until(|| link.health.failure().is_some());
    assert_eq!(windows.read(AREA, 8), None);
    assert_eq!(mapped(), 0, "its file is not held any longer");
}

/// The function of a physical device, what has slots of it, what the coordinator is told, and its file, `/dev/zero`.
fn physical() -> (Arc<FunctionLink>, Arc<Recorder>, Receiver<Event>, OwnedFd) {
    let (file, number) = zero();
    let recorder = Arc::new(Recorder::default());
    let windows = Windows::new(&function(areas(), Some(number)), true, LIFE);
    windows.connect(Arc::clone(&recorder) as Arc<dyn Mapper>);
    let (tell, told) = queue();
    (link_of(windows, Events::new(move |event| tell.send(event).unwrap())).0, recorder, told, file)
}

/// Adds and shows a window of the physical device.
fn show_bar(device: &Device, file: &OwnedFd) {
    let add = FunctionRequest::AddWindow(window(0, 0x1000));
    let added = device.request(&add, &[file.try_clone().unwrap()], soon()).unwrap().0;
    assert_eq!(added, FunctionReply::Done);
    assert_eq!(ask(device, &FunctionRequest::ShowWindows { shown: true }), FunctionReply::Done);
}

fn unmapped() -> Event {
    Event::Unmapped { name: "vfio0".to_owned() }
}

#[test]
fn coordinator_is_told_that_a_physical_device_is_unmapped_behind_the_last_of_its_lives() {
    let (link, recorder, told, file) = physical();
    let old = life(&link, LIFE);
    show_bar(&old, &file);
    let next = life(&link, LIFE + 1);
    show_bar(&next, &file);
    drop(old);
    until(|| link.windows.show(LIFE, true).is_err());
    assert_eq!(
        (recorder.places(), told.try_recv().ok()),
        (vec![AREA], None),
        "the next life goes on with it"
    );
    drop(next);
    assert_eq!(told.recv_timeout(Duration::from_secs(10)).unwrap(), unmapped());
    assert!(recorder.places().is_empty() && link.health.failure().is_some());
    let late = channel::pair().unwrap().0;
    assert!(link.expect(late, LIFE + 2).unwrap_err().contains("lost"), "nothing is mapped behind that word");
    assert!(told.try_recv().is_err(), "it is told once");
}

#[test]
fn descriptors_that_a_dead_life_has_sent_are_closed_before_its_device_counts_as_unmapped() {
    let (link, _recorder, told, file) = physical();
    let (device, vcpu) = channel::pair().unwrap();
    // Its hello, and then more than anybody reads: the second message breaks the contract.
    let (kept, sent) = std::os::unix::net::UnixStream::pair().unwrap();
    let channel = Channel::<protocol::FunctionLink>::from_fd(device, Hello::new(Role::Vfio, LIFE));
    let followed = link.expect(vcpu, LIFE).unwrap();
    let greets = std::thread::spawn(move || {
        channel.hello(Role::Vcpu, soon()).unwrap();
        channel
    });
    followed.hello(Role::Vfio, soon()).unwrap();
    let channel = greets.join().unwrap();
    for request in [FunctionRequest::AddWindow(window(0, 0x1000)), FunctionRequest::AddVector { index: 0 }] {
        // The answer is not waited for: nobody serves the link yet.
        let sent = channel.request(&request, &[sent.try_clone().unwrap()], Deadline::now());
        assert!(matches!(sent, Err(Error::Timeout { .. })), "{sent:?}");
    }
    drop((channel, sent, file));
    link.end(followed, "test".to_owned());
    assert_eq!(told.try_recv().unwrap(), unmapped());
    kept.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    assert_eq!(std::io::Read::read(&mut &kept, &mut [0]).unwrap(), 0, "the other end is closed by then");
}

#[test]
fn physical_device_that_the_hypervisor_keeps_does_not_count_as_unmapped() {
    let (link, recorder, told, file) = physical();
    let device = life(&link, LIFE);
    show_bar(&device, &file);
    recorder.keeps.store(true, Ordering::SeqCst);
    drop(device);
    until(|| link.health.failure().is_some());
    until(|| link.lives.lock().channel_count == 0);
    assert_eq!((recorder.places(), told.recv_timeout(Duration::from_millis(100)).ok()), (vec![AREA], None));
}
