// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A process that answers, one that is late, one that is gone, and many questions to one that says nothing.

use ipc::channel::{self, Channel, Incoming};
use ipc::hello::{Hello, Role};
use ipc::protocol::control::Control;
use tokio::time::sleep;

use super::*;

const SHORT: Duration = Duration::from_millis(200);
const LONG: Duration = Duration::from_secs(30);

fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(10))
}

/// An inspector, and the process's end of the channel.
async fn pair() -> (Inspector, Arc<Channel<Control>>) {
    let (ours, theirs) = channel::pair().unwrap();
    let process = std::thread::spawn(move || {
        let channel = Channel::from_fd(theirs, Hello::new(Role::Smmu, 1));
        channel.hello(Role::Coordinator, soon()).unwrap();
        channel
    });
    let hello = Hello::new(Role::Coordinator, 1);
    let channel = AsyncChannel::connect(ours, hello, Role::Smmu, soon()).await.unwrap();
    (Inspector::new(InstanceId::new(Role::Smmu, 0), Arc::new(channel)), Arc::new(process.join().unwrap()))
}

/// Takes the next question and answers it.
async fn answer(process: &Arc<Channel<Control>>, reply: Reply) {
    let process = Arc::clone(process);
    let answered = tokio::task::spawn_blocking(move || {
        let Incoming::Request { request_id, body, .. } = process.recv(soon()).unwrap() else { panic!() };
        assert_eq!(body, Request::Inspect);
        process.reply::<std::os::fd::OwnedFd>(request_id, &reply, &[], soon()).unwrap();
    });
    answered.await.unwrap();
}

#[tokio::test]
async fn inspection_of_a_silent_process_ends_in_time_and_of_a_process_that_answers_tells_its_values() {
    let (inspector, process) = pair().await;
    let late = inspector.inspect(SHORT).await;
    assert!(late.unanswered.as_deref().is_some_and(|why| why.contains("does not answer")), "{late:?}");
    // It is asked once, however often somebody wants to know.
    for _ in 0..2 * channel::LATE_MAX {
        assert!(inspector.inspect(Duration::from_millis(1)).await.unanswered.is_some());
    }
    let mut told = Inspect::new();
    told.counter("commands", 7);
    let reply = Reply::Inspect(told);
    answer(&process, reply.clone()).await;
    let asked = tokio::spawn(async move { inspector.inspect(LONG).await });
    answer(&process, reply).await;
    let answered = asked.await.unwrap();
    assert_eq!(answered.unanswered, None);
    assert_eq!(answered.values["commands"], 7);
    assert!(process.recv(Deadline::now()).is_err(), "nothing else was asked");
}

#[tokio::test]
async fn inspection_of_a_process_that_goes_or_talks_nonsense_says_so() {
    let (inspector, process) = pair().await;
    let other = inspector.clone();
    let asked = tokio::spawn(async move { other.inspect(LONG).await });
    answer(&process, Reply::Done).await;
    assert!(asked.await.unwrap().unanswered.is_some_and(|why| why.contains("Done")));
    drop(process);
    // The end is seen by the reading half, a moment later.
    loop {
        let gone = inspector.inspect(LONG).await.unanswered.unwrap();
        if gone.contains("gone") {
            break;
        }
        sleep(Duration::from_millis(5)).await;
    }
}
