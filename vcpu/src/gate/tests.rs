// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
use super::*;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::thread;

const PATIENCE: Duration = Duration::from_secs(10);

fn worker(gate: &Arc<Gate>, work: &Arc<AtomicU64>) -> thread::JoinHandle<()> {
    worker_that_waits(gate, work, Gate::wait_running)
}

fn worker_that_waits(
    gate: &Arc<Gate>,
    work: &Arc<AtomicU64>,
    wait: fn(&Gate) -> bool,
) -> thread::JoinHandle<()> {
    gate.register();
    let (gate, work) = (Arc::clone(gate), Arc::clone(work));
    thread::spawn(move || {
        while wait(&gate) {
            work.fetch_add(1, Ordering::Relaxed);
            thread::yield_now();
        }
        gate.leave();
    })
}

#[test]
fn pause_running_threads_holds_all_of_them_still() {
    let (gate, work) = (Arc::new(Gate::default()), Arc::new(AtomicU64::new(0)));
    let threads: Vec<_> = (0..3).map(|_| worker(&gate, &work)).collect();
    for _ in 0..20 {
        gate.run();
        gate.request_pause();
        gate.wait_parked(PATIENCE).unwrap();
        let before = work.load(Ordering::Relaxed);
        thread::sleep(Duration::from_millis(2));
        assert_eq!(work.load(Ordering::Relaxed), before);
    }
    gate.quit();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    gate.wait_parked(PATIENCE).unwrap();
}

#[test]
fn wait_parked_with_a_deaf_thread_counts_it() {
    let gate = Gate::default();
    gate.register();
    let error = gate.wait_parked(Duration::from_millis(5)).unwrap_err();
    assert_eq!((error.running, error.threads), (1, 1));
}

#[test]
fn quit_is_final() {
    let gate = Gate::default();
    gate.quit();
    gate.run();
    assert!(!gate.is_running());
    assert!(!gate.wait_running());
}

#[test]
fn held_vcpu_stands_still_while_others_run_is_parked_in_a_pause_and_ends_with_the_machine() {
    let gate = Arc::new(Gate::default());
    let [guest, device] = [(); 2].map(|()| Arc::new(AtomicU64::new(0)));
    let vcpu = worker_that_waits(&gate, &guest, Gate::wait_cpu_running);
    let other = worker(&gate, &device);
    gate.hold_cpus(true);
    gate.run();
    let until = Instant::now() + PATIENCE;
    while device.load(Ordering::Relaxed) < 100 {
        assert!(Instant::now() < until, "the device stands still");
        thread::yield_now();
    }
    assert_eq!(guest.load(Ordering::Relaxed), 0);
    gate.request_pause();
    gate.wait_parked(PATIENCE).unwrap();
    gate.run();
    gate.hold_cpus(false);
    while guest.load(Ordering::Relaxed) == 0 {
        assert!(Instant::now() < until, "the vCPU stands still");
        thread::yield_now();
    }
    gate.hold_cpus(true);
    gate.quit();
    [vcpu, other].map(|thread| thread.join()).into_iter().for_each(|ended| ended.unwrap());
}
