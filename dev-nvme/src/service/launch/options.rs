// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The command line of the program used by itself.

use std::path::PathBuf;

use clap::Parser;

/// An NVMe controller for vfio-user clients, over a raw image, in a sandbox of its own.
#[derive(Clone, Debug, PartialEq, Eq, Parser)]
#[command(name = "bulkhead-nvme", version, about)]
pub struct Options {
    /// Raw image or block device: the namespace's blocks
    #[arg(long, value_name = "FILE")]
    pub image: PathBuf,
    /// Unix socket that clients connect to, one at a time
    #[arg(long = "socket-path", alias = "socket", value_name = "PATH")]
    pub socket: PathBuf,
    /// Logical block size: 512 or 4096
    #[arg(long = "block-size", value_name = "BYTES", default_value = "512", value_parser = block_len)]
    pub block_len: u32,
    /// Serial number, 1 to 20 visible characters; left out, it follows from the image file
    #[arg(long, value_name = "TEXT", value_parser = serial)]
    pub serial: Option<String>,
    /// Only read the image: the guest sees a write-protected disk
    #[arg(long)]
    pub readonly: bool,
    /// Do not lock the image for exclusive use: for the other end of a migration
    #[arg(long = "shared-image")]
    pub shared: bool,
}

fn block_len(text: &str) -> Result<u32, String> {
    match text {
        "512" => Ok(512),
        "4096" => Ok(4096),
        _ => Err("a block has 512 or 4096 bytes".to_owned()),
    }
}

fn serial(text: &str) -> Result<String, String> {
    let visible = text.bytes().all(|byte| byte.is_ascii_graphic());
    if visible && (1..=20).contains(&text.len()) {
        Ok(text.to_owned())
    } else {
        Err("a serial number is 1 to 20 visible ASCII characters".to_owned())
    }
}
