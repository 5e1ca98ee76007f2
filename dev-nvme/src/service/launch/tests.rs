// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The command line, what is handed to the sealed process, and what it may print.

use clap::Parser;

use super::output::Output;
use super::sealed::LaunchArgs;
use super::*;

fn parse(args: &[&str]) -> Result<Options, clap::Error> {
    Options::try_parse_from(std::iter::once(&"bulkhead-nvme").chain(args))
}

#[test]
fn options_have_defaults_and_limits() {
    let options = parse(&["--image", "a", "--socket-path", "b"]).unwrap();
    assert_eq!((options.block_len, &options.serial, options.shared), (512, &None, false));
    let given =
        ["--socket=b", "--serial=S1", "--block-size=4096", "--shared-image", "--readonly", "--image=a"];
    let options = parse(&given).unwrap();
    assert_eq!((options.block_len, options.serial.as_deref()), (4096, Some("S1")));
    assert!(options.shared && options.readonly && options.image.as_os_str() == "a");
    for (args, said) in [
        (&["--image", "a"][..], "--socket-path"),
        (&["--socket", "a"], "--image <FILE>"),
        (&["--image"], "a value is required"),
        (&["--imagine", "a"], "unexpected argument '--imagine'"),
        (&["--image", "a", "--socket", "b", "--block-size", "many"], "512 or 4096 bytes"),
        (&["--image", "a", "--socket", "b", "--serial", "twenty-one characters"], "1 to 20 visible"),
        (&["--image", "a", "--socket", "b", "--serial="], "1 to 20 visible"),
    ] {
        let error = parse(args).unwrap_err().to_string();
        assert!(error.contains(said), "{args:?}: {error}");
    }
}

#[test]
fn arguments_read_back_are_equal() {
    for (serial, readonly) in [(None, true), (Some("S1".to_owned()), false)] {
        let presented = Presented { block_len: 4096, serial, readonly };
        let launch = LaunchArgs { presented, image_name: "\"a \\n b\"".to_owned() };
        let args = launch.to_args().unwrap().into_iter().map(|arg| arg.into_string().unwrap());
        let args: Vec<_> = args.collect();
        assert_eq!(LaunchArgs::from_args(&mut args.iter().cloned()).unwrap(), Some(launch));
        for cut in 1..args.len() {
            assert!(LaunchArgs::from_args(&mut args.iter().take(cut).cloned()).is_err(), "{cut} words");
        }
    }
    assert_eq!(LaunchArgs::from_args(&mut ["--image".to_owned()].into_iter()).unwrap(), None);
    assert_eq!(LaunchArgs::from_args(&mut std::iter::empty()).unwrap(), None);
}

#[test]
fn output_is_cut_made_printable_and_bounded() {
    let start = Instant::now();
    let mut output = Output::new(start);
    let mut lines = Vec::new();
    let mut feed = |output: &mut Output, bytes: &[u8], now| {
        output.feed(bytes, now, |line| lines.push(line.to_owned()));
        std::mem::take(&mut lines)
    };
    assert_eq!(feed(&mut output, b"one\ntw", start), ["one"]);
    assert_eq!(feed(&mut output, b"o\r\n", start), ["two"]);
    assert_eq!(feed(&mut output, b"\x1b[2J\n", start), ["\\u{1b}[2J"]);
    assert!(feed(&mut output, &[b'a'; 10_000], start).is_empty());
    assert_eq!(feed(&mut output, b"\n", start), ["a".repeat(1024)]);
    assert_eq!(feed(&mut output, &b"flood\n".repeat(10_000), start).len(), 96);
    let later = start + std::time::Duration::from_secs(25);
    assert_eq!(feed(&mut output, &b"flood\n".repeat(10_000), later).len(), 2);
}
