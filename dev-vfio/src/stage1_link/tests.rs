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
    let smmu = Channel::<Stage1>::from_fd(theirs, Hello::new(Role::Smmu, 1));
    let many = u32::try_from(FAULTS_PER_TURN).unwrap();
    let (iommu, gate) = (Mutex::new(Faulty(0)), Gate::default());
    std::thread::scope(|scope| {
        let greeting = scope.spawn(|| link.greet().unwrap());
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
