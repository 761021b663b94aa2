//! What `netwatch replay` prints for people.

use std::path::Path;

use events::{Effect, Timestamp};
use journal::clean;
use recorder::{Changes, Header, Replayed, Story, Told};

use crate::replay::Pair;

/// What a replay with other thresholds cannot know.
pub const NOTE: &str = "The inputs are as recorded: after an action that would have been taken at another time, or not at all, the network would have answered otherwise.";

/// Milliseconds since the onset.
pub fn offset_ms(onset: Timestamp, at: Timestamp) -> f64 {
    let (after, before) = (at.since(onset), onset.since(at));
    (after.as_secs_f64() - before.as_secs_f64()) * 1e3
}

/// Wall time, by the recording's own anchor.
pub fn wall(header: &Header, at: Timestamp) -> jiff::Timestamp {
    let signed = |duration| jiff::SignedDuration::try_from(duration).unwrap_or_default();
    let later = signed(at.since(header.opened_at));
    let earlier = signed(header.opened_at.since(at));
    header
        .opened_wall
        .checked_add(later - earlier)
        .unwrap_or(header.opened_wall)
}

/// What the recording is, and how much of it was fed.
pub fn head(path: &Path, done: &Replayed) {
    let header = &done.header;
    println!("Recording   {}", path.display());
    println!(
        "Incident    {}, onset {}, recorded by netwatch {}",
        clean(&header.incident.0),
        wall(header, header.onset).strftime("%Y-%m-%d %H:%M:%S%.3f UTC"),
        clean(&header.netwatch)
    );
    if let Some((from, until)) = done.span {
        println!(
            "Replayed    {} inputs from {:+.3} s to {:+.3} s of the onset; {}",
            done.inputs,
            offset_ms(header.onset, from) / 1e3,
            offset_ms(header.onset, until) / 1e3,
            done.closed.as_ref().map_or_else(
                || "not closed: still recording, stopped early, or the daemon was killed"
                    .to_owned(),
                |why| format!("closed: {}", clean(why))
            )
        );
    }
    for damage in &done.damage {
        println!("DAMAGED     {}", clean(damage));
    }
    println!();
}

/// The timeline that the engine decided; with `all` every effect.
pub fn effects(done: &Replayed, all: bool) {
    let own = &done.header.incident;
    for told in &done.replayed {
        let line = match &told.effect {
            Effect::Journal(entry) => {
                let whose = if entry.incident == *own {
                    String::new()
                } else {
                    format!("[{}] ", entry.incident)
                };
                let who = format!("{:?}", entry.actor).to_lowercase();
                format!("{who:<11} {whose}{}", entry.text)
            }
            other if all => format!("{:<11} {}", "effect", effect(other)),
            _ => continue,
        };
        println!(
            "{:>+12.3} ms  {}  {}",
            offset_ms(done.header.onset, told.at),
            wall(&done.header, told.at).strftime("%H:%M:%S%.3f"),
            clean(&line)
        );
    }
    println!();
}

fn effect(effect: &Effect) -> String {
    match effect {
        Effect::Probe(request) => format!(
            "probe {} targets {} times through {} egresses",
            request.targets.len(),
            request.count,
            request.egresses.len()
        ),
        Effect::Watch { peers } => format!("watch {} peers", peers.len()),
        Effect::Install(plan) => {
            format!("install plan {}: {} routes", plan.id.0, plan.routes.len())
        }
        Effect::Nudge { plan, prefixes, .. } => {
            format!(
                "nudge connections to {} prefixes of plan {}",
                prefixes.len(),
                plan.0
            )
        }
        Effect::RenewLease { plan } => format!("renew the lease of plan {}", plan.0),
        Effect::Revert { plan, reason } => format!("revert plan {}: {reason:?}", plan.0),
        Effect::Page(page) => format!("page {:?}: {}", page.action, page.summary),
        Effect::Journal(entry) => entry.text.clone(),
    }
}

/// Equal or not, and where not.
pub fn verdict(done: &Replayed) {
    if done.unusable.is_some() {
        return;
    }
    let Some(difference) = &done.difference else {
        println!(
            "EQUAL       {} effects, byte for byte; the state at {} later checkpoints",
            done.compared, done.states
        );
        return;
    };
    println!(
        "DIFFERS     the first difference is an {} at {:+.3} ms, after input {}",
        difference.what,
        offset_ms(done.header.onset, difference.at),
        difference.sequence
    );
    let text = |what: &Option<String>| {
        what.as_ref()
            .map_or_else(|| "nothing".to_owned(), |t| clean(t))
    };
    let (recorded, replayed) = (text(&difference.recorded), text(&difference.replayed));
    let (from, recorded, replayed) = around(&recorded, &replayed);
    println!("  from character {from} on");
    println!("  recorded  {recorded}");
    println!("  replayed  {replayed}");
    if done.header.netwatch != env!("CARGO_PKG_VERSION") {
        println!(
            "  it was recorded by netwatch {}, this is {}: another version may decide otherwise",
            clean(&done.header.netwatch),
            env!("CARGO_PKG_VERSION")
        );
    }
}

/// Both texts near the first character that differs.
fn around(one: &str, other: &str) -> (usize, String, String) {
    const BEFORE: usize = 60;
    const SHOWN: usize = 200;
    let same = one.chars().zip(other.chars()).take_while(|(a, b)| a == b);
    let from = same.count().saturating_sub(BEFORE);
    let part = |text: &str| text.chars().skip(from).take(SHOWN).collect();
    (from, part(one), part(other))
}

/// As recorded, and as it would have been.
pub fn side_by_side(done: &Replayed, changes: &Changes, pairs: &[Pair]) {
    for (key, value) in changes.made() {
        println!(
            "What if     {} = {value} (recorded: {})",
            key.name, key.value
        );
    }
    if pairs.is_empty() {
        println!("\nno incident, neither as recorded nor so");
    }
    let onset = done.header.onset;
    for (recorded, what_if) in pairs {
        let Some(either) = recorded.as_ref().or(what_if.as_ref()) else {
            continue;
        };
        println!("\n{}", clean(&either.incident.0));
        println!("{:<18}{:<44}what if", "", "recorded");
        let row = |name: &str, cell: &dyn Fn(&Story) -> Option<String>| {
            let cells = [recorded, what_if].map(|story| {
                story
                    .as_ref()
                    .and_then(cell)
                    .map_or_else(|| "-".to_owned(), |text| clean(&text))
            });
            if cells.iter().any(|text| text != "-") {
                println!("  {name:<16}{:<44}{}", cells[0], cells[1]);
            }
        };
        let at = |at: Timestamp| format!("{:+.1} ms", offset_ms(onset, at));
        row("onset", &|s| Some(at(s.onset)));
        row("suspected", &|s| s.suspected.map(at));
        row("verdict", &|s| {
            s.first_verdict
                .as_ref()
                .map(|(t, v)| format!("{} {v}", at(*t)))
        });
        row("last verdict", &|s| {
            let changed = s.verdict != s.first_verdict;
            let (t, v) = s.verdict.as_ref().filter(|_| changed)?;
            Some(format!("{} {v}", at(*t)))
        });
        row("routes", &|s| {
            s.route
                .map(|(t, count)| format!("{} {count} asked for", at(t)))
        });
        row("refused", &|s| {
            s.refused
                .as_ref()
                .map(|(t, why)| format!("{} {why}", at(*t)))
        });
        row("first page", &|s| s.page.map(at));
        row("pages", &|s| (s.pages > 0).then(|| s.pages.to_string()));
        row("reverted", &|s| s.reverted.map(at));
        row("resolved", &|s| s.resolved.map(at));
    }
    let same = same_decisions(&done.recorded, &done.replayed);
    println!(
        "\n{}",
        if same {
            "Nothing would have been decided otherwise."
        } else {
            NOTE
        }
    );
}

/// All effects the same, in the same order.
fn same_decisions(one: &[Told], other: &[Told]) -> bool {
    let decided = |told: &Told| told.effect.clone();
    one.iter().map(decided).eq(other.iter().map(decided))
}
