//! From what a test printed to a check.

use super::job::{KILLED, Outcome};
use results::{Check, Measure};

/// Characters of a failure's output that a check shows.
const SHOWN: usize = 3_000;
/// A test prints it, and why, where a kernel lacks what it tests.
const SKIPPED: &str = "SKIPPED: ";
/// A test prints it once for each field that it compared with another source.
const FIELD: &str = "FIELD: ";

/// The check of a test that ran alone in its process.
pub fn of_test(kernel: &str, outcome: &Outcome) -> Check {
    let name = format!("{kernel}/{}", outcome.name);
    let text = &outcome.output;
    let skips: Vec<&str> = marked(text, SKIPPED).collect();
    if outcome.code == Some(0) && text.contains("test result: ok. 1 passed; 0 failed") {
        let fields = marked(text, FIELD).count();
        let mut detail = format!("passed in {:.1} s", outcome.seconds);
        if fields > 0 {
            detail += &format!(", {fields} fields equal");
        }
        for skip in skips {
            detail += &format!("; SKIPPED: {skip}");
        }
        return Check::new(name, true, detail);
    }
    if outcome.code == Some(0) && text.contains("1 ignored") {
        return Check::new(name, true, "SKIPPED: marked as ignored in its source");
    }
    let reason = match outcome.code {
        None => "did not end".to_owned(),
        Some(KILLED) => format!("killed after {:.0} s, its limit", outcome.seconds),
        Some(code) => format!("exit code {code}"),
    };
    Check::new(name, false, format!("{reason}: {}", shortened(text)))
}

/// Whether a check's subject was missing on its kernel.
pub fn is_skipped(check: &Check) -> bool {
    check.detail.contains(SKIPPED)
}

/// What a kernel's run adds up to.
pub fn measures(kernel: &str, outcomes: &[Outcome], checks: &[Check]) -> Vec<Measure> {
    let of = |metric: &str, value: usize| Measure::single(metric, kernel, "count", value as f64);
    let fields = |wrong: bool| {
        outcomes
            .iter()
            .flat_map(|outcome| marked(&outcome.output, FIELD))
            .filter(|line| !wrong || line.contains("WRONG"))
            .count()
    };
    vec![
        of("checks", checks.len()),
        of("checks_failed", checks.iter().filter(|c| !c.ok).count()),
        of(
            "checks_skipped",
            checks.iter().filter(|c| is_skipped(c)).count(),
        ),
        of("fields_compared", fields(false)),
        of("fields_wrong", fields(true)),
    ]
}

fn marked<'a>(text: &'a str, mark: &'a str) -> impl Iterator<Item = &'a str> {
    // The harness prints the test's name on the same line before the first.
    text.lines()
        .filter_map(move |line| line.split_once(mark))
        .map(|(_, rest)| rest.trim())
}

/// Both ends of a long text: the cause is at one of them.
pub fn shortened(text: &str) -> String {
    let length = text.chars().count();
    if length <= SHOWN {
        return text.trim().to_owned();
    }
    let head: String = text.chars().take(SHOWN / 2).collect();
    let tail: String = text.chars().skip(length - SHOWN / 2).collect();
    format!("{} ... {}", head.trim(), tail.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(code: Option<i32>, output: &str) -> Outcome {
        Outcome {
            name: "tcp::it".to_owned(),
            code,
            output: output.to_owned(),
            seconds: 1.25,
        }
    }

    const OK: &str = "test result: ok. 1 passed; 0 failed; 0 ignored";

    #[test]
    fn a_pass_needs_the_code_and_the_result() {
        let check = |code, text: &str| of_test("6.1", &outcome(code, text));
        let passed = check(Some(0), &format!("test it ... ok\n{OK}"));
        assert_eq!(passed, Check::new("6.1/tcp::it", true, "passed in 1.2 s"));
        assert!(!check(Some(0), "").ok, "no result");
        assert!(!check(Some(101), OK).ok, "a code");
        assert!(!check(None, OK).ok, "no end");
        assert!(
            !check(Some(0), "test result: ok. 0 passed; 0 failed").ok,
            "nothing ran"
        );
        assert!(check(Some(KILLED), "x").detail.contains("killed after"));
        assert!(
            check(Some(101), "panicked at y")
                .detail
                .contains("panicked at y")
        );
    }

    #[test]
    fn skips_and_fields_are_told() {
        let text = format!("test it ... SKIPPED: no netem\nSKIPPED: no disk\nok\n{OK}");
        let check = of_test("host", &outcome(Some(0), &text));
        assert!(check.ok && is_skipped(&check));
        assert_eq!(
            check.detail,
            "passed in 1.2 s; SKIPPED: no netem; SKIPPED: no disk"
        );
        let text = format!("test it ... FIELD: a 1 = 1\nFIELD: b 2 = 3 WRONG\n{OK}");
        let outcome = outcome(Some(0), &text);
        let values: Vec<_> = measures("6.1", &[outcome], &[check])
            .into_iter()
            .map(|m| (m.metric, m.value))
            .collect();
        let expected = [
            ("checks", 1.0),
            ("checks_failed", 0.0),
            ("checks_skipped", 1.0),
            ("fields_compared", 2.0),
            ("fields_wrong", 1.0),
        ]
        .map(|(name, value)| (name.to_owned(), Some(value)));
        assert_eq!(values, expected);
    }
}
