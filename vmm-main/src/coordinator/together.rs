// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Several waits at once: processes that do not depend on each other are asked together, and the slowest sets the time.

use std::future::{Future, poll_fn};
use std::task::Poll;

/// What all of them come to, in their order. Cancel-safe if each of them is.
pub async fn all<F: Future>(waits: impl IntoIterator<Item = F>) -> Vec<F::Output> {
    let mut waits: Vec<_> = waits.into_iter().map(|wait| (Box::pin(wait), None)).collect();
    poll_fn(|context| {
        let mut open = false;
        for (wait, outcome) in waits.iter_mut().filter(|(_, outcome)| outcome.is_none()) {
            match wait.as_mut().poll(context) {
                Poll::Ready(come) => *outcome = Some(come),
                Poll::Pending => open = true,
            }
        }
        if open { Poll::Pending } else { Poll::Ready(()) }
    })
    .await;
    waits.into_iter().filter_map(|(_, outcome)| outcome).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::{Instant, sleep};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn waits_take_as_long_as_the_slowest_and_keep_their_order() {
        let begun = Instant::now();
        let outcomes = all([3, 1, 2].map(async |seconds| {
            sleep(Duration::from_secs(seconds)).await;
            seconds
        }))
        .await;
        assert_eq!((outcomes, begun.elapsed()), (vec![3, 1, 2], Duration::from_secs(3)));
        assert_eq!(all(Vec::<std::future::Ready<()>>::new()).await, []);
    }
}
