// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Writes by message are in the log when the client has made them.

use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use ipc::deadline::Deadline;
use ipc::vfio_user::connection::Connection;
use ipc::vfio_user::dma::{DmaAccess, DmaMap};
use rustix::io::Errno;
use zerocopy::IntoBytes;

use super::ClientMemory;
use crate::dma::HostMemory;

fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(30))
}

#[test]
fn page_written_by_message_is_in_a_report_after_the_client_wrote_it() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let memory = Arc::new(ClientMemory::new(Arc::new(Connection::new(ours.into())), 4096));
    memory.windows.add(&DmaMap::new(0x1000, 0x4000, 0, DmaMap::READ | DmaMap::WRITE), None).unwrap();
    assert!(memory.windows.log.start(Vec::new()));
    let reported = |memory: &ClientMemory| memory.windows.log.harvest(0, 16 << 12, 4096, 8)[0];
    let client = {
        let memory = Arc::clone(&memory);
        thread::spawn(move || {
            let connection = Connection::new(theirs.into());
            // Three pieces of the write, two of the completion, and one that it says it cannot make.
            for number in 0..6 {
                let incoming = connection.receive(soon()).unwrap();
                let (access, _) = DmaAccess::decode_write(&incoming.body).unwrap();
                // What is reported here it copies as it was.
                let _ = reported(&memory);
                let answered = match number {
                    5 => connection.fail(&incoming, Errno::FAULT, soon()),
                    _ => connection.reply(&incoming, &[access.as_bytes()], &[], soon()),
                };
                answered.unwrap();
            }
        })
    };
    // The client's look at the second and third piece has taken what was logged with those before.
    memory.write(0x1ffc, &[1; 0x2004]).unwrap();
    assert_eq!(reported(&memory), 0b1000);
    memory.publish(0x2000, &[[1; 16]]).unwrap();
    assert_eq!(reported(&memory), 0b100);
    assert!(memory.write(0x4000, &[1]).is_err());
    assert_eq!(reported(&memory), 0b1_0000);
    client.join().unwrap();
}
