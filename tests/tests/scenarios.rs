//! Scenario files: the shipped ones, and how wrong ones are refused.

use std::collections::BTreeSet;
use std::path::Path;

use lab::daemon;
use lab::scenario::{load_all, parse};
use lab::world::{Role, World};

fn directory() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/lab/scenarios"))
}

const HEAD: &str = "description = \"x\"\nduration = \"9s\"\n";

#[test]
fn shipped_scenarios_are_valid_and_large_enough() {
    let scenarios = load_all(directory()).expect("all are valid");
    assert!(scenarios.len() >= 36);
    for scenario in &scenarios {
        for seed in 0..20 {
            let world = World::draw(scenario, seed);
            let peers: Vec<_> = world.peers().collect();
            let prefixes: BTreeSet<_> = peers.iter().map(|(_, peer)| peer.prefix).collect();
            let origins: BTreeSet<_> = prefixes.iter().map(|p| world.prefixes[*p].origin).collect();
            let anchors: BTreeSet<_> = world
                .hosts
                .iter()
                .filter(|host| host.role == Role::Anchor)
                .map(|host| world.prefixes[host.prefix].origin)
                .collect();
            assert!(anchors.len() >= 3);
            // That it is small is the point of one of them.
            if scenario.name == "three-peers" {
                assert_eq!(peers.len(), 3);
            } else {
                assert!(peers.len() >= 40 && prefixes.len() >= 8 && origins.len() >= 5);
                assert!(peers.iter().any(|(_, peer)| peer.address.is_ipv6()));
                assert!(peers.iter().any(|(_, peer)| peer.role == Role::InboundPeer));
            }
            let addresses: BTreeSet<_> = world.hosts.iter().map(|host| host.address).collect();
            assert_eq!(addresses.len(), world.hosts.len());
            for host in &world.hosts {
                assert!(world.prefixes[host.prefix].net.contains(&host.address));
            }
            for (n, a) in world.prefixes.iter().enumerate() {
                for b in &world.prefixes[n + 1..] {
                    assert!(!a.net.contains(&b.net) && !b.net.contains(&a.net));
                }
            }
            let victim = world.drawn_peer;
            assert!(world.hosts[victim].role.is_peer());
            assert_eq!(world.hosts[victim].prefix, world.drawn_prefix);
            assert_eq!(
                world.prefixes[world.drawn_prefix].origin,
                world.drawn_origin
            );
            let config = daemon::config(&world, scenario, Path::new("/tmp/x"));
            let parsed =
                config::Config::parse(&config, "netwatch.toml").expect("the daemon takes it");
            // The stand-in for the pager speaks plain HTTP; acting without probes is one scenario's
            // point. That is all there is to warn of.
            let warnings = parsed.warnings();
            let expected = |warning: &String| {
                warning.starts_with("pager.url")
                    || (warning.starts_with("probe.enabled") && scenario.name == "probes-off")
            };
            assert!(warnings.iter().all(expected), "{warnings:?}");
        }
    }
}

#[test]
fn a_seed_decides_everything() {
    let scenarios = load_all(directory()).expect("all are valid");
    let draw = |seed| format!("{:?}", World::draw(&scenarios[0], seed));
    assert_eq!(draw(1), draw(1));
    assert_ne!(draw(1), draw(2));
}

#[test]
fn errors_name_file_line_and_key() {
    let fault = |keys: &str| {
        format!("{HEAD}[[fault]]\nat = \"1s\"\nkind = \"heal\"\n\n[[fault]]\n{keys}\n")
    };
    for (text, wanted) in [
        (
            format!("{HEAD}colour = 1\n"),
            "s.toml:3: key `colour`: unknown field",
        ),
        (
            "duration = \"9s\"\n".to_owned(),
            "missing field `description`",
        ),
        (
            format!("{HEAD}[topology]\nrtts = []\n"),
            "s.toml:4: key `rtts`: unknown field",
        ),
        (
            format!("{HEAD}[topology]\nsend_gap = \"fast\"\n"),
            "s.toml:4: key `send_gap`: `fast` is not a duration",
        ),
        (
            format!("{HEAD}[topology]\nloss = 1.5\n"),
            "s.toml:4: key `loss`: must be a share",
        ),
        (
            format!("{HEAD}[topology]\nrtt = [\"9ms\", \"5ms\"]\n"),
            "s.toml:4: key `rtt`: must be",
        ),
        (
            format!("{HEAD}[daemon]\nmode = \"maybe\"\n"),
            "s.toml:4: key `mode`: unknown variant",
        ),
        (
            fault("at = \"2s\"\nkind = \"egress-dark\""),
            "s.toml:7: key `upstream`: is required",
        ),
        (
            fault("at = \"2s\"\nkind = \"gateway-dead\"\nupstream = \"c\""),
            "s.toml:10: key `upstream`: unknown variant",
        ),
        (
            fault("at = \"2s\"\nkind = \"heal\"\nupstream = \"a\""),
            "s.toml:10: key `upstream`: does not apply",
        ),
        (
            fault("at = \"2s\"\nkind = \"explode\""),
            "s.toml:9: key `kind`: unknown variant",
        ),
        (
            fault("kind = \"heal\"\nat = \"10s\""),
            "s.toml:9: key `at`: must not lie",
        ),
        (
            fault("at = \"500ms\"\nkind = \"heal\""),
            "s.toml:8: key `at`: must not lie",
        ),
        (
            fault("at = \"2s\"\nkind = \"origin-dead\"\ntarget = \"o9\""),
            "s.toml:10: key `target`: `o9` is none of",
        ),
        (
            fault("at = \"2s\"\nkind = \"peer-dead\"\ntarget = \"o1/0/1\""),
            "s.toml:10: key `target`:",
        ),
        (
            format!("{HEAD}[expect]\nverdict = \"gateways\"\n"),
            "s.toml:4: key `verdict`: `gateways` is none of",
        ),
        (
            format!("{HEAD}[expect]\nverdict = [\"none\", \"gateways\"]\n"),
            "s.toml:4: key `verdict`: `gateways` is none of",
        ),
        (
            format!("{HEAD}[expect]\nverdicts = [\"gateways\"]\n"),
            "s.toml:4: key `verdicts`: `gateways` is none of",
        ),
        (
            format!("{HEAD}[topology]\nburst = {{ every = \"1s\", talk = \"2s\" }}\n"),
            "s.toml:4: key `burst`: `talk` must be",
        ),
        (
            format!("{HEAD}[topology]\nburst = {{ every = \"1s\", rest = \"2s\" }}\n"),
            "unknown field `rest`",
        ),
        (
            fault("at = \"2s\"\nkind = \"validator-stop\""),
            "s.toml:9: key `kind`: a validator that is stopped must go on",
        ),
        (
            fault("at = \"2s\"\nkind = \"cpu-hog\"\nthreads = 0"),
            "s.toml:10: key `threads`: must be from 1",
        ),
        (
            fault("at = \"2s\"\nkind = \"gateway-mute\"\nupstream = \"a\"\nfamily = \"ipv6\""),
            "s.toml:11: key `family`: does not apply",
        ),
        (
            fault("at = \"2s\"\nkind = \"loss\"\nshare = 0.3\ndirection = \"up\""),
            "s.toml:11: key `direction`: unknown variant",
        ),
        (
            format!("{HEAD}[expect]\npages = [\"shout\"]\n"),
            "s.toml:4: key `pages`: unknown variant",
        ),
        (
            format!("{HEAD}[[topology.origin]]\nname = \"x\"\n[[topology.origin]]\nname = \"x\"\n"),
            "s.toml:6: key `name`: `x` is taken",
        ),
        ("description = \n".to_owned(), "s.toml:1:"),
    ] {
        let error = parse(&text, Path::new("s.toml"))
            .expect_err(&text)
            .to_string();
        assert!(error.contains(wanted), "`{error}` does not say `{wanted}`");
    }
}
