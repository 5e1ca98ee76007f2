// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a function's process may say about its vectors, and what the listener is told.

use rustix::event::{EventfdFlags, eventfd};

use super::*;
use std::sync::Arc;

/// A vector's place, what it meant, and what it means.
type Change = (usize, Option<u32>, Option<u32>);

#[derive(Default)]
struct Told {
    changes: Mutex<Vec<Change>>,
    refuses: bool,
}

impl Listener for Told {
    fn route(&self, vectors: &[Vector], place: usize, before: Option<u32>) -> Result<(), Failure> {
        let now = vectors.get(place).and_then(|vector| vector.event);
        self.changes.lock().unwrap().push((place, before, now));
        if self.refuses { Err(Failure::new("route a vector", "no room")) } else { Ok(()) }
    }
}

fn new_eventfd() -> OwnedFd {
    eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap()
}

#[test]
fn vectors_are_told_to_the_listener_by_their_place_once_for_each_change() {
    let (vectors, listener) = (Vectors::new(true), Arc::new(Told::default()));
    vectors.add(8, 0, 1, new_eventfd()).unwrap();
    vectors.route(8, 0, Some(3)).unwrap();
    vectors.connect(Arc::downgrade(&listener) as Weak<dyn Listener>);
    assert!(listener.changes.lock().unwrap().is_empty(), "what came before it is in the list");
    vectors.add(16, 0, 1, new_eventfd()).unwrap();
    for event in [Some(7), Some(7), None, None, Some(9)] {
        vectors.route(16, 0, event).unwrap();
    }
    let changes = listener.changes.lock().unwrap().clone();
    assert_eq!(changes, [(1, None, Some(7)), (1, Some(7), None), (1, None, Some(9))]);
    let events: Vec<_> = vectors.list().iter().map(|vector| vector.event).collect();
    assert_eq!(events, [Some(3), Some(9)]);
}

#[test]
fn vectors_that_cannot_be_are_refused_with_a_reason() {
    let vectors = Vectors::new(true);
    vectors.add(8, 1, 1, new_eventfd()).unwrap();
    assert!(vectors.add(8, 1, 1, new_eventfd()).unwrap_err().contains("already"));
    assert!(vectors.add(8, VECTORS_MAX, 1, new_eventfd()).unwrap_err().contains("64"));
    assert!(vectors.route(16, 1, Some(1)).unwrap_err().contains("no vector 1"), "it is another function's");
    assert!(Vectors::new(false).add(8, 0, 1, new_eventfd()).unwrap_err().contains("software CPUs"));
}

#[test]
fn eventfd_of_a_next_life_takes_the_place_of_the_one_before_without_a_route() {
    let (vectors, listener) = (Vectors::new(true), Arc::new(Told::default()));
    vectors.connect(Arc::downgrade(&listener) as Weak<dyn Listener>);
    let number = |eventfd: &OwnedFd| std::os::fd::AsRawFd::as_raw_fd(eventfd);
    for index in [0, 1] {
        vectors.add(8, index, 1, new_eventfd()).unwrap();
    }
    vectors.route(8, 1, Some(5)).unwrap();
    let before: Vec<_> = vectors.list().iter().map(|vector| number(&vector.eventfd)).collect();
    listener.changes.lock().unwrap().clear();
    for index in [0, 1] {
        vectors.add(8, index, 2, new_eventfd()).unwrap();
        assert!(vectors.add(8, index, 2, new_eventfd()).unwrap_err().contains("already"));
    }
    let after: Vec<_> = vectors.list().iter().map(|vector| number(&vector.eventfd)).collect();
    assert!(after.len() == 2 && before.iter().zip(&after).all(|(before, after)| before != after));
    // Off the irqfd of the one before, and on that of the next when that life says so: the guest may have masked it.
    assert_eq!(*listener.changes.lock().unwrap(), [(1, Some(5), None)]);
    assert_eq!(vectors.list()[1].event, None);
    vectors.route(8, 1, Some(5)).unwrap();
    assert_eq!(listener.changes.lock().unwrap().last(), Some(&(1, None, Some(5))));
}

#[test]
fn vector_that_the_host_cannot_route_means_nothing() {
    let (vectors, listener) = (Vectors::new(true), Arc::new(Told { refuses: true, ..Told::default() }));
    vectors.connect(Arc::downgrade(&listener) as Weak<dyn Listener>);
    vectors.add(8, 0, 1, new_eventfd()).unwrap();
    assert!(vectors.route(8, 0, Some(3)).unwrap_err().contains("no room"));
    assert_eq!(vectors.list()[0].event, None);
}
