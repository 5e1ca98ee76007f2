// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Copies of programs whose files are slow, or hang.

use std::sync::mpsc::{Receiver, channel};

use ipc::shm::memory_file;

use super::*;

/// A file that gives nothing until it is told to.
fn hung(until: Receiver<()>) -> impl FnOnce() -> io::Result<OwnedFd> + Send + 'static {
    move || {
        let _ = until.recv();
        Ok(memory_file::create("late")?)
    }
}

#[tokio::test]
async fn program_whose_file_hangs_is_given_up_and_no_other_is_copied_while_its_thread_lives() {
    let copies = Arc::new(Semaphore::new(1));
    let (release, until) = channel();
    let late = copied(&copies, Duration::ZERO, hung(until)).await.unwrap_err();
    assert_eq!(late.to_string(), "it was not copied within 0 s");
    for _ in 0..3 {
        let refused = copied(&copies, COPY_DEADLINE, || panic!("a second thread")).await.unwrap_err();
        assert_eq!(refused.to_string(), "another program is still being copied");
    }
    drop(release);
    drop(timeout(COPY_DEADLINE, copies.acquire()).await.expect("its thread ends"));
    // One is done when it is told of.
    for _ in 0..100 {
        let next = copied(&copies, COPY_DEADLINE, || Ok(memory_file::create("next")?)).await;
        assert!(next.is_ok(), "{next:?}");
    }
}

#[tokio::test]
async fn request_that_takes_the_place_of_another_makes_no_second_thread() {
    let copies = Arc::new(Semaphore::new(1));
    let (release, until) = channel();
    let mut first = Box::pin(copied(&copies, COPY_DEADLINE, hung(until)));
    assert!(timeout(Duration::ZERO, first.as_mut()).await.is_err());
    drop(first);
    let refused = copied(&copies, COPY_DEADLINE, || panic!("a second thread")).await.unwrap_err();
    assert_eq!(refused.to_string(), "another program is still being copied");
    drop(release);
    drop(timeout(COPY_DEADLINE, copies.acquire()).await.expect("its thread ends"));
}
