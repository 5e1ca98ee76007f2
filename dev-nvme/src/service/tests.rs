// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A session that does not end is given up, and one that ends is not.

use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

use super::{END_DEADLINE, ServiceError, await_end, vectors::Vectors};
use ipc::protocol::budget;

use crate::device::{DRAIN_DEADLINE, RESET_DRAIN, STOP_DRAIN};

#[test]
fn session_that_does_not_end_is_given_up_in_time() {
    let (_ended, end) = sync_channel(1);
    let since = Instant::now();
    let deadline = Duration::from_millis(100);
    assert!(matches!(await_end(&end, &Vectors::default(), deadline), Err(ServiceError::Stuck)));
    assert!(since.elapsed() >= deadline);
}

#[test]
fn session_that_ends_late_is_waited_for_and_its_word_counts() {
    let (ended, end) = sync_channel(1);
    let late = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(100));
        ended.send(Err(ServiceError::Accept(rustix::io::Errno::MFILE))).unwrap();
    });
    let said = await_end(&end, &Arc::<Vectors>::default(), END_DEADLINE);
    assert!(matches!(said, Err(ServiceError::Accept(_))), "{said:?}");
    late.join().unwrap();
}

#[test]
fn session_whose_thread_died_is_given_up_at_once() {
    let (ended, end) = sync_channel::<Result<(), ServiceError>>(1);
    drop(ended);
    let since = Instant::now();
    assert!(matches!(await_end(&end, &Vectors::default(), END_DEADLINE), Err(ServiceError::Stuck)));
    assert!(since.elapsed() < END_DEADLINE / 2);
}

#[test]
fn deadline_of_an_end_covers_the_waits_in_it() {
    // A reset that the client had asked for, and the one that follows it.
    assert!(END_DEADLINE > 2 * DRAIN_DEADLINE);
}

#[test]
fn client_that_waits_is_answered_in_its_time_though_the_disk_is_not() {
    assert!(RESET_DRAIN < budget::vfio::ANSWER);
    assert!(STOP_DRAIN < budget::vfio::STATE);
}
