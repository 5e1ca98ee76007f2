// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Clients that come late, read slowly, leave or are one too many.

use super::*;

/// A console's output, the path of its socket, and the guest's end of its input.
fn console() -> (tempfile::TempDir, Output, std::path::PathBuf, UnixStream) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("vm.console");
    let (guest, launcher) = UnixStream::pair().unwrap();
    let output = start(UnixListener::bind(&path).unwrap(), launcher).unwrap();
    (folder, output, path, guest)
}

fn read(stream: &mut UnixStream, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    stream.read_exact(&mut bytes).unwrap();
    bytes
}

#[test]
fn client_sees_the_latest_output_then_what_follows_and_its_input_reaches_the_guest() {
    let (_folder, output, path, mut guest) = console();
    output.print(b"before ");
    let mut client = UnixStream::connect(&path).unwrap();
    assert_eq!(read(&mut client, 7), b"before ");
    output.print(b"after");
    assert_eq!(read(&mut client, 5), b"after");
    client.write_all(b"keys\x01x").unwrap();
    assert_eq!(read(&mut guest, 6), b"keys\x01x", "bytes are not looked at");
    output.end();
    let mut rest = Vec::new();
    client.read_to_end(&mut rest).unwrap();
    assert_eq!(rest, b"");
}

#[test]
fn second_client_is_told_who_is_attached_and_attaches_when_the_first_has_left() {
    let (_folder, output, path, _guest) = console();
    output.print(b"first");
    let mut first = UnixStream::connect(&path).unwrap();
    assert_eq!(read(&mut first, 5), b"first");
    let mut said = String::new();
    UnixStream::connect(&path).unwrap().read_to_string(&mut said).unwrap();
    let own = std::process::id();
    assert_eq!(said, format!("bulkhead: process {own} is attached to this console\r\n"));
    drop(first);
    // When its end is noticed is the launcher's business.
    loop {
        let mut next = UnixStream::connect(&path).unwrap();
        if read(&mut next, 5) == b"first" {
            break;
        }
    }
}

#[test]
fn client_that_does_not_read_holds_nobody_up_and_is_told_what_it_has_missed() {
    let (_folder, output, path, _guest) = console();
    let mut client = UnixStream::connect(&path).unwrap();
    output.print(b"begin");
    assert_eq!(read(&mut client, 5), b"begin");
    // Far more than the socket and the buffer hold.
    let line = [b'.'; CHUNK_LEN];
    (0..1000).for_each(|_| output.print(&line));
    output.print(b"end\n");
    let ending = thread::spawn(move || output.end());
    let mut seen = Vec::new();
    client.read_to_end(&mut seen).unwrap();
    ending.join().unwrap();
    let text = String::from_utf8(seen).unwrap();
    assert!(text.ends_with("end\n") && text.len() < 1000 * CHUNK_LEN, "{} bytes", text.len());
    let notices = text.split("\r\n[bulkhead: ").skip(1);
    let lost = notices.map(|notice| {
        let (lost, _) = notice.split_once(" bytes of output were not read in time]\r\n").unwrap();
        lost.parse::<usize>().unwrap()
    });
    let (lost, shown) = (lost.sum::<usize>(), text.matches('.').count());
    assert_eq!(lost + shown, 1000 * CHUNK_LEN, "all that is missing is told of");
}

#[test]
fn client_whose_input_no_guest_reads_can_leave() {
    let (_folder, _output, path, guest) = console();
    let mut client = UnixStream::connect(&path).unwrap();
    client.set_nonblocking(true).unwrap();
    // As much as socket, queue and the guest's end hold.
    let keys = [b'k'; CHUNK_LEN];
    let mut refused = 0;
    while refused < 20 {
        match client.write(&keys) {
            Ok(_) => refused = 0,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                refused += 1;
                thread::sleep(Duration::from_millis(10));
            }
            Err(error) => panic!("{error}"),
        }
    }
    drop(client);
    loop {
        let next = UnixStream::connect(&path).unwrap();
        let mut byte = [0];
        next.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        // One that is refused is told so at once.
        if (&next).read(&mut byte).is_err() {
            break;
        }
    }
    drop(guest);
}
