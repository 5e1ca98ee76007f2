// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Stories of a physical device that is lost: its DMA has ended when its process is reaped and its BARs are unmapped,
//! whichever comes last, and the vSMMU is not told before.

use std::collections::{BTreeSet, VecDeque};

use ipc::instance::InstanceId;
use ipc::protocol::control::Event as Report;
use ipc::protocol::lifecycle::State;

use super::device_recoveries::at;
use super::world::{DEATHS_MAX, SMMU0, VCPU, VFIO1, World, plan, problem};
use crate::coordinator::vm::action::{LoadSource, RequestKind, Success};
use crate::coordinator::vm::event::{Command, Event, LifeId, ProcessEvent, Timer};
use crate::lifecycle::Phase;

/// What the CPUs' process has to unmap, and has.
#[derive(Debug, Clone, Default)]
pub struct Unmapping {
    /// Devices whose links are closed.
    pub closed: VecDeque<InstanceId>,
    /// It does not get to it.
    is_late: bool,
    /// Of whom it has said so.
    said: BTreeSet<InstanceId>,
}

impl Unmapping {
    /// A process says something.
    pub fn heard(&mut self, life: LifeId, event: &ProcessEvent) {
        if let (VCPU, ProcessEvent::Reported(Report::Unmapped { name })) = (life.instance, event) {
            self.said.extend(name.parse::<InstanceId>());
        }
    }
}

impl World {
    /// One in which the other device is a physical one, which perhaps comes back.
    pub fn with_physical_device(restarts: Option<u32>) -> Self {
        let mut plan = plan(false, None);
        for member in plan.members.iter_mut().filter(|member| member.instance == VFIO1) {
            (member.restarts, member.dma_is_hosts) = (restarts, true);
        }
        Self::with(plan, Event::Boot)
    }

    /// The CPUs' process unmaps a device whose link is closed. False: there is none.
    pub fn serve_unmapping(&mut self) -> bool {
        if self.unmapping.is_late {
            return false;
        }
        let Some(device) = self.unmapping.closed.pop_front() else { return false };
        let cpus = self.machine.life_of(VCPU).filter(|life| self.processes.contains_key(life));
        cpus.into_iter().for_each(|cpus| self.says_unmapped(cpus, device));
        true
    }

    fn says_unmapped(&mut self, cpus: LifeId, device: InstanceId) {
        self.process(cpus, ProcessEvent::Reported(Report::Unmapped { name: device.to_string() }));
    }

    /// A vSMMU is told that the device does no DMA any more.
    pub fn check_dma_ended(&mut self, smmu: LifeId, device: InstanceId) {
        assert!(!self.processes.contains_key(&LifeId { instance: device, ..smmu }), "{device} lives");
        if self.machine.life_of(smmu.instance) == Some(smmu) {
            assert!(!self.processes.contains_key(&self.life(device)), "{device} lives");
        }
        let mut hung = self.hung.iter();
        let is_hung = hung.any(|hung| (hung.generation, hung.instance) == (smmu.generation, device));
        assert!(!is_hung, "{device} is not reaped");
        if self.machine.dma_is_hosts(device) {
            assert!(self.unmapping.said.contains(&device), "{device} is mapped");
            let cpus = self.processes.iter().filter(|(life, _)| life.instance == VCPU);
            for (life, process) in cpus {
                let is_given =
                    matches!(process.open, Some(RequestKind::Rewire(next)) if next.instance == device);
                assert!(!is_given, "{life:?} is being given a channel to {device}");
            }
        }
        let hears = &self.processes[&smmu];
        assert!(hears.greeted && hears.state != State::Unconfigured && hears.ending.is_none());
        self.dma_ended.push((smmu, device));
    }

    /// Everyone does what was ordered, but the CPUs' process unmaps nothing.
    fn settle_mapped(&mut self) {
        self.unmapping.is_late = true;
        self.settle();
    }
}

fn running(restarts: Option<u32>) -> World {
    let mut world = World::with_physical_device(restarts);
    world.settle();
    world.requests.clear();
    world
}

fn dies(world: &mut World) {
    world.depart(world.life(VFIO1), true);
}

fn says(world: &mut World, instance: InstanceId, report: Report) {
    world.process(world.life(instance), ProcessEvent::Reported(report));
}

/// A physical device that is lost for good, in each way that there is, with the CPUs' process about to unmap it.
fn losses() -> Vec<(&'static str, World)> {
    let mut never = running(None);
    dies(&mut never);
    let mut fails = running(Some(DEATHS_MAX));
    says(&mut fails, VFIO1, Report::DeviceFailed("test".to_owned()));
    let mut fails_for_good = running(None);
    says(&mut fails_for_good, VFIO1, Report::DeviceFailed("test".to_owned()));
    let mut is_named = running(None);
    let named = Report::PeerFailed { name: VFIO1.to_string(), why: "test".to_owned() };
    says(&mut is_named, VCPU, named);
    let mut breaks_the_contract = running(Some(DEATHS_MAX));
    says(&mut breaks_the_contract, VFIO1, Report::GuestPoweredOff);
    let mut refuses = running(Some(DEATHS_MAX));
    dies(&mut refuses);
    let load = Some(RequestKind::Load(LoadSource::Checkpoint));
    refuses.until(|world| (world.processes.get(&at(2, VFIO1))?.open == load).then_some(()));
    refuses.refuse(at(2, VFIO1));
    let mut not_started = running(Some(DEATHS_MAX));
    dies(&mut not_started);
    not_started.until(|world| world.processes.get(&at(2, VFIO1)).map(drop));
    not_started.processes.remove(&at(2, VFIO1));
    let why = ProcessEvent::NotStarted(problem("no process to be had"));
    not_started.happen(Event::Process(at(2, VFIO1), why));
    let mut not_reached = running(Some(DEATHS_MAX));
    dies(&mut not_reached);
    let rewire = Some(RequestKind::Rewire(at(2, VFIO1)));
    not_reached.until(|world| (world.processes.get(&at(1, VCPU))?.open == rewire).then_some(()));
    not_reached.refuse(at(1, VCPU));
    vec![
        ("restart = never", never),
        ("its device fails", fails),
        ("its device fails, restart = never", fails_for_good),
        ("the CPUs' process names it", is_named),
        ("it breaks the contract", breaks_the_contract),
        ("its next life refuses", refuses),
        ("its next life is not started", not_started),
        ("its next life is not reached", not_reached),
    ]
}

#[test]
fn end_of_a_physical_devices_dma_is_told_when_it_is_unmapped_whichever_way_it_was_lost() {
    for (way, mut world) in losses() {
        world.settle_mapped();
        let there = world.processes.keys().any(|life| life.instance == VFIO1);
        assert!(!there && world.machine.lost_devices().contains_key(&VFIO1), "{way}");
        assert_eq!(world.dma_ended, [], "{way}: it is mapped");
        assert_eq!((world.machine.phase(), world.machine.is_idle()), (&Phase::Running, true), "{way}");
        let cpus = world.life(VCPU);
        world.says_unmapped(cpus, VFIO1);
        assert!(world.dma_ended.contains(&(world.life(SMMU0), VFIO1)), "{way}");
        world.run_out(Timer::Unmapping(VFIO1, 1));
        assert_eq!(world.machine.phase(), &Phase::Running, "{way}: it was in time");
    }
}

#[test]
fn physical_device_that_is_unmapped_before_its_process_is_reaped_goes_on_until_then() {
    for restarts in [None, Some(DEATHS_MAX)] {
        let mut world = running(restarts);
        says(&mut world, VFIO1, Report::DeviceFailed("test".to_owned()));
        let cpus = world.life(VCPU);
        world.says_unmapped(cpus, VFIO1);
        assert_eq!(world.dma_ended, [], "its process lives");
        world.depart(at(1, VFIO1), true);
        assert_eq!(world.dma_ended, [(at(1, SMMU0), VFIO1)]);
    }
}

#[test]
fn physical_device_that_is_not_unmapped_in_its_time_ends_the_vm_with_that_reason() {
    for (way, mut world) in losses() {
        world.settle_mapped();
        assert!(world.timers.contains_key(&Timer::Unmapping(VFIO1, 1)), "{way}");
        world.run_out(Timer::Unmapping(VFIO1, 1));
        world.settle_mapped();
        let Phase::Stopped { why } = world.machine.phase() else {
            panic!("{way}: {}", world.machine.phase())
        };
        assert!(why.problem().unwrap().what.contains("has not unmapped the device vfio1"), "{way}: {why:?}");
        assert_eq!(world.dma_ended, [], "{way}");
    }
}

#[test]
fn channel_to_a_next_life_that_is_on_its_way_counts_as_mapped() {
    for refuses in [false, true] {
        let mut world = running(Some(DEATHS_MAX));
        dies(&mut world);
        let rewire = Some(RequestKind::Rewire(at(2, VFIO1)));
        world.until(|world| (world.processes.get(&at(1, VCPU))?.open == rewire).then_some(()));
        says(&mut world, VFIO1, Report::DeviceFailed("test".to_owned()));
        world.depart(at(2, VFIO1), true);
        let cpus = world.life(VCPU);
        world.says_unmapped(cpus, VFIO1);
        assert_eq!(world.dma_ended, [], "what the next life has sent in it may be a part of the device");
        if refuses {
            world.refuse(cpus)
        } else {
            world.fulfil(cpus)
        }
        assert_eq!(world.dma_ended, [(at(1, SMMU0), VFIO1)]);
    }
}

#[test]
fn only_the_cpus_process_says_what_it_has_unmapped_and_only_of_a_physical_device() {
    for (instance, name) in [(SMMU0, "vfio1"), (VFIO1, "vfio1"), (VCPU, "vfio0"), (VCPU, "nobody")] {
        let mut world = running(Some(DEATHS_MAX));
        says(&mut world, instance, Report::Unmapped { name: name.to_owned() });
        assert!(world.processes[&at(1, instance)].ending.is_some(), "{instance} of {name}");
    }
}

#[test]
fn guests_orders_wait_for_a_physical_device_whose_process_died_until_that_is_back() {
    let mut world = running(Some(DEATHS_MAX));
    for generation in 2..=4 {
        dies(&mut world);
        world.settle();
        assert_eq!((world.machine.phase(), world.machine.is_idle()), (&Phase::Running, true));
        assert_eq!(world.life(VFIO1), at(generation, VFIO1));
        assert_eq!(world.dma_ended, [], "the host goes on with it");
    }
    // Once too often: the guest is held, and its orders wait for the next life.
    dies(&mut world);
    world.settle();
    assert_eq!((world.machine.phase(), world.dma_ended.as_slice()), (&Phase::Held, &[][..]));
    let ticket = world.command(Command::Restart("vfio1".to_owned()));
    world.settle();
    assert_eq!(world.answers[&ticket], Ok(Success::Revived(world.life(VFIO1))));
    assert_eq!(world.dma_ended, []);
}
