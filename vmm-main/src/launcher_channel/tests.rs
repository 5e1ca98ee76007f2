// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Both directions, both deaths, and a peer that says what it must not.

use std::os::unix::net::UnixStream;

use super::*;
use crate::problem::Problem;

fn ends() -> (LauncherEnd, CoordinatorEnd) {
    let (launcher, coordinator) = pair().unwrap();
    (LauncherEnd::new(launcher).unwrap(), CoordinatorEnd::new(coordinator).unwrap())
}

#[tokio::test]
async fn launcher_channel_messages_arrive_in_order_with_their_descriptor() {
    let (launcher, coordinator) = ends();
    let (mut near, far) = UnixStream::pair().unwrap();
    launcher.connection(far.as_fd()).await.unwrap();
    launcher.stop().await.unwrap();
    let Some(FromLauncher::Connection(fd)) = coordinator.recv().await.unwrap() else {
        panic!("no connection")
    };
    drop(far);
    std::io::Write::write_all(&mut UnixStream::from(fd), b"x").unwrap();
    let mut byte = [0];
    std::io::Read::read_exact(&mut near, &mut byte).unwrap();
    assert_eq!(&byte, b"x");
    assert!(matches!(coordinator.recv().await.unwrap(), Some(FromLauncher::Stop)));
    coordinator.send(&FromCoordinator::Running).await.unwrap();
    coordinator.send(&FromCoordinator::Ended(Why::GuestPoweredOff)).await.unwrap();
    assert_eq!(launcher.recv().await.unwrap(), Some(FromCoordinator::Running));
    assert_eq!(launcher.recv().await.unwrap(), Some(FromCoordinator::Ended(Why::GuestPoweredOff)));
}

#[tokio::test]
async fn launcher_channel_death_of_either_end_is_seen_by_the_other() {
    let (launcher, coordinator) = ends();
    drop(launcher);
    assert!(matches!(coordinator.recv().await, Ok(None)));
    let (launcher, coordinator) = ends();
    coordinator.send(&FromCoordinator::Ended(Why::Asked)).await.unwrap();
    drop(coordinator);
    assert_eq!(
        launcher.recv().await.unwrap(),
        Some(FromCoordinator::Ended(Why::Asked)),
        "the last word outlives its speaker"
    );
    assert_eq!(launcher.recv().await.unwrap(), None);
}

#[tokio::test]
async fn launcher_channel_death_of_an_end_that_has_not_read_all_is_a_death_behind_its_last_word() {
    let (launcher, coordinator) = ends();
    let (_near, far) = UnixStream::pair().unwrap();
    launcher.released().await.unwrap();
    launcher.connection(far.as_fd()).await.unwrap();
    assert!(matches!(coordinator.recv().await.unwrap(), Some(FromLauncher::Released)));
    coordinator.send(&FromCoordinator::Ended(Why::Asked)).await.unwrap();
    drop(coordinator);
    assert_eq!(launcher.recv().await.unwrap(), Some(FromCoordinator::Ended(Why::Asked)));
    assert_eq!(launcher.recv().await.unwrap(), None);
    let (launcher, coordinator) = ends();
    coordinator.send(&FromCoordinator::Running).await.unwrap();
    launcher.stop().await.unwrap();
    drop(launcher);
    assert!(matches!(coordinator.recv().await, Ok(Some(FromLauncher::Stop))));
    assert!(matches!(coordinator.recv().await, Ok(None)));
}

#[tokio::test]
async fn launcher_channel_overlong_end_keeps_its_reason() {
    let (launcher, coordinator) = ends();
    let problem = Problem::host("a", "b", "c");
    let why = Why::Failed { problem: problem.clone(), last_lines: vec!["x".repeat(MESSAGE_LEN_MAX)] };
    coordinator.send(&FromCoordinator::Ended(why)).await.unwrap();
    let expected = FromCoordinator::Ended(Why::Failed { problem, last_lines: vec![] });
    assert_eq!(launcher.recv().await.unwrap(), Some(expected));
}

#[tokio::test]
async fn launcher_channel_connection_to_another_host_comes_with_its_descriptor_or_a_reason() {
    let (launcher, coordinator) = ends();
    let (to, reach) = ("unix:/x".to_owned(), Reach::Loopback);
    let dial = FromCoordinator::Dial { number: 7, to, lane_count: 2, reach };
    coordinator.send(&dial).await.unwrap();
    assert_eq!(launcher.recv().await.unwrap(), Some(dial));
    let (_near, far) = UnixStream::pair().unwrap();
    launcher.lane(&Lane { dial: 7, index: 15, socket: Ok(far.into()) }).await.unwrap();
    for len in [0, 1, 254, 255, 10_000] {
        let socket = Err(io::Error::other("é".repeat(len)));
        launcher.lane(&Lane { dial: 8, index: 1, socket }).await.unwrap();
    }
    launcher.released().await.unwrap();
    let lane = coordinator.recv().await.unwrap();
    let Some(FromLauncher::Lane(lane)) = lane else { panic!("{lane:?}") };
    assert!(matches!(lane, Lane { dial: 7, index: 15, socket: Ok(_) }), "{lane:?}");
    for len in [0_usize, 1, 254, 255, 10_000] {
        let Some(FromLauncher::Lane(lane)) = coordinator.recv().await.unwrap() else { panic!("no lane") };
        let Lane { dial: 8, index: 1, socket: Err(why) } = lane else { panic!("{lane:?}") };
        assert_eq!(why.to_string(), "é".repeat(len.min(REASON_LEN_MAX / 2)), "the reason comes along");
    }
    assert!(matches!(coordinator.recv().await.unwrap(), Some(FromLauncher::Released)));
}

#[tokio::test]
async fn launcher_channel_program_comes_with_its_descriptor_or_a_reason() {
    let (launcher, coordinator) = ends();
    let request = FromCoordinator::OpenProgram { number: 255, path: "/x/\u{e9}".to_owned() };
    coordinator.send(&request).await.unwrap();
    assert_eq!(launcher.recv().await.unwrap(), Some(request));
    let (_near, far) = UnixStream::pair().unwrap();
    launcher.program(255, &Ok(far.into())).await.unwrap();
    let came = coordinator.recv().await.unwrap();
    assert!(matches!(came, Some(FromLauncher::Program { number: 255, program: Ok(_) })), "{came:?}");
    for len in [0, 1, 254, 255, 10_000] {
        launcher.program(7, &Err(io::Error::other("x".repeat(len)))).await.unwrap();
        let came = coordinator.recv().await.unwrap();
        let Some(FromLauncher::Program { number: 7, program: Err(why) }) = came else { panic!("{came:?}") };
        assert_eq!(why.to_string(), "x".repeat(len.min(REASON_LEN_MAX)), "the reason comes along");
    }
    let (near, _far) = UnixStream::pair().unwrap();
    for (message, fds) in [(&[PROGRAM, 7][..], &[][..]), (&[NO_PROGRAM, 7], &[near.as_fd()])] {
        let (theirs, ours) = pair().unwrap();
        send(theirs.as_fd(), message, fds).unwrap();
        assert!(CoordinatorEnd::new(ours).unwrap().recv().await.is_err(), "{message:?}");
    }
}

#[tokio::test]
async fn launcher_channel_identity_comes_file_by_file() {
    let (launcher, coordinator) = ends();
    for file in IdentityFile::ALL {
        let (near, _far) = UnixStream::pair().unwrap();
        launcher.identity(file, near.as_fd()).await.unwrap();
        let came = coordinator.recv().await.unwrap();
        assert!(matches!(came, Some(FromLauncher::Identity(other, _)) if other == file), "{came:?}");
    }
    let (theirs, ours) = pair().unwrap();
    let (near, _far) = UnixStream::pair().unwrap();
    send(theirs.as_fd(), &[IDENTITY, 3], &[near.as_fd()]).unwrap();
    assert!(CoordinatorEnd::new(ours).unwrap().recv().await.is_err(), "there is no fourth file");
}

#[tokio::test]
async fn launcher_channel_garbage_is_an_error_at_either_end() {
    for garbage in [&b"{}"[..], b"\xff\xff\xff", b"\"Running\""] {
        let (theirs, ours) = pair().unwrap();
        send(theirs.as_fd(), garbage, &[]).unwrap();
        assert!(CoordinatorEnd::new(ours).unwrap().recv().await.is_err());
        let (ours, theirs) = pair().unwrap();
        send(theirs.as_fd(), garbage, &[]).unwrap();
        assert!(LauncherEnd::new(ours).unwrap().recv().await.is_err());
    }
    let (theirs, ours) = pair().unwrap();
    send(theirs.as_fd(), b"C", &[]).unwrap();
    assert!(CoordinatorEnd::new(ours).unwrap().recv().await.is_err(), "a connection without a descriptor");
}

#[tokio::test]
async fn launcher_channel_reopened_device_comes_with_its_descriptor_or_none() {
    let (launcher, coordinator) = ends();
    coordinator.send(&FromCoordinator::Reopen { index: 3 }).await.unwrap();
    assert_eq!(launcher.recv().await.unwrap(), Some(FromCoordinator::Reopen { index: 3 }));
    let (_near, far) = UnixStream::pair().unwrap();
    launcher.device(3, &Ok(far.into())).await.unwrap();
    let gone = std::io::ErrorKind::ConnectionRefused;
    launcher.device(1, &Err(rustix::io::Errno::CONNREFUSED.into())).await.unwrap();
    launcher.released().await.unwrap();
    let Some(FromLauncher::Device { index: 3, server: Ok(_) }) = coordinator.recv().await.unwrap() else {
        panic!("no device")
    };
    let Some(FromLauncher::Device { index: 1, server: Err(why) }) = coordinator.recv().await.unwrap() else {
        panic!("a device")
    };
    assert_eq!(why.kind(), gone, "the reason comes along");
    assert!(matches!(coordinator.recv().await.unwrap(), Some(FromLauncher::Released)));
}
