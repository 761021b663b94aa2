//! A page in the form of the PagerDuty Events API v2.

use events::{Page, PageAction, Severity};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::settings::{Secret, Settings};

/// Characters of `payload.summary` (the API's limit).
const SUMMARY: usize = 1_024;
/// Characters of `dedup_key` (the API's limit).
const DEDUP_KEY: usize = 255;
/// Items of each list among the details.
const ITEMS: usize = 100;
/// Characters of each line of evidence. With `ITEMS` lines, each character escaped to six bytes, the
/// body stays below the API's 512 KB.
const LINE: usize = 500;
/// Characters of each other text among the details.
const TEXT: usize = 2_000;

/// An event without its routing key: what the outbox keeps.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Event {
    pub event_action: PageAction,
    pub dedup_key: String,
    pub payload: Payload,
    pub client: String,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub client_url: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Payload {
    pub summary: String,
    pub source: String,
    pub severity: Severity,
    pub timestamp: String,
    pub component: String,
    pub group: String,
    pub class: String,
    pub custom_details: Value,
}

#[derive(Serialize)]
struct Keyed<'a> {
    routing_key: &'a str,
    #[serde(flatten)]
    event: &'a Event,
}

impl Event {
    pub fn of(page: &Page, onset: jiff::Timestamp, settings: &Settings) -> Self {
        let details = &page.details;
        Self {
            event_action: page.action,
            dedup_key: shorten(&page.incident.0, DEDUP_KEY),
            payload: Payload {
                summary: shorten(&page.summary, SUMMARY),
                source: shorten(&settings.source, TEXT),
                severity: page.severity,
                timestamp: format!("{onset:.3}"),
                component: shorten(&page.component, TEXT),
                group: "network".to_owned(),
                class: shorten(&page.class, TEXT),
                custom_details: json!({
                    "incident": shorten(&page.incident.0, DEDUP_KEY),
                    "what_broke": shorten(&details.what_broke, TEXT),
                    "affected_peers_count": details.affected_peers.len(),
                    "affected_peers": list(&details.affected_peers),
                    "affected_prefixes_count": details.affected_prefixes.len(),
                    "affected_prefixes": list(&details.affected_prefixes),
                    "since": format!("{onset:.3}"),
                    "paged_after_ms": round(page.at.since(page.onset)),
                    "bgp": {
                        "text": shorten(&details.bgp.text, TEXT),
                        "culprit": details.bgp.culprit.map(|asn| asn.to_string()),
                        "withdrawn": details.bgp.withdrawn,
                        "changed": details.bgp.changed,
                    },
                    "remediation": shorten(&details.remediation, TEXT),
                    "evidence": list(&details.evidence),
                }),
            },
            client: settings.client.clone(),
            client_url: settings.client_url.clone(),
        }
    }

    /// The request's body.
    pub fn body(&self, key: &Secret) -> Result<Vec<u8>, serde_json::Error> {
        serde_json::to_vec(&Keyed {
            routing_key: key.expose(),
            event: self,
        })
    }
}

fn round(duration: std::time::Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

fn list<T: ToString>(items: &[T]) -> Vec<String> {
    let mut list: Vec<String> = items
        .iter()
        .take(ITEMS)
        .map(|item| shorten(&item.to_string(), LINE))
        .collect();
    if items.len() > ITEMS {
        list.push(format!("and {} more", items.len() - ITEMS));
    }
    list
}

/// At most `limit` characters; what is cut is marked.
fn shorten(text: &str, limit: usize) -> String {
    if text.chars().count() <= limit {
        return text.to_owned();
    }
    text.chars()
        .take(limit.saturating_sub(1))
        .chain(['…'])
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use events::{BgpSummary, IncidentId, PageDetails, PeerKey, Timestamp};

    fn page() -> Page {
        Page {
            incident: IncidentId("inc-1".into()),
            action: PageAction::Trigger,
            severity: Severity::Critical,
            summary: "upstream AS64501 behind a is dark".into(),
            component: "a".into(),
            class: "upstream_as".into(),
            onset: Timestamp::from_millis(1_000),
            at: Timestamp::from_nanos(1_250_500_000),
            details: PageDetails {
                what_broke: "the upstream".into(),
                affected_peers: vec![PeerKey("192.0.2.1".parse().unwrap())],
                affected_prefixes: vec!["192.0.2.0/24".parse().unwrap()],
                bgp: BgpSummary {
                    text: "no change so far".into(),
                    culprit: Some(events::Asn(64501)),
                    withdrawn: 0,
                    changed: 0,
                },
                remediation: "installed, verifying".into(),
                evidence: vec!["+90 ms 12 of 40 overdue".into()],
            },
        }
    }

    fn settings() -> Settings {
        Settings::new("http://127.0.0.1/", Secret::new("k"), "val-1")
    }

    #[test]
    fn an_event_has_the_documented_fields() {
        let event = Event::of(
            &page(),
            "2026-01-02T03:04:05.678901Z".parse().unwrap(),
            &settings(),
        );
        let body: Value =
            serde_json::from_slice(&event.body(&Secret::new("key\n")).unwrap()).unwrap();
        assert_eq!(body["routing_key"], "key");
        assert_eq!(body["event_action"], "trigger");
        assert_eq!(body["dedup_key"], "inc-1");
        assert_eq!(body["client"], "netwatch");
        let payload = &body["payload"];
        assert_eq!(payload["source"], "val-1");
        assert_eq!(payload["severity"], "critical");
        assert_eq!(payload["timestamp"], "2026-01-02T03:04:05.678Z");
        let details = &payload["custom_details"];
        assert_eq!(details["paged_after_ms"], 250.5);
        assert_eq!(details["bgp"]["culprit"], "AS64501");
        assert_eq!(details["affected_prefixes"][0], "192.0.2.0/24");
    }

    #[test]
    fn an_event_keeps_the_api_limits_whatever_the_page_holds() {
        let mut page = page();
        // NUL is the worst case: six bytes in JSON; ü and € have two and three in UTF-8.
        page.summary = "ü€".repeat(5_000);
        page.incident = IncidentId("i".repeat(1_000));
        page.component = "\0".repeat(100_000);
        page.class = "\0".repeat(100_000);
        page.details.what_broke = "\0".repeat(100_000);
        page.details.remediation = "\0".repeat(100_000);
        page.details.bgp.text = "\0".repeat(100_000);
        page.details.evidence = vec!["\0".repeat(10_000); 1_000];
        page.details.affected_peers = vec![PeerKey("2001:db8::1".parse().unwrap()); 10_000];
        let event = Event::of(&page, jiff::Timestamp::UNIX_EPOCH, &settings());
        assert_eq!(event.payload.summary.chars().count(), 1_024);
        assert_eq!(event.dedup_key.chars().count(), 255);
        let body = event.body(&Secret::new(&"k".repeat(32))).unwrap();
        assert!(body.len() < 512 * 1_000, "{} bytes", body.len());
        let details = &event.payload.custom_details;
        assert_eq!(details["affected_peers_count"], 10_000);
        assert_eq!(details["affected_peers"][100], "and 9900 more");
    }
}
