// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Nested page tables, invalidation up to the entry that is refused, and events with their losses.

use dev_vfio::iommu::fault_queue::{Entry, Losses};
use dev_vfio::physical::events::Events;
use dev_vfio::physical::nested;
use dev_vfio::physical::sys::iommufd::Types;
use dev_vfio::physical::sys::{self, Kind};
use ipc::protocol::stage1::Fault;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::*;

/// The mock's numbers, which are none of a real IOMMU's.
pub const MOCK: Types =
    Types { viommu: 0xdead_beef, veventq: 0xbeef_beef, nested: 0xdead, invalidation: 0xdead_beef };

/// What all entries of a TLB (the test's choice) and a cache (the mock's) hold until they are invalidated.
const TLB: u32 = 0x0bad_beef;
const CACHE: u32 = 0x00ba_ddad;
const ENTRIES: u32 = 4;

/// The device as the guest knows it.
const STREAM: u32 = 8;

/// An entry of an invalidation at a nested page table: flags, and which entry. One flag is known.
type OfTable = [u32; 2];
/// At a vIOMMU: flags, the guest's number of the device, and which entry.
type OfViommu = [u32; 3];
const ALL: u32 = 1 << 0;
const UNKNOWN_FLAG: u32 = 1 << 1;

/// A device behind a guest's stage 1.
struct Nested {
    table: ObjectId,
    viommu: ObjectId,
    mock: Mock,
}

impl Nested {
    fn new() -> Option<Nested> {
        let mut mock = Mock::new(true)?;
        let (device, ioas) = (mock.device.bound, mock.ioas);
        let (parent, _) = nested::parent(&mut mock.objects, device, ioas).unwrap();
        let viommu = iommufd::viommu_alloc(mock.fd(), &MOCK, device, parent);
        let viommu = mock.objects.keep(viommu).unwrap();
        let vdevice = iommufd::vdevice_alloc(mock.fd(), device, viommu, STREAM);
        mock.objects.keep(vdevice).unwrap();
        let table = iommufd::hwpt_alloc_nested(mock.fd(), &MOCK, device, viommu, &[TLB, 0]);
        let table = mock.objects.keep(table).unwrap();
        ioctl::attach(mock.fd(), mock.device, table).unwrap();
        Some(Nested { table, viommu, mock })
    }

    /// Which entries of the nested page table's TLB are invalid.
    fn tlb(&self) -> Vec<bool> {
        let is = |entry, value| ioctl::iotlb_is(self.mock.fd(), self.table, entry, value);
        invalid(|entry| is(entry, 0), |entry| is(entry, TLB))
    }

    /// Which entries of the device's cache are invalid.
    fn cache(&self) -> Vec<bool> {
        let is = |entry, value| ioctl::cache_is(self.mock.fd(), self.mock.device, entry, value);
        invalid(|entry| is(entry, 0), |entry| is(entry, CACHE))
    }
}

fn invalid(gone: impl Fn(u32) -> bool, there: impl Fn(u32) -> bool) -> Vec<bool> {
    let each = |entry| {
        assert_ne!(gone(entry), there(entry), "entry {entry} is neither");
        gone(entry)
    };
    (0..ENTRIES).map(each).collect()
}

#[test]
fn invalidation_of_a_page_table_is_done_up_to_the_refused_entry() {
    let Some(nested) = Nested::new() else { return };
    let invalidate =
        |entries: &[OfTable]| iommufd::invalidate(nested.mock.fd(), &MOCK, nested.table, entries);
    assert_eq!(nested.tlb(), [false; 4]);
    assert_eq!(invalidate(&[]), (0, Ok(())));
    assert_eq!(invalidate(&[[0, ENTRIES], [0, 0]]), (0, Err(Errno::INVAL)));
    assert_eq!(nested.tlb(), [false; 4]);
    assert_eq!(invalidate(&[[0, 2], [0, 0], [UNKNOWN_FLAG, 1], [ALL, 0]]), (2, Err(Errno::OPNOTSUPP)));
    assert_eq!(nested.tlb(), [true, false, true, false]);
    assert_eq!(invalidate(&[[0, 0], [ALL, 0]]), (2, Ok(())));
    assert_eq!(nested.tlb(), [true; 4]);
}

#[test]
fn invalidation_of_a_viommu_is_done_up_to_the_refused_entry_in_one_call() {
    let Some(nested) = Nested::new() else { return };
    let invalidate =
        |entries: &[OfViommu]| iommufd::invalidate(nested.mock.fd(), &MOCK, nested.viommu, entries);
    let another = [0, STREAM + 1, 0];
    assert_eq!(invalidate(&[another, [ALL, STREAM, 0]]), (0, Err(Errno::INVAL)));
    assert_eq!(nested.cache(), [false; 4]);
    assert_eq!(
        invalidate(&[[0, STREAM, 3], [0, STREAM, 1], another, [0, STREAM, 0]]),
        (2, Err(Errno::INVAL))
    );
    assert_eq!(nested.cache(), [false, true, false, true]);
    let places = [0_usize, 1, 62, 63, 64, 499];
    for bad in places {
        let mut batch = vec![[0, STREAM, 1]; 500];
        batch[bad] = another;
        let before = sys::calls(Kind::Invalidate);
        assert_eq!(invalidate(&batch), (bad, Err(Errno::INVAL)));
        assert_eq!(sys::calls(Kind::Invalidate) - before, 1);
    }
    println!("SEEN: of 500 invalidations in one call, those before a bad one are done: {places:?}");
    assert_eq!(nested.cache(), [false, true, false, true]);
    // Data of another kind of IOMMU is refused before any of it is looked at.
    let smmu = iommufd::ARM_SMMUV3;
    let refused = iommufd::invalidate(nested.mock.fd(), &smmu, nested.viommu, &[[0_u64; 2]]);
    assert_eq!(refused, (0, Err(Errno::INVAL)));
    assert_eq!(invalidate(&[[ALL, STREAM, 0]]), (1, Ok(())));
    assert_eq!(nested.cache(), [true; 4]);
}

#[test]
fn parts_of_another_kind_of_iommu_are_refused() {
    let Some(nested) = Nested::new() else { return };
    let (fd, device, smmu) = (nested.mock.fd(), nested.mock.device.bound, iommufd::ARM_SMMUV3);
    assert_eq!(iommufd::get_hw_info(fd, device).unwrap().smmu, None);
    let words = [0b1001_u64, 0];
    let refused = iommufd::hwpt_alloc_nested(fd, &smmu, device, nested.viommu, &words);
    assert_eq!(refused, Err(Errno::OPNOTSUPP));
    assert_eq!(iommufd::vdevice_alloc(fd, device, nested.viommu, STREAM), Err(Errno::EXIST));
    // A nested page table is no parent.
    let refused = iommufd::viommu_alloc(fd, &MOCK, device, nested.table);
    assert!(refused.is_err(), "{refused:?}");
}

/// The mock's event: the guest's number of the device, and nothing else.
fn virtual_id(bytes: &[u8]) -> Option<(Fault, &[u8])> {
    let (id, rest) = bytes.split_first_chunk()?;
    Some((Fault::Record([u64::from(u32::from_le_bytes(*id)) << 32, 0, 0, 0]), rest))
}

#[test]
fn events_come_in_order_with_the_guests_number_and_losses_are_counted() {
    const DEPTH: u32 = 5;
    let Some(mut nested) = Nested::new() else { return };
    let (queue, file) = iommufd::veventq_alloc(nested.mock.fd(), &MOCK, nested.viommu, DEPTH).unwrap();
    nested.mock.objects.keep(Ok(queue)).unwrap();
    let again = iommufd::veventq_alloc(nested.mock.fd(), &MOCK, nested.viommu, DEPTH);
    assert_eq!(again.map(drop), Err(Errno::EXIST));
    let mut events = Events::of(file, virtual_id);
    let trigger = |count: u32| {
        for _ in 0..count {
            ioctl::trigger_event(nested.mock.fd(), nested.mock.device).unwrap();
        }
    };
    let readable = |events: &Events| {
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut [PollFd::new(events, PollFlags::IN)], Some(&now)).unwrap() == 1
    };
    assert!(!readable(&events));
    assert_eq!(events.take(), None, "a read of an empty queue does not wait");

    let (mut sequence, mut losses, mut sum) = (0, Losses::default(), 0);
    // Fewer than there is room for, as many, one and seventy more; and after each loss it is told again.
    for count in [1, DEPTH, DEPTH + 1, 2, DEPTH + 70, DEPTH] {
        trigger(count);
        assert!(readable(&events));
        let (mut told, mut lost) = (0, 0);
        while let Some(entry) = events.take() {
            lost += losses.before(&entry);
            if entry.fault.is_some() {
                let fault = Some(Fault::Record([u64::from(STREAM) << 32, 0, 0, 0]));
                assert_eq!(entry, Entry { sequence: sequence + told, fault });
                told += 1;
            } else {
                assert_eq!(entry.sequence, sequence + count - 1, "the mark has the last lost one's number");
            }
        }
        assert_eq!((told, lost), (count.min(DEPTH), count.saturating_sub(DEPTH)));
        assert!(!readable(&events));
        sequence += count;
        sum += lost;
    }
    println!("SEEN: {sequence} events at a queue for {DEPTH}, {sum} of them lost and counted");
    assert_eq!(events.misread, 0);
}
