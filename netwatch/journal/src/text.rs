//! The report as text: read at three in the morning, so the answer first and the proof after it.

use std::fmt::Write as _;

use events::{Actor, EntryKind, EvidenceSource, IncidentState};

use crate::read::IncidentLine;
use crate::report::{Header, Line, Report, duration};

/// How text is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TextStyle {
    /// With ANSI colours.
    pub color: bool,
    /// Columns; longer lines are wrapped under their own column. `None`: never.
    pub width: Option<usize>,
}

#[derive(Clone, Copy)]
enum Tone {
    Plain,
    Bold,
    Dim,
    Bad,
    Good,
    Warn,
}

impl TextStyle {
    fn paint(self, tone: Tone, text: &str) -> String {
        let code = match tone {
            Tone::Plain => "",
            Tone::Bold => "1",
            Tone::Dim => "2",
            Tone::Bad => "1;31",
            Tone::Good => "32",
            Tone::Warn => "33",
        };
        if self.color && !code.is_empty() {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }

    /// The text's lines, fit into what is left beside an indent.
    fn wrap(self, text: &str, indent: usize) -> Vec<String> {
        let text = clean(text);
        let room = match self.width {
            Some(width) => width.saturating_sub(indent).max(24),
            None => return vec![text.replace(UNBROKEN, " ")],
        };
        let mut lines = Vec::new();
        let mut line = String::new();
        for word in text.split(' ') {
            let used = line.chars().count();
            if used > 0 && used + 1 + word.chars().count() > room {
                lines.push(std::mem::take(&mut line));
            }
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
        lines.push(line);
        for line in &mut lines {
            *line = line.replace(UNBROKEN, " ");
        }
        lines
    }
}

/// Text from outside (an AS path's attribute, a pager's answer) must not steer the terminal.
#[must_use]
pub fn clean(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

/// A space at which a line is not broken.
const UNBROKEN: &str = "\u{a0}";

const LABEL: usize = 16;
const OFFSET: usize = 13;
const DELTA: usize = 13;
const WALL: usize = 14;
const ACTOR: usize = 11;
const KIND: usize = 15;

impl Report {
    /// The report for people.
    #[must_use]
    pub fn text(&self, style: TextStyle) -> String {
        let mut out = String::new();
        self.incident.write(&mut out, style);
        out.push('\n');
        let head = format!(
            "{:>OFFSET$}{:>DELTA$}  {:<WALL$}{:<ACTOR$}{:<KIND$}",
            "since onset", "since last", "UTC", "who", "what"
        );
        out.push_str(&style.paint(Tone::Bold, head.trim_end()));
        out.push('\n');
        for line in &self.entries {
            line.write(&mut out, style);
        }
        if self.entries.is_empty() {
            out.push_str("  no entries\n");
        }
        if !self.incident.affected_peers.is_empty() {
            out.push('\n');
            let peers: Vec<String> = self
                .incident
                .affected_peers
                .iter()
                .map(ToString::to_string)
                .collect();
            field(&mut out, style, "Peers", &[listing(&peers, 64)]);
        }
        out
    }
}

impl Header {
    fn write(&self, out: &mut String, style: TextStyle) {
        let state = state(self.state);
        let tone = match self.state {
            Some(IncidentState::Resolved) => Tone::Good,
            Some(IncidentState::Mitigated) => Tone::Warn,
            _ => Tone::Bad,
        };
        let _ = writeln!(
            out,
            "{}  {}",
            style.paint(Tone::Bold, &format!("Incident {}", clean(&self.id.0))),
            style.paint(tone, state)
        );
        out.push('\n');
        let broke = match (self.class, &self.culprit) {
            (Some(class), Some(culprit)) => {
                format!("{} ({class}, culprit: {culprit})", self.title)
            }
            (Some(class), None) => format!("{} ({class})", self.title),
            _ => self.title.clone(),
        };
        field(out, style, "What broke", &[broke]);
        let prefixes: Vec<String> = self
            .affected_prefixes
            .iter()
            .map(ToString::to_string)
            .collect();
        let whom = match (self.affected_peers.len(), prefixes.len()) {
            (0, 0) => "no peers recorded".to_owned(),
            (peers, 0) => plural(peers, "peer", "peers"),
            (peers, count) => format!(
                "{} in {}: {}",
                plural(peers, "peer", "peers"),
                plural(count, "prefix", "prefixes"),
                listing(&prefixes, 8)
            ),
        };
        field(out, style, "For whom", &[whom]);
        let since = format!(
            "{}{}",
            self.onset.strftime("%Y-%m-%d %H:%M:%S%.3f UTC"),
            match self.duration_ms {
                Some(ms) => format!(", for {}", duration(ms, false)),
                None => ", not resolved".to_owned(),
            }
        );
        field(out, style, "Since", &[since]);
        let or = |lines: &[String], none: &str| {
            if lines.is_empty() {
                vec![none.to_owned()]
            } else {
                lines.to_vec()
            }
        };
        field(out, style, "BGP says", &or(&self.bgp, "nothing about it"));
        field(
            out,
            style,
            "Done",
            &or(&self.actions, "no route was changed"),
        );
        field(out, style, "Paged", &or(&self.pages, "nobody"));
        if let Some(first) = self.first_evidence {
            field(out, style, "First sign", &[source(first).to_owned()]);
        }
        let times = &self.times;
        let mut steps: Vec<(&str, f64)> = [
            ("suspect", times.suspect_ms),
            ("verdict", times.verdict_ms),
            ("route", times.route_ms),
            ("verified", times.verified_ms),
            ("page", times.page_ms),
            ("accepted", times.page_accepted_ms),
            ("reverted", times.reverted_ms),
            ("resolved", times.resolved_ms),
        ]
        .into_iter()
        .filter_map(|(name, at)| at.map(|at| (name, at)))
        .collect();
        steps.sort_by(|a, b| a.1.total_cmp(&b.1));
        let steps: Vec<String> = steps
            .into_iter()
            .map(|(name, at)| format!("{name} {}", duration(at, true)).replace(' ', UNBROKEN))
            .collect();
        field(out, style, "Response", &[steps.join(" | ")]);
    }
}

impl Line {
    fn write(&self, out: &mut String, style: TextStyle) {
        let (label, tone) = kind(&self.kind);
        let delta = self
            .since_previous_ms
            .map_or(String::new(), |ms| duration(ms, true));
        let indent = OFFSET + DELTA + 2 + WALL + ACTOR + KIND;
        let mut text = self.text.clone();
        if let Some(received) = self.received_offset_ms {
            let _ = write!(text, " (heard {})", duration(received, true));
        }
        let mut lines = style.wrap(&text, indent).into_iter();
        let row = format!(
            "{}{}  {}{:<ACTOR$}{}{}",
            style.paint(
                Tone::Bold,
                &format!("{:>OFFSET$}", duration(self.offset_ms, true))
            ),
            style.paint(Tone::Dim, &format!("{delta:>DELTA$}")),
            style.paint(
                Tone::Dim,
                &format!("{:<WALL$}", self.wall.strftime("%H:%M:%S%.3f").to_string())
            ),
            actor(self.actor),
            style.paint(tone, &format!("{label:<KIND$}")),
            lines.next().unwrap_or_default()
        );
        out.push_str(row.trim_end());
        out.push('\n');
        for line in lines {
            let _ = writeln!(out, "{:indent$}{line}", "");
        }
        for evidence in &self.evidence {
            let weight = evidence
                .weight
                .map_or(String::new(), |weight| format!(" [{weight:+.1} nats]"));
            let text = format!(
                "- {} {}: {}{weight}",
                duration(evidence.offset_ms, true),
                source(evidence.source),
                evidence.text
            );
            for (index, line) in style.wrap(&text, indent + 2).into_iter().enumerate() {
                let hang = if index == 0 { "" } else { "  " };
                let line = style.paint(Tone::Dim, &format!("{hang}{line}"));
                let _ = writeln!(out, "{:indent$}{line}", "");
            }
        }
    }
}

fn field(out: &mut String, style: TextStyle, label: &str, values: &[String]) {
    let mut label = style.paint(Tone::Bold, &format!("  {label:<width$}", width = LABEL - 2));
    for value in values {
        for line in style.wrap(value, LABEL) {
            let _ = writeln!(out, "{label}{line}");
            label = " ".repeat(LABEL);
        }
    }
}

fn listing(items: &[String], most: usize) -> String {
    let shown: Vec<&str> = items.iter().take(most).map(String::as_str).collect();
    match items.len().saturating_sub(most) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

fn plural(count: usize, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

const fn state(state: Option<IncidentState>) -> &'static str {
    match state {
        None => "INTERRUPTED (the daemon died during it)",
        Some(IncidentState::Suspected) => "SUSPECTED",
        Some(IncidentState::Confirmed) => "ONGOING",
        Some(IncidentState::Verifying) => "ONGOING, reroute being verified",
        Some(IncidentState::Mitigated) => "ONGOING, traffic rerouted",
        Some(IncidentState::Resolved) => "RESOLVED",
    }
}

const fn source(source: EvidenceSource) -> &'static str {
    match source {
        EvidenceSource::Tcp => "TCP",
        EvidenceSource::Probe => "probe",
        EvidenceSource::Bgp => "BGP",
        EvidenceSource::Host => "host",
    }
}

const fn actor(actor: Actor) -> &'static str {
    match actor {
        Actor::Kernel => "kernel",
        Actor::Tracker => "tracker",
        Actor::Bgp => "bgp",
        Actor::Prober => "prober",
        Actor::Host => "host",
        Actor::Correlator => "correlator",
        Actor::Planner => "planner",
        Actor::Routes => "routes",
        Actor::Watchdog => "watchdog",
        Actor::Pager => "pager",
        Actor::Operator => "operator",
    }
}

const fn kind(kind: &EntryKind) -> (&'static str, Tone) {
    match kind {
        EntryKind::Onset => ("onset", Tone::Bad),
        EntryKind::FirstEvidence => ("first evidence", Tone::Plain),
        EntryKind::Suspected => ("suspected", Tone::Warn),
        EntryKind::Verdict { .. } => ("verdict", Tone::Bad),
        EntryKind::BgpEvidence => ("BGP", Tone::Plain),
        EntryKind::Planned { .. } => ("planned", Tone::Plain),
        EntryKind::Refused { .. } => ("refused", Tone::Warn),
        EntryKind::Installed { .. } => ("installed", Tone::Good),
        EntryKind::InstallFailed { .. } => ("not installed", Tone::Bad),
        EntryKind::Verified { .. } => ("verified", Tone::Good),
        EntryKind::Reverted { .. } => ("reverted", Tone::Warn),
        EntryKind::PageQueued { .. } => ("page queued", Tone::Plain),
        EntryKind::PageSent { .. } => ("page sent", Tone::Plain),
        EntryKind::PageAccepted { .. } => ("page accepted", Tone::Good),
        EntryKind::PageFailed {
            permanent: true, ..
        } => ("page lost", Tone::Bad),
        EntryKind::PageFailed {
            permanent: false, ..
        } => ("page failed", Tone::Warn),
        EntryKind::Resolved => ("resolved", Tone::Good),
        EntryKind::Note => ("note", Tone::Plain),
    }
}

/// A list of incidents for people.
#[must_use]
pub fn incidents_text(incidents: &[IncidentLine], style: TextStyle) -> String {
    if incidents.is_empty() {
        return "no incidents\n".to_owned();
    }
    let names = incidents.iter().map(|line| line.id.0.chars().count());
    let width = names.max().unwrap_or(0).max(8);
    let head = format!(
        "{:<width$}  {:<23}  {:>12}  {:>5}  {:<13}  what",
        "incident", "onset (UTC)", "duration", "peers", "class"
    );
    let mut out = style.paint(Tone::Bold, &head);
    out.push('\n');
    for line in incidents {
        let length = match (line.duration_ms, line.state) {
            (Some(ms), _) => duration(ms, false),
            (None, None) => "interrupted".to_owned(),
            (None, Some(_)) => "ongoing".to_owned(),
        };
        let _ = writeln!(
            out,
            "{:<width$}  {}  {length:>12}  {:>5}  {:<13}  {}",
            clean(&line.id.0),
            line.onset.strftime("%Y-%m-%d %H:%M:%S%.3f"),
            line.affected_peers,
            line.class.as_deref().unwrap_or("-"),
            clean(line.verdict.as_deref().unwrap_or("no verdict")),
        );
    }
    out
}
