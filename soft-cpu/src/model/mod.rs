// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Every interleaving of what vCPU threads share, by the model checker. Run with
//! `RUSTFLAGS="--cfg loom" cargo test -p soft-cpu --lib model --target-dir target/loom`.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise, in its helpers too")]

mod cluster;
mod order;

/// Runs `model` in all interleavings of at most so many preemptions.
fn check(preemptions: usize, model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(model);
}
