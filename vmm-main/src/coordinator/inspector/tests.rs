// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A process that answers, one that is late, one that is gone, and many questions to one that says nothing.

use ipc::hello::Role;
use ipc::protocol::inspect::Inspect;

use super::*;

const SHORT: Duration = Duration::from_millis(200);
const LONG: Duration = Duration::from_secs(30);
const SMMU0: InstanceId = InstanceId::new(Role::Smmu, 0);

#[tokio::test(start_paused = true)]
async fn inspection_of_a_silent_process_ends_in_time_and_of_a_process_that_answers_tells_its_values() {
    let (inspector, mut questions) = Inspector::new(SMMU0);
    let late = inspector.clone().inspect(SHORT).await;
    assert!(late.unanswered.as_deref().is_some_and(|why| why.contains("does not answer")), "{late:?}");
    // Its questions do not pile up, however often somebody wants to know.
    for _ in 0..100 {
        assert!(inspector.clone().inspect(Duration::from_millis(1)).await.unanswered.is_some());
    }
    let first = questions.recv().await.unwrap();
    assert!(first.is_closed() && questions.try_recv().is_err(), "one waits, and nobody for its answer");
    let asked = tokio::spawn(inspector.inspect(LONG));
    let mut told = Inspect::new();
    told.counter("commands", 7);
    questions.recv().await.unwrap().send(Ok(Reply::Inspect(told))).unwrap();
    let answered = asked.await.unwrap();
    assert_eq!((answered.process.as_str(), answered.unanswered), ("smmu0", None));
    assert_eq!(answered.values["commands"], 7);
}

#[tokio::test(start_paused = true)]
async fn inspection_of_a_process_that_goes_or_talks_nonsense_says_so() {
    let (inspector, mut questions) = Inspector::new(SMMU0);
    let asked = tokio::spawn(inspector.clone().inspect(LONG));
    questions.recv().await.unwrap().send(Ok(Reply::Done)).unwrap();
    assert!(asked.await.unwrap().unanswered.is_some_and(|why| why.contains("Done")));
    let asked = tokio::spawn(inspector.clone().inspect(LONG));
    drop(questions.recv().await.unwrap());
    assert!(asked.await.unwrap().unanswered.is_some_and(|why| why.contains("has ended")));
    drop(questions);
    assert!(inspector.inspect(LONG).await.unanswered.is_some_and(|why| why.contains("has ended")));
}

#[tokio::test(start_paused = true)]
async fn inspection_of_many_takes_as_long_as_one_and_keeps_their_order() {
    let begun = Instant::now();
    let asked = (0..4).map(|index| Inspector::new(InstanceId::new(Role::Vfio, index)));
    let (inspectors, _questions): (Vec<_>, Vec<_>) = asked.unzip();
    let names: Vec<String> = inspect_all(inspectors).await.into_iter().map(|told| told.process).collect();
    assert_eq!(names, ["vfio0", "vfio1", "vfio2", "vfio3"]);
    assert!(begun.elapsed() < budget::INSPECT * 2);
}
