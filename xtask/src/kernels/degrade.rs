//! What the daemon does on a kernel, also on one that lets it do nothing: clear words, no crash.

use super::job::{Job, Outcome};
use super::verdict::shortened;
use results::Check;

/// Seconds that the daemon runs before it is told to end.
const SECONDS: u32 = 6;

/// `netwatch doctor`.
pub fn doctor(netwatch: &str) -> Job {
    job("doctor", format!("exec {netwatch} doctor"))
}

fn job(name: &str, script: String) -> Job {
    Job {
        name: name.to_owned(),
        limit: 90,
        script,
    }
}

/// Jobs of every guest: `doctor`, the daemon alone, the daemon with an uplink.
pub fn jobs(netwatch: &str) -> Vec<Job> {
    vec![
        doctor(netwatch),
        job("run", run(netwatch, "")),
        job(
            "run_with_egress",
            format!(
                "/sbin/ip link add up0 type veth peer name gw0\n\
                 /sbin/ip addr add 192.0.2.2/24 dev up0\n\
                 /sbin/ip link set gw0 up\n\
                 /sbin/ip link set up0 up\n\
                 cat >/tmp/netwatch.toml <<END\n\
                 [[egress]]\n\
                 name = \"a\"\n\
                 interface = \"up0\"\n\
                 gateways = [\"192.0.2.1\"]\n\
                 END\n\
                 chmod 600 /tmp/netwatch.toml\n{}",
                run(netwatch, "--config /tmp/netwatch.toml")
            ),
        ),
    ]
}

/// Starts the daemon, waits, ends it in order, says its exit code. Whether it still ran at the end
/// is told.
fn run(netwatch: &str, options: &str) -> String {
    format!(
        "{netwatch} run {options} &\n\
         pid=$!\n\
         n=0\n\
         while [ $n -lt {SECONDS} ] && kill -0 $pid 2>/dev/null; do sleep 1; n=$((n+1)); done\n\
         kill -TERM $pid 2>/dev/null && echo it ran until it was ended\n\
         wait $pid"
    )
}

/// A probe that is off for another reason than the word or what the kernel has not.
fn unexplained(outcome: &Outcome, word: &str) -> Option<String> {
    let mut off = outcome
        .output
        .lines()
        .filter(|line| line.contains("probe is off"));
    off.find(|line| !line.contains(word) && !line.contains("this kernel has no"))
        .map(|line| format!("{word} is not named in {line:?}"))
}

const RAN: &str = "it ran until it was ended";

/// What a kernel lets the programs do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected<'a> {
    /// They load.
    Works,
    /// Some load; what keeps the others back is named by this word.
    Limited(&'a str),
    /// They do not; the reason contains this word, and so does the remedy the second.
    Refused(&'a str, &'a str),
}

/// Judges one of [`jobs`]; `None`: it is none of them.
pub fn check(kernel: &str, outcome: &Outcome, expected: Expected<'_>) -> Option<Check> {
    let problem = match outcome.name.as_str() {
        "doctor" => diagnosis(outcome, expected),
        "run" => running(outcome, expected, false),
        "run_with_egress" => running(outcome, expected, true),
        _ => return None,
    };
    let name = format!("{kernel}/{}", outcome.name);
    let said = shortened(&outcome.output);
    Some(match problem.or_else(|| crashed(outcome)) {
        Some(problem) => Check::new(name, false, format!("{problem}: {said}")),
        None => Check::new(name, true, said),
    })
}

fn crashed(outcome: &Outcome) -> Option<String> {
    if outcome.output.contains("panicked at") {
        return Some("it panicked".to_owned());
    }
    match outcome.code {
        None => Some("it did not end".to_owned()),
        Some(0 | 1) => None,
        Some(code) => Some(format!("exit code {code}")),
    }
}

fn diagnosis(outcome: &Outcome, expected: Expected<'_>) -> Option<String> {
    let lines: Vec<&str> = outcome.output.lines().collect();
    for pair in lines.windows(2) {
        if pair[0].starts_with("FAIL") && !pair[1].trim_start().starts_with("remedy: ") {
            return Some(format!("no remedy for {:?}", pair[0]));
        }
    }
    let failures = lines.iter().filter(|line| line.starts_with("FAIL")).count();
    if (failures > 0) != (outcome.code == Some(1)) {
        return Some(format!("{failures} failures, exit code {:?}", outcome.code));
    }
    match expected {
        Expected::Works => None,
        Expected::Limited(word) => {
            (!outcome.output.contains(word)).then(|| format!("{word} is not named"))
        }
        Expected::Refused(reason, remedy) => {
            let named = lines.windows(2).any(|pair| {
                pair[0].starts_with("FAIL") && pair[0].contains(reason) && pair[1].contains(remedy)
            });
            (!named).then(|| format!("{reason} with the remedy {remedy} is not named"))
        }
    }
}

fn running(outcome: &Outcome, expected: Expected<'_>, egress: bool) -> Option<String> {
    let ran = outcome.output.contains(RAN);
    let off = outcome.output.contains("no kernel programs: going on");
    match (expected, egress) {
        (Expected::Limited(word), _) if unexplained(outcome, word).is_some() => {
            unexplained(outcome, word)
        }
        (Expected::Works | Expected::Limited(_), _) => (!ran || off || outcome.code != Some(0))
            .then(|| format!("it does not run here, exit code {:?}", outcome.code)),
        (Expected::Refused(reason, _), true) => {
            (!ran || !off || !outcome.output.contains(reason) || outcome.code != Some(0))
                .then(|| format!("with an uplink it must go on and name {reason}"))
        }
        // Without programs and uplinks there is nothing that it could do.
        (Expected::Refused(reason, _), false) => {
            (ran || !outcome.output.contains(reason) || outcome.code != Some(1))
                .then(|| format!("it must end with exit code 1 and name {reason}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(name: &str, code: i32, output: &str) -> Outcome {
        Outcome {
            name: name.to_owned(),
            code: Some(code),
            output: output.to_owned(),
            seconds: 1.0,
        }
    }

    #[test]
    fn a_refusal_must_be_named_with_its_remedy() {
        let none = Expected::Refused("BTF", "CONFIG_DEBUG_INFO_BTF");
        let ok = |name, code, output: &str, expected| {
            check("k", &outcome(name, code, output), expected)
                .unwrap()
                .ok
        };
        let named = "ok   kernel 6\nFAIL btf no BTF\n     remedy: CONFIG_DEBUG_INFO_BTF=y\n";
        assert!(ok("doctor", 1, named, none));
        assert!(!ok("doctor", 0, named, none), "a failure has an exit code");
        assert!(
            !ok("doctor", 1, "FAIL btf no BTF\nok   x", none),
            "no remedy"
        );
        assert!(!ok("doctor", 0, "ok   kernel 6", none), "not named");
        assert!(ok("doctor", 0, "ok   kernel 6", Expected::Works));

        assert!(ok("run", 1, "error: no BTF", none));
        assert!(!ok("run", 101, "no BTF: panicked at", none));
        assert!(!ok("run", 0, &format!("no BTF\n{RAN}"), none));
        assert!(ok("run", 0, RAN, Expected::Works));
        assert!(!ok("run", 1, "error", Expected::Works));
        let off = format!("no kernel programs: going on with probes, no BTF\n{RAN}");
        assert!(ok("run_with_egress", 0, &off, none));
        assert!(!ok("run_with_egress", 0, &off, Expected::Works));
        assert!(!ok("run_with_egress", 0, RAN, none), "not named");
        assert!(check("k", &outcome("other", 0, ""), none).is_none());

        let limited = Expected::Limited("lockdown");
        let kprobe = "WARN probe is off reason=kprobe: lockdown";
        assert!(ok("run", 0, &format!("{kprobe}\n{RAN}"), limited));
        assert!(!ok(
            "run",
            0,
            &format!("WARN probe is off: EINVAL\n{RAN}"),
            limited
        ));
        assert!(!ok("run", 1, kprobe, limited));
        assert!(ok("doctor", 0, "ok   lockdown confidentiality", limited));
        assert!(!ok("doctor", 0, "ok   kernel 6", limited));
    }
}
