// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The server against good and hostile clients, over real socket pairs: what one client does must never be
//! felt by the next.

use std::time::Duration;

use hyper::Method;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, watch};

use super::client::{COMMAND_DEADLINE, Client, SNAPSHOT_DEADLINE};
use super::command::{COMMAND_QUEUE_LEN, Command, Handle, Snapshot, StopRequest};
use super::server::{
    BODY_LEN_MAX, CONNECTION_COUNT_MAX, CONNECTION_DEADLINE, HEAD_DEADLINE, PLACE_DEADLINE, REQUEST_DEADLINE,
    Server, WAITING_COUNT_MAX,
};
use super::types::Status;
use crate::lifecycle::{Phase, Step};
use crate::problem::{Class, Problem};

fn status(phase: Phase) -> Status {
    Status {
        name: "test".into(),
        phase,
        build: "0".into(),
        machine: "bulkhead-virt-1".into(),
        generation: 1,
        reset_count: 0,
        memory_len: 1 << 29,
        vcpu_count: 1,
        cpu: Some(crate::system::CpuKind::Soft),
        uptime_ms: 5,
        log_lines_dropped: 0,
        direct_dma: Vec::new(),
        held: None,
        hang_deadline_s: 10,
        lost_devices: std::collections::BTreeMap::new(),
        deaths: std::collections::BTreeMap::new(),
        programs: std::collections::BTreeMap::new(),
        shape: None,
        migration: None,
        other_host: None,
    }
}

fn showing(phase: Phase) -> Snapshot {
    Snapshot {
        status: status(phase),
        started: std::time::Instant::now(),
        processes: vec![],
        inspectors: vec![],
        owed: None,
    }
}

/// A VM that keeps only its phase; `deaf` ones never take a command. Each obeys a request to stop.
fn server(deaf: bool) -> Server {
    let (commands, mut queue) = mpsc::channel(COMMAND_QUEUE_LEN);
    let (stops, mut stop_requests) = mpsc::channel::<StopRequest>(COMMAND_QUEUE_LEN);
    let (migrations, _) = mpsc::channel(COMMAND_QUEUE_LEN);
    let (publish, snapshot) = watch::channel(showing(Phase::Running));
    tokio::spawn(async move {
        let mut phase = Phase::Running;
        loop {
            let (step, answer) = tokio::select! {
                Some(request) = stop_requests.recv() => (Step::Stop, request.answer.unwrap()),
                // A deaf one keeps the queue open and never looks at it.
                Some(command) = queue.recv(), if !deaf => match command {
                    Command::Pause(answer) => (Step::Pause, answer),
                    Command::Resume(answer) => (Step::Resume, answer),
                    Command::SaveRestore(answer) => {
                        answer.send(Err(Problem::host("no", "test", "none"))).unwrap();
                        continue;
                    }
                    Command::Restart(_, answer) => {
                        answer.send(Err(Problem::host("no", "test", "none"))).unwrap();
                        continue;
                    }
                    Command::Migrate(_, _, answer) => {
                        answer.send(Err(Problem::host("no", "test", "none"))).unwrap();
                        continue;
                    }
                    Command::DirtyRate(_, answer) => {
                        answer.send(Err(Problem::host("no", "test", "none"))).unwrap();
                        continue;
                    }
                    Command::Probe(request, answer) => {
                        let outcome = format!("{} {}", request.process, request.attempt);
                        answer.send(Ok(super::types::ProbeAnswer { outcome })).unwrap();
                        continue;
                    }
                },
                else => return,
            };
            let result = phase.after(step).map(|next| {
                phase = next.clone();
                publish.send_replace(showing(next.clone()));
                status(next)
            });
            // The client may be gone: that is its own affair.
            let _ = answer.send(result);
        }
    });
    Server::new(Handle { commands, stops, migrations, snapshot })
}

fn connect(server: &Server) -> UnixStream {
    let (ours, theirs) = UnixStream::pair().unwrap();
    server.serve(theirs);
    ours
}

/// Sends `bytes` and returns everything that comes back.
async fn raw(server: &Server, bytes: &[u8]) -> String {
    let mut stream = connect(server);
    // A server that has seen enough may close before it has read everything.
    let _ = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).into_owned()
}

async fn is_well(server: &Server) -> bool {
    raw(server, b"GET /v1/status HTTP/1.1\r\nhost: x\r\n\r\n").await.starts_with("HTTP/1.1 200")
}

#[tokio::test]
async fn api_good_requests_are_answered_and_wrong_state_is_a_conflict() {
    let server = server(false);
    let answer = raw(&server, b"POST /v1/pause HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("\"phase\":\"paused\""), "{answer}");
    let answer = raw(&server, b"POST /v1/stop HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert!(answer.contains("\"phase\":\"stopping\""), "{answer}");
    let answer = raw(&server, b"POST /v1/resume HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 409") && answer.contains("\"where\":\"life cycle\""), "{answer}");
}

#[tokio::test]
async fn api_client_that_has_closed_its_sending_side_is_answered_and_its_command_carried_out() {
    let server = server(false);
    for request in ["POST /v1/pause", "GET /v1/status"] {
        let mut stream = connect(&server);
        stream.write_all(format!("{request} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("\"phase\":\"paused\""), "{answer}");
    }
    // Gone altogether: what it asked for is done all the same.
    let mut stream = connect(&server);
    stream.write_all(b"POST /v1/resume HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    drop(stream);
    let running = async {
        while !raw(&server, b"GET /v1/status HTTP/1.1\r\nhost: x\r\n\r\n").await.contains("running") {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), running).await.unwrap();
    // Half a request and an end is none, and holds its place no longer.
    let mut stream = connect(&server);
    stream.write_all(b"POST /v1/pa").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = String::new();
    let _ = tokio::time::timeout(HEAD_DEADLINE / 2, stream.read_to_string(&mut answer)).await.unwrap();
    assert!(!answer.contains("200"), "{answer}");
}

#[tokio::test]
async fn api_orders_to_stop_and_questions_wait_for_no_command() {
    let server = server(true);
    let mut busy = connect(&server);
    busy.write_all(b"POST /v1/pause HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let answer = raw(&server, b"GET /v1/inspect HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("[]"), "{answer}");
    let answer = raw(&server, b"POST /v1/stop HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("\"phase\":\"stopping\""), "{answer}");
}

#[test]
fn api_deadlines_contain_what_they_wait_for() {
    use crate::api::types::DIRTY_RATE_MS_MAX;
    use crate::coordinator::{FAREWELL_SPAN, spans};
    assert!(REQUEST_DEADLINE > spans::COPY_DEADLINE + spans::MOVE_SPAN);
    assert!(REQUEST_DEADLINE > Duration::from_millis(DIRTY_RATE_MS_MAX) + 2 * spans::ORDER_SPAN);
    assert!(REQUEST_DEADLINE > spans::STOP_SPAN + FAREWELL_SPAN);
    assert!(spans::STOP_SPAN + FAREWELL_SPAN / 3 <= Duration::from_secs(13), "as README.md says");
    assert!(CONNECTION_DEADLINE > REQUEST_DEADLINE);
    assert!(COMMAND_DEADLINE > CONNECTION_DEADLINE, "the server's own word comes first");
}

#[tokio::test]
async fn api_unknown_paths_and_methods_say_what_there_is() {
    let server = server(false);
    let answer = raw(&server, b"GET /v2/status HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 404") && answer.contains("GET /v1/status"), "{answer}");
    let answer = raw(&server, b"DELETE /v1/status HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 405") && answer.contains("no such method"), "{answer}");
}

#[tokio::test]
async fn api_garbage_disturbs_nobody() {
    let server = server(false);
    for garbage in [&b"\0\0\0\0\0\0"[..], &[0xff; 4096], b"GET\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00"] {
        let answer = raw(&server, garbage).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400"), "{answer}");
        assert!(is_well(&server).await);
    }
    let mut long = b"GET /".to_vec();
    long.resize(100_000, b'a');
    assert!(!raw(&server, &long).await.contains("200 OK"));
    let mut headers = b"GET /v1/status HTTP/1.1\r\n".to_vec();
    for index in 0..200 {
        headers.extend_from_slice(format!("x{index}: 1\r\n").as_bytes());
    }
    headers.extend_from_slice(b"\r\n");
    assert!(raw(&server, &headers).await.starts_with("HTTP/1.1 431"));
    assert!(is_well(&server).await);
}

#[tokio::test]
async fn api_oversize_and_wrong_bodies_are_refused() {
    let server = server(false);
    let post = |body: &str| {
        format!("POST /v1/probe HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{body}", body.len())
    };
    let good = r#"{"process":"smmu0","attempt":"open"}"#;
    assert!(raw(&server, post(good).as_bytes()).await.contains("smmu0 open"));
    let large = format!("{{\"process\":\"{}\",\"attempt\":\"open\"}}", "x".repeat(BODY_LEN_MAX));
    assert!(raw(&server, post(&large).as_bytes()).await.starts_with("HTTP/1.1 400"));
    for bad in ["", "{}", "[1]", r#"{"process":"a","attempt":"b","more":1}"#] {
        let answer = raw(&server, post(bad).as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("request body"), "{bad}: {answer}");
    }
}

#[tokio::test(start_paused = true)]
async fn api_half_requests_are_cut_off_and_the_next_client_gets_their_place() {
    let server = server(false);
    let mut stuck = Vec::new();
    for index in 0..CONNECTION_COUNT_MAX {
        let mut stream = connect(&server);
        let half: &[u8] = if index % 2 == 0 { b"GET /v1/sta" } else { b"" };
        stream.write_all(half).await.unwrap();
        stuck.push(stream);
    }
    let begun = tokio::time::Instant::now();
    assert!(is_well(&server).await, "it waits, and is served");
    assert!(begun.elapsed() >= HEAD_DEADLINE && begun.elapsed() < PLACE_DEADLINE, "{:?}", begun.elapsed());
    for mut stream in stuck {
        let mut answer = Vec::new();
        // Cut off with or without a word.
        let _ = stream.read_to_end(&mut answer).await;
    }
    assert!(is_well(&server).await);
}

#[tokio::test(start_paused = true)]
async fn api_more_clients_than_the_room_holds_are_closed_and_the_rest_served() {
    let server = server(false);
    let stuck: Vec<UnixStream> =
        (0..CONNECTION_COUNT_MAX + WAITING_COUNT_MAX).map(|_| connect(&server)).collect();
    assert!(!is_well(&server).await, "there is no room: the next connection is closed");
    drop(stuck);
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert!(is_well(&server).await);
}

#[tokio::test(start_paused = true)]
async fn api_body_that_never_ends_is_cut_off() {
    let server = server(false);
    let mut stream = connect(&server);
    stream.write_all(b"POST /v1/probe HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{").await.unwrap();
    let mut answer = Vec::new();
    tokio::time::timeout(CONNECTION_DEADLINE * 2, stream.read_to_end(&mut answer)).await.unwrap().unwrap();
    assert!(String::from_utf8_lossy(&answer).starts_with("HTTP/1.1 504"));
}

#[tokio::test(start_paused = true)]
async fn api_reads_work_and_commands_time_out_while_the_vm_is_busy() {
    let server = server(true);
    let mut waiting = Vec::new();
    for _ in 0..CONNECTION_COUNT_MAX - 1 {
        let mut stream = connect(&server);
        stream.write_all(b"POST /v1/pause HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        waiting.push(stream);
    }
    assert!(is_well(&server).await);
    let mut answer = Vec::new();
    waiting[0].read_to_end(&mut answer).await.unwrap();
    assert!(String::from_utf8_lossy(&answer).starts_with("HTTP/1.1 504"));
}

#[tokio::test]
async fn api_client_tells_answers_refusals_and_silence_apart() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("vm.sock");
    let missing = Client::connect(&path).await.unwrap_err();
    assert_eq!(missing.class, Class::Unreachable);

    let listener = UnixListener::bind(&path).unwrap();
    let server = server(false);
    tokio::spawn(async move {
        for turn in 0.. {
            let (mut stream, _) = listener.accept().await.unwrap();
            match turn {
                0 | 1 => server.serve(stream),
                2 => stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n{]}").await.unwrap(),
                3 => {
                    let head = b"HTTP/1.1 200 OK\r\ncontent-length: 99999999\r\n\r\n";
                    stream.write_all(head).await.unwrap();
                    while stream.write_all(&[b' '; 4096]).await.is_ok() {}
                }
                _ => drop(stream),
            }
        }
    });
    let call = async |method, path: &'static str| {
        let client = Client::connect(&folder.path().join("vm.sock")).await.unwrap();
        assert_eq!(client.launcher_pid(), i32::try_from(std::process::id()).ok());
        client.call::<Status>(method, path, vec![], COMMAND_DEADLINE).await
    };
    assert_eq!(call(Method::POST, "/v1/pause").await.unwrap().phase, Phase::Paused);
    assert_eq!(call(Method::GET, "/v1/nothing").await.unwrap_err().class, Class::Usage);
    for _ in 0..3 {
        let problem =
            tokio::time::timeout(Duration::from_secs(10), call(Method::GET, "/v1/status")).await.unwrap();
        assert_eq!(problem.unwrap_err().class, Class::Unreachable);
    }
}

#[tokio::test(start_paused = true)]
async fn api_client_gives_up_in_time_on_a_socket_that_is_never_served() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("vm.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let begun = tokio::time::Instant::now();
    let client = Client::connect(&path).await.unwrap();
    let problem =
        client.call::<Status>(Method::GET, "/v1/status", vec![], SNAPSHOT_DEADLINE).await.unwrap_err();
    assert_eq!((problem.class, problem.what.as_str()), (Class::Unreachable, "no answer within 5 s"));
    assert!(begun.elapsed() < SNAPSHOT_DEADLINE * 2);

    // Its queue is full as well.
    rustix::net::listen(&listener, 0).unwrap();
    let mut waiting = Vec::new();
    while let Ok(client) = UnixStream::connect(&path).await {
        waiting.push(client);
    }
    let problem = Client::connect(&path).await.unwrap_err();
    assert!(problem.what.contains("does not accept connections"), "{problem}");
    assert!(Client::is_listening(&path).await, "it hangs, but it is there");
    drop(listener);
    assert!(!Client::is_listening(&path).await);
}

/// A sealed file's worth of descriptors, and what becomes of a request that they come along with.
#[tokio::test]
async fn descriptors_come_along_with_the_request_that_needs_them_and_with_no_other() {
    use std::os::fd::AsFd;
    let server = server(false);
    let files: Vec<_> = (0..4).map(|_| std::fs::File::open("/dev/null").unwrap()).collect();
    let body = |tls: bool| {
        let peer = if tls { r#", "tls_peer": "host-b""# } else { "" };
        format!(r#"{{"to": "unix:/x"{peer}}}"#)
    };
    for (count, tls, is_taken) in
        [(0, false, true), (3, true, true), (0, true, false), (2, true, false), (3, false, false)]
    {
        let (near, far) = tokio::net::UnixStream::pair().unwrap();
        let passed: Vec<_> = files.iter().take(count).map(AsFd::as_fd).collect();
        if count != 0 {
            super::passed::pass(&near, &passed).await.unwrap();
        }
        server.serve(far);
        let body = body(tls);
        let request =
            format!("POST /v1/migrate HTTP/1.1\r\nhost: b\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        let (mut near, mut answer) = (near, String::new());
        near.write_all(request.as_bytes()).await.unwrap();
        near.read_to_string(&mut answer).await.unwrap();
        let refused = answer.contains("files of an identity");
        assert_eq!(refused, !is_taken, "{count} descriptors, {tls}: {answer}");
    }
    let (near, _far) = tokio::net::UnixStream::pair().unwrap();
    let all: Vec<_> = files.iter().map(AsFd::as_fd).collect();
    assert!(super::passed::pass(&near, &all).await.is_err(), "no request takes four");
}
