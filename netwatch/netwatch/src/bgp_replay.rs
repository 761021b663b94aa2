//! `netwatch bgp replay`: a recording, what it says, and the tables that it leaves behind.

use std::io::{IsTerminal, Read, Write};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use bgp_feed::archive::{Format, Source};
use bgp_feed::archive_replay::{Options, Replay};
use serde_json::{Value, json};

use crate::bgp_decode::add_path;
use crate::cli::{Replay as Arguments, ReplayFormat};

/// Read at once.
const CHUNK: usize = 64 * 1024;
/// Time from one line of progress to the next.
const PROGRESS: Duration = Duration::from_millis(200);
/// The recording cannot be used.
const UNUSABLE: u8 = 2;

/// Replays and prints.
pub fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let mut options = Options {
        neighbors: arguments.neighbor.clone(),
        ..Options::default()
    };
    options.context.add_path = add_path(&arguments.add_path)?;
    options.context.four_octet_as = !arguments.two_byte_as;
    let name = arguments.file.display();
    let unusable = |text: String| {
        eprintln!("error: {name}: {text}");
        Ok(ExitCode::from(UNUSABLE))
    };
    let mut source = match Source::open(&arguments.file) {
        Ok(source) => source,
        Err(error) => return unusable(error.to_string()),
    };
    let recognized = Format::recognize(&source.head);
    let format = match (arguments.format, recognized) {
        (ReplayFormat::Auto, Some(format)) | (_, Some(format @ Format::Capture)) => format,
        (_, _) if source.head.is_empty() => return unusable("there is nothing in it".to_owned()),
        (ReplayFormat::Auto, None) => {
            return unusable(
                "this is no MRT archive, BMP or BGP stream, capture or RIS Live file; if it is \
                 one, say which: --format mrt|bmp|bgp|ris"
                    .to_owned(),
            );
        }
        (ReplayFormat::Mrt, _) => Format::Mrt,
        (ReplayFormat::Bmp, _) => Format::Bmp,
        (ReplayFormat::Bgp, _) => Format::Bgp,
        (ReplayFormat::Ris, _) => Format::Ris,
    };
    let begin = Instant::now();
    let mut replay = Replay::new(format, options);
    read(&mut source, &mut replay, arguments.rate, begin);
    let took = begin.elapsed();
    if replay.summary().total() == 0 && replay.summary().problem_count > 0 {
        let problem = replay.summary().problems.first();
        return unusable(problem.map_or_else(String::new, |problem| problem.text.clone()));
    }
    if arguments.dump {
        let mut out = std::io::BufWriter::new(std::io::stdout().lock());
        replay.tables().write_lines(&mut out)?;
        out.flush()?;
    }
    let text = if arguments.json {
        format!(
            "{}\n",
            serde_json::to_string_pretty(&to_json(&replay, format, took))?
        )
    } else {
        to_text(&replay, format, took)
    };
    if arguments.dump {
        eprint!("{text}");
    } else {
        print!("{text}");
    }
    Ok(if replay.summary().problem_count == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn read(source: &mut Source, replay: &mut Replay, rate: Option<u64>, begin: Instant) {
    let mut chunk = vec![0; CHUNK];
    let mut progress = Progress::new(begin);
    loop {
        match source.reader.read(&mut chunk) {
            Ok(0) => break,
            Ok(count) => {
                if !replay.push(chunk.get(..count).unwrap_or_default()) {
                    break;
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => {
                replay.fail(format!("reading fails there: {error}"));
                break;
            }
        }
        let total = replay.summary().total();
        if let Some(rate) = rate {
            let due = Duration::from_secs_f64(total as f64 / rate.max(1) as f64);
            std::thread::sleep(due.saturating_sub(begin.elapsed()));
        }
        progress.show(source, total);
    }
    replay.finish();
    progress.clear();
}

/// A line on the terminal while it lasts.
struct Progress {
    begin: Instant,
    next: Instant,
    terminal: bool,
    shown: bool,
}

impl Progress {
    fn new(begin: Instant) -> Self {
        Self {
            begin,
            next: begin + PROGRESS,
            terminal: std::io::stderr().is_terminal(),
            shown: false,
        }
    }

    fn show(&mut self, source: &Source, total: u64) {
        let now = Instant::now();
        if !self.terminal || now < self.next {
            return;
        }
        self.next = now + PROGRESS;
        self.shown = true;
        let part = source
            .size
            .filter(|size| *size > 0)
            .map(|size| (source.consumed() as f64 / size as f64).clamp(0.0, 1.0));
        let elapsed = (now - self.begin).as_secs_f64();
        let left = part
            .filter(|part| *part > 0.01)
            .map_or_else(String::new, |part| {
                let left = elapsed / part - elapsed;
                format!("{:3.0} %, {left:.0} s left, ", part * 100.0)
            });
        eprint!("\r\x1b[K{left}{total} messages");
    }

    fn clear(&self) {
        if self.shown {
            eprint!("\r\x1b[K");
        }
    }
}

const fn name(format: Format) -> &'static str {
    match format {
        Format::Mrt => "MRT",
        Format::Bmp => "BMP",
        Format::Bgp => "BGP",
        Format::Ris => "RIS Live",
        Format::Capture => "capture",
    }
}

/// Microseconds since 1970 as a time.
fn time(microseconds: u64) -> String {
    i64::try_from(microseconds)
        .ok()
        .and_then(|microseconds| jiff::Timestamp::from_microsecond(microseconds).ok())
        .map_or_else(|| microseconds.to_string(), |time| time.to_string())
}

fn to_json(replay: &Replay, format: Format, took: Duration) -> Value {
    let summary = replay.summary();
    let sizes: std::collections::BTreeMap<_, _> = replay.tables().sizes().collect();
    let neighbors: Vec<Value> = summary
        .neighbors
        .iter()
        .map(|(id, counts)| {
            let size = sizes.get(id).copied().unwrap_or_default();
            json!({
                "neighbor": id,
                "asn": counts.asn,
                "updates": counts.updates,
                "announced": counts.announced,
                "withdrawn": counts.withdrawn,
                "end_of_rib": counts.end_of_rib,
                "sessions_lost": counts.lost,
                "routes": { "ipv4": size.ipv4, "ipv6": size.ipv6, "stale": size.stale },
            })
        })
        .collect();
    let total = sizes.values().fold((0, 0, 0), |sum, size| {
        (sum.0 + size.ipv4, sum.1 + size.ipv6, sum.2 + size.stale)
    });
    json!({
        "format": name(format),
        "records": summary.records,
        "messages": summary.messages,
        "first": summary.span.map(|(first, _)| time(first)),
        "last": summary.span.map(|(_, last)| time(last)),
        "treatments": summary.treatments,
        "neighbors": neighbors,
        "routes": { "ipv4": total.0, "ipv6": total.1, "stale": total.2 },
        "digest": replay.tables().digest(),
        "problems": summary.problems,
        "problem_count": summary.problem_count,
        "seconds": took.as_secs_f64(),
    })
}

fn to_text(replay: &Replay, format: Format, took: Duration) -> String {
    use std::fmt::Write as _;
    let summary = replay.summary();
    let mut text = String::new();
    let mut line = |label: &str, value: String| {
        // A string takes everything.
        let _ = writeln!(text, "{label:<12}{value}");
    };
    let total = summary.total();
    let speed = total as f64 / took.as_secs_f64().max(1e-6);
    line(
        name(format),
        format!(
            "{total} messages in {:.2} s, {speed:.0} a second",
            took.as_secs_f64()
        ),
    );
    if let Some((first, last)) = summary.span {
        line("time", format!("{} to {}", time(first), time(last)));
    }
    for (kind, count) in &summary.records {
        line("", format!("{count:>10}  {kind}"));
    }
    for (kind, count) in &summary.messages {
        line("", format!("{count:>10}  BGP {kind}"));
    }
    let treatments = summary.treatments;
    line(
        "RFC 7606",
        format!(
            "{} attribute-discard, {} treat-as-withdraw, {} session-reset",
            treatments.attribute_discard, treatments.treat_as_withdraw, treatments.session_reset
        ),
    );
    let (mut routes, mut stale) = (0, 0);
    for (id, size) in replay.tables().sizes() {
        routes += size.ipv4 + size.ipv6;
        stale += size.stale;
        let counts = summary.neighbors.get(&id).copied().unwrap_or_default();
        let asn = counts.asn.map_or_else(String::new, |asn| format!(" {asn}"));
        let old = if size.stale > 0 {
            format!(", {} stale", size.stale)
        } else {
            String::new()
        };
        line(
            "neighbour",
            format!(
                "{id}{asn}: {} IPv4, {} IPv6 routes{old}; announced {} + {}, withdrawn {} + {}",
                size.ipv4,
                size.ipv6,
                counts.announced.ipv4,
                counts.announced.ipv6,
                counts.withdrawn.ipv4,
                counts.withdrawn.ipv6,
            ),
        );
    }
    line("routes", format!("{routes}, {stale} of them stale"));
    line("digest", replay.tables().digest());
    let where_ = if format == Format::Capture {
        "packet"
    } else {
        "byte"
    };
    for problem in &summary.problems {
        line(
            "problem",
            format!("at {where_} {}: {}", problem.offset, problem.text),
        );
    }
    let more = summary.problem_count - u64::try_from(summary.problems.len()).unwrap_or(0);
    if more > 0 {
        line("problem", format!("and {more} more"));
    }
    text
}
