// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The command line, and sockets that others left behind.

use std::os::unix::net::UnixListener;

use super::{Options, bind};

fn parse(args: &[&str]) -> anyhow::Result<Options> {
    Options::parse(args.iter().map(Into::into))
}

#[test]
fn options_have_defaults_and_limits() {
    let options = parse(&["--image", "a", "--socket-path", "b"]).unwrap();
    assert_eq!((options.block_len, options.serial.as_str(), options.shared), (512, "BULKHEAD0001", false));
    let given = ["--socket", "b", "--serial", "S1", "--block-size", "4096", "--shared-image", "--image", "a"];
    let options = parse(&given).unwrap();
    assert_eq!((options.block_len, options.serial.as_str(), options.shared), (4096, "S1", true));
    for (args, said) in [
        (&["--image", "a"][..], "--socket-path is missing"),
        (&["--socket", "a"], "--image is missing"),
        (&["--image"], "--image needs a value"),
        (&["--imagine", "a"], "unknown option --imagine"),
        (&["--block-size", "many"], "--block-size is no number"),
        (&["--image", "a", "--socket", "b", "--serial", "twenty-one characters"], "--serial is 1 to 20"),
    ] {
        let error = parse(args).unwrap_err().to_string();
        assert!(error.contains(said), "{args:?}: {error}");
    }
}

#[test]
fn stale_socket_is_replaced_and_a_live_one_is_not() {
    let path = std::env::temp_dir().join(format!("bulkhead-nvme-bind-{}", std::process::id()));
    drop(UnixListener::bind(&path).unwrap());
    let live = bind(&path).unwrap();
    assert!(bind(&path).unwrap_err().to_string().contains("in use"));
    drop(live);
    std::fs::remove_file(&path).unwrap();
}
