// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The two shipped machines against each other, in every order of events that there is.
//!
//! The checker delivers messages, lets what was ordered succeed or fail, cuts the link at any time with any part of
//! what is under way lost, lets either host die, and a person cancel. Nothing here decides for the machines.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use stateright::{Checker, Model, Property};

use super::convergence::{Limits, Otherwise, Round};
use super::destination::{self, Destination};
use super::message::Message;
use super::source::{self, Source, Whereabouts};

/// What a host was ordered to do and has not done yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Job {
    Round,
    Pause,
    Finish,
    Resume,
    Ask,
    Compare,
    Prepare,
    Take,
    Go,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct World {
    /// `None`: the host has died.
    source: Option<Source>,
    destination: Option<Destination>,
    to_source: VecDeque<Message>,
    to_destination: VecDeque<Message>,
    link_is_up: bool,
    source_jobs: BTreeSet<Job>,
    destination_jobs: BTreeSet<Job>,
    runs_at_source: bool,
    runs_at_destination: bool,
    /// The source has ended the guest's processes.
    discarded: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Step {
    ReachSource,
    ReachDestination,
    /// The link is lost for both; what is under way may still be read.
    Cut,
    SourceNoticesCut,
    DestinationNoticesCut,
    SourceJob(Job, bool),
    DestinationJob(Job, bool),
    SourceDies,
    DestinationDies,
    Cancel,
    /// A person says where the guest is to go on, and may be wrong.
    Resolve(bool),
    /// A person who has made sure says so, and wants nobody asked.
    Force(bool),
    /// The other host is asked, and answers, or does not.
    Answer(Whereabouts),
}

/// A migration of a guest that runs, or is paused.
struct Hosts {
    ran: bool,
}

fn limits() -> Limits {
    Limits {
        downtime: Duration::from_millis(1),
        rounds_max: 2,
        otherwise: Otherwise::SwitchOver,
        throttle: true,
    }
}

impl World {
    fn source_handles(&mut self, event: source::Event) {
        let Some(source) = &mut self.source else { return };
        for action in source.handle(event) {
            self.source_acts(action);
        }
    }

    fn source_acts(&mut self, action: source::Action) {
        match action {
            source::Action::Send(message) if self.link_is_up => self.to_destination.push_back(message),
            source::Action::Send(_) | source::Action::Throttle(_) => {}
            source::Action::SendRound => drop(self.source_jobs.insert(Job::Round)),
            source::Action::Pause => drop(self.source_jobs.insert(Job::Pause)),
            source::Action::Finish => drop(self.source_jobs.insert(Job::Finish)),
            source::Action::Resume => {
                self.source_jobs.clear();
                self.source_jobs.insert(Job::Resume);
            }
            source::Action::Ask => drop(self.source_jobs.insert(Job::Ask)),
            source::Action::Close => self.link_is_up = false,
            source::Action::Discard => self.discarded = true,
        }
    }

    fn destination_handles(&mut self, event: destination::Event) {
        let Some(destination) = &mut self.destination else { return };
        for action in destination.handle(event) {
            match action {
                destination::Action::Send(message) if self.link_is_up => self.to_source.push_back(message),
                destination::Action::Send(_) => {}
                destination::Action::Compare(_) => drop(self.destination_jobs.insert(Job::Compare)),
                destination::Action::Prepare => drop(self.destination_jobs.insert(Job::Prepare)),
                destination::Action::Take(_) => drop(self.destination_jobs.insert(Job::Take)),
                destination::Action::Go => {
                    self.runs_at_destination = true;
                    self.destination_jobs.insert(Job::Go);
                }
                destination::Action::End => {
                    self.destination_jobs.clear();
                    self.link_is_up = false;
                }
            }
        }
    }

    fn source_job(&mut self, job: Job, succeeds: bool, ran: bool) {
        self.source_jobs.remove(&job);
        let event = match (job, succeeds) {
            (Job::Resume, resumed) => {
                self.runs_at_source = ran && resumed;
                source::Event::Resumed(resumed)
            }
            (_, false) => source::Event::Failed("a host's failure".to_owned()),
            (Job::Round, true) => source::Event::RoundSent(Round {
                carried_len: 1 << 20,
                took: Duration::from_millis(10),
                owed_len: 1 << 20,
                overhead: Duration::ZERO,
            }),
            (Job::Pause, true) => {
                self.runs_at_source = false;
                source::Event::Paused
            }
            (_, true) => source::Event::Finished(Message::Last { units: vec![], digest: [0; 32] }),
        };
        self.source_handles(event);
    }

    fn destination_job(&mut self, job: Job, succeeds: bool) {
        self.destination_jobs.remove(&job);
        self.destination_handles(match (job, succeeds) {
            (Job::Compare, true) => destination::Event::Fits,
            (Job::Compare, false) => destination::Event::Differs(vec!["a difference".to_owned()]),
            (Job::Go, _) => destination::Event::Arrived,
            (_, false) => destination::Event::Failed("a host's failure".to_owned()),
            (Job::Prepare, true) => destination::Event::Prepared,
            (_, true) => destination::Event::Taken,
        });
    }

    /// Whether the guest can go on here, or runs there.
    fn is_right(&self, here: bool) -> bool {
        match here {
            true => self.destination_is_over() && !self.runs_at_destination,
            false => self.runs_at_destination,
        }
    }

    fn source_state(&self) -> Option<&source::State> {
        self.source.as_ref().map(Source::state)
    }

    fn source_is_over(&self) -> bool {
        self.source.as_ref().is_none_or(Source::is_over)
    }

    fn destination_is_over(&self) -> bool {
        let over = |destination: &Destination| {
            matches!(destination.state(), destination::State::Runs { .. } | destination::State::Over { .. })
        };
        self.destination.as_ref().is_none_or(over)
    }
}

impl Model for Hosts {
    type State = World;
    type Action = Step;

    fn init_states(&self) -> Vec<World> {
        let (source, actions) = Source::begin(vec![], limits(), self.ran);
        let mut world = World {
            source: Some(source),
            destination: Some(Destination::new()),
            to_source: VecDeque::new(),
            to_destination: VecDeque::new(),
            link_is_up: true,
            source_jobs: BTreeSet::new(),
            destination_jobs: BTreeSet::new(),
            runs_at_source: self.ran,
            runs_at_destination: false,
            discarded: false,
        };
        actions.into_iter().for_each(|action| world.source_acts(action));
        vec![world]
    }

    fn actions(&self, world: &World, steps: &mut Vec<Step>) {
        if !world.to_source.is_empty() {
            steps.push(Step::ReachSource);
        }
        if !world.to_destination.is_empty() {
            steps.push(Step::ReachDestination);
        }
        if world.link_is_up {
            steps.push(Step::Cut);
        } else {
            // Noticed before or behind what is still to be read.
            steps.extend((!world.source_is_over()).then_some(Step::SourceNoticesCut));
            steps.extend((!world.destination_is_over()).then_some(Step::DestinationNoticesCut));
        }
        for succeeds in [true, false] {
            let jobs = world.source_jobs.iter().filter(|job| **job != Job::Ask);
            steps.extend(jobs.map(|job| Step::SourceJob(*job, succeeds)));
            // `Go` cannot fail.
            let jobs = world.destination_jobs.iter().filter(|job| succeeds || **job != Job::Go);
            steps.extend(jobs.map(|job| Step::DestinationJob(*job, succeeds)));
        }
        steps.extend(world.source.is_some().then_some(Step::SourceDies));
        steps.extend(world.destination.is_some().then_some(Step::DestinationDies));
        steps.extend((!world.source_is_over()).then_some(Step::Cancel));
        if world.source.as_ref().is_some_and(|source| *source.state() == source::State::Ambiguous) {
            for here in [true, false] {
                steps.extend(world.is_right(here).then_some(Step::Force(here)));
                steps.push(Step::Resolve(here));
            }
        }
        if let Some(source::State::Asking { .. }) = world.source_state() {
            // A host answers when it has the guest. At any time another guest's may, at the same address, or nobody.
            steps.extend(world.runs_at_destination.then_some(Step::Answer(Whereabouts::There)));
            steps.extend([Whereabouts::NoAnswer, Whereabouts::Unknown].map(Step::Answer));
        }
    }

    fn next_state(&self, world: &World, step: Step) -> Option<World> {
        let mut next = world.clone();
        match step {
            Step::ReachSource => {
                let message = next.to_source.pop_front()?;
                next.source_handles(source::Event::Received(message));
            }
            Step::ReachDestination => {
                let message = next.to_destination.pop_front()?;
                next.destination_handles(destination::Event::Received(message));
            }
            Step::Cut => next.link_is_up = false,
            Step::SourceNoticesCut => {
                next.to_source.clear();
                next.source_handles(source::Event::LinkLost("cut".to_owned()));
            }
            Step::DestinationNoticesCut => {
                next.to_destination.clear();
                next.destination_handles(destination::Event::LinkLost("cut".to_owned()));
            }
            Step::SourceJob(job, succeeds) => next.source_job(job, succeeds, self.ran),
            Step::DestinationJob(job, succeeds) => next.destination_job(job, succeeds),
            Step::SourceDies => {
                (next.source, next.runs_at_source, next.link_is_up) = (None, false, false);
                next.source_jobs.clear();
                next.to_source.clear();
            }
            Step::DestinationDies => {
                (next.destination, next.runs_at_destination, next.link_is_up) = (None, false, false);
                next.destination_jobs.clear();
                next.to_destination.clear();
            }
            Step::Cancel => next.source_handles(source::Event::Cancel),
            Step::Resolve(here) => next.source_handles(source::Event::Resolve { here, forced: false }),
            Step::Force(here) => next.source_handles(source::Event::Resolve { here, forced: true }),
            Step::Answer(where_it_is) => {
                next.source_jobs.remove(&Job::Ask);
                next.source_handles(source::Event::Answered(where_it_is));
            }
        }
        (next != *world).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("at most one side runs the guest", |_, world: &World| {
                !(world.runs_at_source && world.runs_at_destination)
            }),
            Property::always(
                "a guest is ended where it was only when it runs elsewhere",
                |_, world: &World| {
                    !world.discarded || world.runs_at_destination || world.destination.is_none()
                },
            ),
            Property::always("what is said of the guest is so", |_, world: &World| {
                match world.source_state() {
                    Some(source::State::Stays { runs, .. }) => *runs == world.runs_at_source,
                    Some(
                        source::State::Ambiguous
                        | source::State::Asking { .. }
                        | source::State::Moved
                        | source::State::Committing,
                    ) => !world.runs_at_source,
                    _ => true,
                }
            }),
            Property::always("who does not know where the guest runs can ask", |_, world: &World| {
                let is_asking = matches!(
                    world.source_state(),
                    Some(source::State::Ambiguous | source::State::Asking { .. })
                );
                let stops_listening = matches!(
                    world.destination.as_ref().map(Destination::state),
                    Some(destination::State::Runs { is_known: true })
                );
                !(is_asking && stops_listening)
            }),
            Property::eventually("both sides come to an end", |_, world: &World| {
                world.source_is_over() && world.destination_is_over()
            }),
            Property::sometimes("it moves", |_, world: &World| world.discarded && world.runs_at_destination),
            Property::sometimes("it is not known where it runs", |_, world: &World| {
                world.source_state() == Some(&source::State::Ambiguous) && world.runs_at_destination
            }),
            Property::sometimes("the other host corrects a person", |_, world: &World| {
                world.source_state() == Some(&source::State::Asking { here: true })
                    && world.runs_at_destination
            }),
            Property::sometimes("it stays after all", |hosts: &Self, world: &World| {
                let stays = matches!(world.source_state(), Some(source::State::Stays { runs, .. }) if *runs == hosts.ran);
                stays && world.destination_is_over()
            }),
        ]
    }
}

#[test]
fn a_guest_never_runs_twice_and_every_attempt_ends() {
    for ran in [true, false] {
        let checker = Hosts { ran }.checker().spawn_bfs().join();
        println!("guest {}: {} states", if ran { "running" } else { "paused" }, checker.unique_state_count());
        checker.assert_properties();
    }
}
