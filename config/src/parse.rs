//! From a document to a valid [`Config`].

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;
use toml::de::DeTable;

use crate::maintenance::maintenance;
use crate::neighbor::{dynamic, neighbors};
use crate::read::{At, Item, Report, Section, offset};
use crate::rib;
use crate::secret::routing_key;
use crate::stations;
use crate::watch::{block, ports, watch};
use crate::{
    Anchor, Bgp, Config, ConfigError, Egress, Failover, Host, Metrics, Mode, Pager, PagerProvider,
    Probe, Recorder, RoutingKey, Tcp,
};

/// A configuration is text written by people; more than this is another file.
const MAX_BYTES: u64 = 1 << 20;

/// What the kernel programs' table of peers holds.
const MAX_PEERS: usize = 1024;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

impl Config {
    /// Reads a configuration file.
    ///
    /// # Errors
    /// The file cannot be read, or its content is not valid: then with every problem found.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let failed = |source| ConfigError::Read {
            path: path.display().to_string(),
            source,
        };
        let size = std::fs::metadata(path).map_err(failed)?.len();
        if size > MAX_BYTES {
            return Err(failed(std::io::Error::other(format!(
                "it has {size} bytes, at most {MAX_BYTES} are read"
            ))));
        }
        let text = std::fs::read_to_string(path).map_err(failed)?;
        Self::parse(&text, &path.display().to_string())
    }

    /// Reads a configuration from its text. `name` is what errors call it.
    ///
    /// # Errors
    /// The text is not valid; every problem found is listed.
    pub fn parse(text: &str, name: &str) -> Result<Self, ConfigError> {
        let (table, syntax) = DeTable::parse_recoverable(text);
        let report = Report::new(text);
        for error in &syntax {
            report.add(offset(error.span()), "", error.message());
        }
        let config = syntax.is_empty().then(|| document(table, &report));
        let problems = report.into_problems();
        match config {
            Some(config) if problems.is_empty() => Ok(config),
            _ => Err(ConfigError::Invalid {
                name: name.to_owned(),
                problems,
            }),
        }
    }
}

fn document<'t>(table: toml::Spanned<DeTable<'t>>, report: &Report<'t>) -> Config {
    let mut root = Section::root(table, report);
    let host = section(&mut root, "host", |s| host(s, report)).unwrap_or_default();
    let tcp = section(&mut root, "tcp", |s| tcp(s, report)).unwrap_or_default();
    let watch = section(&mut root, "watch", |s| watch(s, report)).unwrap_or_default();
    let block = section(&mut root, "block", |s| block(s, report)).unwrap_or_default();
    let egress = egresses(root.take("egress"), report);
    let probe = section(&mut root, "probe", |s| probe(s, report)).unwrap_or_default();
    let bgp = section(&mut root, "bgp", |s| bgp(s, &egress, report)).flatten();
    let failover = failover(root.take("failover"), &host, &egress, &probe, report);
    let pager = section(&mut root, "pager", |s| pager(s, report)).flatten();
    let metrics = section(&mut root, "metrics", |s| metrics(s, bgp.as_ref(), report)).flatten();
    let recorder = section(&mut root, "recorder", |s| recorder(s, report)).unwrap_or_default();
    root.finish();
    Config {
        host,
        tcp,
        watch,
        block,
        egress,
        probe,
        bgp,
        failover,
        pager,
        metrics,
        recorder,
    }
}

fn section<'t, T>(
    root: &mut Section<'t>,
    key: &'static str,
    read: impl FnOnce(&mut Section<'t>) -> T,
) -> Option<T> {
    let mut section = root.take(key)?.section()?;
    let value = read(&mut section);
    section.finish();
    Some(value)
}

fn host(s: &mut Section<'_>, report: &Report<'_>) -> Host {
    let default = Host::default();
    Host {
        name: s.take("name").and_then(|i| i.text()).map(|t| t.value),
        state_dir: path(s.take("state_dir"), report).unwrap_or(default.state_dir),
        runtime_dir: path(s.take("runtime_dir"), report).unwrap_or(default.runtime_dir),
        log: s
            .take("log")
            .and_then(|i| i.text())
            .map_or(default.log, |t| t.value),
    }
}

pub(crate) fn path(item: Option<Item<'_>>, report: &Report<'_>) -> Option<PathBuf> {
    let text = item?.text()?;
    if !text.value.starts_with('/') {
        text.problem(
            report,
            "must be an absolute path, such as \"/var/lib/netwatch\"",
        );
        return None;
    }
    Some(PathBuf::from(text.value))
}

fn tcp(s: &mut Section<'_>, report: &Report<'_>) -> Tcp {
    let default = Tcp::default();
    let ports = ports(s.take("ports"), report);
    let peers = prefixes(s.take("peers"), report);
    let ignore = prefixes(s.take("ignore"), report);
    if let Some(excess) = peers.get(MAX_PEERS) {
        excess.problem(report, format!("is one too many: at most {MAX_PEERS}"));
    }
    for prefix in &peers {
        if let Some(cover) = ignore.iter().find(|p| p.value.contains(&prefix.value)) {
            prefix.problem(
                report,
                format!(
                    "{} is wholly inside tcp.ignore ({}), so no peer in it would be watched; remove one of the two",
                    prefix.value, cover.value
                ),
            );
        }
    }
    Tcp {
        ports,
        peers: peers.into_iter().map(|p| p.value).collect(),
        ignore: ignore.into_iter().map(|p| p.value).collect(),
        ebpf: s.take("ebpf").and_then(|i| i.boolean()).unwrap_or(true),
        ack_overdue_floor: s
            .take("ack_overdue_floor")
            .and_then(|i| i.duration(5 * MS..=SECOND))
            .unwrap_or(default.ack_overdue_floor),
    }
}

pub(crate) fn prefixes(item: Option<Item<'_>>, report: &Report<'_>) -> Vec<At<IpNet>> {
    let mut found: Vec<At<IpNet>> = Vec::new();
    for item in item.map_or_else(Vec::new, |i| i.array("prefixes")) {
        let Some(prefix) = prefix(&item, report) else {
            continue;
        };
        if found.iter().any(|p| p.value == prefix.value) {
            prefix.problem(report, format!("{} is listed twice", prefix.value));
        } else {
            found.push(prefix);
        }
    }
    found
}

pub(crate) fn prefix(item: &Item<'_>, report: &Report<'_>) -> Option<At<IpNet>> {
    let prefix = item.parsed::<IpNet>("a prefix such as \"192.0.2.0/24\"")?;
    let trunc = prefix.value.trunc();
    if prefix.value == trunc {
        return Some(prefix);
    }
    let wrong = format!("{} has host bits set; write {trunc}", prefix.value);
    prefix.problem(report, wrong);
    None
}

/// An address that one host can have and be reached at.
fn address(item: &Item<'_>, report: &Report<'_>) -> Option<At<IpAddr>> {
    let address = item.parsed::<IpAddr>("an IP address")?;
    let ip = address.value;
    let wrong = if ip != ip.to_canonical() {
        "is an IPv4 address in IPv6 form; write the IPv4 address"
    } else if ip.is_unspecified() || ip.is_multicast() || ip == IpAddr::V4(Ipv4Addr::BROADCAST) {
        "is not the address of one host"
    } else if ip.is_loopback() {
        "is a loopback address, no packet to it leaves this host"
    } else {
        return Some(address);
    };
    address.problem(report, format!("{ip} {wrong}"));
    None
}

fn egresses(item: Option<Item<'_>>, report: &Report<'_>) -> Vec<Egress> {
    let mut found: Vec<Egress> = Vec::new();
    for item in item.map_or_else(Vec::new, |i| i.array("tables ([[egress]])")) {
        let Some(mut s) = item.section() else {
            continue;
        };
        let name = s
            .require("name", "give the uplink a name")
            .and_then(|i| i.text());
        let interface = s
            .require("interface", "name its network interface, such as \"wan0\"")
            .and_then(|i| i.text());
        let gateways = gateways(s.take("gateways"), report);
        s.finish();
        let (Some(name), Some(interface)) = (name, interface) else {
            continue;
        };
        if name.value.len() > 64 {
            name.problem(report, "is longer than 64 bytes; shorten it");
        }
        if found.iter().any(|e| e.name == name.value) {
            name.problem(report, "another egress has this name; names are unique");
        }
        let i = &interface.value;
        if i.len() > 15
            || i == "."
            || i == ".."
            || i.contains(|c: char| c == '/' || c == ':' || c.is_whitespace())
        {
            interface.problem(
                report,
                "is not a network interface's name: 1 to 15 bytes without `/`, `:` and spaces",
            );
        } else if let Some(other) = found.iter().find(|e| e.interface == *i) {
            interface.problem(
                report,
                format!(
                    "egress `{}` has this interface; probes are pinned to interfaces, so each egress needs its own",
                    other.name
                ),
            );
        }
        for gateway in &gateways {
            if found.iter().any(|e| e.gateways.contains(&gateway.value))
                && !link_local(gateway.value)
            {
                gateway.problem(report, "another egress has this gateway");
            }
        }
        found.push(Egress {
            name: name.value,
            interface: interface.value,
            gateways: gateways.into_iter().map(|g| g.value).collect(),
        });
    }
    found
}

fn gateways(item: Option<Item<'_>>, report: &Report<'_>) -> Vec<At<IpAddr>> {
    let mut found: Vec<At<IpAddr>> = Vec::new();
    for item in item.map_or_else(Vec::new, |i| i.array("addresses")) {
        let Some(gateway) = address(&item, report) else {
            continue;
        };
        if found
            .iter()
            .any(|g| g.value.is_ipv4() == gateway.value.is_ipv4())
        {
            let family = family(gateway.value);
            gateway.problem(
                report,
                format!("a second {family} gateway; an egress has at most one per address family, declare another egress"),
            );
        } else {
            found.push(gateway);
        }
    }
    found
}

const fn family(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "IPv4" } else { "IPv6" }
}

pub(crate) const fn link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(a) => a.is_link_local(),
        IpAddr::V6(a) => a.is_unicast_link_local(),
    }
}

fn probe(s: &mut Section<'_>, report: &Report<'_>) -> Probe {
    let default = Probe::default();
    let enabled = s.take("enabled").and_then(|i| i.boolean()).unwrap_or(true);
    let mut flow_sources: Vec<IpAddr> = Vec::new();
    for item in s
        .take("flow_sources")
        .map_or_else(Vec::new, |i| i.array("addresses"))
    {
        let Some(source) = address(&item, report) else {
            continue;
        };
        if flow_sources.contains(&source.value) {
            source.problem(report, "is listed twice");
        } else if link_local(source.value) {
            source.problem(
                report,
                "is link-local: peers beyond the link cannot answer it",
            );
        } else if flow_sources.len() >= 8 {
            source.problem(report, "is the ninth; at most 8 addresses are probed from");
        } else {
            flow_sources.push(source.value);
        }
    }
    let gateway_interval = s
        .take("gateway_interval")
        .and_then(|i| i.duration(10 * MS..=60 * SECOND))
        .unwrap_or(default.gateway_interval);
    let anchor_interval = s
        .take("anchor_interval")
        .and_then(|i| i.duration(20 * MS..=60 * SECOND))
        .unwrap_or(default.anchor_interval);
    Probe {
        enabled,
        flow_sources,
        gateway_interval,
        anchor_interval,
        anchors: anchors(s.take("anchors"), report),
    }
}

fn anchors(item: Option<Item<'_>>, report: &Report<'_>) -> Vec<Anchor> {
    let mut found: Vec<Anchor> = Vec::new();
    for item in item.map_or_else(Vec::new, |i| i.array("tables { address, asn }")) {
        let Some(mut s) = item.section() else {
            continue;
        };
        let target = s
            .require("address", "an address that is known to answer pings")
            .and_then(|i| address(&i, report));
        let asn = s
            .require("asn", "the AS that announces the address")
            .and_then(|i| asn(&i));
        s.finish();
        let (Some(target), Some(asn)) = (target, asn) else {
            continue;
        };
        if found.iter().any(|a| a.address == target.value) {
            target.problem(report, "is listed twice");
        } else if link_local(target.value) {
            target.problem(report, "is link-local: it is not in the wide network");
        } else if found.len() >= 16 {
            target.problem(report, "is the 17th anchor; at most 16 are probed");
        } else {
            found.push(Anchor {
                address: target.value,
                asn,
            });
        }
    }
    found
}

pub(crate) fn asn(item: &Item<'_>) -> Option<u32> {
    item.integer(1..=4_294_967_294, "an AS number")
        .map(|a| a.value)
}

fn bgp(s: &mut Section<'_>, egress: &[Egress], report: &Report<'_>) -> Option<Bgp> {
    let local_as = s.require("local_as", "our AS number").and_then(|i| asn(&i));
    let router_id = s
        .require(
            "router_id",
            "our BGP identifier, an IPv4 address of this host",
        )
        .and_then(|i| i.parsed::<Ipv4Addr>("an IPv4 address"));
    if let Some(id) = router_id.as_ref().filter(|i| i.value.is_unspecified()) {
        id.problem(
            report,
            "must not be 0.0.0.0 (RFC 6286, section 2.1); use an address of this host",
        );
    }
    let hold = s.take("hold_time");
    let hold_time = hold
        .as_ref()
        .and_then(|i| i.duration(Duration::ZERO..=65535 * SECOND));
    if let (Some(item), Some(time)) = (&hold, hold_time)
        && (time.subsec_millis() != 0 || (time < 3 * SECOND && !time.is_zero()))
    {
        item.at(()).problem(
            report,
            "must be \"0s\" (none) or whole seconds, at least \"3s\" (RFC 4271, section 4.2)",
        );
    }
    let listen = listeners(s.take("listen"), report);
    let connect_retry = s
        .take("connect_retry")
        .and_then(|i| i.duration(SECOND..=600 * SECOND));
    let send_hold_time = s
        .take("send_hold_time")
        .and_then(|i| i.duration(3 * SECOND..=65535 * SECOND));
    let neighbors = neighbors(s.take("neighbor"), egress, report);
    let bmp = stations::bmp(s, egress, report);
    let ris = stations::ris(s, egress, report);
    let dynamic = dynamic(s.take("dynamic"), egress, report);
    let memory_limit = rib::memory_limit(s, report);
    let history = rib::history(s, report);
    let rpki = rib::rpki(s, report);
    Some(Bgp {
        local_as: local_as?,
        router_id: router_id?.value,
        listen,
        hold_time: hold_time.unwrap_or(90 * SECOND),
        connect_retry: connect_retry.unwrap_or(10 * SECOND),
        send_hold_time,
        neighbors,
        bmp,
        dynamic,
        ris,
        memory_limit,
        history,
        rpki,
    })
}

fn listeners(item: Option<Item<'_>>, report: &Report<'_>) -> Vec<SocketAddr> {
    let Some(item) = item else {
        return vec![
            SocketAddr::from((Ipv4Addr::UNSPECIFIED, 179)),
            SocketAddr::from((std::net::Ipv6Addr::UNSPECIFIED, 179)),
        ];
    };
    let mut found = Vec::new();
    for item in item.array("addresses with ports") {
        let Some(listen) = listener(&item, report) else {
            continue;
        };
        if found.contains(&listen.value) {
            listen.problem(report, "is listed twice");
        } else {
            found.push(listen.value);
        }
    }
    found
}

pub(crate) fn listener(item: &Item<'_>, report: &Report<'_>) -> Option<At<SocketAddr>> {
    let listen = item.parsed::<SocketAddr>(
        "an address with a port, such as \"127.0.0.1:9464\" or \"[::1]:9464\"",
    )?;
    if listen.value.port() == 0 {
        listen.problem(
            report,
            "port 0 is not allowed: clients need to know the port",
        );
        return None;
    }
    Some(listen)
}

fn failover(
    item: Option<Item<'_>>,
    host: &Host,
    egress: &[Egress],
    probe: &Probe,
    report: &Report<'_>,
) -> Failover {
    let mut result = Failover {
        kill_switch: host.runtime_dir.join("failover.off"),
        ..Failover::default()
    };
    let Some(mut s) = item.and_then(Item::section) else {
        return result;
    };
    if let Some(mode) = s.take("mode").and_then(|i| i.text()) {
        match mode.value.as_str() {
            "shadow" => {}
            "act" => {
                result.mode = Mode::Act;
                check_act(&mode, egress, probe, report);
            }
            _ => mode.problem(
                report,
                "is neither \"shadow\" (plan and record only) nor \"act\" (install routes)",
            ),
        }
    }
    let allowed = prefixes(s.take("prefixes"), report);
    let protected = prefixes(s.take("protected"), report);
    for prefix in &allowed {
        if let Some(cover) = protected.iter().find(|p| p.value.contains(&prefix.value)) {
            prefix.problem(
                report,
                format!(
                    "{} is wholly inside failover.protected ({}), so nothing in it could be rerouted; remove one of the two",
                    prefix.value, cover.value
                ),
            );
        }
    }
    result.prefixes = allowed.into_iter().map(|p| p.value).collect();
    result.protected = protected.into_iter().map(|p| p.value).collect();
    if let Some(max) = s
        .take("max_routes")
        .and_then(|i| i.integer(1..=1024, "a number of routes"))
    {
        result.max_routes = max.value;
    }
    if let Some(lease) = s
        .take("lease")
        .and_then(|i| i.duration(5 * SECOND..=600 * SECOND))
    {
        result.lease = lease;
    }
    if let Some(actions) = s
        .take("actions_per_hour")
        .and_then(|i| i.integer(1..=10_000, "a number of actions"))
    {
        result.actions_per_hour = actions.value;
    }
    let mut time = |key: &'static str, result: &mut Duration, most: u32| {
        if let Some(time) = s
            .take(key)
            .and_then(|i| i.duration(Duration::ZERO..=SECOND * most))
        {
            *result = time;
        }
    };
    time("class_interval", &mut result.class_interval, 86_400);
    time("hold_down", &mut result.hold_down, 3_600);
    time("hold_down_max", &mut result.hold_down_max, 3_600);
    if let Some(nudge) = s.take("nudge").and_then(|i| i.boolean()) {
        result.nudge = nudge;
    }
    if let Some(protocol) = s
        .take("protocol")
        .and_then(|i| i.integer(5..=255, "a route protocol number"))
    {
        match protocol_owner(protocol.value) {
            Some(owner) => protocol.problem(
                report,
                format!("{} is the number of {owner}, whose routes would be swept as ours; choose a free one, such as 198", protocol.value),
            ),
            None => result.protocol = protocol.value,
        }
    }
    if let Some(kill_switch) = path(s.take("kill_switch"), report) {
        result.kill_switch = kill_switch;
    }
    result.permit = path(s.take("permit"), report);
    result.maintenance = maintenance(s.take("maintenance"), report);
    s.finish();
    result
}

fn check_act(mode: &At<String>, egress: &[Egress], probe: &Probe, report: &Report<'_>) {
    if egress.len() < 2 {
        mode.problem(
            report,
            format!(
                "\"act\" needs at least two [[egress]], found {}; add the backup or use \"shadow\"",
                egress.len()
            ),
        );
    }
    if probe.flow_sources.is_empty() {
        mode.problem(
            report,
            "\"act\" needs probe.flow_sources: a backup is proven only by probes from the flows' own address",
        );
    }
}

/// Whose `rtm_protocol` a number is (`include/uapi/linux/rtnetlink.h`).
fn protocol_owner(number: u8) -> Option<&'static str> {
    let owners = BTreeMap::from([
        (8, "gated"),
        (9, "router advertisements"),
        (10, "mrt"),
        (11, "zebra"),
        (12, "bird"),
        (13, "DECnet"),
        (14, "xorp"),
        (15, "netsukuku"),
        (16, "a DHCP client"),
        (17, "mrouted"),
        (18, "keepalived"),
        (42, "babel"),
        (84, "ovn"),
        (99, "Open/R"),
        (186, "BGP"),
        (187, "IS-IS"),
        (188, "OSPF"),
        (189, "RIP"),
        (192, "EIGRP"),
    ]);
    owners.get(&number).copied()
}

fn pager(s: &mut Section<'_>, report: &Report<'_>) -> Option<Pager> {
    if let Some(provider) = s.take("provider").and_then(|i| i.text())
        && provider.value != "pagerduty"
    {
        provider.problem(
            report,
            "is not a known pager; the only one is \"pagerduty\"",
        );
    }
    let mut url = "https://events.pagerduty.com/v2/enqueue".to_owned();
    if let Some(given) = s.take("url").and_then(|i| i.text()) {
        let host = ["https://", "http://"]
            .iter()
            .find_map(|scheme| given.value.strip_prefix(scheme))
            .and_then(|rest| rest.split('/').next());
        match host {
            None | Some("") => given.problem(
                report,
                "is not a URL such as \"https://events.pagerduty.com/v2/enqueue\"",
            ),
            Some(host) if host.contains('@') => given.problem(
                report,
                "must not hold a user name or password; the key is routing_key",
            ),
            Some(_) if given.value.contains(char::is_whitespace) => {
                given.problem(report, "must not contain spaces")
            }
            Some(_) => url = given.value,
        }
    }
    let place = s.place();
    let inline = s.take("routing_key");
    let file = s.take("routing_key_file");
    let routing_key = match (inline, file) {
        (Some(inline), None) => inline
            .string()
            .and_then(|given| match routing_key(&given.value) {
                Ok(secret) => Some(RoutingKey::Inline(secret)),
                Err(why) => {
                    given.problem(
                        report,
                        format!("{why}; copy it from the service's Events API v2 integration"),
                    );
                    None
                }
            }),
        (None, Some(file)) => path(Some(file), report).map(RoutingKey::File),
        (Some(_), Some(_)) => {
            place.problem(
                report,
                "routing_key and routing_key_file exclude each other; keep one",
            );
            None
        }
        (None, None) => {
            place.problem(report, "needs routing_key or routing_key_file");
            None
        }
    };
    let ca_file = path(s.take("ca_file"), report);
    Some(Pager {
        provider: PagerProvider::PagerDuty,
        url,
        routing_key: routing_key?,
        ca_file,
    })
}

fn metrics(s: &mut Section<'_>, bgp: Option<&Bgp>, report: &Report<'_>) -> Option<Metrics> {
    let listen = s
        .require(
            "listen",
            "an address with a port, such as \"127.0.0.1:9464\"",
        )
        .and_then(|i| listener(&i, report));
    let series = s
        .take("series")
        .and_then(|i| i.integer(0..=10_000, "a number of series"))
        .map_or(100, |series| series.value);
    let listen = listen?;
    if bgp.is_some_and(|b| b.listen.contains(&listen.value)) {
        listen.problem(
            report,
            "bgp.listen has this address and port; choose another",
        );
    }
    Some(Metrics {
        listen: listen.value,
        series,
    })
}

fn recorder(s: &mut Section<'_>, report: &Report<'_>) -> Recorder {
    let default = Recorder::default();
    let place = s.place();
    let mut mib = |key, most: i64, default| {
        s.take(key)
            .and_then(|i| i.integer(1..=most, "a number of MiB"))
            .map_or(default, |value| value.value)
    };
    let memory_mib = mib("memory_mib", 1024, default.memory_mib);
    let recording_mib = mib("recording_mib", 1024, default.recording_mib);
    let total_mib = mib("total_mib", 1 << 20, default.total_mib);
    if total_mib < recording_mib {
        place.problem(
            report,
            "total_mib is less than recording_mib: there would be no room for one recording",
        );
    }
    Recorder {
        enabled: s.take("enabled").and_then(|i| i.boolean()).unwrap_or(true),
        before: s
            .take("before")
            .and_then(|i| i.duration(SECOND..=600 * SECOND))
            .unwrap_or(default.before),
        memory_mib,
        recording_mib,
        total_mib,
    }
}
