// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the journal costs: the same controller with one, as a part of a VM has it, and without, as the program that is
//! started by hand. Both in this process, over the same image, their turns alternating.

use std::fs::File;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::thread;

use dev_nvme::device::Device;
use dev_nvme::identity::Identity;
use dev_nvme::journal::Journal;
use dev_nvme::media::Image;
use dev_nvme::service;
use ipc::shm::checkpoint::Checkpoint;

use super::pattern::{IMAGE_LEN, Pattern};
use super::{Measured, program};

/// A turn of the pattern.
pub fn run(image: &Path, pattern: Pattern, has_journal: bool) -> Measured {
    let file = File::options().read(true).write(true).open(image).unwrap();
    let identity = Identity::new("BENCH", IMAGE_LEN, 512).unwrap();
    let device = Arc::new(Device::new(identity, Box::new(Image::new(file))));
    if has_journal {
        device.keep_in(Journal::attach(&Checkpoint::create("bench").unwrap()).unwrap());
        device.begin();
    }
    service::start_workers(&device).unwrap();
    let (ours, theirs) = UnixStream::pair().unwrap();
    let served = Arc::clone(&device);
    let session = thread::spawn(move || service::serve_client(&served, theirs.into()).unwrap());
    let measured = program::drive(ours, pattern, std::process::id());
    session.join().unwrap();
    device.engine().end();
    measured
}
