//! Evidence in words: counts that a person can check.

use std::collections::BTreeSet;
use std::time::Duration;

use events::{
    EgressName, Evidence, EvidenceSource, PeerKey, ProbeSource, ProbeTarget, Timestamp, Verdict,
};

use crate::case::Case;
use crate::view::{Families, View};

/// What took long so shortly before the onset may belong to it.
pub const BEFORE: Duration = Duration::from_millis(500);

/// All that the facts say about a case now.
pub fn evidence(view: &View<'_>, case: &Case) -> Vec<Evidence> {
    let mut lines = Vec::new();
    lines.extend(tcp(view, case));
    lines.extend(host(view, case));
    for egress in &view.params.egresses {
        lines.extend(gateway(view, case, &egress.name));
        for source in [ProbeSource::Flow, ProbeSource::Link] {
            lines.extend(targets(view, case, &egress.name, source));
        }
    }
    lines.extend(against(view, case));
    lines
}

/// Peers of the class that the verdict blames which are alive although it says that none can be.
fn against(view: &View<'_>, case: &Case) -> Option<Evidence> {
    let verdict = case.verdict.as_ref()?;
    let egress = case.broken_egress();
    let of_class = |key: &PeerKey| match verdict {
        Verdict::RemoteAs { asn } => {
            let path = view.routes.path(key, egress);
            path.is_some_and(|path| path.ases.contains(asn))
        }
        Verdict::Prefix { prefix } => prefix.contains(&key.0),
        verdict => verdict.broken_egress().is_some(),
    };
    let bound = view.surely_dark(case, &view.of_case(case))?;
    let alive = view
        .peers
        .map
        .iter()
        .filter(|(key, peer)| *peer.egress(&view.peers.default) == *egress && of_class(key))
        .filter(|(_, peer)| peer.failure().is_none() && peer.delivered > Some(bound))
        .count();
    if alive == 0 {
        return None;
    }
    let class = match verdict {
        Verdict::RemoteAs { asn } => format!("behind {asn}"),
        Verdict::Prefix { prefix } => format!("in {prefix}"),
        _ => format!("through {egress}"),
    };
    let weight = -crate::tally::against(alive, view.params.thresholds.correlation);
    Some(Evidence {
        at: view.now,
        source: EvidenceSource::Tcp,
        text: format!("against it: {alive} other peers {class} acknowledge what was sent since"),
        weight: Some((weight * 10.0).round() / 10.0),
    })
}

fn tcp(view: &View<'_>, case: &Case) -> Option<Evidence> {
    let failures = view.of_case(case);
    if failures.is_empty() {
        return None;
    }
    let tally = view.tally(&failures);
    let all = view.population(&case.egress, Families::BOTH);
    let mut text = format!(
        "{} of {} connections overdue through {}, {} of {} prefixes",
        tally.connections,
        all.connections.max(tally.connections),
        case.egress,
        tally.prefixes.len(),
        all.prefixes.len(),
    );
    if !all.origins.is_empty() {
        text.push_str(&format!(
            ", {} of {} origin ASes",
            tally.origins.len(),
            all.origins.len()
        ));
    }
    let firsts: BTreeSet<_> = failures
        .iter()
        .filter_map(|f| f.path.and_then(|p| p.upstream()))
        .collect();
    if let (1, Some(first)) = (firsts.len(), firsts.first()) {
        text.push_str(&format!(", all behind {first}"));
    }
    let heard = failures
        .iter()
        .flat_map(|f| f.peer.connections.values())
        .filter(|c| {
            let failing = c.failing.as_ref();
            failing.is_some_and(|f| c.inbound_at.is_some_and(|at| at > f.since + f.limit))
        })
        .count();
    if heard > 0 {
        text.push_str(&format!("; {heard} of them still receive data"));
    }
    let spikes = failures
        .iter()
        .filter(|f| f.peer.rtt_spike_at.is_some())
        .count();
    if spikes > 0 {
        text.push_str(&format!(
            "; {spikes} with a round-trip time off its baseline"
        ));
    }
    Some(Evidence {
        at: failures
            .iter()
            .map(|f| f.failing.at)
            .max()
            .unwrap_or(view.now),
        source: EvidenceSource::Tcp,
        text,
        weight: Some((tally.score * 10.0).round() / 10.0),
    })
}

fn host(view: &View<'_>, case: &Case) -> Vec<Evidence> {
    let line = |at: Timestamp, text: String| Evidence {
        at,
        source: EvidenceSource::Host,
        text,
        weight: None,
    };
    let mut lines = Vec::new();
    for egress in &view.params.egresses {
        let Some(link) = view.host.links.get(&egress.name) else {
            continue;
        };
        if let Some(at) = link.down_since {
            lines.push(line(at, format!("{}: carrier lost", egress.name)));
        }
        for (gateway, at) in &link.unresolved {
            let text = format!("{}: neighbour resolution of {gateway} failed", egress.name);
            lines.push(line(*at, text));
        }
    }
    if let Some(stall) = view.host.stall
        && stall.until >= case.onset
    {
        let text = format!("this host stood still for {} ms", stall.lag.as_millis());
        lines.push(line(stall.until, text));
    }
    for trouble in view.host.troubles(case.onset - BEFORE, view.now) {
        let mut text = trouble.what.to_string();
        if let Some(usual) = trouble.usual {
            text.push_str(&format!(
                " (99 % of them take at most {} ms)",
                usual.as_millis()
            ));
        }
        lines.push(line(trouble.until, text));
    }
    lines
}

fn gateway(view: &View<'_>, case: &Case, egress: &EgressName) -> Option<Evidence> {
    let (answered, sent) = view
        .reach
        .of(egress)
        .filter(|w| matches!(w.target, ProbeTarget::Gateway(_)) && w.last_reply.is_some())
        .map(|w| w.tally(case.onset))
        .fold((0, 0), |(a, b), (c, d)| (a + c, b + d));
    (sent > 0).then(|| Evidence {
        at: view.now,
        source: EvidenceSource::Probe,
        text: format!("gateway {egress} answered {answered} of {sent} since onset"),
        weight: None,
    })
}

/// Anchors and suspects through an egress: how many answered a probe sent since the break was sure.
fn targets(
    view: &View<'_>,
    case: &Case,
    egress: &EgressName,
    source: ProbeSource,
) -> Option<Evidence> {
    let failures = view.of_case(case);
    let bound = view.surely_dark(case, &failures).unwrap_or(case.onset);
    let mut counts = [(0_usize, 0_usize); 2];
    for window in view.reach.of(egress).filter(|w| w.source == source) {
        let [anchors, suspects] = &mut counts;
        let (count, asked) = match window.target {
            ProbeTarget::Gateway(_) => continue,
            ProbeTarget::Anchor(_) => (anchors, window.usable(case.onset)),
            ProbeTarget::Suspect(_) => (suspects, window.last_sent >= bound),
        };
        let decided = window.misses(view.now) > 0 || window.answered_since(bound);
        if asked && decided {
            count.1 += 1;
            count.0 += usize::from(window.answered_since(bound));
        }
    }
    let name = match source {
        ProbeSource::Flow => "flow source",
        ProbeSource::Link => "link source",
    };
    let parts: Vec<String> = ["anchors", "suspects"]
        .into_iter()
        .zip(counts)
        .filter(|(_, (_, asked))| *asked > 0)
        .map(|(what, (alive, asked))| format!("{what} {alive} of {asked} alive through {egress}"))
        .collect();
    (!parts.is_empty()).then(|| Evidence {
        at: view.now,
        source: EvidenceSource::Probe,
        text: format!("{} ({name})", parts.join(", ")),
        weight: None,
    })
}

/// The line of the timeline for a verdict.
pub fn verdict(case: &Case, verdict: &Verdict) -> String {
    let mut text = verdict.to_string();
    if !case.affected.is_empty() {
        let prefixes: BTreeSet<_> = case.affected.values().collect();
        text.push_str(&format!(
            ": {} peers in {} prefixes",
            case.affected.len(),
            prefixes.len()
        ));
    }
    text
}
