// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Lines on each of their ways: whole, marked no more, harmless, and not in the guest's.

use std::io::Read;
use std::os::fd::OwnedFd;

use super::*;

fn pipe() -> (io::PipeReader, File) {
    let (reader, writer) = io::pipe().unwrap();
    (reader, File::from(OwnedFd::from(writer)))
}

fn output(route: Route, json: bool) -> LogOutput {
    LogOutput { route, json, line: Vec::new(), unseen_count: 0 }
}

fn all(mut reader: io::PipeReader) -> String {
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    text
}

#[test]
fn log_lines_are_shown_without_marks_and_obeyed_by_no_terminal() {
    let (reader, stderr) = pipe();
    let mut log = output(Route::Apart(stderr), false);
    for piece in ["<6>one\n<", "4>two \x1b[31m\n\n", "unmarked\n<3>no end"] {
        log.take(piece.as_bytes());
    }
    log.take(&vec![b'x'; 3 * LINE_LEN_MAX]);
    log.finish();
    drop(log);
    let text = all(reader);
    assert!(text.starts_with("one\ntwo \\u{1b}[31m\nunmarked\nno endxxx"), "{text}");
    assert!(text.ends_with("x\n") && text.len() < 2 * LINE_LEN_MAX);
}

#[test]
fn log_lines_of_json_stay_json() {
    let (reader, stderr) = pipe();
    let mut log = output(Route::Apart(stderr), true);
    log.take(b"<6>{\"message\":\"a \\u001b \xc2\x9b b\"}\n");
    drop(log);
    let line: serde_json::Value = serde_json::from_str(&all(reader)).unwrap();
    assert_eq!(line["message"], "a \u{1b} \u{fffd} b");
}

#[test]
fn log_lines_on_the_consoles_way_stand_between_the_guests() {
    let (reader, stderr) = pipe();
    let mut stdout = stderr.try_clone().unwrap();
    assert!(is_one_place(stdout.as_fd(), stderr.as_fd()));
    let screen = Arc::new(Screen::default());
    let mut log = output(Route::Between(stderr, Arc::clone(&screen)), false);
    log.take(b"<6>first\n");
    screen.guest(b"guest", || put(&mut stdout, b"guest")).unwrap();
    log.take(b"<6>second\n");
    screen.guest(b"goes on\r\n", || put(&mut stdout, b"goes on\r\n")).unwrap();
    log.take(b"<6>third\n");
    drop((log, stdout));
    assert_eq!(all(reader), "first\nguest\nsecond\ngoes on\r\nthird\n");
}

#[test]
fn log_of_a_guests_terminal_is_kept_in_a_file_and_early_warnings_are_shown() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("vm.log");
    let (reader, stderr) = pipe();
    let screen = Arc::new(Screen::default());
    let file = RotatedFile::begin(&path, FILE_LEN_MAX, HEADS[0], &HEADS).unwrap();
    let mut log = output(Route::Kept(file, Some((stderr, Arc::clone(&screen)))), false);
    log.take(b"<6>sealed\n<4>a device is left out\n");
    screen.guest(b"x", || ());
    log.take(b"<4>late\n<6>more\n<3>worse\n");
    assert_eq!(log.unseen_count, 2);
    drop(log);
    assert_eq!(all(reader), "a device is left out\n");
    assert_eq!(
        std::fs::read_to_string(&path).unwrap(),
        "bulkhead log\nsealed\na device is left out\nlate\nmore\nworse\n"
    );
}

#[test]
fn own_lines_take_the_logs_way_and_never_wait() {
    let (mut reader, writer) = io::pipe().unwrap();
    let own = OwnLog::new(writer, false).unwrap();
    own.say(Level::Warn, "first\x1b");
    let mut text = [0; 20];
    reader.read_exact(&mut text).unwrap();
    assert_eq!(text.as_slice(), b"<4>WARN first\\u{1b}\n");
    // More than a pipe holds, and nobody reads.
    for _ in 0..10_000 {
        own.say(Level::Info, &"x".repeat(100));
    }
    let (reader, writer) = io::pipe().unwrap();
    OwnLog::new(writer, true).unwrap().say(Level::Error, "a \"b\"");
    let line = all(reader);
    let line: serde_json::Value = serde_json::from_str(line.strip_prefix("<3>").unwrap()).unwrap();
    assert_eq!((&line["level"], &line["message"]), (&"ERROR".into(), &"a \"b\"".into()));
}
