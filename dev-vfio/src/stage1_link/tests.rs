// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A vSMMU that reads nothing.

use std::time::Instant;

use ipc::addr::StreamId;
use ipc::channel;
use ipc::protocol::stage1::{Attachment, Fault};

use super::*;
use crate::iommu::Invalidated;

/// A device that has faulted so often.
struct Faulty(u32);

impl HostIommu for Faulty {
    fn attach(&mut self, _stream: StreamId, _to: Attachment) -> Result<(), AttachError> {
        Ok(())
    }

    fn invalidate(&mut self, commands: &[[u64; 2]]) -> Invalidated {
        Invalidated { done: commands.len(), refused: false }
    }

    fn fault_count(&self) -> u64 {
        self.0.into()
    }

    fn next_fault(&mut self) -> Option<Entry> {
        let sequence = self.0.checked_sub(1)?;
        self.0 = sequence;
        let fault = Some(Fault::Record([0x10, 0, 0, 0]));
        // From the number after the last one down to none: each seems to follow the loss of all others.
        Some(Entry { sequence, fault })
    }
}

#[test]
fn faults_that_nobody_reads_wait_one_moment_in_all_and_are_counted() {
    let (ours, theirs) = channel::pair().unwrap();
    let link = Stage1Link::new(ours, 1);
    let channel = link.current().unwrap();
    let smmu = Channel::<Stage1>::from_fd(theirs, Hello::new(Role::Smmu, 1));
    let many = u32::try_from(FAULTS_PER_TURN).unwrap();
    let (iommu, gate) = (Mutex::new(Faulty(0)), Gate::default());
    std::thread::scope(|scope| {
        let greeting = scope.spawn(|| link.greet(&channel).unwrap());
        smmu.hello(Role::Vfio, Deadline::after(HELLO_SPAN)).unwrap();
        greeting.join().unwrap();
    });
    // Until the channel is full, and a good deal longer.
    let begun = Instant::now();
    for _ in 0..4 {
        lock(&iommu).0 = many;
        link.tell_faults(&iommu, &gate);
    }
    // A wait for each would be 160 seconds.
    assert!(begun.elapsed() < FAULT_SPAN * many / 2, "{:?}", begun.elapsed());
    assert!(link.untold_faults(&iommu) > u64::from(many));
    // Whoever reads again is told how many there were.
    while smmu.recv(Deadline::now()).is_ok() {}
    link.tell_faults(&iommu, &gate);
    let told = smmu.recv(Deadline::after(HELLO_SPAN)).unwrap();
    assert!(
        matches!(told, Incoming::Event { body: Notice::FaultsLost { count }, .. } if count > u64::from(many))
    );
    assert_eq!(link.untold_faults(&iommu), 0);
}

/// A vSMMU's life at the other end of `theirs`, and the channel of ours to it, greeted.
fn greeted(
    link: &Stage1Link,
    channel: Stage1Channel,
    theirs: OwnedFd,
    epoch: u32,
) -> (Stage1Channel, Channel<Stage1>) {
    let smmu = Channel::<Stage1>::from_fd(theirs, Hello::new(Role::Smmu, epoch));
    std::thread::scope(|scope| {
        let greeting = scope.spawn(|| link.greet(&channel).unwrap());
        smmu.hello(Role::Vfio, Deadline::after(HELLO_SPAN)).unwrap();
        greeting.join().unwrap();
    });
    (channel, smmu)
}

fn request(smmu: &Channel<Stage1>) {
    let requests = Notice::Requests { sequence: 1, requests: vec![] };
    smmu.event::<OwnedFd>(&requests, &[], Deadline::after(HELLO_SPAN)).unwrap();
}

#[test]
fn orders_of_an_earlier_life_are_late_while_the_next_one_is_there_and_good_when_it_is_gone() {
    let (ours, theirs) = channel::pair().unwrap();
    let link = Stage1Link::new(ours, 1);
    let first = link.current().unwrap();
    let (first, old) = greeted(&link, first, theirs, 1);
    let (iommu, gate) = (Mutex::new(Faulty(0)), Gate::default());
    let serve = |channel: &Stage1Channel| link.serve(channel, &iommu, &gate, |_| {}, || {});
    let next_life = |epoch| {
        let (ours, theirs) = channel::pair().unwrap();
        let channel = link.exchange(ours, epoch).unwrap();
        assert!(!Arc::ptr_eq(&link.current().unwrap(), &channel), "it is followed when it has greeted");
        greeted(&link, channel, theirs, epoch)
    };
    let (second, new) = next_life(2);
    request(&new);
    serve(&second).unwrap();
    request(&old);
    let begun = Instant::now();
    assert!(matches!(serve(&first), Err(Error::Refused(_))), "it is late");
    assert!(begun.elapsed() < NOTICE_SPAN, "nothing is waited for while the next life is there");
    // The next life ends, and the requests of the one before are followed again.
    assert!(link.close(&second), "there is another one");
    request(&old);
    serve(&first).unwrap();
    // Held up, if the end of the next life is noticed a moment later.
    let (third, new) = next_life(3);
    drop(new);
    request(&old);
    std::thread::scope(|scope| {
        let served = scope.spawn(|| serve(&first));
        link.close(&third);
        served.join().unwrap().unwrap();
    });
    assert!(!link.close(&first), "there is none");
    assert!(link.current().is_none());
}

#[test]
fn faults_of_a_time_without_a_vsmmu_are_told_to_its_next_life() {
    let (ours, theirs) = channel::pair().unwrap();
    let link = Stage1Link::new(ours, 1);
    let first = link.current().unwrap();
    let (first, old) = greeted(&link, first, theirs, 1);
    let (iommu, gate) = (Mutex::new(Faulty(0)), Gate::default());
    // It is gone, and that was not noticed yet: what was taken from the queue is kept.
    drop(old);
    lock(&iommu).0 = 1;
    link.tell_faults(&iommu, &gate);
    assert_eq!(lock(&iommu).0, 0);
    assert_eq!(link.untold_faults(&iommu), 1);
    // It was noticed: what is in the queue stays there.
    assert!(!link.close(&first));
    lock(&iommu).0 = 1;
    link.tell_faults(&iommu, &gate);
    assert_eq!(lock(&iommu).0, 1);
    assert_eq!(link.untold_faults(&iommu), 2);
    let (ours, theirs) = channel::pair().unwrap();
    let second = link.exchange(ours, 2).unwrap();
    let (_second, new) = greeted(&link, second, theirs, 2);
    link.tell_faults(&iommu, &gate);
    let mut faults = 0;
    while let Ok(Incoming::Event { body, .. }) = new.recv(Deadline::now()) {
        faults += u32::from(matches!(body, Notice::Fault(_)));
    }
    assert_eq!((faults, link.untold_faults(&iommu)), (2, 0));
}

#[test]
fn channel_of_another_epoch_is_not_greeted() {
    let (ours, theirs) = channel::pair().unwrap();
    let (first, _kept) = channel::pair().unwrap();
    let link = Stage1Link::new(first, 1);
    let channel = link.exchange(ours, 3).unwrap();
    let late = Channel::<Stage1>::from_fd(theirs, Hello::new(Role::Smmu, 2));
    std::thread::scope(|scope| {
        scope.spawn(|| late.hello(Role::Vfio, Deadline::after(HELLO_SPAN)));
        assert!(matches!(link.greet(&channel), Err(Error::Violation(_))));
    });
    assert!(!Arc::ptr_eq(&link.current().unwrap(), &channel));
}

#[test]
fn lives_without_end_are_not_listened_to() {
    let pair = || channel::pair().unwrap().0;
    let link = Stage1Link::new(pair(), 1);
    let mut others: Vec<_> = (1..LISTENERS_MAX).map(|_| link.exchange(pair(), 2).unwrap()).collect();
    assert!(link.exchange(pair(), 2).is_err());
    link.close(&others.pop().unwrap());
    link.exchange(pair(), 2).unwrap();
}
