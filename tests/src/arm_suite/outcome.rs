// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The outcome of a case, from the guest's output: a line for each check, and its exit status at the end.

/// What a guest prints before its exit status.
pub const EXIT_MARK: &str = "EXIT: STATUS=";

/// Exit codes of the suite; a status is twice the code and one.
const CODE_OK: u32 = 0;
const CODE_SKIPPED: u32 = 77;

/// The outcome of a case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// So many checks passed, or things were measured, and none failed.
    Pass(usize),
    /// The guest says that it leaves the case out, and why.
    Skip(String),
    /// What went wrong.
    Fail(String),
}

impl Outcome {
    /// The outcome by all that the guest printed.
    pub fn of(transcript: &str) -> Self {
        let lines = |word: &'static str| transcript.lines().filter_map(move |line| line.strip_prefix(word));
        let Some(status) = lines(EXIT_MARK).next_back().and_then(|text| text.trim().parse::<u32>().ok())
        else {
            return Self::Fail(format!("it did not end; its last line: {}", last_line(transcript)));
        };
        let measured = transcript.lines().filter(|line| is_measurement(line)).count();
        let (passed, skipped) = (lines("PASS: ").count() + measured, lines("SKIP: ").next());
        match (status >> 1, lines("FAIL: ").next(), skipped) {
            (CODE_OK, None, Some(reason)) if passed == 0 => Self::Skip(reason.to_string()),
            (CODE_OK, None, None) if passed == 0 => {
                Self::Fail("it ended with exit code 0 and checked nothing".into())
            }
            (CODE_OK, None, _) => Self::Pass(passed),
            (_, Some(failed), _) => Self::Fail(failed.to_string()),
            // The summary of a case that was left out carries its code bare.
            (_, None, reason) if status == CODE_SKIPPED || status >> 1 == CODE_SKIPPED => {
                Self::Skip(reason.unwrap_or_else(|| before_summary(transcript)).to_string())
            }
            (code, None, _) => Self::Fail(format!("exit code {code}; {}", before_summary(transcript))),
        }
    }
}

/// A name and two times, as the suite's benchmark prints them: it makes no other checks.
fn is_measurement(line: &str) -> bool {
    let mut words = line.split_whitespace().skip(1);
    let mut is_time = || words.next().is_some_and(|word| word.contains('.') && word.parse::<f64>().is_ok());
    is_time() && is_time() && words.next().is_none()
}

fn last_line(transcript: &str) -> &str {
    transcript.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("(nothing)")
}

/// The assertion that failed, else the last line of the case itself.
fn before_summary(transcript: &str) -> &str {
    let own =
        |line: &&str| !line.trim().is_empty() && !line.starts_with("SUMMARY") && !line.starts_with(EXIT_MARK);
    let assertion = transcript.lines().find(|line| line.contains("assert failed"));
    assertion.or_else(|| transcript.lines().rfind(own)).unwrap_or("(nothing)")
}

#[cfg(test)]
mod tests;
