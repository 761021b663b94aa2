//! A table over a real session into each receiver, and what the daemon does under queries.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, ensure};
use results::Measure;

use crate::Bench;
use crate::receivers::{self, Kind, ROUTER, ROUTER_ADDRESS, Receiver};
use crate::sender::Sender;
use crate::table::{Random, Table};

/// How often the receivers are asked for their count. One for which the answer is work is asked less
/// often: about a tenth of its time is for answers.
const POLL: Duration = Duration::from_millis(10);
const POLL_SLOW: Duration = Duration::from_millis(500);
/// A count that stands still for so long after all is sent is final.
const STILL: Duration = Duration::from_secs(3);
/// A receiver that is not complete by then is not tried again.
const PATIENCE: Duration = Duration::from_secs(120);

struct Outcome {
    seconds: f64,
    cpu: f64,
    memory: f64,
    count: usize,
    /// What netwatch itself counts.
    accounted: Option<f64>,
}

/// Metric, what its case ends with, unit, and where it is.
type Figure = (
    &'static str,
    &'static str,
    &'static str,
    fn(&Outcome) -> f64,
);

/// Sends the table to all, several times in turns; medians.
pub fn compare(bench: &mut Bench, table: &Table) -> anyhow::Result<()> {
    let runs = if bench.quick { 1 } else { 3 };
    let mut all: Vec<(Kind, Vec<Outcome>)> = Kind::ALL.map(|kind| (kind, Vec::new())).into();
    for run in 0..runs {
        for (kind, outcomes) in &mut all {
            if outcomes.len() < run {
                continue;
            }
            match receive(bench, *kind, table, run) {
                Ok(Some(outcome)) => outcomes.push(outcome),
                // Of a peer that is a result, and no failure.
                Ok(None) => bench.check(
                    &format!("feed/{}/{}", table.name, kind.name()),
                    *kind != Kind::Netwatch,
                    format!("not complete after {} s", PATIENCE.as_secs()),
                ),
                Err(error) => {
                    ensure!(!lab::sys::interrupted(), "interrupted");
                    let name = format!("feed/{}/{}", table.name, kind.name());
                    bench.check(&name, false, format!("{error:#}"));
                }
            }
        }
    }
    let middle = |outcomes: &[Outcome], of: fn(&Outcome) -> f64| {
        let mut values: Vec<f64> = outcomes.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied()
    };
    let figures: [Figure; 3] = [
        ("full_feed_seconds", "", "s", |outcome| outcome.seconds),
        ("full_feed_seconds", "/cpu", "s", |outcome| outcome.cpu),
        ("rib_bytes", "", "bytes", |outcome| outcome.memory),
    ];
    for (metric, suffix, unit, of) in figures {
        let case = format!("{}{suffix}", table.name);
        let ours = all.iter().find(|(kind, _)| *kind == Kind::Netwatch);
        let ours = ours.and_then(|(_, outcomes)| middle(outcomes, of));
        let mut best: Option<f64> = None;
        for (kind, outcomes) in all.iter().filter(|(kind, _)| *kind != Kind::Netwatch) {
            let Some(value) = middle(outcomes, of) else {
                continue;
            };
            best = Some(best.map_or(value, |best: f64| best.min(value)));
            let mut measure = Measure::single(metric, &case, unit, value);
            measure.peer = Some(kind.name().to_owned());
            measure.n = Some(outcomes.len());
            bench.add(measure);
        }
        let Some(ours) = ours else { continue };
        let mut measure = Measure::single(metric, &case, unit, ours);
        measure.n = Some(runs);
        measure.ratio = best.map(|best| (ours / best * 1000.0).round() / 1000.0);
        let ratio = measure.ratio;
        bench.add(measure);
        if suffix.is_empty() {
            bench.at_most(&format!("{metric}/{case}/ratio"), ratio, 1.0);
        }
        if metric == "rib_bytes" && !bench.quick {
            let limit = if table.name == "real" { 50e6 } else { 120e6 };
            bench.at_most(&format!("rib_bytes/{case}"), Some(ours), limit);
        }
    }
    for (kind, outcomes) in &all {
        if let Some(accounted) = outcomes.iter().find_map(|outcome| outcome.accounted) {
            let case = format!("{}/accounted", table.name);
            bench.add(Measure::single("rib_bytes", &case, "bytes", accounted));
        }
        let counts: Vec<usize> = outcomes.iter().map(|outcome| outcome.count).collect();
        // Whoever takes fewer routes has less to do, and that is to be seen.
        let ok = !counts.is_empty() && counts.iter().all(|count| *count == table.prefixes);
        let ok = ok || (*kind != Kind::Netwatch && !counts.is_empty());
        let detail = format!("{counts:?} of {}", table.prefixes);
        bench.check(
            &format!("routes/{}/{}", table.name, kind.name()),
            ok,
            detail,
        );
    }
    Ok(())
}

fn connect(bench: &Bench, asn: u32, hold: u16) -> anyhow::Result<Sender> {
    bench.space.within(ROUTER, || {
        Sender::connect(receivers::address(), ROUTER_ADDRESS, asn, hold)
    })
}

/// Asks for the count until it is complete, or stands still: when it last changed, and the count.
/// `None`: it is not complete when patience ends.
fn poll(
    receiver: &Receiver,
    table: &Table,
    start: Instant,
    sent: &AtomicBool,
) -> anyhow::Result<Option<(Instant, usize)>> {
    let mut last = (start, 0);
    loop {
        let asked = Instant::now();
        let count = receiver.count()?;
        let now = Instant::now();
        if count != last.1 {
            last = (now, count);
        }
        let still = sent.load(Ordering::Relaxed) && now.duration_since(last.0) > STILL;
        // The sender's thread ends a moment after the last route is in.
        let complete = count >= table.prefixes && sent.load(Ordering::Relaxed);
        if complete || still {
            return Ok(Some(last));
        }
        if start.elapsed() > PATIENCE {
            return Ok(None);
        }
        let pause = now.duration_since(asked) * 9;
        lab::sys::sleep(pause.clamp(POLL, POLL_SLOW))?;
    }
}

fn receive(
    bench: &Bench,
    kind: Kind,
    table: &Table,
    run: usize,
) -> anyhow::Result<Option<Outcome>> {
    let run = run * 2 + usize::from(table.name == "real");
    let receiver = Receiver::start(&bench.space, kind, &bench.netwatch, table.asn, 90, run)?;
    let sender = connect(bench, table.asn, 90)?;
    lab::sys::sleep(Duration::from_secs(1))?;
    let (cpu, memory) = (receiver.cpu()?, receiver.memory()?);
    let start = Instant::now();
    let sent = AtomicBool::new(false);
    let last = std::thread::scope(|scope| {
        let sending = scope.spawn(|| {
            let result = sender
                .send(&table.bytes, &table.offsets)
                .and_then(|()| sender.end_of_rib());
            sent.store(true, Ordering::Relaxed);
            result
        });
        let polled = poll(&receiver, table, start, &sent);
        if !matches!(polled, Ok(Some(_))) {
            // The sender may wait for a receiver that does not read any more.
            sender.close();
        }
        let sent = sending.join().map_err(|_| anyhow!("the sender panicked"))?;
        let last = polled?;
        if last.is_some() {
            let log = || format!("its log ends with: {}", receiver.log_end());
            sent.with_context(log)?;
        }
        anyhow::Ok(last)
    })?;
    let Some((at, count)) = last else {
        return Ok(None);
    };
    let seconds = at.duration_since(start).as_secs_f64();
    let busy = receiver.cpu()? - cpu;
    lab::sys::sleep(Duration::from_secs(1))?;
    let accounted = match kind {
        Kind::Netwatch => {
            let status = receiver.netwatch(r#"{"request":"status"}"#)?;
            status["counters"]["netwatch_bgp_rib_bytes"].as_f64()
        }
        _ => None,
    };
    eprintln!(
        "    {:<9} {seconds:>7.3} s  {count} routes  CPU {busy:.2} s  RSS +{:.1} MB",
        kind.name(),
        (receiver.memory()? - memory) / 1e6
    );
    Ok(Some(Outcome {
        seconds,
        cpu: busy,
        memory: receiver.memory()? - memory,
        count,
        accounted,
    }))
}

/// The real daemon with a hold time of 3 s, a full table, churn, 100 queries per second and dumps of
/// the whole table: its session stays.
pub fn queries(bench: &mut Bench, table: &Table) -> anyhow::Result<()> {
    let seconds = if bench.quick { 6 } else { 20 };
    let receiver = Receiver::start(
        &bench.space,
        Kind::Netwatch,
        &bench.netwatch,
        table.asn,
        3,
        99,
    )?;
    let sender = connect(bench, table.asn, 3)?;
    sender.send(&table.bytes, &table.offsets)?;
    sender.end_of_rib()?;
    while receiver.count()? < table.prefixes {
        ensure!(sender.alive(), "the session ended while the table was sent");
        lab::sys::sleep(POLL)?;
    }
    let keepalives = sender.keepalives();
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut random = Random(7);
    let (answers, pages, sent) = std::thread::scope(|scope| {
        let asking = scope.spawn(|| -> anyhow::Result<Vec<f64>> {
            let mut took = Vec::new();
            let mut random = Random(3);
            while Instant::now() < end {
                let next = Instant::now() + Duration::from_millis(10);
                let address = std::net::Ipv4Addr::from((random.next() >> 32) as u32);
                let past = if random.below(4) == 0 {
                    let at = clock::now() - Duration::from_secs(2);
                    format!(",\"at\":{}", at.as_nanos())
                } else {
                    String::new()
                };
                let request = format!("{{\"request\":\"bgp_rib\",\"query\":\"{address}\"{past}}}");
                let start = Instant::now();
                let reply = receiver.netwatch(&request)?;
                took.push(start.elapsed().as_secs_f64() * 1e3);
                ensure!(reply["reply"] == "bgp_rib", "the daemon answered {reply}");
                std::thread::sleep(next.saturating_duration_since(Instant::now()));
            }
            Ok(took)
        });
        let dumping = scope.spawn(|| -> anyhow::Result<usize> {
            let mut pages = 0;
            let mut after = String::new();
            while Instant::now() < end {
                let request =
                    format!("{{\"request\":\"bgp_rib\",\"query\":\"all\",\"limit\":5000{after}}}");
                let reply = receiver.netwatch(&request)?;
                pages += 1;
                after = match &reply["next"] {
                    serde_json::Value::Null => String::new(),
                    next => format!(",\"after\":{next}"),
                };
            }
            Ok(pages)
        });
        // 2,000 changes per second beside it.
        let mut sent = 0_usize;
        while Instant::now() < end && sender.alive() {
            for _ in 0..20 {
                let number = usize::try_from(random.below(table.updates() as u64)).unwrap_or(0);
                let bounds = table.offsets.get(number).zip(table.offsets.get(number + 1));
                let (from, to) = bounds.context("an offset")?;
                sender.write(table.bytes.get(*from..*to).context("a message")?)?;
                sent += 1;
            }
            lab::sys::sleep(Duration::from_millis(10))?;
        }
        let answers = asking.join().map_err(|_| anyhow!("a thread panicked"))??;
        let pages = dumping.join().map_err(|_| anyhow!("a thread panicked"))??;
        anyhow::Ok((answers, pages, sent))
    })?;
    let beats = sender.keepalives() - keepalives;
    let expected = seconds - 1;
    let detail = format!(
        "{beats} KEEPALIVEs in {seconds} s at a hold time of 3 s, {} queries, {pages} pages of 5,000 routes, {sent} UPDATEs",
        answers.len()
    );
    bench.check(
        "queries/session_held",
        sender.alive() && beats >= expected,
        detail,
    );
    if let Some(measure) = Measure::of("query_ms", "full table, 100/s", "ms", answers) {
        bench.add(measure);
    }
    Ok(())
}
