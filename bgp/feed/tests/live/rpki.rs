//! Origin validation by VRPs from StayRTR (Debian package stayrtr), and from a file.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use events::{BgpSignal, OriginValidation, RibQuery};
use tokio::time::timeout;

use crate::bird::{Bird, Session};
use crate::feed::{Feed, LOCAL_AS, ip, settings};
use crate::namespace::{self, FEED, ROUTER};

const ROUTES: &str = "
protocol static s4 { ipv4;
  route 203.0.113.0/24 unreachable { bgp_path.prepend(64510); };
  route 203.0.113.128/25 unreachable { bgp_path.prepend(64666); };
}
";
/// In 203.0.113.0/24, and in the more specific that another AS announces.
const PEER: &str = "203.0.113.7";
const HIJACKED: &str = "203.0.113.200";

struct Cache(Child);

impl Cache {
    fn start(file: &Path) -> Self {
        let child = Command::new("stayrtr")
            .args(["-bind", &format!("{FEED}:8282"), "-checktime=false"])
            .args(["-refresh", "1", "-metrics.addr", "", "-cache"])
            .arg(file)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        Self(child.expect("stayrtr is not installed: `cargo xtask setup`"))
    }
}

impl Drop for Cache {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn write(file: &Path, roas: &[(&str, u8, u32)]) {
    let roa = |(prefix, length, asn): &(&str, u8, u32)| {
        format!(r#"{{"prefix":"{prefix}","maxLength":{length},"asn":"AS{asn}","ta":"test"}}"#)
    };
    let roas: Vec<String> = roas.iter().map(roa).collect();
    let text = format!(
        r#"{{"metadata":{{"buildtime":"2026-01-01T00:00:00Z"}},"roas":[{}]}}"#,
        roas.join(",")
    );
    std::fs::write(file, text).unwrap();
}

/// Waits for a fact about the peer with this validation.
async fn validated(feed: &mut Feed, peer: &str, wanted: OriginValidation) {
    feed.until(|signal| match signal {
        BgpSignal::Fact(fact) if fact.peer.0 == ip(peer) => {
            let found = fact.route.and_then(|route| route.validation);
            (found == Some(wanted)).then_some(())
        }
        _ => None,
    })
    .await;
}

fn start(feed: &Feed) -> Bird {
    let session = Session {
        feed: feed.address(),
        feed_as: LOCAL_AS,
        local: ROUTER,
        local_as: LOCAL_AS,
        options: "",
        ipv4: "export filter { bgp_next_hop = 192.0.2.1; accept; };",
    };
    Bird::start(&(ROUTES.to_owned() + &session.config()))
}

#[test]
fn a_hijacked_prefix_is_invalid_by_a_caches_vrps_until_they_allow_it() {
    namespace::run(|| async {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("vrps.json");
        let owner = ("203.0.113.0/24", 24, 64510);
        write(&file, &[owner]);
        let _cache = Cache::start(&file);
        let mut settings = settings(FEED, ROUTER, LOCAL_AS);
        settings.rpki.cache = Some(format!("{FEED}:8282").parse().unwrap());
        let mut feed = Feed::start(settings);
        feed.handle.watch(vec![ip(PEER), ip(HIJACKED)]);
        let _bird = start(&feed);
        validated(&mut feed, HIJACKED, OriginValidation::Invalid).await;
        assert_eq!(feed.handle.rib_status().await.unwrap().vrps, 1);
        // Its own UPDATE may come later.
        let valid = async {
            loop {
                let routes = feed.handle.rib(RibQuery::Address(ip(PEER)), 9).await;
                match routes.first() {
                    Some(found) => break found.route.validation,
                    None => tokio::time::sleep(Duration::from_millis(20)).await,
                }
            }
        };
        let valid = timeout(Duration::from_secs(10), valid).await;
        assert_eq!(valid.unwrap(), Some(OriginValidation::Valid));

        // The cache notifies; only what changed comes.
        write(&file, &[owner, ("203.0.113.0/24", 25, 64666)]);
        validated(&mut feed, HIJACKED, OriginValidation::Valid).await;
        feed.handle.stop().await;
    });
}

#[test]
fn a_file_of_vrps_is_read_again_when_it_changes() {
    namespace::run(|| async {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("vrps.json");
        write(&file, &[("203.0.113.0/24", 24, 64510)]);
        let mut settings = settings(FEED, ROUTER, LOCAL_AS);
        settings.rpki.file = Some(file.clone());
        let mut feed = Feed::start(settings);
        feed.handle.watch(vec![ip(PEER)]);
        let _bird = start(&feed);
        validated(&mut feed, PEER, OriginValidation::Valid).await;
        // Half a file is no reason to forget what was good.
        std::fs::write(&file, "{\"roas\":[").unwrap();
        write(&file, &[("203.0.113.0/24", 24, 64511)]);
        validated(&mut feed, PEER, OriginValidation::Invalid).await;
        feed.handle.stop().await;
    });
}
