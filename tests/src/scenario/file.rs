//! Reading scenario files: what is wrong in one is told with file, line and key.

use std::path::{Path, PathBuf};

use super::{Fault, FaultKind, Need, Scenario, Span, Verdicts};

/// What is wrong with a scenario file.
#[derive(Debug)]
pub struct FormatError {
    file: PathBuf,
    line: usize,
    key: Option<String>,
    message: String,
}

impl std::fmt::Display for FormatError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}: ", self.file.display(), self.line)?;
        if let Some(key) = &self.key {
            write!(f, "key `{key}`: ")?;
        }
        f.write_str(&self.message)
    }
}

impl std::error::Error for FormatError {}

/// Reads a scenario file.
///
/// # Errors
/// The file cannot be read, or [`FormatError`].
pub fn load(path: &Path) -> anyhow::Result<Scenario> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| anyhow::anyhow!("cannot read scenario {}: {error}", path.display()))?;
    Ok(parse(&text, path)?)
}

/// Reads a scenario's text; `path` names it in errors and gives the name.
///
/// # Errors
/// What is wrong, with file, line and key.
pub fn parse(text: &str, path: &Path) -> Result<Scenario, FormatError> {
    let fail = |line: usize, key: Option<String>, message: String| FormatError {
        file: path.to_owned(),
        line,
        key,
        message,
    };
    let mut scenario: Scenario = toml::from_str(text).map_err(|error| {
        let offset = error.span().map_or(0, |span| span.start);
        let line = line_of(text, offset);
        let key = text
            .lines()
            .nth(line - 1)
            .and_then(|line| line.split_once('='))
            .map(|(key, _)| key.trim().to_owned())
            .filter(|key| !key.is_empty() && !key.contains(['"', '[', '#']));
        fail(line, key, error.message().to_owned())
    })?;
    scenario.name = path
        .file_stem()
        .map(|stem| stem.to_string_lossy().into_owned())
        .unwrap_or_default();
    validate(&scenario).map_err(|problem| {
        let line = locate(text, &problem);
        fail(line, Some(problem.key.to_owned()), problem.message)
    })?;
    Ok(scenario)
}

const CLASSES: [&str; 14] = [
    "local_link",
    "gateway",
    "upstream_as",
    "address_family",
    "egress_only",
    "remote_as",
    "prefix",
    "single_peer",
    "return_path",
    "host_stall",
    "latency",
    "total_isolation",
    "none",
    "any",
];

struct Problem {
    /// The table: empty, `topology`, `expect`, or the n-th `fault` or `topology.origin`.
    table: &'static str,
    nth: usize,
    key: &'static str,
    message: String,
}

fn line_of(text: &str, offset: usize) -> usize {
    text.bytes()
        .take(offset)
        .filter(|byte| *byte == b'\n')
        .count()
        + 1
}

/// The line of a problem's key; the table's own line where the key is missing.
fn locate(text: &str, problem: &Problem) -> usize {
    let (mut table, mut seen, mut header) = (String::new(), 0, 1);
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.starts_with('[') && !line.contains('=') {
            if table == problem.table && seen > problem.nth {
                break;
            }
            line.trim_matches(['[', ']']).trim().clone_into(&mut table);
            if table == problem.table {
                seen += 1;
                if seen == problem.nth + 1 {
                    header = index + 1;
                }
            }
        } else if table == problem.table
            && (problem.table.is_empty() || seen == problem.nth + 1)
            && line.split('=').next().map(str::trim) == Some(problem.key)
        {
            return index + 1;
        }
    }
    header
}

fn validate(scenario: &Scenario) -> Result<(), Problem> {
    let problem = |table, nth, key, message: String| {
        Err(Problem {
            table,
            nth,
            key,
            message,
        })
    };
    if scenario.duration.nanos() == 0 {
        return problem("", 0, "duration", "must be longer than 0".to_owned());
    }
    let topology = &scenario.topology;
    let bad = |key, message: &str| problem("topology", 0, key, message.to_owned());
    if topology.rtt[0] > topology.rtt[1] || topology.rtt[0].nanos() == 0 {
        return bad("rtt", "must be [shortest, longest], both above 0");
    }
    if topology.send_gap < Span::ms(5) {
        return bad("send_gap", "must be at least 5ms");
    }
    if topology
        .burst
        .is_some_and(|burst| burst.talk > burst.every || burst.talk.nanos() == 0)
    {
        return bad("burst", "`talk` must be above 0 and at most `every`");
    }
    if !(0.0..1.0).contains(&topology.loss) {
        return bad("loss", "must be a share from 0.0 to below 1.0");
    }
    if !(0.0..=1.0).contains(&topology.inbound) {
        return bad("inbound", "must be a share from 0.0 to 1.0");
    }
    if !(1..=1_200).contains(&topology.message_bytes) {
        return bad("message_bytes", "must be from 1 to 1200");
    }
    if !(1..=50).contains(&topology.origins) {
        return bad("origins", "must be from 1 to 50");
    }
    if !(1..=8).contains(&topology.prefixes_per_origin) {
        return bad("prefixes_per_origin", "must be from 1 to 8");
    }
    if !(1..=50).contains(&topology.peers_per_prefix) {
        return bad("peers_per_prefix", "must be from 1 to 50");
    }
    let mut names = std::collections::BTreeSet::new();
    for (nth, origin) in topology.origin.iter().enumerate() {
        let bad = |key, message: String| problem("topology.origin", nth, key, message);
        if !names.insert(&origin.name) || origin.name.contains('/') || origin.name == "drawn" {
            return bad("name", format!("`{}` is taken or not a name", origin.name));
        }
        if origin
            .peers_per_prefix
            .is_some_and(|n| !(1..=50).contains(&n))
        {
            return bad("peers_per_prefix", "must be from 1 to 50".to_owned());
        }
        if let Some(prefix) = origin
            .prefixes
            .iter()
            .find(|p| p.prefix_len() > p.max_prefix_len() - 7)
        {
            return bad(
                "prefixes",
                format!("{prefix} is too small: at least a /25 or a /121"),
            );
        }
    }
    let mut last = Span::ms(0);
    for (nth, fault) in scenario.fault.iter().enumerate() {
        let bad = |key, message: String| problem("fault", nth, key, message);
        if fault.at < last || fault.at >= scenario.duration {
            return bad(
                "at",
                "must not lie before the fault above, and within `duration`".to_owned(),
            );
        }
        last = fault.at;
        let wants = fault.kind.wants();
        let given = [
            ("upstream", wants.upstream, fault.upstream.is_some()),
            ("target", wants.target, fault.target.is_some()),
            ("add", wants.add, fault.add.is_some()),
            ("share", wants.share, fault.share.is_some()),
            ("direction", wants.direction, fault.direction.is_some()),
            ("family", wants.family, fault.family.is_some()),
            ("threads", wants.threads, fault.threads.is_some()),
            ("answer", wants.answer, fault.answer.is_some()),
            ("count", wants.count, fault.count.is_some()),
        ];
        for (key, need, given) in given {
            match (need, given) {
                (Need::Must, false) => {
                    return bad(key, "is required by this kind of fault".to_owned());
                }
                (Need::No, true) => {
                    return bad(key, "does not apply to this kind of fault".to_owned());
                }
                _ => {}
            }
        }
        if fault
            .share
            .is_some_and(|share| !(0.0..=1.0).contains(&share))
        {
            return bad("share", "must be from 0.0 to 1.0".to_owned());
        }
        if fault.threads.is_some_and(|n| !(1..=64).contains(&n)) {
            return bad("threads", "must be from 1 to 64".to_owned());
        }
        let mut before = scenario.fault.iter().take(nth);
        if fault.kind == FaultKind::ValidatorRestart
            && before.any(|earlier| earlier.kind != FaultKind::ValidatorRestart)
        {
            return bad(
                "kind",
                "a restart of the validator comes before all other faults: existing connections are judged"
                    .to_owned(),
            );
        }
        let goes_on = |later: &Fault| later.kind == FaultKind::ValidatorContinue;
        if fault.kind == FaultKind::ValidatorStop && !scenario.fault.iter().skip(nth).any(goes_on) {
            return bad(
                "kind",
                "a validator that is stopped must go on again: add validator-continue".to_owned(),
            );
        }
        if let Some(target) = fault.target.as_deref().filter(|target| *target != "drawn") {
            let name = target.split('/').next().unwrap_or_default();
            let known = if topology.origin.is_empty() {
                name.strip_prefix('o')
                    .and_then(|n| n.parse::<usize>().ok())
                    .is_some_and(|n| (1..=topology.origins).contains(&n))
            } else {
                topology.origin.iter().any(|origin| origin.name == name)
            };
            let rest = target.split('/').skip(1);
            if !known
                || target.split('/').count() > 3
                || !rest
                    .clone()
                    .all(|part| part.parse::<usize>().is_ok_and(|n| n > 0))
            {
                return bad(
                    "target",
                    format!(
                        "`{target}` is none of `drawn`, `ORIGIN`, `ORIGIN/PREFIX`, `ORIGIN/PREFIX/PEER` (numbers from 1)"
                    ),
                );
            }
        }
    }
    let expect = &scenario.expect;
    let wanted = expect.verdict.iter().flat_map(Verdicts::classes);
    for (key, classes) in [
        ("verdict", wanted.collect::<Vec<_>>()),
        ("verdicts", expect.verdicts.iter().collect()),
    ] {
        if let Some(class) = classes.iter().find(|c| !CLASSES.contains(&c.as_str())) {
            return problem(
                "expect",
                0,
                key,
                format!("`{class}` is none of {}", CLASSES.join(", ")),
            );
        }
    }
    Ok(())
}

/// The scenario files of a directory, by name.
///
/// # Errors
/// The directory or a file cannot be read, or a file is wrong.
pub fn load_all(directory: &Path) -> anyhow::Result<Vec<Scenario>> {
    let mut paths: Vec<PathBuf> = std::fs::read_dir(directory)
        .map_err(|error| anyhow::anyhow!("cannot read {}: {error}", directory.display()))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "toml")
        })
        .collect();
    paths.sort();
    paths.iter().map(|path| load(path)).collect()
}
