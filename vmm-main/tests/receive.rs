// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `bulkhead receive` with whoever connects to it: strangers are closed and cost nothing, a source that breaks the
//! stream ends it with the reason, and nothing is left.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test stops at the first surprise, in its helpers too"
)]

mod support;

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use ipc::migration::frame::{EndOfRound, HEADER_LEN, Header, Hello, Kind, MigrationId};
use ipc::migration::pages::{PagesHead, Stretch};
use rcgen::{CertificateParams, KeyPair};
use support::{Lab, finish, guest};

const PATIENCE: Duration = Duration::from_secs(60);
const HERE: &str = "destination";
/// What a receiver says to everybody who connects.
const GREETING: &[u8; 20] = b"bulkhead receives 1\n";

/// A VM that waits for its guest.
struct Receiver<'a> {
    lab: &'a Lab,
    child: Child,
    socket: PathBuf,
    log: PathBuf,
}

impl<'a> Receiver<'a> {
    fn start(lab: &'a Lab) -> Self {
        let kernel = lab.file("Image", &guest::spins());
        let (socket, log) = (lab.path("migration.sock"), lab.path("destination.log"));
        let _ = std::fs::remove_file(&log);
        let listen = format!("unix:{}", socket.display());
        let secret = lab.file("secret", &[b's'; 32]);
        let words = ["receive", HERE, "--listen", &listen, "--secret-file", secret.to_str().unwrap()];
        let machine = ["--cpu", "soft", "--memory", "16M", "--console", "none", "--kernel"];
        let log_file = ["--log-file", log.to_str().unwrap()];
        let mut command = lab.command(&words);
        command.args(machine).arg(kernel).args(log_file);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let receiver = Self { lab, child, socket, log };
        receiver.await_log("waits for a guest");
        receiver
    }

    fn text(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    fn await_log(&self, text: &str) {
        let begun = Instant::now();
        while !self.text().contains(text) {
            assert!(begun.elapsed() < PATIENCE, "no {text:?} in {}", self.text());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Connects as anybody may, behind the greeting.
    fn connect(&self) -> Peer {
        let mut socket = UnixStream::connect(&self.socket).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut greeting = [0; 20];
        socket.read_exact(&mut greeting).unwrap();
        assert_eq!(&greeting, GREETING);
        Peer { socket, sequence: 0 }
    }

    /// Its end: with this exit code, for this reason, and with nothing left.
    fn end(self, code: i32, reason: &str) {
        let (lab, log) = (self.lab, self.log.clone());
        let output = finish(self.child);
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        let log = std::fs::read_to_string(log).unwrap_or_default();
        assert_eq!(output.status.code(), Some(code), "{reason}: {stderr}\n{log}");
        assert!(stderr.contains(reason), "{reason}: {stderr}\n{log}");
        assert!(!self.socket.exists(), "its socket is left");
        assert_eq!(lab.left_behind(), Vec::<String>::new(), "{reason}");
    }
}

/// Somebody who has connected.
struct Peer {
    socket: UnixStream,
    sequence: u64,
}

impl Peer {
    /// It may be closed already, or any moment.
    fn write(&mut self, bytes: &[u8]) {
        let _ = self.socket.write_all(bytes);
    }

    fn send(&mut self, kind: Kind, body: &[u8]) {
        let header = Header::of(kind, self.sequence, &[body]).to_bytes();
        self.sequence += 1;
        self.write(&[&header[..], body].concat());
    }

    /// Begins a migration of one lane.
    fn begin(&mut self) {
        let hello = Hello { migration: MigrationId([1; 16]), lane: 0, lane_count: 1 }.to_bytes();
        self.send(Kind::Hello, &hello);
        let mut answer = [0; HEADER_LEN + 20];
        self.socket.read_exact(&mut answer).unwrap();
        assert_eq!(answer[HEADER_LEN..], hello);
    }

    fn assert_closed(mut self, why: &str) {
        let mut rest = Vec::new();
        match self.socket.read_to_end(&mut rest) {
            Ok(_) => assert!(rest.is_empty(), "{why}: {rest:x?}"),
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{why}"),
        }
    }
}

#[test]
fn strangers_are_closed_and_the_guest_comes_all_the_same() {
    let Some(lab) = Lab::new() else { return };
    let receiver = Receiver::start(&lab);
    let hello = |migration, lane, lane_count| Hello { migration, lane, lane_count }.to_bytes();
    let good = hello(MigrationId([2; 16]), 0, 1);
    let framed = |bytes: &[u8]| [&Header::of(Kind::Hello, 0, &[bytes]).to_bytes()[..], bytes].concat();
    let mut other_version = framed(&good);
    other_version[4] = 7;
    let mut oversized = framed(&good);
    oversized[16..20].copy_from_slice(&u32::MAX.to_le_bytes());
    for (what, bytes) in [
        ("garbage", b"\x16\x03\x01\x02\x00 not a hello, but quite long all the same".to_vec()),
        ("another version", other_version),
        ("an oversized frame", oversized),
        ("no such lane", framed(&[0; 20])),
    ] {
        let mut peer = receiver.connect();
        peer.write(&bytes);
        peer.assert_closed(what);
    }
    let mut cut = receiver.connect();
    cut.write(&framed(&good)[..10]);
    drop(cut);
    // More than are let in at once.
    for _ in 0..70 {
        drop(receiver.connect());
    }
    // Ten at once, of whom none is whole: each is one of two lanes of a migration of its own, or says nothing.
    let halves: Vec<Peer> = (0..10)
        .map(|index| {
            let mut peer = receiver.connect();
            if index % 2 == 0 {
                peer.send(Kind::Hello, &hello(MigrationId([index; 16]), 1, 2));
            }
            peer
        })
        .collect();
    let kernel = lab.file("Image", &guest::spins());
    let mut source = lab.start(&kernel, &["--name", "source", "--cpu", "soft", "--console", "none"]);
    source.await_running();
    let (to, secret) = (format!("unix:{}", receiver.socket.display()), lab.path("secret"));
    let words = ["migrate", "source", "--to", &to, "--lanes", "3", "--secret-file", secret.to_str().unwrap()];
    let moved = lab.bulkhead(&words);
    assert!(moved.status.success(), "{moved:?}\n{}", receiver.text());
    assert_eq!(source.end().0.code(), Some(0));
    for half in halves {
        half.assert_closed("another migration was whole");
    }
    assert!(lab.bulkhead(&["status", HERE]).status.success());
    assert!(lab.bulkhead(&["stop", HERE]).status.success());
    receiver.end(0, "");
}

/// Who stands between the hosts until the migration is under way: what has been read of the other host.
fn let_begin(listener: &UnixListener, receiver: &Receiver<'_>) -> [UnixStream; 2] {
    let (mut source, _) = listener.accept().unwrap();
    source.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut there = receiver.connect().socket;
    source.write_all(GREETING).unwrap();
    let mut hello = [0; HEADER_LEN + 20];
    source.read_exact(&mut hello).unwrap();
    there.write_all(&hello).unwrap();
    there.read_exact(&mut hello).unwrap();
    source.write_all(&hello).unwrap();
    [source, there]
}

#[test]
fn stranger_who_comes_while_the_guest_does_is_closed_and_the_guest_arrives_all_the_same() {
    let Some(lab) = Lab::new() else { return };
    let receiver = Receiver::start(&lab);
    let kernel = lab.file("Image", &guest::spins());
    let mut source = lab.start(&kernel, &["--name", "source", "--cpu", "soft", "--console", "none"]);
    source.await_running();
    let listener = UnixListener::bind(lab.path("between.sock")).unwrap();
    let (to, secret) = (format!("unix:{}", lab.path("between.sock").display()), lab.path("secret"));
    let words = ["migrate", "source", "--to", &to, "--lanes", "1", "--secret-file", secret.to_str().unwrap()];
    let mut command = lab.command(&words);
    let migration = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let [here, there] = let_begin(&listener, &receiver);
    receiver.connect().assert_closed("a migration is under way");
    receiver.await_log("a connection is closed: a migration is under way");
    std::thread::scope(|scope| {
        for (from, to) in [(&here, &there), (&there, &here)] {
            scope.spawn(move || {
                let (mut from, mut to) = (from, to);
                // A host that is through may reset the connection.
                let _ = std::io::copy(&mut from, &mut to);
                let _ = to.shutdown(Shutdown::Write);
            });
        }
    });
    let moved = finish(migration);
    assert!(moved.status.success(), "{moved:?}\n{}", receiver.text());
    assert_eq!(source.end().0.code(), Some(0));
    assert!(lab.bulkhead(&["stop", HERE]).status.success());
    receiver.end(0, "");
}

#[test]
fn key_that_is_not_the_certificates_is_named_before_anybody_has_migrated() {
    let Some(lab) = Lab::new() else { return };
    let params = CertificateParams::new(vec!["host-b".to_owned()]).unwrap();
    let keys = [(); 2].map(|()| KeyPair::generate().unwrap());
    let certificate = params.self_signed(&keys[0]).unwrap().pem();
    let files = [("ca", certificate.clone()), ("cert", certificate), ("key", keys[1].serialize_pem())];
    let kernel = lab.file("Image", &guest::spins());
    let (secret, listen) =
        (lab.file("secret", &[b's'; 32]), format!("unix:{}", lab.path("migration.sock").display()));
    let words = ["receive", HERE, "--listen", &listen, "--secret-file", secret.to_str().unwrap()];
    let mut command = lab.command(&words);
    command.args(["--cpu", "soft", "--memory", "16M", "--console", "none", "--tls-peer", "host-a"]);
    for (name, text) in files {
        command.arg(format!("--tls-{name}")).arg(lab.file(name, text.as_bytes()));
    }
    command.arg("--kernel").arg(kernel).stdout(Stdio::piped()).stderr(Stdio::piped());
    let output = finish(command.spawn().unwrap());
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    for words in ["the private key is not that of the certificate", "give --tls-ca, --tls-cert and --tls-key"]
    {
        assert!(said.contains(words), "{words}: {said}");
    }
    for words in ["no guest has come", "bulkhead migrate"] {
        assert!(!said.contains(words), "nobody has migrated: {said}");
    }
    assert_eq!(lab.left_behind(), Vec::<String>::new());
}

#[test]
fn source_that_breaks_the_stream_ends_the_receiver_with_the_reason() {
    let Some(lab) = Lab::new() else { return };
    let pages = |word| {
        let head = PagesHead { stretch: Stretch { word, pages: 1 } };
        [&head.to_bytes()[..], &[1; 4096]].concat()
    };
    type Breach = Box<dyn Fn(&mut Peer)>;
    let cases: [(&str, Breach); 6] = [
        ("has closed the connection", Box::new(|peer| peer.socket.shutdown(Shutdown::Write).unwrap())),
        (
            "is lost",
            Box::new(|peer| {
                peer.write(&Header::of(Kind::Message, 1, &[b"cut"]).to_bytes());
                peer.socket.shutdown(Shutdown::Write).unwrap();
            }),
        ),
        ("no migration stream", Box::new(|peer| peer.write(&[0xee; 100]))),
        // Above all of RAM.
        ("not all RAM", Box::new(move |peer| peer.send(Kind::Pages, &pages(1 << 20)))),
        (
            "round 3 where 0 is due",
            Box::new(|peer| {
                peer.send(Kind::EndOfRound, &EndOfRound { round: 3, page_count: 0 }.to_bytes());
            }),
        ),
        (
            "not authentic",
            Box::new(|peer| peer.send(Kind::Message, b"Commit, says somebody without the secret")),
        ),
    ];
    for (reason, breach) in cases {
        let receiver = Receiver::start(&lab);
        let mut peer = receiver.connect();
        peer.begin();
        breach(&mut peer);
        receiver.end(5, reason);
    }
}

#[cfg(debug_assertions)]
#[test]
fn mover_that_attempts_what_is_refused_is_reported_and_ends_the_migration_alone() {
    /// What must end the process, and the call that its report must name. The others may also be refused by an error.
    const DEADLY: [(&str, &str); 6] = [
        ("socket", "socket("),
        ("ptrace", "ptrace("),
        ("foreign-ioctl", "ioctl("),
        ("mmap-exec", "mmap("),
        ("unshare", "unshare("),
        ("mount", "mount("),
    ];
    let Some(lab) = Lab::new() else { return };
    for attempt in ["open", "execve", "fork", "kill"].into_iter().chain(DEADLY.map(|(attempt, _)| attempt)) {
        let receiver = Receiver::start(&lab);
        receiver.await_log("sealed process=mover");
        let row = lab.process("mover");
        assert_eq!((&row["profile"], &row["observed"]["drift"]), (&"mover".into(), &serde_json::json!([])));
        let answer = lab.bulkhead(&["probe", "mover", attempt, HERE]);
        let text = String::from_utf8_lossy(&answer.stdout).into_owned();
        if answer.status.success() {
            assert!(text.starts_with("refused with errno"), "{attempt}: {text}");
            assert!(!DEADLY.iter().any(|(deadly, _)| *deadly == attempt), "{attempt}: {text}");
            assert!(lab.bulkhead(&["stop", HERE]).status.success());
            receiver.end(0, "");
            continue;
        }
        let call = DEADLY.iter().find(|(deadly, _)| *deadly == attempt).map_or("", |(_, call)| call);
        assert!(String::from_utf8_lossy(&answer.stderr).contains("refused: "), "{attempt}: {answer:?}");
        receiver.end(5, call);
    }
}
