// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Which tables are good; that they are made exactly is shown with real processes in `tests/sealed`.

use std::os::fd::AsFd;

use super::*;

#[test]
fn table_has_the_sources_in_their_order() {
    let (a, b, c) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
    let table = Table::new([c.as_fd(), a.as_fd(), b.as_fd()].into_iter()).unwrap();
    assert_eq!(table.count(), 3);
    assert_eq!(table.sources[..3], [2, 0, 1]);
    assert_eq!(Table::new([].into_iter()).unwrap().count(), 0);
}

#[test]
fn table_of_too_many_is_refused() {
    let file = std::io::stdin();
    let fds = |count| vec![file.as_fd(); count].into_iter();
    assert!(Table::new(fds(FDS_MAX)).is_ok());
    assert!(Table::new(fds(FDS_MAX + 1)).unwrap_err().contains("at most"));
}

#[test]
fn more_open_than_expected_is_found() {
    assert!(verify(0).unwrap_err().contains("descriptor 0 is open and should not be"));
}
