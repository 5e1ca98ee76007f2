// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
use super::with_suite;

#[test]
fn stanza_of_the_release_is_repeated_with_its_address_and_keys() {
    let text = "# ours\nTypes: deb\nURIs: http://mirror/debian\nSuites: stable-one stable-one-updates\n\
                Components: main\nSigned-By: /keys\n\nTypes: deb\nURIs: http://mirror/security\n\
                Suites: stable-one-security\nComponents: main\n";
    assert_eq!(
        with_suite(text, false, "stable-one", "stable-one-backports"),
        "\nSuites: stable-one-backports\nTypes: deb\nURIs: http://mirror/debian\nComponents: main\n\
         Signed-By: /keys\n"
    );
}

#[test]
fn stanza_that_has_the_suite_already_is_left_alone() {
    let text = "Types: deb\nURIs: http://mirror/debian\nsuites: one two\nComponents: main\n";
    assert_eq!(with_suite(text, false, "one", "two"), "");
}

#[test]
fn line_of_the_release_is_repeated_with_its_options() {
    let text = "deb [signed-by=/keys] http://mirror/debian one main contrib # mirror\n\
                #deb http://mirror/old one main\ndeb-src http://mirror/debian one main\n\
                deb http://other/tools tools main\n";
    assert_eq!(
        with_suite(text, true, "one", "two"),
        "\ndeb [signed-by=/keys] http://mirror/debian two main contrib\n"
    );
}

#[test]
fn list_without_the_release_gives_nothing() {
    assert_eq!(with_suite("deb http://other/tools tools main\n", true, "one", "two"), "");
    assert_eq!(with_suite("Suites: tools\nURIs: http://other/\n", false, "one", "two"), "");
}
