// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Which tables are good; that they are made exactly is shown with real processes in `tests/sealed`.

use std::os::fd::AsFd;

use super::*;

#[test]
fn targets_in_any_order_make_a_table() {
    let (a, b, c) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
    let table = Table::new(&[(2, a.as_fd()), (0, b.as_fd()), (1, c.as_fd())]).unwrap();
    assert_eq!(table.count(), 3);
    assert_eq!(table.sources[..3], [1, 2, 0]);
    assert_eq!(Table::new(&[]).unwrap().count(), 0);
}

#[test]
fn gaps_repetitions_and_negative_targets_are_refused() {
    let file = std::io::stdin();
    let fd = file.as_fd();
    assert!(Table::new(&[(1, fd)]).unwrap_err().contains("gap"));
    assert!(Table::new(&[(-1, fd)]).unwrap_err().contains("gap"));
    assert!(Table::new(&[(i32::MAX, fd)]).unwrap_err().contains("gap"));
    assert!(Table::new(&[(0, fd), (0, fd)]).unwrap_err().contains("twice"));
    assert!(Table::new(&vec![(0, fd); FDS_MAX + 1]).unwrap_err().contains("at most"));
}

#[test]
fn more_open_than_expected_is_found() {
    assert!(verify(0).unwrap_err().contains("descriptor 0 is open and should not be"));
}
