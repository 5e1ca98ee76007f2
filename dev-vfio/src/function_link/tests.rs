// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the vCPU process is told of vectors, and what becomes of those that it refuses.

use std::sync::mpsc::{Receiver, channel};

use ipc::channel::{self, Incoming};
use rustix::event::{EventfdFlags, eventfd};

use super::*;

/// A link whose other end refuses what `refuses` names, and what that end was asked.
fn link(refuses: fn(&FunctionRequest) -> bool) -> (FunctionLink, Receiver<FunctionRequest>) {
    let (device, vcpu) = channel::pair().unwrap();
    let (asked, requests) = channel();
    std::thread::spawn(move || {
        let soon = || Deadline::after(Duration::from_secs(10));
        let channel = Channel::<protocol::FunctionLink>::from_fd(vcpu, Hello::new(Role::Vcpu, 1));
        channel.hello(Role::Vfio, soon()).unwrap();
        while let Ok(Incoming::Request { request_id, body, .. }) = channel.recv(soon()) {
            let reply =
                if refuses(&body) { FunctionReply::Refused("no".to_owned()) } else { FunctionReply::Done };
            let _ = asked.send(body);
            let _ = channel.reply::<OwnedFd>(request_id, &reply, &[], soon());
        }
    });
    let link = FunctionLink::new(device, 1);
    link.greet(Deadline::after(Duration::from_secs(10))).unwrap();
    (link, requests)
}

fn new_eventfd() -> OwnedFd {
    eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap()
}

fn route(index: u16, event: Option<u32>) -> FunctionRequest {
    FunctionRequest::RouteVector { index, event }
}

#[test]
fn vectors_are_told_what_they_mean_when_that_changes_and_only_then() {
    let (link, requests) = link(|_| false);
    link.route(|| panic!("nothing was offered")).unwrap();
    for index in 0..3 {
        link.add_vector(&new_eventfd()).unwrap();
        assert_eq!(requests.recv().unwrap(), FunctionRequest::AddVector { index });
    }
    link.route(|| vec![None, Some(7), None]).unwrap();
    link.route(|| vec![None, Some(7), None]).unwrap();
    link.route(|| vec![Some(1), Some(8), None]).unwrap();
    link.route(Vec::new).unwrap();
    let told: Vec<_> = requests.try_iter().collect();
    let changes = [(1, Some(7)), (0, Some(1)), (1, Some(8)), (0, None), (1, None)];
    assert_eq!(
        told,
        changes.map(|(index, event)| route(index, event)),
        "a device that is gone means nothing"
    );
    assert!((0..3).all(|vector| link.takes(vector)) && !link.takes(3));
}

#[test]
fn vector_that_is_refused_is_ours_and_not_spoken_of_again() {
    let (link, requests) = link(|request| {
        matches!(
            request,
            FunctionRequest::AddVector { index: 1 } | FunctionRequest::RouteVector { index: 2, .. }
        )
    });
    for taken in [true, false, true] {
        assert_eq!(link.add_vector(&new_eventfd()).is_ok(), taken);
    }
    assert_eq!([0, 1, 2].map(|vector| link.takes(vector)), [true, false, true]);
    assert_eq!(link.route(|| vec![Some(4), Some(5), Some(6)]).unwrap_err(), "no");
    assert_eq!([0, 1, 2].map(|vector| link.takes(vector)), [true, false, false]);
    link.route(|| vec![Some(3), None, None]).unwrap();
    let told: Vec<_> = requests.try_iter().skip(3).collect();
    assert_eq!(told, [route(0, Some(4)), route(2, Some(6)), route(0, Some(3))]);
    let mut inspect = Inspect::new();
    link.inspect(&mut inspect);
    assert_eq!(inspect.get("vectors.given"), Some(&ipc::protocol::inspect::Value::Counter(1)));
}

#[test]
fn inspection_waits_for_no_answer_of_the_vcpu_process() {
    let (device, vcpu) = channel::pair().unwrap();
    let link = FunctionLink::new(device, 1);
    let channel = Channel::<protocol::FunctionLink>::from_fd(vcpu, Hello::new(Role::Vcpu, 1));
    let soon = || Deadline::after(Duration::from_secs(10));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            link.greet(soon()).unwrap();
            link.add_vector(&new_eventfd())
        });
        channel.hello(Role::Vfio, soon()).unwrap();
        let Incoming::Request { request_id, .. } = channel.recv(soon()).unwrap();
        // It is asked, and has not answered.
        let mut inspect = Inspect::new();
        link.inspect(&mut inspect);
        assert_eq!(inspect.get("vectors.given"), Some(&ipc::protocol::inspect::Value::Counter(0)));
        channel.reply::<OwnedFd>(request_id, &FunctionReply::Done, &[], soon()).unwrap();
    });
}
