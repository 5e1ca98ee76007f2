// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Frames and message bodies as a hostile peer may send them.
//!
//! Beyond not panicking: what is accepted means only one thing, so encoding it again gives the same bytes.

use ipc::addr::StreamId;
use ipc::frame::{Header, Kind, decode, decode_body};
use ipc::hello::Role;
use ipc::instance::InstanceId;
use ipc::protocol::control::{
    DirtyLogOp, Event, LoadFrom, Quiescence, ReplayOutcome, Reply, Request, StreamReplay,
};
use ipc::protocol::features::Feature;
use ipc::protocol::function_link::{DeviceWindow, FunctionReply, FunctionRequest};
use ipc::protocol::stage1::Attachment;

pub fn run(message: &[u8]) {
    let Ok((header, body)) = decode(message) else { return };
    let again = [&header.to_bytes()[..], body].concat();
    assert_eq!(again, message, "an accepted frame has a second form");
    body_of::<Request>(body);
    body_of::<Reply>(body);
    body_of::<Event>(body);
    body_of::<FunctionRequest>(body);
    body_of::<FunctionReply>(body);
}

/// A body that decodes must survive another turn.
fn body_of<T>(body: &[u8])
where
    T: serde::Serialize + serde::de::DeserializeOwned + PartialEq + std::fmt::Debug,
{
    let Ok(value) = decode_body::<T>("fuzz", body) else { return };
    let Ok(encoded) = postcard::to_stdvec(&value) else { return };
    assert_eq!(
        decode_body::<T>("fuzz again", &encoded).ok().as_ref(),
        Some(&value),
        "a value does not survive"
    );
}

pub fn seeds() -> Vec<Vec<u8>> {
    let requests = [
        Request::Load(LoadFrom::Units { len: 300 }),
        Request::Load(LoadFrom::Checkpoint),
        Request::Go,
        Request::Pause,
        Request::Save,
        Request::DirtyLog(DirtyLogOp::Enable { epoch: 300 }),
        Request::Inspect,
        Request::Rewire { peer: InstanceId::new(Role::Smmu, 0), epoch: 300 },
        Request::Heartbeat,
        Request::HoldCpus { held: true },
        Request::Throttle { percent: 60 },
    ];
    let mut seeds: Vec<Vec<u8>> = requests.iter().map(|request| framed(Kind::Request, request)).collect();
    seeds.push(framed(Kind::Reply, &Reply::Done));
    seeds.push(framed(Kind::Reply, &Reply::Paused(Quiescence { vectors: 3, ..Quiescence::NONE })));
    let replayed = StreamReplay {
        stream: StreamId(8),
        attachment: Attachment::Bypass,
        outcome: ReplayOutcome::Aborted("no answer".to_owned()),
    };
    seeds.push(framed(Kind::Reply, &Reply::Replayed(vec![replayed])));
    seeds.push(framed(Kind::Event, &Event::GuestPoweredOff));
    seeds.push(framed(Kind::Event, &Event::DeviceOpened));
    seeds.push(framed(Kind::Event, &Event::DeviceFailed("its server is silent".to_owned())));
    seeds.push(framed(Kind::Event, &Event::Progress));
    let feature = Feature::new("counter frequency", "62500000 Hz");
    seeds.push(framed(Kind::Event, &Event::Features(vec![feature])));
    seeds.push(framed(Kind::Event, &Event::Unmapped { name: "vfio0".to_owned() }));
    let window = DeviceWindow { region: 1, offset: 0x4000, len: 0x2000, file_offset: 0x1000, writable: true };
    seeds.push(framed(Kind::Request, &FunctionRequest::AddWindow(window)));
    seeds.push(framed(Kind::Request, &FunctionRequest::ShowWindows { shown: true }));
    seeds.push(framed(Kind::Request, &FunctionRequest::AddVector { index: 5 }));
    seeds.push(framed(Kind::Request, &FunctionRequest::RouteVector { index: 5, event: Some(0x203) }));
    seeds.push(framed(Kind::Reply, &FunctionReply::Refused("it is not sealed".to_owned())));
    seeds
}

fn framed<T: serde::Serialize>(kind: Kind, message: &T) -> Vec<u8> {
    let body = postcard::to_stdvec(message).unwrap_or_default();
    let body_len = u32::try_from(body.len()).unwrap_or(0);
    let header =
        Header { protocol: 1, version: 1, request_id: 3, generation: 1, kind, fd_count: 0, body_len };
    [&header.to_bytes()[..], &body].concat()
}
