// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

use super::Budget;

#[test]
fn budget_pays_for_as_many_operations_as_were_granted() {
    let budget = Budget::new();
    budget.grant(3);
    assert!(budget.pay() && budget.pay() && budget.pay());
    assert!(!budget.pay() && !budget.allows_one());
    assert_eq!(budget.take(), 0);
}

#[test]
fn cut_ends_the_slice_and_keeps_count_of_what_was_left() {
    for cuts in 1..4 {
        let budget = Budget::new();
        budget.grant(10);
        assert!(budget.pay());
        for _ in 0..cuts {
            budget.cut();
        }
        assert!(!budget.allows_one() && !budget.pay());
        assert_eq!((budget.left(), budget.take()), (9, 9));
        budget.grant(2);
        assert!(budget.pay(), "a new slice is not cut");
    }
}
