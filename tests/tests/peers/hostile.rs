// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The hostile process of a device: it keeps the coordinator's contract and breaks all others.
//!
//! Under the name of the first device it is the real program, sealed as that is; under any other it does what its
//! script says with every object that it shares.

use std::fs;
use std::hint::black_box;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use dev_vfio::service::{Descriptors, VfioProgram};
use dev_vfio::vfio_user::{Given, VfioUserDevice};
use ipc::channel::{Channel, Incoming, LATE_MAX};
use ipc::deadline::Deadline;
use ipc::doorbell::Ringer;
use ipc::hello::{Hello, Role};
use ipc::protocol::control::{Control, Event, Quiescence, Reply, Request};
use ipc::protocol::function_link::{FunctionLink, FunctionRequest};
use ipc::protocol::inspect::Inspect;
use ipc::protocol::stage1::{Fault, Notice, Stage1};
use ipc::shm::msi_board::{BOARD_LEN, MsiBoard};
use ipc::shm::region::Region;
use ipc::shm::ring::RING_LEN;
use ipc::slot::SlotKind;
use sandbox::{Inherited, InheritedError, profiles};

/// Patched in each copy.
static SCRIPT: [u8; 23] = *b"HOSTILE-PEER-OF-OTHERS-";
const MARK: &[u8; 23] = b"HOSTILE-PEER-OF-OTHERS-";

/// What it does, by the last byte of the mark, and a part of the reason for which its device is lost.
pub const SCRIPTS: [(u8, &str); 6] = [
    // Says hello to the coordinator alone.
    (b'0', "it has not greeted the SMMU"),
    // Says hello to every peer, then neither reads nor sends.
    (b'1', "CMD_SYNC waiting"),
    // Does what the vSMMU requests, and rings every doorbell and posts every message, without end.
    (b'2', "has not answered within 10 s"),
    // Reports faults to the vSMMU without end, with sequence numbers that do not exist.
    (b'3', "CMD_SYNC waiting"),
    // Does what the vSMMU requests, asks the vCPU process without end, and closes the channel over the first answer.
    (b'4', "function link is closed"),
    // Does what the vSMMU requests, and writes nonsense over its ring.
    (b'5', "has not answered within 10 s"),
];

/// Writes a copy of this program with a script.
pub fn write(to: &Path, script: u8) {
    let mut own = Vec::new();
    fs::File::open("/proc/self/exe").unwrap().read_to_end(&mut own).unwrap();
    let marks: Vec<usize> =
        own.windows(MARK.len()).enumerate().filter(|(_, part)| part == MARK).map(|(at, _)| at).collect();
    assert!(!marks.is_empty());
    for at in marks {
        own[at + MARK.len() - 1] = script;
    }
    fs::write(to, own).unwrap();
    fs::set_permissions(to, fs::Permissions::from_mode(0o755)).unwrap();
}

fn take(fds: &mut Inherited) -> Result<Descriptors<VfioUserDevice>, InheritedError> {
    let given = Given::take(fds)?;
    Descriptors::take(fds, given)
}

/// The process called `name`, with descriptors of these names.
pub fn main(name: &str, generation: u32, slots: &[String]) {
    if name == "vfio0" {
        // Ends when the coordinator does.
        let _ = process::run::<VfioProgram<VfioUserDevice>>(&profiles::vfio(), take);
        return;
    }
    let mut fds = Inherited::take_all(slots.iter().cloned()).unwrap();
    let control = fds.take(SlotKind::Control).unwrap();
    let given = take(&mut fds).unwrap();
    let channel = Channel::<Control>::from_fd(control, Hello::new(Role::Vfio, generation));
    channel.hello(Role::Coordinator, soon()).unwrap();
    let tell = |event: Event| channel.event::<OwnedFd>(&event, &[], soon()).unwrap();
    tell(Event::Sealed(vec!["nothing at all".to_owned()]));
    let mut given = Some(given);
    // Until the coordinator closes.
    while let Ok(Incoming::Request { request_id, body, .. }) =
        channel.recv(Deadline::after(Deadline::SPAN_MAX))
    {
        let answer = match body {
            Request::Inspect => Reply::Inspect(Inspect::new()),
            Request::Pause => Reply::Paused(Quiescence::NONE),
            Request::Heartbeat => Reply::Alive { turns: None },
            _ => Reply::Done,
        };
        channel.reply::<OwnedFd>(request_id, &answer, &[], soon()).unwrap();
        if matches!(body, Request::Arm)
            && let Some(given) = given.take()
        {
            tell(Event::DeviceOpened);
            misbehave(black_box(&SCRIPT)[22], generation, given);
        }
    }
}

fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(20))
}

fn forever(mut act: impl FnMut() + Send + 'static) {
    std::thread::spawn(move || {
        loop {
            act();
        }
    });
}

fn misbehave(script: u8, generation: u32, given: Descriptors<VfioUserDevice>) {
    let Descriptors { ring, stage1, given: server, msi_board, msi_doorbell, link, intx, .. } = given;
    // Kept open: a server or a peer that is gone would be a different case.
    std::mem::forget(server);
    let hello = Hello::new(Role::Vfio, generation);
    let stage1 = Channel::<Stage1>::from_fd(stage1, hello.clone());
    let asking = link.try_clone().unwrap();
    let link = Channel::<FunctionLink>::from_fd(link, hello.clone());
    if script != b'0' {
        stage1.hello(Role::Smmu, soon()).unwrap();
        link.hello(Role::Vcpu, soon()).unwrap();
    }
    let file = ring.try_clone().unwrap();
    // What is not used stays open.
    std::mem::forget((ring, link));
    match script {
        b'2' => flood_interrupts(msi_board, msi_doorbell, intx),
        b'4' => forever(move || {
            // An end that remembers so many unanswered requests asks no more: the next one does, and takes the answer
            // to an earlier one for a breach.
            let link = Channel::<FunctionLink>::from_fd(asking.try_clone().unwrap(), hello.clone());
            for _ in 0..LATE_MAX {
                let _ = link.request::<OwnedFd>(&FunctionRequest::LowerIntx, &[], Deadline::now());
            }
        }),
        b'5' => {
            let nonsense = vec![0xa5; usize::try_from(RING_LEN).unwrap()];
            forever(move || _ = rustix::io::pwrite(&file, &nonsense, 0));
        }
        _ => {}
    }
    match script {
        b'2' | b'4' | b'5' => forever(move || {
            if let Ok(Incoming::Event { body: Notice::Requests { sequence, .. }, .. }) = stage1.recv(soon()) {
                let _ = stage1.event::<OwnedFd>(&Notice::Done { sequence, refused: 0 }, &[], soon());
            }
        }),
        b'3' => forever(move || {
            let fault = Notice::Fault(Fault::Record([0x10, 0, 0, 0]));
            for notice in [fault, Notice::FaultsLost { count: u64::MAX }] {
                let _ = stage1.event::<OwnedFd>(&notice, &[], soon());
            }
        }),
        _ => std::mem::forget(stage1),
    }
}

fn flood_interrupts(board: OwnedFd, doorbell: Ringer, intx: Ringer) {
    let board = Region::from_fd(board, BOARD_LEN).and_then(|region| MsiBoard::attach(&region)).unwrap();
    forever(move || {
        for event in 0..4096 {
            board.post(event);
            doorbell.ring();
            intx.ring();
        }
    });
}
