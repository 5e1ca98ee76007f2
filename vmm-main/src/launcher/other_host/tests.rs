// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Who is connected to, who is not, and what is left of a listener.

use std::io::{Read, Write};

use super::*;

fn unix(folder: &Path, name: &str) -> Address {
    Address::Unix(folder.join(name))
}

/// Dials a listener; both ends of the connection.
async fn meet(listener: &Listener) -> (OwnedFd, OwnedFd) {
    let accepting = listener.accepting().unwrap();
    let (dialled, accepted) = tokio::join!(dial(&listener.address, Reach::Loopback), accepting.next());
    (dialled.unwrap(), accepted.unwrap())
}

#[tokio::test]
async fn connection_begins_behind_the_greeting_and_does_not_block() {
    let folder = tempfile::tempdir().unwrap();
    for address in [unix(folder.path(), "socket"), Address::Tcp("127.0.0.1:0".to_owned())] {
        let listener = Listener::bind(&address, Reach::Loopback).unwrap();
        let (here, there) = meet(&listener).await;
        // Of any family, as the process that gets it has it.
        let (mut here, mut there) = (UnixStream::from(here), UnixStream::from(there));
        assert_eq!(here.read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock, "{address}");
        assert_eq!(there.read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock, "{address}");
        here.write_all(b"x").unwrap();
        there.set_nonblocking(false).unwrap();
        let mut byte = [0];
        there.read_exact(&mut byte).unwrap();
        assert_eq!(&byte, b"x");
    }
}

#[tokio::test]
async fn whoever_does_not_greet_as_a_receiver_does_is_not_connected_to() {
    let folder = tempfile::tempdir().unwrap();
    for words in [&b"SSH-2.0-OpenSSH_9.2p1\r\n"[..], b"", b"bulkhead receives 2\n"] {
        let address = unix(folder.path(), "stranger");
        let Address::Unix(path) = &address else { unreachable!() };
        let listener = std::os::unix::net::UnixListener::bind(path).unwrap();
        let stranger = std::thread::spawn(move || {
            let (mut connection, _) = listener.accept().unwrap();
            connection.write_all(words).unwrap();
        });
        let error = dial(&address, Reach::Loopback).await.unwrap_err();
        assert!(error.to_string().contains("no `bulkhead receive`"), "{words:?}: {error}");
        stranger.join().unwrap();
        fs::remove_file(path).unwrap();
    }
    assert_eq!(
        dial(&unix(folder.path(), "nobody"), Reach::Loopback).await.unwrap_err().kind(),
        ErrorKind::NotFound
    );
}

#[tokio::test(start_paused = true)]
async fn whoever_says_nothing_is_given_up() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("silent");
    let _listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    assert_eq!(dial(&Address::Unix(path), Reach::Loopback).await.unwrap_err().kind(), ErrorKind::TimedOut);
}

#[tokio::test]
async fn nothing_is_sent_in_the_clear_to_another_host_or_received_from_one() {
    // An address for documentation: nobody has it.
    let error = dial(&Address::Tcp("192.0.2.1:1".to_owned()), Reach::Loopback).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    let anywhere = Address::Tcp("0.0.0.0:0".to_owned());
    let problem = Listener::bind(&anywhere, Reach::Loopback).unwrap_err();
    assert!(problem.what.contains("--tls-ca") && problem.what.contains("--insecure"), "{problem:?}");
    for (has_tls, insecure) in [(true, false), (false, true)] {
        assert!(Listener::bind(&anywhere, Reach::of(has_tls, insecure)).is_ok());
    }
    assert_eq!(Reach::of(false, false), Reach::Loopback);
}

#[test]
fn socket_is_this_users_and_leaves_no_file_and_replaces_one_that_was_left() {
    let folder = tempfile::tempdir().unwrap();
    let address = unix(folder.path(), "socket");
    let Address::Unix(path) = &address else { unreachable!() };
    // As after a kill.
    drop(std::os::unix::net::UnixListener::bind(path).unwrap());
    let listener = Listener::bind(&address, Reach::Loopback).unwrap();
    assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
    let second = Listener::bind(&address, Reach::Loopback).unwrap_err();
    assert!(second.advice.contains("somebody else"), "{second:?}");
    assert!(path.exists(), "the first one's is not taken away");
    drop(listener);
    assert!(!path.exists());
}

#[test]
fn file_that_is_no_socket_is_not_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    fs::write(&path, "precious").unwrap();
    assert!(Listener::bind(&Address::Unix(path.clone()), Reach::Loopback).is_err());
    assert_eq!(fs::read(&path).unwrap(), b"precious");
}

#[test]
fn address_is_read_and_shown() {
    for text in ["unix:/run/a b", "host:1", "[::1]:65535"] {
        assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
    }
    for text in ["", "unix:", "host", "host:", ":1", "host:65536", "host:http"] {
        assert_eq!(text.parse::<Address>(), Err(NoAddress), "{text:?}");
    }
}
