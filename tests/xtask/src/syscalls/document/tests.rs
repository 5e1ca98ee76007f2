// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
use super::unneeded_reasons;

#[test]
fn every_reason_is_of_a_call_that_some_profile_allows() {
    assert_eq!(unneeded_reasons(), [""; 0], "in `sandbox::profiles::UNSEEN`");
}
