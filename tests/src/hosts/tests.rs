// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Pairs of hosts beside each other, and behind one that was left.

use super::*;
use crate::SKIPPED;

#[test]
fn process_makes_several_pairs_and_one_where_a_killed_one_left_its_names() {
    let first = match Hosts::make().unwrap() {
        Ok(hosts) => hosts,
        Err(why) => return println!("{SKIPPED}{why}"),
    };
    let second = Hosts::make().unwrap().unwrap();
    assert_ne!(first.under(0), second.under(0));
    std::mem::forget(Hosts::of_number(1000).unwrap().unwrap());
    let again = Hosts::of_number(1000).unwrap().unwrap();
    let [program, arguments @ ..] = &again.under(0)[..] else { panic!("nothing runs there") };
    let mut ping = Command::new(program);
    ping.args(arguments).args(["ip", "route", "get", ADDRESSES[1]]);
    assert!(ping.output().unwrap().status.success(), "they do not see each other");
    assert!(ip(&["netns", "add", &again.names[1]]).unwrap().unwrap_err().contains("File exists"));
}
