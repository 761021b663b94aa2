//! Pages through a real partition: two uplinks between network namespaces, the first one cut without
//! a word. Needs root; all traffic stays in the namespaces.

mod server;

use std::net::IpAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use events::{EgressName, IncidentId, Outcome, Page, PageAction, PageDetails, Severity, Timestamp};
use paging::{EgressSettings, Handle, Pager, Secret, Settings};
use server::{KEY, Server};
use tokio::sync::mpsc;

const LIMIT: Duration = Duration::from_secs(30);

/// Two namespaces, `validator` and `pager`, with two links; removed when dropped.
struct Lab {
    validator: String,
    pager: String,
}

fn run(command: &str) {
    let mut words = command.split_whitespace();
    let output = Command::new(words.next().unwrap())
        .args(words)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{command}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

impl Lab {
    fn new() -> Self {
        let id = std::process::id();
        let lab = Self {
            validator: format!("nwpage-v{id}"),
            pager: format!("nwpage-p{id}"),
        };
        let (v, p) = (&lab.validator, &lab.pager);
        for name in [v, p] {
            run(&format!("ip netns add {name}"));
            run(&format!("ip -n {name} link set lo up"));
        }
        run(&format!("ip -n {p} address add 10.231.9.9/32 dev lo"));
        for (number, link) in [(1, "a"), (2, "b")] {
            run(&format!(
                "ip -n {v} link add v{link} type veth peer name p{link} netns {p}"
            ));
            run(&format!(
                "ip -n {v} address add 10.231.{number}.2/24 dev v{link}"
            ));
            run(&format!(
                "ip -n {p} address add 10.231.{number}.1/24 dev p{link}"
            ));
            run(&format!("ip -n {v} link set v{link} up"));
            run(&format!("ip -n {p} link set p{link} up"));
            run(&format!(
                "ip -n {v} route add 10.231.9.9 via 10.231.{number}.1 dev v{link} metric {number}00"
            ));
        }
        run(&format!("ip netns exec {p} nft add table inet cut"));
        for link in ["a", "b"] {
            run(&format!(
                "ip netns exec {p} nft add chain inet cut link_{link} \
                 {{ type filter hook prerouting priority -300 ; }}"
            ));
        }
        lab
    }

    /// Drops what comes in by a link, without a word to the sender.
    fn cut(&self, link: &str) {
        run(&format!(
            "ip netns exec {} nft add rule inet cut link_{link} iifname p{link} drop",
            self.pager
        ));
    }

    fn heal(&self, link: &str) {
        run(&format!(
            "ip netns exec {} nft flush chain inet cut link_{link}",
            self.pager
        ));
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for name in [&self.validator, &self.pager] {
            let _ = Command::new("ip").args(["netns", "del", name]).status();
        }
    }
}

/// Puts this thread into a namespace: sockets that it makes belong to it.
fn enter(name: &str) {
    let file = std::fs::File::open(format!("/run/netns/{name}")).unwrap();
    nix::sched::setns(file, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

fn page(incident: &str) -> Page {
    Page {
        incident: IncidentId(incident.into()),
        action: PageAction::Trigger,
        severity: Severity::Critical,
        summary: "upstream is dark".into(),
        component: "a".into(),
        class: "upstream_as".into(),
        onset: Timestamp::ZERO,
        at: Timestamp::ZERO,
        details: PageDetails::default(),
    }
}

/// Sends a page; the egresses of its requests until it was accepted, and that of the acceptance.
async fn send(
    handle: &Handle,
    outcomes: &mut mpsc::Receiver<Outcome>,
    name: &str,
) -> (Vec<Option<EgressName>>, Option<EgressName>, Duration) {
    let begun = Instant::now();
    handle.send(page(name));
    let mut sent = Vec::new();
    loop {
        let outcome = tokio::time::timeout(LIMIT, outcomes.recv()).await;
        match outcome.expect("accepted in time").unwrap() {
            Outcome::PageSent { egress, .. } => sent.push(egress),
            Outcome::PageAccepted { egress, .. } => return (sent, egress, begun.elapsed()),
            _ => {}
        }
    }
}

#[test]
fn a_page_leaves_through_the_other_uplink() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: network namespaces need root");
        return;
    }
    let lab = Lab::new();
    let (tell, told) = std::sync::mpsc::channel();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let namespace = lab.pager.clone();
    let serving = std::thread::spawn(move || {
        enter(&namespace);
        runtime().block_on(async {
            let listener = tokio::net::TcpListener::bind("10.231.9.9:0").await.unwrap();
            tell.send(Server::serve(listener, None)).unwrap();
            let _ = stopped.await;
        });
    });
    let server = told.recv_timeout(LIMIT).unwrap();
    let paging = std::thread::scope(|scope| {
        scope
            .spawn(|| {
                enter(&lab.validator);
                runtime().block_on(story(&lab, &server));
            })
            .join()
    });
    drop(stop);
    serving.join().unwrap();
    paging.unwrap();
}

async fn story(lab: &Lab, server: &Server) {
    let name = |name: &str| Some(EgressName::from(name));
    let via = |address: &str| -> IpAddr { address.parse().unwrap() };
    let mut settings = Settings::new(&server.url(), Secret::new(KEY), "val-1");
    for egress in ["a", "b"] {
        settings.egresses.push(EgressSettings {
            name: EgressName::from(egress),
            interface: format!("v{egress}"),
        });
    }
    let (sender, mut outcomes) = mpsc::channel(100);
    let handle = Pager::start(settings, sender).unwrap();
    let begun = Instant::now();
    while handle
        .egresses()
        .iter()
        .any(|egress| egress.answered != Some(true))
    {
        assert!(begun.elapsed() < LIMIT, "{:?}", handle.egresses());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let warm = server.connections();
    assert_eq!(warm, 3, "one for each egress and one unpinned");

    let (sent, accepted, _) = send(&handle, &mut outcomes, "whole").await;
    assert_eq!((sent.first(), accepted), (Some(&name("a")), name("a")));

    // Nobody knows yet that the first uplink is dead: the second is tried beside it.
    lab.cut("a");
    let (sent, accepted, took) = send(&handle, &mut outcomes, "cut").await;
    println!("cut, not known: accepted after {took:?}");
    assert_eq!(sent.get(..2), Some(&[name("a"), name("b")][..]));
    assert_eq!(accepted, name("b"));

    // Once it is known, the dead one is not even asked first.
    handle.egress_health(&EgressName::from("a"), false);
    let (sent, accepted, took) = send(&handle, &mut outcomes, "known").await;
    println!("cut, known: accepted after {took:?}");
    assert_eq!((sent.first(), accepted), (Some(&name("b")), name("b")));

    let received = server.accepted();
    for (incident, source) in [
        ("whole", "10.231.1.2"),
        ("cut", "10.231.2.2"),
        ("known", "10.231.2.2"),
    ] {
        let posts: Vec<_> = received
            .iter()
            .filter(|post| post.dedup_key() == incident)
            .collect();
        assert!(!posts.is_empty());
        for post in posts {
            assert_eq!(post.peer, via(source), "{incident}");
            assert!(
                post.connection <= warm,
                "{incident}: not over a warm connection"
            );
        }
    }

    // Everything dark, then the second uplink comes back.
    lab.cut("b");
    handle.send(page("dark"));
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(
        !server
            .accepted()
            .iter()
            .any(|post| post.dedup_key() == "dark")
    );
    lab.heal("b");
    assert_eq!(handle.stop(LIMIT).await, 0);
    let received = server.accepted();
    let post = received
        .iter()
        .find(|post| post.dedup_key() == "dark")
        .unwrap();
    assert_eq!(post.peer, via("10.231.2.2"));
}
