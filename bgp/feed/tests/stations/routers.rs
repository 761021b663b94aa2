//! Routers of other makers, that have a session with a BIRD and tell of it.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use events::BgpSignal;

use crate::feed::{Feed, ip, router};
use crate::namespace::{self, FEED, ROUTER, STRANGER};

const IN_PRE: &str = "192.0.2.99@bmp:198.51.100.10/in-pre";
const IN_POST: &str = "192.0.2.99@bmp:198.51.100.10/in-post";

/// A process that ends with the test.
struct Process(Child);

impl Process {
    fn start(program: &str, arguments: &[&str]) -> Self {
        let child = Command::new(program)
            .args(arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        Self(child.unwrap_or_else(|error| panic!("{program}: {error}")))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The peer of the router: AS 65002, with two prefixes.
fn bird(directory: &Path) -> Process {
    let config = directory.join("bird.conf");
    let text = format!(
        "router id {STRANGER};
         protocol device {{}}
         protocol static {{ ipv4; route 203.0.113.0/24 unreachable; route 198.18.0.0/15 unreachable; }}
         protocol bgp {{ local {STRANGER} port 1790 as 65002; neighbor {ROUTER} as 65001; multihop 2;
           strict bind yes; connect delay time 1; connect retry time 1; error wait time 1, 2;
           ipv4 {{ import all; export all; next hop self; }}; }}\n"
    );
    std::fs::write(&config, text).unwrap();
    let socket = directory.join("bird.ctl");
    let _ = std::fs::remove_file(&socket);
    let (config, socket_text) = (config.to_str().unwrap(), socket.to_str().unwrap());
    let bird = Process::start("/usr/sbin/bird", &["-f", "-c", config, "-s", socket_text]);
    let end = Instant::now() + Duration::from_secs(10);
    while !socket.exists() {
        assert!(
            Instant::now() < end,
            "bird did not start: apt-get install bird2"
        );
        std::thread::sleep(Duration::from_millis(10));
    }
    bird
}

/// A free port and a feed that takes the router there. The router is on this host, so it connects
/// from the address that it connects to.
fn feed() -> (Feed, u16) {
    let feed = Feed::bmp(vec![router(FEED, "a")]);
    let port = feed.handle.bmp_listening()[0].port();
    (feed, port)
}

/// Peer up, routes of both tables, peer lost and back, router lost.
async fn tells_all(mut feed: Feed, directory: &Path, name: &str, start: impl Fn() -> Process) {
    feed.handle.watch(vec![ip("203.0.113.7")]);
    let process = start();
    let peer = bird(directory);
    let routes = feed.routes("203.0.113.7", |routes| routes.len() == 2).await;
    let from: Vec<String> = routes
        .iter()
        .map(|route| route.neighbor.to_string())
        .collect();
    assert_eq!(from, [IN_PRE, IN_POST]);
    for route in &routes {
        assert_eq!(route.route.prefix.to_string(), "203.0.113.0/24");
        assert_eq!(route.route.next_hop, ip(STRANGER));
        assert_eq!(route.route.as_path.last().unwrap().0, 65002);
        assert!(!route.stale);
    }
    // The same signals as of a session.
    let fact = feed
        .until(|signal| match signal {
            BgpSignal::Fact(fact) if fact.route.is_some() => Some(fact),
            _ => None,
        })
        .await;
    assert_eq!(
        (fact.egress.to_string(), fact.stale),
        ("a".to_owned(), false)
    );
    let status = feed
        .router(0, |status| status.tables.iter().all(|t| t.table.ipv4 == 2))
        .await;
    assert!(status.connected && status.system_name.as_deref() == Some(name));
    assert_eq!((status.peers, status.refused), (1, 0), "{status:?}");

    drop(peer);
    feed.down(IN_PRE).await;
    feed.routes("203.0.113.7", |routes| {
        routes.iter().all(|route| route.stale)
    })
    .await;
    feed.router(0, |status| status.connected && status.peers == 0)
        .await;

    let _peer = bird(directory);
    feed.up(IN_PRE).await;
    let fresh =
        |routes: &[events::RibRoute]| routes.len() == 2 && routes.iter().all(|route| !route.stale);
    feed.routes("203.0.113.7", fresh).await;

    drop(process);
    feed.routes("203.0.113.7", |routes| {
        routes.len() == 2 && routes.iter().all(|route| route.stale)
    })
    .await;
    let status = feed.router(0, |status| !status.connected).await;
    assert_eq!(
        status.last_error.as_deref(),
        Some("the router closed the connection")
    );
    feed.handle.stop().await;
}

/// FRR 8.4 (`bmp targets`): Adj-RIB-In before and after policy. It has no Loc-RIB to tell.
#[test]
fn frr() {
    namespace::run(|| async {
        let directory = tempfile::tempdir().unwrap();
        let (feed, port) = feed();
        let config = directory.path().join("bgpd.conf");
        let text = format!(
            "hostname frr
router bgp 65001
 bgp router-id {ROUTER}
 no bgp ebgp-requires-policy
 timers bgp 3 9
 neighbor {STRANGER} remote-as 65002
 neighbor {STRANGER} ebgp-multihop 2
 neighbor {STRANGER} timers connect 1
 address-family ipv4 unicast
  neighbor {STRANGER} soft-reconfiguration inbound
 exit-address-family
 bmp targets netwatch
  bmp connect {FEED} port {port} min-retry 100 max-retry 1000
  bmp monitor ipv4 unicast pre-policy
  bmp monitor ipv4 unicast post-policy
  bmp stats interval 1000
 exit
"
        );
        std::fs::write(&config, text).unwrap();
        // bgpd drops its privileges to this user.
        Command::new("chown")
            .args(["-R", "frr:frr"])
            .arg(directory.path())
            .status()
            .unwrap();
        let file = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
        let (config, pid, vty) = (file("bgpd.conf"), file("pid"), file(""));
        tells_all(feed, directory.path(), "frr", || {
            Process::start(
                "/usr/lib/frr/bgpd",
                &[
                    "-f",
                    &config,
                    "-M",
                    "bmp",
                    "--no_zebra",
                    "-l",
                    ROUTER,
                    "-p",
                    "179",
                    "-i",
                    &pid,
                    "--vty_socket",
                    &vty,
                    "-u",
                    "frr",
                    "-g",
                    "frr",
                ],
            )
        })
        .await;
    });
}

/// GoBGP 3.10: Adj-RIB-In before and after policy. Its Loc-RIB comes without the Peer Up that RFC
/// 9069 section 5.1 demands: how to read it is said by nobody, and it is passed over and counted.
#[test]
fn gobgp() {
    namespace::run(|| async {
        let directory = tempfile::tempdir().unwrap();
        let (feed, port) = feed();
        let config = directory.path().join("gobgp.toml");
        let text = format!(
            "[global.config]
as = 65001
router-id = \"{ROUTER}\"
local-address-list = [\"{ROUTER}\"]
port = 179
[[neighbors]]
[neighbors.config]
neighbor-address = \"{STRANGER}\"
peer-as = 65002
[neighbors.timers.config]
hold-time = 9
keepalive-interval = 3
[neighbors.transport.config]
passive-mode = true
local-address = \"{ROUTER}\"
[neighbors.ebgp-multihop.config]
enabled = true
multihop-ttl = 5
[[bmp-servers]]
[bmp-servers.config]
address = \"{FEED}\"
port = {port}
route-monitoring-policy = \"all\"
"
        );
        std::fs::write(&config, text).unwrap();
        let config = config.to_str().unwrap().to_owned();
        tells_all(feed, directory.path(), "GoBGP", || {
            Process::start(
                "/usr/bin/gobgpd",
                &["-f", &config, "--api-hosts=127.0.0.1:50051"],
            )
        })
        .await;
    });
}
