//! Loading and attaching the programs: each on the best hook that this kernel offers.

use std::error::Error;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{HashMap, Map, MapData, MapError, PerCpuArray, RingBuf};
use aya::{Ebpf, EbpfError, EbpfLoader};
use ebpf_abi::{ABSENT, Counter};
use ipnet::IpNet;

use crate::attach::{Held, attach};
use crate::block::Disks;
use crate::btf::{Btf, BtfError};
use crate::cgroup::Hierarchy;
use crate::listening::Listening;
use crate::lockdown;
use crate::offsets::Offsets;
use crate::probes::{HEARTBEAT, PLACES, PROBES};
use crate::processes::{self, Processes};
use crate::table::Table;
use crate::{ProbeReport, RungKind, Settings, message, udp};

const BTF_PATH: &str = "/sys/kernel/btf/vmlinux";

/// How many ports the programs can compare with.
pub const MAX_PORTS: usize = 8;

/// Bytes of the bulk ring: room for some 2,700 records of connections.
const BULK: u32 = 256 * 1024;
/// Bytes of the bulk ring where single messages are recorded: room for some 10,000.
const MESSAGE_BULK: u32 = 1024 * 1024;

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/netwatch-ebpf.o"));

/// Why collection cannot start. Every message names the cause and the remedy, complete in itself.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// No BTF.
    #[error(
        "cannot read the kernel's type information in {BTF_PATH}: {0}; \
         use a kernel built with CONFIG_DEBUG_INFO_BTF=y (every distribution's since 2021)"
    )]
    NoBtf(io::Error),
    /// Broken BTF.
    #[error(
        "cannot use the kernel's type information in {BTF_PATH}: {0}; report the kernel's version"
    )]
    BadBtf(BtfError),
    /// Not allowed.
    #[error(
        "not permitted to load eBPF programs: run as root, or grant CAP_BPF and CAP_PERFMON \
         (in a systemd unit: AmbientCapabilities=CAP_BPF CAP_PERFMON); kernel lockdown in \
         confidentiality mode forbids it to root as well ({0})"
    )]
    NotPermitted(String),
    /// The object or its maps were refused.
    #[error("cannot load the eBPF object: {0}; `netwatch doctor` shows what this kernel lacks")]
    Load(String),
    /// Not a single probe could be attached.
    #[error(
        "no probe could be attached: {0}; `netwatch doctor` shows each with its reason; CAP_BPF and CAP_PERFMON are both needed"
    )]
    NoProbe(String),
    /// A map could not be used.
    #[error("cannot use the eBPF map {name}: {reason}; report the kernel's version")]
    Map {
        /// Which.
        name: &'static str,
        /// Why.
        reason: String,
    },
    /// More ports than the programs compare with.
    #[error("{0} ports to watch, {MAX_PORTS} at most; leave the list empty to watch all")]
    TooManyPorts(usize),
    /// More ports than the programs compare with.
    #[error("{0} consensus ports, {MAX_PORTS} at most; name the process instead")]
    TooManyConsensusPorts(usize),
    /// The network namespace could not be told.
    #[error("cannot tell this thread's network namespace: {0}; is /proc mounted?")]
    Namespace(io::Error),
    /// No netlink socket.
    #[error(
        "cannot open a sock_diag socket: {0}; netlink must be permitted (in a systemd unit: RestrictAddressFamilies with AF_NETLINK)"
    )]
    Diag(io::Error),
    /// The collector's thread or its wake-up cannot be made.
    #[error("cannot start the collector's thread: {0}; raise the limits on threads and open files")]
    Thread(io::Error),
}

/// Programs, maps and links, all released when dropped.
pub struct Kernel {
    links: Vec<Held>,
    ebpf: Ebpf,
    /// What became of each probe.
    pub reports: Vec<ProbeReport>,
    /// Per-CPU counters.
    pub counters: PerCpuArray<MapData, u64>,
    /// Watched processes, if any are declared.
    pub processes: Option<Arc<Processes>>,
    map_fds: Vec<RawFd>,
    /// Datagrams by thread.
    pub udp: udp::Threads,
}

/// What is known of this host's kernel before anything is loaded.
struct Host {
    btf: Btf,
    offsets: Offsets,
    netns: u32,
    kernel_btf: aya::Btf,
}

impl Host {
    fn read() -> Result<Self, StartError> {
        let btf = read_btf()?;
        Ok(Self {
            offsets: Offsets::of(&btf),
            btf,
            netns: netns().map_err(StartError::Namespace)?,
            kernel_btf: aya::Btf::from_sys_fs()
                .map_err(|error| StartError::NoBtf(io::Error::other(error.to_string())))?,
        })
    }
}

/// What the collector's thread reads.
pub struct Sources {
    /// Edges.
    pub urgent: RingBuf<MapData>,
    /// The rest.
    pub bulk: RingBuf<MapData>,
    /// Connections.
    pub table: Table,
    /// Ports that watched processes listen on.
    pub listening: Listening,
    /// Datagrams by thread, to forget those that have ended.
    pub udp: udp::Threads,
    /// Disks.
    pub disks: Disks,
    /// Heartbeats come.
    pub heartbeat: bool,
    /// Watched processes, if any are declared.
    pub processes: Option<(Arc<Processes>, processes::Account)>,
}

impl Kernel {
    /// Loads and attaches what this kernel allows.
    pub fn load(settings: &Settings) -> Result<(Self, Sources), StartError> {
        if settings.ports.len() > MAX_PORTS {
            return Err(StartError::TooManyPorts(settings.ports.len()));
        }
        let consensus_ports = &settings.watch.consensus_ports;
        if consensus_ports.len() > MAX_PORTS {
            return Err(StartError::TooManyConsensusPorts(consensus_ports.len()));
        }
        let host = Host::read()?;
        let (kernel, sources) = Self::load_once(&host, settings, false)?;
        let by_address = kernel
            .reports
            .iter()
            .any(|report| report.rung == Some(RungKind::Kprobe) && report.name.starts_with("tcp_"));
        if !by_address {
            return Ok((kernel, sources));
        }
        // Kprobes cannot make cookies, so all programs must know connections by their addresses
        // too. That is decided before they are loaded.
        drop((kernel, sources));
        Self::load_once(&host, settings, true)
    }

    fn load_once(
        host: &Host,
        settings: &Settings,
        by_address: bool,
    ) -> Result<(Self, Sources), StartError> {
        let Host {
            btf,
            offsets,
            netns,
            kernel_btf,
        } = host;
        let ignore_local = u32::from(settings.ignore_loopback);
        let port_count = settings.ports.len() as u32;
        let ports = fixed(&settings.ports);
        let hierarchy = Hierarchy::find().unwrap_or_else(|error| {
            tracing::warn!(%error, "cannot tell this host's cgroups; is /proc mounted?");
            None
        });
        let hierarchy_id = hierarchy.as_ref().map_or(u32::MAX, |found| found.id);
        let long_wait = u64::try_from(settings.long_wait.as_nanos()).unwrap_or(u64::MAX);
        let consensus_ports = &settings.watch.consensus_ports;
        let message_port_count = consensus_ports.len() as u32;
        let message_ports = fixed(consensus_ports);
        let bulk_size = if (message::PROBE.wanted)(settings) {
            MESSAGE_BULK
        } else {
            BULK
        };
        let message_processes = u32::from(settings.watch.has_processes());
        // The helper's own function is in the type information of kernels that have it.
        let makes_cookies = matches!(btf.function("bpf_get_socket_ptr_cookie"), Ok(Some(_)));
        let (makes_cookies, by_address) = (
            u32::from(makes_cookies),
            u32::from(by_address || !makes_cookies),
        );
        let by_process = u32::from(settings.watch.has_processes());
        let by_peer = u32::from(!settings.peers.is_empty());
        let mut loader = EbpfLoader::new();
        if !settings.watch.has_processes() {
            for map in processes::MAPS {
                loader.map_max_entries(map, 1);
            }
        }
        loader
            .btf(Some(kernel_btf))
            .override_global("IGNORE_LOCAL", &ignore_local, true)
            .override_global("NETNS", netns, true)
            .override_global("PORT_COUNT", &port_count, true)
            .override_global("PORTS", &ports[..], true)
            .override_global("HIERARCHY", &hierarchy_id, true)
            .override_global("LONG_WAIT", &long_wait, true)
            .map_max_entries("BULK", bulk_size)
            .override_global("BULK_SIZE", &bulk_size, true)
            .override_global("MESSAGE_PORT_COUNT", &message_port_count, true)
            .override_global("MESSAGE_PORTS", &message_ports[..], true)
            .override_global("MESSAGE_PROCESSES", &message_processes, true)
            .override_global("MAKES_COOKIES", &makes_cookies, true)
            .override_global("BY_ADDRESS", &by_address, true)
            .override_global("BY_PROCESS", &by_process, true)
            .override_global("BY_PEER", &by_peer, true)
            .override_global("CA_STATE_SHIFT", &offsets.ca_state_shift, true)
            .override_global("CA_STATE_MASK", &offsets.ca_state_mask, true);
        let lockdown = lockdown::is_on();
        for field in &offsets.fields {
            let hidden = lockdown && lockdown::HIDES.contains(&field.symbol);
            let value = if hidden { &ABSENT } else { &field.value };
            loader.override_global(field.symbol, value, true);
        }
        let block_slow = u64::try_from(settings.block_slow.as_nanos()).unwrap_or(u64::MAX);
        loader.override_global("BLOCK_SLOW", &block_slow, true);
        // The maps of programs that are not loaded need no memory.
        if !(message::PROBE.wanted)(settings) {
            loader.map_max_entries("CALLS", 1);
        }
        if !(udp::PROBE.wanted)(settings) {
            loader.map_max_entries("UDP", 1);
        }
        let places: Vec<_> = PLACES
            .iter()
            .map(|place| (place.symbol, place.index(btf)))
            .collect();
        for (symbol, index) in &places {
            loader.override_global(symbol, index, true);
        }
        let mut ebpf = loader.load(OBJECT).map_err(load_error)?;

        let mut map_fds = Vec::new();
        let mut processes = None;
        if settings.watch.has_processes() {
            let (shared, account, fds) = Processes::new(settings, hierarchy, &mut ebpf)?;
            map_fds.extend(fds);
            processes = Some((Arc::new(shared), account));
        }
        peers(&mut ebpf, settings, &mut map_fds)?;

        // Before the probes: a request to a disk that is not known yet would count as not timed.
        let disks = disks(&mut ebpf, settings, &mut map_fds)?;
        let mut links = Vec::new();
        let reports: Vec<_> = PROBES
            .iter()
            .map(|probe| {
                let (report, held) = attach(probe, settings, btf, offsets, &mut ebpf, kernel_btf);
                links.extend(held);
                report
            })
            .collect();
        let is_useful = |report: &ProbeReport| report.hook.is_some() && report.name != HEARTBEAT;
        if !reports.iter().any(is_useful) {
            let reason = reports
                .first()
                .map(|report| report.reason.clone())
                .unwrap_or_default();
            return Err(
                if reason.contains("permitted") || reason.contains("EPERM") {
                    StartError::NotPermitted(reason)
                } else {
                    StartError::NoProbe(reason)
                },
            );
        }

        if let Some((processes, _)) = &processes {
            processes.scan(settings, &reports);
        }
        let counters = take(&mut ebpf, "COUNTERS")?;
        map_fds.extend(map_fd(&counters));
        let counters =
            PerCpuArray::try_from(counters).map_err(|error| map_error("COUNTERS", error))?;
        map_fds.extend(ebpf.map("CALLS").and_then(map_fd));
        let threads = take(&mut ebpf, "UDP")?;
        map_fds.extend(map_fd(&threads));
        let (udp, udp_reader) = udp::Threads::pair(threads).map_err(|reason| StartError::Map {
            name: "UDP",
            reason,
        })?;
        let sources = Sources {
            urgent: ring(&mut ebpf, "URGENT", &mut map_fds)?,
            bulk: ring(&mut ebpf, "BULK", &mut map_fds)?,
            table: table(&mut ebpf, &mut map_fds)?,
            listening: listening(&mut ebpf, &mut map_fds)?,
            udp: udp_reader,
            disks,
            heartbeat: reports
                .iter()
                .any(|report| report.name == HEARTBEAT && report.hook.is_some()),
            processes,
        };
        Ok((
            Self {
                links,
                ebpf,
                reports,
                counters,
                processes: sources
                    .processes
                    .as_ref()
                    .map(|(shared, _)| Arc::clone(shared)),
                map_fds,
                udp,
            },
            sources,
        ))
    }

    /// A counter's sum over all CPUs.
    pub fn counter(&self, counter: Counter) -> u64 {
        self.counters
            .get(&(counter as u32), 0)
            .map_or(0, |values| values.iter().sum())
    }

    /// Bytes that the kernel charges.
    pub fn memory(&self) -> Memory {
        let bytes = |fd| fdinfo(fd, "memlock:").unwrap_or(0);
        Memory {
            programs: self
                .ebpf
                .programs()
                .filter_map(|(_, program)| program.fd().ok())
                .map(|fd| bytes(fd.as_fd().as_raw_fd()))
                .sum(),
            maps: self.map_fds.iter().map(|fd| bytes(*fd)).sum(),
        }
    }

    /// Calls and run time of each program while `kernel.bpf_stats_enabled` is on, and how often the
    /// kernel skipped it because it was already running on that CPU.
    pub fn program_stats(&self) -> Vec<ProgramStats> {
        self.ebpf
            .programs()
            .filter_map(|(name, program)| {
                let fd = program.fd().ok()?.as_fd().as_raw_fd();
                let info = program.info().ok()?;
                Some(ProgramStats {
                    name: name.to_owned(),
                    calls: info.run_count(),
                    run_time_ns: u64::try_from(info.run_time().as_nanos()).unwrap_or(u64::MAX),
                    skipped: fdinfo(fd, "recursion_misses:").unwrap_or(0),
                })
            })
            .collect()
    }

    /// How many links are held.
    pub fn links(&self) -> usize {
        self.links.len()
    }
}

/// Bytes that the kernel charges.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// For programs.
    pub programs: u64,
    /// For maps.
    pub maps: u64,
}

/// A program's own account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProgramStats {
    /// The program's name.
    pub name: String,
    /// Calls, counted while `kernel.bpf_stats_enabled` is on.
    pub calls: u64,
    /// Nanoseconds spent in them.
    pub run_time_ns: u64,
    /// Calls that the kernel skipped because the program was already running on that CPU.
    pub skipped: u64,
}

/// Ports as the programs have them; no more than fit, as [`Kernel::load`] has checked.
fn fixed(ports: &[u16]) -> [u16; MAX_PORTS] {
    let mut fixed = [0; MAX_PORTS];
    for (place, port) in fixed.iter_mut().zip(ports) {
        *place = *port;
    }
    fixed
}

/// The kernel's type information.
pub fn read_btf() -> Result<Btf, StartError> {
    let data = fs::read(BTF_PATH).map_err(StartError::NoBtf)?;
    Btf::parse(data).map_err(StartError::BadBtf)
}

/// The number of this thread's network namespace.
pub fn netns() -> io::Result<u32> {
    let inode = fs::metadata("/proc/thread-self/ns/net")?.ino();
    u32::try_from(inode).map_err(io::Error::other)
}

/// An error with its causes; of a verifier's log only both ends.
pub fn describe(error: &(dyn Error + 'static)) -> String {
    const HEAD: usize = 200;
    const TAIL: usize = 600;
    let text = chain(error)
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(": ");
    // The verifier's log has lines; what is told is one.
    let words: Vec<&str> = text.split_whitespace().collect();
    let text = words.join(" ");
    let length = text.chars().count();
    if length <= HEAD + TAIL {
        return text;
    }
    let head: String = text.chars().take(HEAD).collect();
    let tail: String = text.chars().skip(length - TAIL).collect();
    format!("{head} ... {tail}")
}

fn chain<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error| error.source())
}

fn is_denied(error: &(dyn Error + 'static)) -> bool {
    chain(error).any(|cause| {
        cause
            .downcast_ref::<io::Error>()
            .is_some_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
    })
}

fn load_error(error: EbpfError) -> StartError {
    if is_denied(&error) {
        StartError::NotPermitted(describe(&error))
    } else {
        StartError::Load(describe(&error))
    }
}

pub fn take(ebpf: &mut Ebpf, name: &'static str) -> Result<Map, StartError> {
    ebpf.take_map(name).ok_or(StartError::Map {
        name,
        reason: "is not in the object".to_owned(),
    })
}

/// Tells the programs which peers are watched. The map stays with them.
fn peers(ebpf: &mut Ebpf, settings: &Settings, fds: &mut Vec<RawFd>) -> Result<(), StartError> {
    let map = ebpf.map_mut("PEERS").ok_or(StartError::Map {
        name: "PEERS",
        reason: "is not in the object".to_owned(),
    })?;
    fds.extend(map_fd(map));
    let mut peers: LpmTrie<_, [u8; 16], u32> =
        LpmTrie::try_from(map).map_err(|error| map_error("PEERS", error))?;
    for net in &settings.peers {
        let (address, length) = match net {
            IpNet::V4(net) => (net.network().to_ipv6_mapped(), 96 + net.prefix_len()),
            IpNet::V6(net) => (net.network(), net.prefix_len()),
        };
        peers
            .insert(&Key::new(u32::from(length), address.octets()), 1, 0)
            .map_err(|error| map_error("PEERS", error))?;
    }
    Ok(())
}

/// An array, to be mapped.
pub fn array(
    ebpf: &mut Ebpf,
    name: &'static str,
    fds: &mut Vec<RawFd>,
) -> Result<MapData, StartError> {
    match take(ebpf, name)? {
        Map::Array(data) => {
            fds.push(data.fd().as_fd().as_raw_fd());
            Ok(data)
        }
        other => Err(StartError::Map {
            name,
            reason: format!("is no array: {other:?}"),
        }),
    }
}

fn disks(ebpf: &mut Ebpf, settings: &Settings, fds: &mut Vec<RawFd>) -> Result<Disks, StartError> {
    fds.extend(ebpf.map("ISSUED").and_then(map_fd));
    let index = take(ebpf, "DISK_INDEX")?;
    fds.extend(map_fd(&index));
    let index = HashMap::try_from(index).map_err(|error| map_error("DISK_INDEX", error))?;
    let table = array(ebpf, "DISK_TABLE", fds)?;
    let failed = |error: io::Error| StartError::Map {
        name: "DISK_TABLE",
        reason: error.to_string(),
    };
    let mut disks = Disks::new(index, table, &settings.devices).map_err(failed)?;
    if settings.block {
        disks.scan().map_err(failed)?;
    }
    Ok(disks)
}

pub fn map_error(name: &'static str, error: MapError) -> StartError {
    StartError::Map {
        name,
        reason: error.to_string(),
    }
}

pub fn map_fd(map: &Map) -> Option<RawFd> {
    match map {
        Map::RingBuf(data)
        | Map::PerCpuArray(data)
        | Map::Array(data)
        | Map::HashMap(data)
        | Map::LpmTrie(data)
        | Map::LruHashMap(data)
        | Map::Stack(data) => Some(data.fd().as_fd().as_raw_fd()),
        _ => None,
    }
}

fn table(ebpf: &mut Ebpf, fds: &mut Vec<RawFd>) -> Result<Table, StartError> {
    let slots = array(ebpf, "TABLE", fds)?;
    let keys = array(ebpf, "KEYS", fds)?;
    let claims = take(ebpf, "CLAIMS")?;
    fds.extend(map_fd(&claims));
    let claims = HashMap::try_from(claims).map_err(|error| map_error("CLAIMS", error))?;
    Table::map(slots, keys, claims).map_err(|error| StartError::Map {
        name: "TABLE",
        reason: error.to_string(),
    })
}

fn listening(ebpf: &mut Ebpf, fds: &mut Vec<RawFd>) -> Result<Listening, StartError> {
    let map = take(ebpf, "LISTENING")?;
    fds.extend(map_fd(&map));
    let map = HashMap::try_from(map).map_err(|error| map_error("LISTENING", error))?;
    Ok(Listening::new(map))
}

fn ring(
    ebpf: &mut Ebpf,
    name: &'static str,
    fds: &mut Vec<RawFd>,
) -> Result<RingBuf<MapData>, StartError> {
    let map = take(ebpf, name)?;
    fds.extend(map_fd(&map));
    RingBuf::try_from(map).map_err(|error| map_error(name, error))
}

fn fdinfo(fd: RawFd, key: &str) -> Option<u64> {
    fs::read_to_string(format!("/proc/self/fdinfo/{fd}"))
        .ok()?
        .lines()
        .find_map(|line| line.strip_prefix(key))
        .and_then(|value| value.trim().parse().ok())
}
