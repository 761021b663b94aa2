//! From the configuration to each crate's own parameters.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use config::Config;
use events::{Asn, EgressName, PlanMode, Prefix, RibView};

/// The host's name in pages, and the stem of incidents' names.
pub fn host_name(config: &Config) -> String {
    config.host.name.clone().unwrap_or_else(|| {
        nix::unistd::gethostname()
            .ok()
            .and_then(|name| name.into_string().ok())
            .filter(|name| !name.is_empty())
            .unwrap_or_else(|| "host".to_owned())
    })
}

/// The control socket.
pub fn socket(config: &Config) -> PathBuf {
    config.host.runtime_dir.join("netwatch.sock")
}

/// Limits of the control socket. A test page goes through every egress in turn, then by the host's
/// own routes, then resolves: each may take as long as the pager's patience.
pub fn limits(config: &Config) -> api::Limits {
    let tries = u32::try_from(config.egress.len() + 2).unwrap_or(u32::MAX);
    let each = paging::Schedule::default().answer_max + Duration::from_secs(1);
    api::Limits {
        page_test: each.saturating_mul(tries),
        ..api::Limits::default()
    }
}

/// The incident journal.
pub fn journal(config: &Config) -> PathBuf {
    config.host.state_dir.join("journal.db")
}

/// The directory of recordings in the state directory, beside the journal.
pub const RECORDINGS: &str = "recordings";

/// The incidents' recordings.
pub fn recordings(config: &Config) -> PathBuf {
    config.host.state_dir.join(RECORDINGS)
}

/// The flight recorder's settings.
pub fn recorder(config: &Config) -> recorder::Settings {
    let mib = |count: u32| u64::from(count) << 20;
    let recorder = &config.recorder;
    recorder::Settings {
        directory: recordings(config),
        before: recorder.before,
        memory: usize::try_from(mib(recorder.memory_mib)).unwrap_or(usize::MAX),
        recording: mib(recorder.recording_mib),
        total: mib(recorder.total_mib),
    }
}

/// The configuration of a command: the file given, or the defaults.
pub fn load(file: Option<&Path>) -> Result<Config> {
    match file {
        Some(file) => Ok(Config::load(file)?),
        None => Ok(Config::default()),
    }
}

/// Addresses of the BGP neighbours and monitored routers: their routes are not for us to change.
pub fn neighbors(config: &Config) -> Vec<Prefix> {
    let bgp = || config.bgp.iter();
    let single = bgp().flat_map(|bgp| &bgp.neighbors);
    let groups = bgp().flat_map(|bgp| &bgp.dynamic);
    let routers = bgp().filter_map(|bgp| bgp.bmp.as_ref());
    let routers = routers.flat_map(|bmp| &bmp.routers);
    single
        .map(|neighbor| Prefix::from(neighbor.address))
        .chain(groups.map(|group| group.prefix))
        .chain(routers.map(|router| Prefix::from(router.address)))
        .collect()
}

/// Addresses of the pager, once its name is resolved: their routes are not for us to change.
pub async fn pager_addresses(pager: Option<&paging::Handle>) -> Vec<Prefix> {
    const TRIES: u32 = 100;
    const PAUSE: Duration = Duration::from_millis(20);
    let Some(pager) = pager else {
        return Vec::new();
    };
    for _ in 0..TRIES {
        let addresses = pager.addresses();
        if !addresses.is_empty() {
            return addresses.into_iter().map(Prefix::from).collect();
        }
        tokio::time::sleep(PAUSE).await;
    }
    tracing::warn!("the pager's name does not resolve yet: list its prefix in failover.protected");
    Vec::new()
}

/// The engine's parameters. `started` makes incident names unique across restarts.
pub fn engine(config: &Config, protected: &[Prefix], started: jiff::Timestamp) -> engine::Params {
    let mut policy = policy(config);
    policy.protected.extend_from_slice(protected);
    engine::Params {
        tracker: tracker::Params {
            overdue_floor: config.tcp.ack_overdue_floor,
            ..tracker::Params::default()
        },
        correlator: correlator::Params {
            run_id: format!(
                "{}-{}",
                host_name(config),
                started.strftime("%Y%m%dT%H%M%SZ")
            ),
            egresses: config
                .egress
                .iter()
                .map(|egress| correlator::EgressParams {
                    name: EgressName(egress.name.clone()),
                    gateways: egress.gateways.clone(),
                })
                .collect(),
            anchors: config
                .probe
                .anchors
                .iter()
                .map(|a| (a.address, Asn(a.asn)))
                .collect(),
            flow_sources: config.probe.flow_sources.clone(),
            local_as: config.bgp.as_ref().map(|bgp| Asn(bgp.local_as)),
            probes: probes(config),
            thresholds: thresholds(config),
        },
        policy,
    }
}

fn thresholds(config: &Config) -> correlator::Thresholds {
    let usual = correlator::Thresholds::default();
    correlator::Thresholds {
        heal_max: usual.heal_max.min(config.failover.hold_down_max),
        ..usual
    }
}

/// Whether any probe is ever sent.
pub fn probes(config: &Config) -> bool {
    config.probe.enabled && !config.egress.is_empty()
}

fn policy(config: &Config) -> remediation::Policy {
    let failover = &config.failover;
    remediation::Policy {
        mode: match failover.mode {
            config::Mode::Shadow => PlanMode::Shadow,
            config::Mode::Act => PlanMode::Act,
        },
        allowed: failover.prefixes.clone(),
        protected: failover.protected.clone(),
        max_routes: usize::from(failover.max_routes),
        lease: failover.lease,
        probes: probes(config),
        flow_sources: config.probe.flow_sources.clone(),
        egresses: config
            .egress
            .iter()
            .map(|egress| remediation::Egress {
                name: EgressName(egress.name.clone()),
                interface: egress.interface.clone(),
                gateways: egress.gateways.clone(),
            })
            .collect(),
        anchors: config
            .probe
            .anchors
            .iter()
            .map(|a| remediation::Anchor {
                address: a.address,
                asn: Some(Asn(a.asn)),
            })
            .collect(),
        budget: remediation::Budget {
            per_class: 1,
            class_window: failover.class_interval,
            per_hour: usize::from(failover.actions_per_hour),
        },
        hold_down: failover.hold_down,
        hold_down_max: failover.hold_down_max,
        nudge: failover.nudge,
        ..remediation::Policy::default()
    }
}

/// The kernel collector's settings. `own` are the ends of the daemon's own connections: no peers of
/// the validator.
pub fn collector(config: &Config, own: &[Prefix]) -> full_stack_probes::Settings {
    full_stack_probes::Settings {
        peers: config.tcp.peers.clone(),
        ignore: config.tcp.ignore.iter().chain(own).copied().collect(),
        ports: config.tcp.ports.iter().copied().collect(),
        watch: full_stack_probes::Watch {
            processes: config.watch.processes.clone(),
            executables: config.watch.executables.clone(),
            units: config.watch.units.clone(),
            cgroups: config.watch.cgroups.clone(),
            consensus_ports: config.watch.consensus_ports.iter().copied().collect(),
        },
        long_wait: config.watch.wait,
        block: config.block.enabled,
        devices: config.block.devices.clone(),
        block_slow: config.block.slow,
        overdue_floor: config.tcp.ack_overdue_floor,
        ..full_stack_probes::Settings::default()
    }
}

/// The prober's settings.
pub fn prober(config: &Config) -> probing::Settings {
    probing::Settings {
        enabled: config.probe.enabled,
        egresses: config
            .egress
            .iter()
            .map(|egress| probing::EgressSettings {
                name: EgressName(egress.name.clone()),
                interface: egress.interface.clone(),
                gateways: egress.gateways.clone(),
            })
            .collect(),
        anchors: config.probe.anchors.iter().map(|a| a.address).collect(),
        flow_sources: config.probe.flow_sources.clone(),
        gateway_interval: config.probe.gateway_interval,
        anchor_interval: config.probe.anchor_interval,
    }
}

/// The BGP feed's settings.
pub fn bgp(bgp: &config::Bgp) -> bgp_feed::Settings {
    bgp_feed::Settings {
        local_as: Asn(bgp.local_as),
        router_id: bgp.router_id,
        listen: bgp.listen.clone(),
        hold_time: bgp.hold_time,
        connect_retry: bgp.connect_retry,
        send_hold: bgp.send_hold_time,
        neighbors: bgp
            .neighbors
            .iter()
            .map(|neighbor| bgp_feed::NeighborSettings {
                address: neighbor.address,
                port: neighbor.port,
                interface: neighbor.interface.clone(),
                asn: Asn(neighbor.asn),
                passive: neighbor.passive,
                peer: bgp_peer(&neighbor.peer),
            })
            .collect(),
        rib: bgp_feed::RibLimits {
            memory: bgp.memory_limit,
            history: bgp_feed::HistoryLimits {
                bytes: bgp.history.bytes,
                age: bgp.history.age,
            },
        },
        rpki: bgp
            .rpki
            .as_ref()
            .map_or_else(Default::default, |rpki| bgp_feed::RpkiSettings {
                file: rpki.file.clone(),
                cache: rpki.cache,
            }),
        dynamic: bgp
            .dynamic
            .iter()
            .map(|group| bgp_feed::DynamicSettings {
                prefix: group.prefix,
                asn: group.asn.iter().copied().map(Asn).collect(),
                limit: usize::from(group.limit),
                peer: bgp_peer(&group.peer),
            })
            .collect(),
    }
}

fn bgp_peer(peer: &config::BgpPeer) -> bgp_feed::PeerSettings {
    use bgp_feed::Role;
    bgp_feed::PeerSettings {
        egress: EgressName(peer.egress.clone()),
        max_prefixes: peer.max_prefixes,
        max_prefixes_warn: peer.max_prefixes_warn,
        max_prefixes_restart: peer.max_prefixes_restart,
        add_path: bgp_feed::Families {
            ipv4: peer.add_path.ipv4,
            ipv6: peer.add_path.ipv6,
        },
        role: peer.role.map(|role| match role {
            config::BgpRole::Provider => Role::Provider,
            config::BgpRole::Customer => Role::Customer,
            config::BgpRole::Peer => Role::Peer,
            config::BgpRole::RouteServer => Role::RouteServer,
            config::BgpRole::RouteServerClient => Role::RouteServerClient,
        }),
        role_strict: peer.role_strict,
        password_file: peer.password_file.clone(),
        ttl_security: peer.ttl_security,
    }
}

/// Monitored routers and RIS Live.
pub fn stations(bgp: &config::Bgp) -> bgp_feed::Stations {
    let view = |view: &config::BmpView| match view {
        config::BmpView::InPre => RibView::InPrePolicy,
        config::BmpView::InPost => RibView::InPostPolicy,
        config::BmpView::OutPre => RibView::OutPrePolicy,
        config::BmpView::OutPost => RibView::OutPostPolicy,
        config::BmpView::Loc => RibView::Loc,
    };
    let router = |router: &config::BmpRouter| bgp_feed::RouterSettings {
        address: router.address,
        connect: router.connect,
        egress: EgressName(router.egress.clone()),
        peers: router
            .peers
            .iter()
            .map(|peer| (peer.address, EgressName(peer.egress.clone())))
            .collect(),
        views: router.views.iter().map(view).collect(),
        max_prefixes: 2_000_000,
    };
    bgp_feed::Stations {
        bmp: bgp
            .bmp
            .as_ref()
            .map_or_else(Default::default, |bmp| bgp_feed::BmpSettings {
                listen: bmp.listen.clone(),
                routers: bmp.routers.iter().map(router).collect(),
            }),
        ris: bgp.ris.as_ref().map(|ris| bgp_feed::RisSettings {
            url: ris.url.clone(),
            ca_file: ris.ca_file.clone(),
            prefixes: ris.prefixes.clone(),
            egress: EgressName(ris.egress.clone()),
            max_prefixes: 2_000_000,
        }),
    }
}

/// The route executor's settings. In shadow mode nothing is installed, so nothing needs a watchdog.
pub fn routes(config: &Config) -> Result<routes::Settings> {
    let runtime_dir = config.host.runtime_dir.clone();
    let protocol = config.failover.protocol;
    let watchdog = match config.failover.mode {
        config::Mode::Shadow => None,
        config::Mode::Act => Some(routes::WatchdogCommand {
            exe: std::env::current_exe().context("cannot find this program's own file")?,
            args: vec![
                "watchdog".to_owned(),
                "--runtime-dir".to_owned(),
                runtime_dir.display().to_string(),
                "--protocol".to_owned(),
                protocol.to_string(),
            ],
        }),
    };
    Ok(routes::Settings {
        protocol,
        egresses: config
            .egress
            .iter()
            .map(|egress| routes::EgressLink {
                name: EgressName(egress.name.clone()),
                interface: egress.interface.clone(),
            })
            .collect(),
        restore_limit: 3,
        permit: config.failover.permit.clone(),
        watchdog,
        runtime_dir,
    })
}

/// The pager's settings.
pub fn pager(config: &Config, pager: &config::Pager) -> Result<paging::Settings> {
    let key = pager.routing_key.resolve().context("pager.routing_key")?;
    let mut settings = paging::Settings::new(
        &pager.url,
        paging::Secret::new(key.expose()),
        &host_name(config),
    );
    settings.ca_file.clone_from(&pager.ca_file);
    settings.egresses = config
        .egress
        .iter()
        .map(|egress| paging::EgressSettings {
            name: EgressName(egress.name.clone()),
            interface: egress.interface.clone(),
        })
        .collect();
    settings.outbox = Some(config.host.state_dir.join("outbox.db"));
    Ok(settings)
}
