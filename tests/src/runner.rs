// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The protocol of test runners, for suites that are other programs besides: list, or run.

/// Does what a runner asks with these words, the program's name first. A test that fails panics.
pub fn run(words: &[String], tests: &[(&str, fn())]) {
    if words.iter().any(|word| word == "--list") {
        if !words.iter().any(|word| word == "--ignored") {
            tests.iter().for_each(|(name, _)| println!("{name}: test"));
        }
        return;
    }
    let exact = words.iter().any(|word| word == "--exact");
    let wanted: Vec<&String> = words.iter().skip(1).filter(|word| !word.starts_with('-')).collect();
    let is_wanted = |name: &str| {
        wanted.is_empty()
            || wanted.iter().any(|word| if exact { *word == name } else { name.contains(&**word) })
    };
    for (name, test) in tests.iter().filter(|(name, _)| is_wanted(name)) {
        test();
        println!("test {name} ... ok");
    }
}
