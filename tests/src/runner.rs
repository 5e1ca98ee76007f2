// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The command line of a libtest program, list and run, for suites whose program is started as something else as well.

/// Lists or runs the tests as these arguments say, the program's name first. A test that fails panics.
pub fn run(args: &[String], tests: &[(&str, fn())]) {
    if args.iter().any(|arg| arg == "--list") {
        if !args.iter().any(|arg| arg == "--ignored") {
            tests.iter().for_each(|(name, _)| println!("{name}: test"));
        }
        return;
    }
    let exact = args.iter().any(|arg| arg == "--exact");
    let wanted: Vec<&String> = args.iter().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    let is_wanted = |name: &str| {
        wanted.is_empty()
            || wanted.iter().any(|word| if exact { *word == name } else { name.contains(&**word) })
    };
    for (name, test) in tests.iter().filter(|(name, _)| is_wanted(name)) {
        test();
        println!("test {name} ... ok");
    }
}
