//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// Sees a network partition in the kernel, finds the break in BGP data, routes around it, then
/// pages, and can show afterwards, event by event, why.
#[derive(Debug, Parser)]
#[command(
    name = "netwatch",
    version,
    after_help = "Examples:
  netwatch run                                  watch this host's TCP peers
  netwatch run --config /etc/netwatch.toml      with egresses, BGP, failover, pager
  netwatch doctor --config /etc/netwatch.toml   what will work on this host
  netwatch top                                  peers, threads and disks, live
  netwatch report                               the newest incident's timeline
  netwatch replay                               decide it again, and compare"
)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the daemon; with no configuration it watches, sends nothing and changes nothing
    #[command(after_help = "Examples:
  netwatch run                               watch; send and change nothing
  netwatch run --config /etc/netwatch.toml   as configured

SIGTERM or SIGINT stops it, after its routes are taken back.")]
    Run(Configured),
    /// Tell what will work on this host: kernel, BTF, probes, privileges, egresses, pager
    Doctor(Doctor),
    /// Show peers, incidents, egresses, BGP neighbours and routes of the running daemon
    #[command(after_help = "Examples:
  netwatch status
  netwatch status --json | jq '.peers[] | {peer, state}'

Exit code: 0 if the daemon answered, 1 otherwise.")]
    Status(Query),
    /// Watch the running daemon's peers, threads and disks, live
    Top(Top),
    /// Print what the kernel probes see, as it happens; no daemon is needed
    Trace(Trace),
    /// Print an incident's timeline from the journal
    Report(Report),
    /// Feed an incident's recording through the engine again, and compare what it decides
    Replay(ReplayIncident),
    /// Look at and take back the routes that the daemon installed
    #[command(after_help = "Examples:
  netwatch failover status              mode, kill switch, plans and leases
  netwatch failover rollback            take everything back
  netwatch failover rollback --plan 3   take one plan's routes back")]
    Failover {
        #[command(subcommand)]
        command: Failover,
    },
    /// The pager
    Page(Page),
    /// Look into the routers' tables
    #[command(after_help = "Examples:
  netwatch bgp neighbors          the routers, and the state of their sessions
  netwatch bgp rib 203.0.113.7    the routes for an address, by neighbour
  netwatch bgp rib 203.0.113.0/24 --json
  netwatch bgp decode --file messages.bin   what a session would make of them
  netwatch bgp replay updates.gz            an archive's final tables")]
    Bgp {
        #[command(subcommand)]
        command: Bgp,
    },
    /// Validate a configuration file; errors name file, line and key
    #[command(after_help = "Example:
  netwatch check-config /etc/netwatch.toml && systemctl restart netwatch

Exit code: 0 if the file is valid, 1 otherwise.")]
    CheckConfig {
        /// The file
        file: PathBuf,
    },
    /// Take routes back when their lease runs out (the daemon starts it)
    #[command(hide = true)]
    Watchdog(Watchdog),
}

/// A command that reads the daemon's configuration.
#[derive(Debug, Args)]
pub struct Configured {
    /// The configuration; without it the defaults hold
    #[arg(long, short, value_name = "FILE", env = "NETWATCH_CONFIG")]
    pub config: Option<PathBuf>,
}

/// Arguments of `netwatch doctor`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  netwatch doctor                               what watching alone needs
  netwatch doctor --config /etc/netwatch.toml   also egresses, BGP and pager

Exit code: 0 if all that the configuration needs will work, 1 otherwise.")]
pub struct Doctor {
    #[command(flatten)]
    pub configured: Configured,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// A command that asks the running daemon.
#[derive(Debug, Args)]
pub struct Query {
    #[command(flatten)]
    pub configured: Configured,
    /// The daemon's socket; default: `netwatch.sock` in the configured `runtime_dir`
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `netwatch top`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  netwatch top            until q or Ctrl-C
  netwatch top --once     one picture; so it is where the output is no terminal

Peers in trouble come first. Percentiles are of the last minute, in ms.")]
pub struct Top {
    #[command(flatten)]
    pub configured: Configured,
    /// The daemon's socket; default: `netwatch.sock` in the configured `runtime_dir`
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// Print one picture and end
    #[arg(long)]
    pub once: bool,
    /// Seconds from one picture to the next
    #[arg(long, value_name = "SECONDS", default_value_t = 1)]
    pub interval: u64,
}

/// What `netwatch trace` prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum TraceKind {
    /// Connections: states, retransmissions, resets, errors, round-trip times
    Tcp,
    /// Calls of tcp_sendmsg and tcp_recvmsg, of a port or a process
    Messages,
    /// Waits of a process' threads for a CPU, one a second of each at most
    Sched,
    /// Block requests
    Block,
    /// Datagrams of a process' threads that seldom send
    Udp,
}

/// Arguments of `netwatch trace`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  netwatch trace                              connections of this host
  netwatch trace tcp --port 26656 --json      JSON lines
  netwatch trace messages --port 26656 --count 100
  netwatch trace sched --process gaiad --seconds 10
  netwatch trace block --over-us 10000

The last line says what was lost. Needs root.")]
pub struct Trace {
    /// What to print
    #[arg(value_enum, default_value_t = TraceKind::Tcp)]
    pub kind: TraceKind,
    /// Only connections with this port at either end; up to eight times
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub port: Vec<u16>,
    /// Only processes of this name (as in /proc/PID/comm); may be repeated
    #[arg(long, value_name = "NAME")]
    pub process: Vec<String>,
    /// Also connections between addresses of this host
    #[arg(long)]
    pub loopback: bool,
    /// Only waits and block requests that took longer; default: 1000 for sched, 0 for block
    #[arg(long, value_name = "MICROSECONDS")]
    pub over_us: Option<u64>,
    /// End after so many records
    #[arg(long, value_name = "N")]
    pub count: Option<u64>,
    /// End after so many seconds
    #[arg(long, value_name = "N")]
    pub seconds: Option<u32>,
    /// Print JSON lines
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `netwatch report`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  netwatch report                  the newest incident
  netwatch report --list           all incidents in the journal, newest first
  netwatch report ID --json | jq   one incident, for machines

Exit code: 0 if there is such an incident, 1 otherwise.")]
pub struct Report {
    /// The incident; default: the newest
    pub incident: Option<String>,
    /// List the incidents instead
    #[arg(long, conflicts_with = "incident")]
    pub list: bool,
    #[command(flatten)]
    pub configured: Configured,
    /// The journal; default: `journal.db` in the configured `state_dir`
    #[arg(long, value_name = "FILE")]
    pub journal: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `netwatch replay`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  netwatch replay                   the newest recording
  netwatch replay ID --verbose      one incident's, with every effect
  netwatch replay FILE --until 2s   a file, until 2 s after the incident's onset
  netwatch replay ID --list-keys    the parameters that --what-if takes
  netwatch replay ID --what-if correlator.thresholds.confirm=25

Exit code: 0 if every effect is the recorded one, byte for byte (with --what-if:
if it could be replayed), 1 if one differs, 2 if nothing could be replayed.")]
pub struct ReplayIncident {
    /// A file, an incident, or a part of its name; default: the newest recording
    #[arg(value_name = "FILE|INCIDENT")]
    pub recording: Option<String>,
    /// Decide by another value, and show what would have been decided; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    pub what_if: Vec<String>,
    /// List the parameters and their values in the recording
    #[arg(long, conflicts_with = "what_if")]
    pub list_keys: bool,
    /// Stop so long after the incident's onset, such as 500ms or 2s
    #[arg(long, value_name = "TIME")]
    pub until: Option<String>,
    /// Print every effect, not only the timeline
    #[arg(long, short)]
    pub verbose: bool,
    /// The directory of recordings; default: `recordings` in the configured `state_dir`
    #[arg(long, value_name = "DIRECTORY")]
    pub recordings: Option<PathBuf>,
    #[command(flatten)]
    pub configured: Configured,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Subcommand)]
pub enum Failover {
    /// Show mode, kill switch, plans, routes and their leases
    #[command(after_help = "Example:
  netwatch failover status --json | jq .kill_switch")]
    Status(Query),
    /// Take back one plan's routes, or all of them
    #[command(after_help = "Examples:
  netwatch failover rollback            take everything back
  netwatch failover rollback --plan 3   take one plan's routes back")]
    Rollback {
        /// The plan's number; default: all
        #[arg(long)]
        plan: Option<u64>,
        #[command(flatten)]
        query: Query,
    },
}

/// Arguments of `netwatch page`.
#[derive(Debug, Args)]
#[command(after_help = "Example:
  netwatch page --test   trigger and resolve a test alert (severity info)

Exit code: 0 if the pager accepted it through at least one egress, 1 otherwise.")]
pub struct Page {
    /// Send a test alert, by the running daemon or else by this command, and resolve it at once
    #[arg(long, required = true)]
    pub test: bool,
    #[command(flatten)]
    pub query: Query,
}

#[derive(Debug, Subcommand)]
pub enum Bgp {
    /// Show the neighbours and the state of their sessions
    #[command(after_help = "Example:
  netwatch bgp neighbors --json | jq '.neighbors[] | {neighbor, state}'")]
    Neighbors(Query),
    /// Show the routes for an address or a prefix, by neighbour, now or at an earlier time
    Rib(RibArguments),
    /// Ask a neighbour for all its routes again (RFC 2918)
    Refresh(RefreshArguments),
    /// Decode BGP messages, and tell what a session would do with each of them
    Decode(Decode),
    /// Replay a recording: what it says, and the tables that it leaves behind
    Replay(Replay),
}

/// Formats of `netwatch bgp replay`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum ReplayFormat {
    /// As it begins
    Auto,
    /// MRT archive (RFC 6396)
    Mrt,
    /// BMP stream (RFC 7854), or a capture of one
    Bmp,
    /// BGP messages, or a capture of sessions
    Bgp,
    /// Lines of RIS Live
    Ris,
}

/// Arguments of `netwatch bgp replay`.
#[derive(Debug, Args)]
#[command(after_help = "\
Reads MRT archives, BMP streams, BGP messages, captures (pcap) of BMP and BGP, and
lines of RIS Live, also compressed with gzip or bzip2, and tells the messages by
type, routes by neighbour and family, treatments of errors (RFC 7606), what is
damaged and where, and the final tables' digest.

The digest is the SHA-256 of the lines of --dump, sorted; `--dump | LC_ALL=C sort |
sha256sum` gives the same. docs/bgp-archives.md describes the lines.

Examples:
  netwatch bgp replay updates.20250520.0735.gz
  curl -s https://data.ris.ripe.net/rrc00/latest-bview.gz |
    netwatch bgp replay - --json
  netwatch bgp replay bmp.pcap --neighbor 192.0.2.1 --dump

Exit code: 0 if all was read, 1 if something in it cannot be read, 2 if nothing
can.")]
pub struct Replay {
    /// A file, or - for standard input
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// What the file is
    #[arg(long, value_enum, default_value_t = ReplayFormat::Auto)]
    pub format: ReplayFormat,
    /// Only routes of this neighbour; may be repeated
    #[arg(long, value_name = "ADDRESS")]
    pub neighbor: Vec<std::net::IpAddr>,
    /// Replay at most so many messages a second
    #[arg(long, value_name = "N")]
    pub rate: Option<u64>,
    /// Print the final routes, sorted, and the rest on standard error
    #[arg(long)]
    pub dump: bool,
    /// In plain BGP messages, NLRI of this family has path identifiers
    #[arg(long, value_name = "AFI/SAFI", value_delimiter = ',')]
    pub add_path: Vec<String>,
    /// In plain BGP messages, AS numbers have two octets
    #[arg(long)]
    pub two_byte_as: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `netwatch bgp rib`.
#[derive(Debug, Args)]
#[command(after_help = "\
The past is known as far back as [bgp] history and history_memory allow; a time
before that is refused, and when the past begins is said; so is one in the future.

With --json one object is printed: query, at (RFC 3339, if asked for), routes (each
with neighbor, egress, path_id if the neighbour sends several paths, stale, and route:
prefix, as_path, next_hop, received_at in ns of CLOCK_MONOTONIC, validation if there
are VRPs), truncated (there are more than --limit), known_since (RFC 3339, if the
time is before the history), partial (routes were left out for want of memory).

Examples:
  netwatch bgp rib 203.0.113.7                    longest match
  netwatch bgp rib 203.0.113.0/24                 and the prefixes inside it
  netwatch bgp rib 203.0.113.7 --at -30s          as it was 30 seconds ago
  netwatch bgp rib 203.0.113.7 --at 12:03:04.120  today, by this host's zone
  netwatch bgp rib --neighbor 192.0.2.1 --json    a neighbour's whole table

Exit code: 0 if there is such a route, 1 otherwise.")]
pub struct RibArguments {
    /// An address (longest match) or a prefix; default: all routes
    #[arg(value_name = "PREFIX|ADDRESS")]
    pub query_for: Option<String>,
    /// As it was then: RFC 3339, HH:MM:SS[.mmm] of today, or -30s, -5m, -1h
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    pub at: Option<String>,
    /// Only the routes of this neighbour, named as `netwatch bgp neighbors` names it
    #[arg(long)]
    pub neighbor: Option<String>,
    /// The most routes; default: all
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub limit: Option<u64>,
    #[command(flatten)]
    pub query: Query,
}

/// Arguments of `netwatch bgp refresh`.
#[derive(Debug, Args)]
#[command(after_help = "\
Nothing is forgotten meanwhile. Where the neighbour marks begin and end (RFC 7313),
what it did not send again is withdrawn at the end.

Example:
  netwatch bgp refresh 192.0.2.1 --family ipv4

Exit code: 0 if the neighbour was asked, 1 if it cannot be, and why.")]
pub struct RefreshArguments {
    /// The neighbour's address
    #[arg(value_name = "NEIGHBOR")]
    pub neighbor: String,
    /// Only this family; default: all that the session carries
    #[arg(long, value_enum)]
    pub family: Option<FamilyName>,
    #[command(flatten)]
    pub query: Query,
}

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum FamilyName {
    Ipv4,
    Ipv6,
}

impl From<FamilyName> for api::AddressFamily {
    fn from(name: FamilyName) -> Self {
        match name {
            FamilyName::Ipv4 => Self::Ipv4,
            FamilyName::Ipv6 => Self::Ipv6,
        }
    }
}

/// Arguments of `netwatch bgp decode`.
#[derive(Debug, Args)]
#[command(after_help = "\
Each message is shown with its disposition (RFC 7606): accepted,
attribute-discard, treat-as-withdraw or session-reset, with the NOTIFICATION that
would be sent.

The input is hexadecimal text (white space and colons do not matter, lines with #
are comments), raw messages, or a pcap file, whose sessions are read as their
OPENs agree. Everything else is read as the options say; nothing is guessed.

Examples:
  netwatch bgp decode --hex 'ffffffff ffffffff ffffffff ffffffff 0013 04'
  netwatch bgp decode --file update.bin --add-path ipv4/unicast --external
  tcpdump -c 1000 -w - port 179 |
    netwatch bgp decode - --json | jq 'select(.reason)'

Exit code: 0 if the input was decoded to its end and no message resets the
session, 1 otherwise.")]
pub struct Decode {
    /// A file, or - for standard input
    #[arg(value_name = "FILE", conflicts_with_all = ["hex", "file"])]
    pub input: Option<PathBuf>,
    /// The messages
    #[arg(long, conflicts_with = "file")]
    pub hex: Option<String>,
    /// A file with the messages
    #[arg(long)]
    pub file: Option<PathBuf>,
    /// What the messages are; of BMP, UPDATEs are read as the router's Peer Up says
    #[arg(long, value_enum, default_value_t = DecodeFormat::Bgp)]
    pub format: DecodeFormat,
    /// NLRI of this family has path identifiers (ipv4/unicast or 1/1, ipv6/unicast or 2/1)
    #[arg(long, value_name = "AFI/SAFI", num_args = 1.., value_delimiter = ',')]
    pub add_path: Vec<String>,
    /// Messages may have up to 65535 octets
    #[arg(long)]
    pub extended_message: bool,
    /// AS numbers have two octets
    #[arg(long)]
    pub two_byte_as: bool,
    /// The messages come from another AS; default: from the same
    #[arg(long)]
    pub external: bool,
    /// The role of the neighbour, for the route leak rule of RFC 9234
    #[arg(long, value_name = "ROLE", requires = "neighbor_as",
        value_parser = ["provider", "rs", "rs-client", "customer", "peer"])]
    pub neighbor_role: Option<String>,
    /// The neighbour's AS
    #[arg(long, value_name = "AS", requires = "neighbor_role")]
    pub neighbor_as: Option<u32>,
    /// Print JSON, one object a line
    #[arg(long)]
    pub json: bool,
}

/// Formats of `netwatch bgp decode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum DecodeFormat {
    /// Messages of a session
    Bgp,
    /// Messages of a monitored router (RFC 7854)
    Bmp,
}

/// Arguments of `netwatch watchdog`.
#[derive(Debug, Args)]
pub struct Watchdog {
    /// Where the lease file is
    #[arg(long)]
    pub runtime_dir: PathBuf,
    /// The protocol number of our routes
    #[arg(long)]
    pub protocol: u8,
    /// Wait for further daemons instead of ending with the last lease (for a unit of its own)
    #[arg(long)]
    pub stay: bool,
}
