// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The truth about dirty logs: several producers over one RAM, each with a log of its own, write at random while it is
//! harvested, die in between and come back; what was copied in all rounds together is what RAM holds in the end. The
//! logs stay enabled through moves: the next lives are made while the old ones write, and so are lives of moves that
//! are given up.
#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

mod rig;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use dev_vfio::iommu::HostIommu;
use dev_vfio::iommu::software::SoftIommu;
use ipc::addr::{Gpa, Iova};
use ipc::protocol::control::Exactness;
use ipc::protocol::ram::RamLayout;
use ipc::protocol::stage1::Attachment;
use ipc::shm::dirty_log::{Answer, DirtyLog, Harvest, Harvester, Moment, OwedMap, harvest};
use ipc::shm::guest_memory::{self, GuestMemory};
use ipc::shm::region::Region;
use rig::{PAGES, RAM, RAM_LEN, STREAM};
use smmu_arch::{Model, Options};

/// Devices by message, and one that stands for the vSMMU: whoever writes by `GuestMemory`.
const PRODUCERS: usize = 4;
const LIVES: u64 = 12;
const WRITES: u64 = 600;
const EPOCH: u64 = 5;

/// A process's log, which outlives it.
struct Log {
    region: Region,
    coordinator: Harvester,
}

/// A life of a producer.
struct Life {
    log: Arc<DirtyLog>,
    memory: GuestMemory,
}

/// A life that logs, and whose turn it is once it has adopted the log.
fn life(log: &Log, epoch: u64, ram: &Region, layout: &RamLayout) -> Life {
    let log = Arc::new(DirtyLog::attach(&log.region, layout).unwrap());
    log.enable(epoch);
    let memory = GuestMemory::new(Arc::new(guest_memory::map(ram, layout).unwrap()), Arc::clone(&log));
    Life { log, memory }
}

/// Writes at random.
fn write(number: usize, seed: u64, memory: &GuestMemory) {
    let mut random = seed;
    let model = Model::new(smmu_arch::model::MODEL_NAME, Options::default()).unwrap();
    let mut iommu = SoftIommu::new(model, memory.clone(), STREAM);
    iommu.attach(STREAM, Attachment::Bypass).unwrap();
    for _ in 0..WRITES {
        random = random.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        let at = RAM + (random >> 20) % (PAGES * 4096 - 64);
        let bytes = random.to_le_bytes().repeat(4);
        if number == 0 {
            memory.write(Gpa(at), &bytes).unwrap();
        } else {
            iommu.write(Iova(at), &bytes).unwrap();
        }
    }
}

#[test]
fn what_all_harvests_copied_is_what_ram_holds() {
    let rig = rig::Rig::new();
    let layout = rig.layout.clone();
    let ram = Region::create("ram", RAM_LEN).unwrap();
    let mut logs: Vec<Log> = (0..PRODUCERS)
        .map(|_| {
            let region = DirtyLog::create("log", &layout).unwrap();
            let mut coordinator = Harvester::attach(&region, &layout).unwrap();
            coordinator.begin(EPOCH);
            Log { region, coordinator }
        })
        .collect();
    let mut owed = OwedMap::new(&layout);
    let mut copy = vec![0; usize::try_from(RAM_LEN).unwrap()];
    let (mut harvested, mut rounds) = (0, 0_u64);
    let mut surplus = 0;
    let make = |logs: &[Log], epoch| -> Vec<Life> {
        logs.iter().map(|log| life(log, epoch, &ram, &layout)).collect()
    };
    let mut next = make(&logs, EPOCH);
    for generation in 0..LIVES {
        let lives = std::mem::take(&mut next);
        lives.iter().for_each(|life| life.log.adopt());
        let working = AtomicBool::new(true);
        std::thread::scope(|scope| {
            let writers: Vec<_> = lives
                .iter()
                .enumerate()
                .map(|(number, life)| {
                    let seed = generation * 16 + number as u64;
                    scope.spawn(move || write(number, seed, &life.memory))
                })
                .collect();
            let stopper = scope.spawn(|| {
                writers.into_iter().for_each(|writer| writer.join().unwrap());
                working.store(false, Ordering::SeqCst);
            });
            // A move that is given up, and one that is carried out when these lives have ended.
            for given_up in make(&logs, EPOCH + 1 + generation) {
                given_up.log.set_unmarked_writes(true);
                given_up.log.flip();
            }
            next = make(&logs, EPOCH);
            let mut last = false;
            while !last {
                last = !working.load(Ordering::SeqCst);
                // The last round of every second life finds its processes dead.
                let ended = last && generation % 2 == 1;
                let mut round: Vec<Harvest<'_>> = Vec::new();
                for (log, life) in logs.iter_mut().zip(&lives) {
                    let answer = if ended {
                        Answer::Ended
                    } else {
                        life.log.flip();
                        Answer::Rearmed(life.log.state(Exactness::Exact))
                    };
                    round.push(Harvest { log: &mut log.coordinator, answer });
                }
                let moment = if last { Moment::Stopped } else { Moment::Running };
                assert_eq!(harvest(&mut round, moment, &mut owed), [Exactness::Exact; PRODUCERS]);
                let ranges: Vec<_> = owed.ranges().collect();
                for range in ranges {
                    owed.clear(range);
                    let start = usize::try_from(range.start().0 - RAM).unwrap();
                    let bytes = &mut copy[start..start + usize::try_from(range.len()).unwrap()];
                    let was = bytes.to_vec();
                    lives[0].memory.read(range.start(), bytes).unwrap();
                    let pages = was.chunks(4096).zip(bytes.chunks(4096));
                    surplus += pages.filter(|(was, is)| was == is).count();
                    harvested += range.len() / 4096;
                }
                rounds += 1;
            }
            stopper.join().unwrap();
        });
        let mut now = vec![0; copy.len()];
        lives[0].memory.read(Gpa(RAM), &mut now).unwrap();
        for (page, (copied, is)) in copy.chunks(4096).zip(now.chunks(4096)).enumerate() {
            assert!(copied == is, "page {page} changed and was not harvested, in life {generation}");
        }
    }
    assert!(owed.is_empty());
    println!("{rounds} rounds, {harvested} pages harvested, {surplus} of them marked and not changed");
    assert!(rounds > LIVES, "harvests ran beside the writes: {rounds}");
}
