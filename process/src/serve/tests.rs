// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
use std::io::Write;
use std::sync::{Arc, Mutex};
use std::thread;

use ipc::addr::Gpa;
use ipc::channel;
use ipc::hello::{Hello, Role};
use ipc::instance::InstanceId;
use ipc::protocol::control::{
    DirtyLogOp, DirtyLogState, Exactness, Quiescence, RoleConfig, SAVED_LEN_MAX, StreamReplay,
};
use ipc::protocol::inspect::{Inspect, Value};
use ipc::protocol::ram::{RamLayout, RamRegion};
use ipc::protocol::smmu::{Model, SmmuConfig};
use rustix::fs::MemfdFlags;

use super::*;
use crate::context::{Context, Events};
use crate::life::Configured;

/// A program whose whole state is a string.
struct Notebook;

#[derive(Clone, Default)]
struct Pages {
    text: String,
    calls: Arc<Mutex<Vec<&'static str>>>,
}

impl Pages {
    fn note(&self, call: &'static str) {
        self.calls.lock().unwrap().push(call);
    }
}

impl Program for Notebook {
    const ROLE: Role = Role::Smmu;
    const WHAT: &'static str = "the notebook";
    type Given = Pages;
    type Config = SmmuConfig;
    type Ready = Pages;
    type Loaded = Pages;
    type Armed = Pages;

    fn accept(config: RoleConfig) -> Result<SmmuConfig, Failure> {
        let RoleConfig::Smmu(config) = config else { return Err(Failure::new("configure", "no notebook")) };
        Ok(config)
    }
    fn configure(config: SmmuConfig, given: Pages, _context: &Context) -> Result<Pages, Failure> {
        given.note("configure");
        if config.region == u16::MAX { Err(Failure::new("configure", "no paper")) } else { Ok(given) }
    }
    fn load(ready: Pages, source: Source, _context: &Context) -> Result<Pages, Failure> {
        let Source::Units(mut stream) = source else { return Ok(ready) };
        let mut text = String::new();
        stream.read_to_string(&mut text).map_err(|error| Failure::new("restore", error))?;
        Ok(Pages { text, ..ready })
    }
    fn arm(loaded: Pages, _context: &Context) -> Result<Pages, Failure> {
        loaded.note("arm");
        Ok(loaded)
    }
    fn replay(armed: &Pages) -> Result<Option<Vec<StreamReplay>>, Failure> {
        armed.note("replay");
        Ok(Some(Vec::new()))
    }
    fn go(armed: &Pages, _context: &Context) {
        armed.note("go");
    }
    fn begin_paused(armed: &Pages) -> Result<(), Failure> {
        armed.note("begin paused");
        Ok(())
    }
    fn pause(armed: &Pages) -> Result<(), Failure> {
        armed.note("pause");
        Ok(())
    }
    fn resume(_armed: &Pages) -> Result<(), Failure> {
        Err(Failure::new("resume", "the notebook is full"))
    }
    fn in_flight(_armed: &Pages) -> Quiescence {
        Quiescence { posts: 2, ..Quiescence::NONE }
    }
    fn check_save(armed: &Pages) -> Result<(), Failure> {
        if armed.text == "secret" { Err(Failure::new("save", "it is secret")) } else { Ok(()) }
    }
    fn save(armed: &Pages, into: &mut dyn Write) -> Result<(), Failure> {
        into.write_all(armed.text.as_bytes()).map_err(|error| Failure::new("save", error))
    }
    fn dirty_log(_configured: Configured<'_, Self>, _op: DirtyLogOp) -> Result<DirtyLogState, Failure> {
        Ok(DirtyLogState { epoch: 0, exact: Exactness::Exact })
    }
    fn dma_ended(configured: Configured<'_, Self>, _device: InstanceId) -> Result<(), Failure> {
        let (Configured::Ready(pages) | Configured::Loaded(pages) | Configured::Armed(pages)) = configured;
        pages.note("dma ended");
        Ok(())
    }
    fn turns(armed: &Pages) -> Option<u64> {
        Some(armed.calls.lock().unwrap().len() as u64)
    }
    fn inspect(configured: Configured<'_, Self>, inspect: &mut Inspect) {
        let (Configured::Ready(pages) | Configured::Loaded(pages) | Configured::Armed(pages)) = configured;
        inspect.text("text", pages.text.clone());
    }
}

fn life(pages: &Pages) -> Life<Notebook> {
    let context = Context { generation: 1, spin: core::time::Duration::ZERO, events: Events::none() };
    Life::new(pages.clone(), context)
}

fn config() -> RoleConfig {
    let region = RamRegion { gpa: Gpa(0x4000_0000), len: 0x1000, file_offset: 0 };
    RoleConfig::Smmu(SmmuConfig {
        id: InstanceId::new(Role::Smmu, 0),
        region: 0,
        base: Gpa(0x905_0000),
        len: 0x2_0000,
        ram: RamLayout::new(vec![region]).unwrap(),
        model: Model::default(),
        devices: Vec::new(),
    })
}

/// A process in a thread: it ends with what it has done, and how its loop ended.
type Served = thread::JoinHandle<(Vec<&'static str>, Life<Notebook>, Result<(), Error>)>;

/// The coordinator's end of a served notebook.
fn served(text: &str) -> (Channel, Served) {
    let (near, far) = channel::pair().unwrap();
    let pages = Pages { text: text.into(), ..Pages::default() };
    let mut notebook = life(&pages);
    let thread = thread::spawn(move || {
        let channel = Channel::from_fd(far, Hello::new(Role::Smmu, 1));
        channel.hello(Role::Coordinator, soon()).unwrap();
        let end = serve(&channel, &mut notebook);
        (pages.calls.lock().unwrap().clone(), notebook, end)
    });
    let channel = Channel::from_fd(near, Hello::new(Role::Coordinator, 1));
    channel.hello(Role::Smmu, soon()).unwrap();
    (channel, thread)
}

fn soon() -> Deadline {
    Deadline::after(core::time::Duration::from_secs(10))
}

fn ask(channel: &Channel, request: &Request) -> Reply {
    channel.request::<OwnedFd>(request, &[], soon()).unwrap().0
}

/// The whole way in, out of reset.
fn boot(channel: &Channel) {
    for request in [Request::Configure(config()), Request::Load(LoadFrom::Reset), Request::Arm] {
        assert_eq!(ask(channel, &request), Reply::Done, "{request:?}");
    }
    assert_eq!(ask(channel, &Request::Replay), Reply::Replayed(vec![]));
    assert_eq!(ask(channel, &Request::Go), Reply::Done);
}

fn memory() -> OwnedFd {
    rustix::fs::memfd_create(c"state", MemfdFlags::CLOEXEC).unwrap()
}

#[test]
fn serve_requests_in_order_reach_the_process_and_quit_ends_it() {
    let (channel, thread) = served("");
    boot(&channel);
    assert_eq!(ask(&channel, &Request::Pause), Reply::Paused(Quiescence { posts: 2, ..Quiescence::NONE }));
    assert_eq!(ask(&channel, &Request::Quit), Reply::Done);
    let (calls, notebook, end) = thread.join().unwrap();
    end.unwrap();
    assert_eq!(calls, ["configure", "arm", "replay", "go", "pause"]);
    assert_eq!(notebook.inspect().get("in_flight.posts"), Some(&Value::Counter(2)));
}

#[test]
fn process_that_is_paused_before_it_goes_begins_paused_and_never_went() {
    let (channel, thread) = served("");
    for request in [Request::Configure(config()), Request::Load(LoadFrom::Reset), Request::Arm] {
        assert_eq!(ask(&channel, &request), Reply::Done, "{request:?}");
    }
    let Reply::Failed(early) = ask(&channel, &Request::Pause) else { panic!("paused before its replay") };
    assert!(early.why.contains("Armed"), "{early:?}");
    assert_eq!(ask(&channel, &Request::Replay), Reply::Replayed(vec![]));
    let paused = Reply::Paused(Quiescence { posts: 2, ..Quiescence::NONE });
    assert_eq!([(); 2].map(|()| ask(&channel, &Request::Pause)), [paused.clone(), paused]);
    let Reply::Failed(failure) = ask(&channel, &Request::Go) else { panic!("it went, paused") };
    assert!(failure.why.contains("Paused"), "{failure:?}");
    ask(&channel, &Request::Quit);
    let (calls, _, end) = thread.join().unwrap();
    end.unwrap();
    assert_eq!(calls, ["configure", "arm", "replay", "begin paused", "pause"]);
}

#[test]
fn heartbeat_is_answered_in_every_state_with_the_turns_of_an_armed_process() {
    let (channel, thread) = served("");
    let beat = || ask(&channel, &Request::Heartbeat);
    assert_eq!(beat(), Reply::Alive { turns: None });
    ask(&channel, &Request::Configure(config()));
    assert_eq!(beat(), Reply::Alive { turns: None });
    for request in [Request::Load(LoadFrom::Reset), Request::Arm] {
        assert_eq!(ask(&channel, &request), Reply::Done, "{request:?}");
    }
    assert_eq!(beat(), Reply::Alive { turns: Some(2) });
    ask(&channel, &Request::Replay);
    ask(&channel, &Request::Go);
    ask(&channel, &Request::Pause);
    assert_eq!(beat(), Reply::Alive { turns: Some(5) });
    ask(&channel, &Request::Quit);
    thread.join().unwrap().2.unwrap();
}

#[test]
fn serve_request_out_of_order_is_refused_and_the_process_lives_on() {
    let (channel, thread) = served("");
    let Reply::Failed(failure) = ask(&channel, &Request::Go) else { panic!("gone") };
    assert!(failure.why.contains("Unconfigured"), "{failure:?}");
    assert_eq!(ask(&channel, &Request::Configure(config())), Reply::Done);
    assert_eq!(ask(&channel, &Request::Quit), Reply::Done);
    assert_eq!(thread.join().unwrap().0, ["configure"]);
}

#[test]
fn serve_failed_request_does_not_change_the_state() {
    let (channel, thread) = served("");
    boot(&channel);
    ask(&channel, &Request::Pause);
    let Reply::Failed(failure) = ask(&channel, &Request::Resume) else { panic!("resumed") };
    assert_eq!(failure.why, "the notebook is full");
    // Still paused: it can be saved.
    let saved = channel.request(&Request::Save, &[memory()], soon()).unwrap().0;
    assert_eq!(saved, Reply::Saved { len: 0 });
    ask(&channel, &Request::Quit);
    thread.join().unwrap().2.unwrap();
}

#[test]
fn save_then_load_in_another_process_carries_the_state() {
    let (channel, thread) = served("remember the milk");
    boot(&channel);
    ask(&channel, &Request::Pause);
    let object = memory();
    let saved = channel.request(&Request::Save, &[&object], soon()).unwrap().0;
    assert_eq!(saved, Reply::Saved { len: 17 });
    ask(&channel, &Request::Quit);
    thread.join().unwrap().2.unwrap();

    let (channel, thread) = served("");
    ask(&channel, &Request::Configure(config()));
    let units = Request::Load(LoadFrom::Units { len: 17 });
    assert_eq!(channel.request(&units, &[&object], soon()).unwrap().0, Reply::Done);
    ask(&channel, &Request::Quit);
    let inspect = thread.join().unwrap().1.inspect();
    assert_eq!(inspect.get("text"), Some(&Value::Text("remember the milk".into())));
}

#[test]
fn load_with_a_length_that_lies_is_refused() {
    let (channel, thread) = served("");
    ask(&channel, &Request::Configure(config()));
    for len in [1, SAVED_LEN_MAX, u64::MAX] {
        let reply = channel.request(&Request::Load(LoadFrom::Units { len }), &[memory()], soon()).unwrap().0;
        assert!(matches!(reply, Reply::Failed(_)), "{len:#x}: {reply:?}");
    }
    ask(&channel, &Request::Quit);
    thread.join().unwrap().2.unwrap();
}

#[test]
fn serve_coordinator_gone_ends_the_loop_with_an_error() {
    let (channel, thread) = served("");
    drop(channel);
    assert!(matches!(thread.join().unwrap().2, Err(Error::PeerGone { .. })));
}

#[test]
fn life_step_that_fails_half_way_leaves_only_the_end() {
    let pages = Pages::default();
    let mut notebook = life(&pages);
    let RoleConfig::Smmu(mut wrong) = config() else { panic!("another role's") };
    wrong.region = u16::MAX;
    assert_eq!(notebook.configure(RoleConfig::Smmu(wrong)).unwrap_err().why, "no paper");
    let failure = notebook.configure(config()).unwrap_err();
    assert_eq!(
        (failure.what.as_str(), failure.why.as_str()),
        ("configure the notebook", "it is spent: a step failed, it can only quit",)
    );
    let (armed, paused) = (notebook.arm(), notebook.pause().map(drop));
    for failure in [armed, paused, notebook.dirty_log(DirtyLogOp::Rearm).map(drop)] {
        assert!(failure.unwrap_err().why.contains("spent"));
    }
}

#[test]
fn life_request_that_has_no_place_changes_nothing() {
    let pages = Pages::default();
    let mut notebook = life(&pages);
    assert_eq!(notebook.arm().unwrap_err().why, "it is unconfigured");
    assert_eq!(notebook.save(&mut Vec::new()).unwrap_err().why, "it is unconfigured");
    let nvme = ipc::protocol::nvme::NvmeConfig {
        id: InstanceId::new(Role::Nvme, 0),
        serial: None,
        block_len: 512,
        readonly: true,
        image: String::new(),
    };
    assert_eq!(notebook.configure(RoleConfig::Nvme(nvme)).unwrap_err().why, "no notebook");
    notebook.configure(config()).unwrap();
    assert_eq!(notebook.configure(config()).unwrap_err().why, "it is configured and not loaded");
    assert_eq!(notebook.arm().unwrap_err().why, "it is configured and not loaded");
    notebook.load(Source::Reset).unwrap();
    assert_eq!(notebook.go().unwrap_err().why, "it is loaded and not armed");
    notebook.arm().unwrap();
    assert_eq!(notebook.load(Source::Reset).unwrap_err().why, "it is armed already");
    assert_eq!(notebook.arm().unwrap_err().why, "it is armed already");
    notebook.pause().unwrap();
    assert_eq!(*pages.calls.lock().unwrap(), ["configure", "arm", "pause"]);
}

#[test]
fn save_that_is_longer_than_a_state_may_be_fails() {
    let mut writer = StateWriter::new(memory(), Events::none());
    writer.skip(SAVED_LEN_MAX - 2);
    writer.write_all(&[0; 2]).unwrap();
    assert_eq!(writer.len(), SAVED_LEN_MAX);
    writer.write_all(&[0]).unwrap_err();
    assert_eq!(writer.len(), SAVED_LEN_MAX);
}

#[test]
fn check_save_says_why_not_and_the_process_goes_on() {
    let (channel, thread) = served("secret");
    boot(&channel);
    let Reply::Failed(failure) = ask(&channel, &Request::CheckSave) else { panic!("it could") };
    assert_eq!(failure.why, "it is secret");
    ask(&channel, &Request::Quit);
    let (calls, _, end) = thread.join().unwrap();
    end.unwrap();
    assert_eq!(calls.last(), Some(&"go"), "nothing was asked of it");
}
