// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
use super::*;
use crate::channel;
use crate::hello::{Hello, Role};
use rustix::fs::MemfdFlags;
use std::thread;

/// A process whose whole state is a string.
#[derive(Default)]
struct Notebook {
    text: String,
    calls: Vec<&'static str>,
}

impl Process for Notebook {
    fn configure(&mut self, _config: RoleConfig) -> Result<(), Failure> {
        self.calls.push("configure");
        Ok(())
    }
    fn start(&mut self) -> Result<(), Failure> {
        self.calls.push("start");
        Ok(())
    }
    fn pause(&mut self) -> Result<(), Failure> {
        self.calls.push("pause");
        Ok(())
    }
    fn resume(&mut self) -> Result<(), Failure> {
        Err(Failure::new("resume", "the notebook is full"))
    }
    fn save(&mut self) -> Result<Vec<u8>, Failure> {
        Ok(self.text.clone().into_bytes())
    }
    fn restore(&mut self, stream: &[u8]) -> Result<(), Failure> {
        self.text = String::from_utf8(stream.to_vec()).map_err(|error| Failure::new("restore", error))?;
        Ok(())
    }
    fn dirty_log(&mut self, _op: DirtyLogOp) -> Result<(), Failure> {
        Ok(())
    }
    fn inspect(&self) -> Inspect {
        let mut inspect = Inspect::default();
        inspect.text("text", self.text.clone());
        inspect
    }
    fn probe(&mut self, _probe: Probe) -> Result<ProbeOutcome, Failure> {
        Ok(ProbeOutcome::Denied { errno: 1 })
    }
}

fn config() -> RoleConfig {
    use crate::addr::Gpa;
    use crate::protocol::ram::{RamLayout, RamRegion};
    use crate::protocol::smmu::{Model, SmmuConfig};
    let region = RamRegion { gpa: Gpa(0x4000_0000), len: 0x1000, file_offset: 0 };
    RoleConfig::Smmu(SmmuConfig {
        name: "smmu0".into(),
        region: 0,
        base: Gpa(0x905_0000),
        len: 0x2_0000,
        ram: RamLayout::new(vec![region]).unwrap(),
        model: Model::default(),
        devices: Vec::new(),
    })
}

/// A process in a thread: it ends with what it has done, and how its loop ended.
type Served = thread::JoinHandle<(Notebook, Result<(), Error>)>;

/// The coordinator's end of a served notebook.
fn served(text: &str) -> (Channel, Served) {
    let (near, far) = channel::pair().unwrap();
    let mut notebook = Notebook { text: text.into(), ..Notebook::default() };
    let thread = thread::spawn(move || {
        let channel = Channel::from_fd(far, Hello::new(Role::Smmu, 1));
        channel.hello(Role::Coordinator, soon()).unwrap();
        let end = serve(&channel, &mut notebook);
        (notebook, end)
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

fn memory() -> OwnedFd {
    rustix::fs::memfd_create(c"state", MemfdFlags::CLOEXEC).unwrap()
}

#[test]
fn serve_requests_in_order_reach_the_process_and_quit_ends_it() {
    let (channel, thread) = served("");
    for request in [Request::Configure(config()), Request::Start, Request::Pause, Request::Quit] {
        assert_eq!(ask(&channel, &request), Reply::Done, "{request:?}");
    }
    let (notebook, end) = thread.join().unwrap();
    end.unwrap();
    assert_eq!(notebook.calls, ["configure", "start", "pause"]);
}

#[test]
fn serve_request_out_of_order_is_refused_and_the_process_lives_on() {
    let (channel, thread) = served("");
    let Reply::Failed(failure) = ask(&channel, &Request::Start) else { panic!("started") };
    assert!(failure.why.contains("Unconfigured"), "{failure:?}");
    assert_eq!(ask(&channel, &Request::Configure(config())), Reply::Done);
    assert_eq!(ask(&channel, &Request::Quit), Reply::Done);
    assert_eq!(thread.join().unwrap().0.calls, ["configure"]);
}

#[test]
fn serve_failed_request_does_not_change_the_state() {
    let (channel, thread) = served("");
    for request in [Request::Configure(config()), Request::Start, Request::Pause] {
        assert_eq!(ask(&channel, &request), Reply::Done);
    }
    let Reply::Failed(failure) = ask(&channel, &Request::Resume) else { panic!("resumed") };
    assert_eq!(failure.why, "the notebook is full");
    // Still paused: it can be saved.
    let saved = channel.request(&Request::Save, &[memory()], soon()).unwrap().0;
    assert_eq!(saved, Reply::Saved { len: 0 });
    ask(&channel, &Request::Quit);
    thread.join().unwrap().1.unwrap();
}

#[test]
fn save_then_restore_in_another_process_carries_the_state() {
    let (channel, thread) = served("remember the milk");
    for request in [Request::Configure(config()), Request::Start, Request::Pause] {
        ask(&channel, &request);
    }
    let object = memory();
    let saved = channel.request(&Request::Save, &[&object], soon()).unwrap().0;
    assert_eq!(saved, Reply::Saved { len: 17 });
    ask(&channel, &Request::Quit);
    thread.join().unwrap().1.unwrap();

    let (channel, thread) = served("");
    ask(&channel, &Request::Configure(config()));
    let restored = channel.request(&Request::Restore { len: 17 }, &[&object], soon()).unwrap().0;
    assert_eq!(restored, Reply::Done);
    ask(&channel, &Request::Quit);
    assert_eq!(thread.join().unwrap().0.text, "remember the milk");
}

#[test]
fn restore_with_a_length_that_lies_is_refused() {
    let (channel, thread) = served("");
    ask(&channel, &Request::Configure(config()));
    for len in [1, SAVED_LEN_MAX, u64::MAX] {
        let reply = channel.request(&Request::Restore { len }, &[memory()], soon()).unwrap().0;
        assert!(matches!(reply, Reply::Failed(_)), "{len:#x}: {reply:?}");
    }
    ask(&channel, &Request::Quit);
    thread.join().unwrap().1.unwrap();
}

#[test]
fn serve_coordinator_gone_ends_the_loop_with_an_error() {
    let (channel, thread) = served("");
    drop(channel);
    assert!(matches!(thread.join().unwrap().1, Err(Error::PeerGone { .. })));
}
