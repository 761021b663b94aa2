//! Replays a recording: what it says, what is wrong with it, and the tables that it leaves behind.
//!
//! Everything is read as it streams by; what stays is the tables. A capture's packets are read whole.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use bgp_core::bmp::BmpFramer;
use bgp_core::mrt::{MrtContent, MrtFramer, MrtReader, MrtRoute};
use bgp_core::ris::{self, RisMessage};
use bgp_core::{
    Announcement, AttributeError, Context, ErrorLevel, Families, Family, Framer, HEADER_LENGTH,
    MessageType, Negotiated, Station, StationAction, Update, decode_update,
};
use events::{Asn, Learned, NeighborId};
use serde::Serialize;

use crate::archive::Format;
use crate::archive_capture::Packets;
use crate::archive_table::Tables;

/// Problems that are told one by one; further ones count.
const MAX_PROBLEMS: usize = 100;

/// How a recording is to be read, where it does not say so itself.
#[derive(Clone, Debug)]
pub struct Options {
    /// How UPDATEs of plain BGP messages are to be read. In a capture the sessions' OPENs say it,
    /// where they are there.
    pub context: Context,
    /// Only these neighbours; empty: all.
    pub neighbors: Vec<IpAddr>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            context: Context {
                four_octet_as: true,
                internal: true,
                families: Families::BOTH,
                extended_next_hop: true,
                ..Context::default()
            },
            neighbors: Vec::new(),
        }
    }
}

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// Where, counted in octets of the recording after decompression. In captures the packet's
    /// number.
    pub offset: u64,
    /// What.
    pub text: String,
}

/// A count by family.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ByFamily {
    /// IPv4 unicast.
    pub ipv4: u64,
    /// IPv6 unicast.
    pub ipv6: u64,
}

impl ByFamily {
    const fn count(&mut self, family: Family) {
        match family {
            Family::Ipv4 => self.ipv4 += 1,
            Family::Ipv6 => self.ipv6 += 1,
        }
    }
}

/// What one neighbour's messages were.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct NeighborCounts {
    /// Its AS.
    pub asn: Option<Asn>,
    /// UPDATEs, or routes of a table.
    pub updates: u64,
    /// Routes announced.
    pub announced: ByFamily,
    /// Routes withdrawn, those treated as withdrawn among them.
    pub withdrawn: ByFamily,
    /// End-of-RIB markers.
    pub end_of_rib: ByFamily,
    /// Times that its session was lost.
    pub lost: u64,
}

/// How many UPDATEs had which treatment (RFC 7606 section 2), the strongest of each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Treatments {
    /// An attribute was dropped.
    pub attribute_discard: u64,
    /// The routes were withdrawn.
    pub treat_as_withdraw: u64,
    /// A session would have ended; the UPDATE was left out.
    pub session_reset: u64,
}

/// What a recording says.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// Records or messages of the recording's own format, by type.
    pub records: BTreeMap<String, u64>,
    /// BGP messages in it, by type.
    pub messages: BTreeMap<&'static str, u64>,
    /// By neighbour.
    pub neighbors: BTreeMap<NeighborId, NeighborCounts>,
    /// Treatments of errors.
    pub treatments: Treatments,
    /// What is wrong, 100 at most.
    pub problems: Vec<Problem>,
    /// How many there were.
    pub problem_count: u64,
    /// Time of the first and the last message, in microseconds since 1970.
    pub span: Option<(u64, u64)>,
}

impl Summary {
    /// Records, or messages where those are the recording's own.
    #[must_use]
    pub fn total(&self) -> u64 {
        let records: u64 = self.records.values().sum();
        if records > 0 {
            records
        } else {
            self.messages.values().sum()
        }
    }
}

/// A replay under way.
#[derive(Debug)]
pub struct Replay {
    input: Input,
    /// Octets taken, after decompression.
    offset: u64,
    ended: bool,
    pub(crate) state: State,
}

#[derive(Debug)]
enum Input {
    Mrt(MrtFramer, MrtReader),
    Bmp(BmpFramer, Box<Station>),
    Bgp(Framer),
    Ris(Vec<u8>),
    Capture(Vec<u8>),
}

/// What a replay has found so far.
#[derive(Debug)]
pub(crate) struct State {
    pub options: Options,
    pub tables: Tables,
    pub summary: Summary,
}

/// Router of a BMP stream and neighbour of a BGP stream that do not say who sent them.
const NOBODY: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

impl Replay {
    /// A replay of a recording of this format.
    #[must_use]
    pub fn new(format: Format, options: Options) -> Self {
        let input = match format {
            Format::Mrt => Input::Mrt(MrtFramer::default(), MrtReader::default()),
            Format::Bmp => Input::Bmp(BmpFramer::default(), Box::new(Station::new(NOBODY))),
            Format::Bgp => {
                let mut framer = Framer::default();
                framer.extend();
                Input::Bgp(framer)
            }
            Format::Ris => Input::Ris(Vec::new()),
            Format::Capture => Input::Capture(Vec::new()),
        };
        Self {
            input,
            offset: 0,
            ended: false,
            state: State {
                options,
                tables: Tables::default(),
                summary: Summary::default(),
            },
        }
    }

    /// What was found so far.
    #[must_use]
    pub const fn summary(&self) -> &Summary {
        &self.state.summary
    }

    /// The tables so far.
    #[must_use]
    pub const fn tables(&self) -> &Tables {
        &self.state.tables
    }

    /// Takes octets as they are read. False: the recording cannot be read on, and the last problem
    /// says why; what was read remains.
    pub fn push(&mut self, bytes: &[u8]) -> bool {
        if self.ended {
            return false;
        }
        let state = &mut self.state;
        self.ended = !match &mut self.input {
            Input::Mrt(framer, reader) => {
                framer.push(bytes);
                state.mrt(framer, reader)
            }
            Input::Bmp(framer, station) => {
                framer.push(bytes);
                let end = self.offset + length(bytes.len());
                state.bmp(framer, station, |pending| end - length(pending))
            }
            Input::Bgp(framer) => {
                framer.push(bytes);
                state.bgp(framer, self.offset + length(bytes.len()))
            }
            Input::Ris(line) => state.ris(line, bytes, self.offset),
            Input::Capture(packets) => {
                packets.extend_from_slice(bytes);
                true
            }
        };
        self.offset += length(bytes.len());
        !self.ended
    }

    /// The recording is over.
    pub fn finish(&mut self) {
        if self.ended {
            return;
        }
        self.ended = true;
        let state = &mut self.state;
        match &mut self.input {
            Input::Mrt(framer, _) => {
                if let Err(error) = framer.finish() {
                    state.problem(error.offset, error.text);
                }
            }
            Input::Bmp(framer, _) => state.incomplete(self.offset, framer.pending()),
            Input::Bgp(framer) => state.incomplete(self.offset, framer.pending()),
            Input::Ris(line) => {
                let line = std::mem::take(line);
                let offset = self.offset - length(line.len());
                state.line(&line, offset);
            }
            Input::Capture(packets) => Packets::default().read(packets, state),
        }
    }

    /// Reading itself failed, such as for damaged compression.
    pub fn fail(&mut self, text: String) {
        self.state.problem(self.offset, text);
        self.finish();
    }
}

fn length(octets: usize) -> u64 {
    u64::try_from(octets).unwrap_or(u64::MAX)
}

impl State {
    pub fn problem(&mut self, offset: u64, text: String) {
        self.summary.problem_count += 1;
        if self.summary.problems.len() < MAX_PROBLEMS {
            self.summary.problems.push(Problem { offset, text });
        }
    }

    fn incomplete(&mut self, offset: u64, pending: usize) {
        if pending > 0 {
            let begin = offset - length(pending);
            self.problem(
                begin,
                format!("the recording ends within the message, after {pending} octets"),
            );
        }
    }

    fn record(&mut self, name: &str) {
        match self.summary.records.get_mut(name) {
            Some(count) => *count += 1,
            None => {
                self.summary.records.insert(name.to_owned(), 1);
            }
        }
    }

    pub fn message(&mut self, kind: MessageType) {
        let name = match kind {
            MessageType::Open => "open",
            MessageType::Update => "update",
            MessageType::Notification => "notification",
            MessageType::Keepalive => "keepalive",
            MessageType::RouteRefresh => "route_refresh",
        };
        *self.summary.messages.entry(name).or_default() += 1;
    }

    pub fn time(&mut self, microseconds: u64) {
        if microseconds > 0 {
            let (first, last) = self.summary.span.unwrap_or((microseconds, microseconds));
            self.summary.span = Some((first.min(microseconds), last.max(microseconds)));
        }
    }

    fn wanted(&self, neighbor: NeighborId) -> bool {
        let neighbors = &self.options.neighbors;
        neighbors.is_empty() || neighbors.contains(&neighbor.address)
    }

    fn counts(&mut self, neighbor: NeighborId) -> &mut NeighborCounts {
        self.summary.neighbors.entry(neighbor).or_default()
    }

    pub fn up(&mut self, neighbor: NeighborId, asn: Option<Asn>) {
        if self.wanted(neighbor) {
            let counts = self.counts(neighbor);
            counts.asn = asn.or(counts.asn);
            self.tables.up(neighbor);
        }
    }

    pub fn down(&mut self, neighbor: NeighborId) {
        if self.wanted(neighbor) {
            self.counts(neighbor).lost += 1;
            self.tables.down(neighbor);
        }
    }

    fn treated(&mut self, errors: &[AttributeError]) {
        let treatments = &mut self.summary.treatments;
        match errors.iter().map(|error| error.level).max() {
            None => {}
            Some(ErrorLevel::Discard) => treatments.attribute_discard += 1,
            Some(ErrorLevel::TreatAsWithdraw) => treatments.treat_as_withdraw += 1,
            Some(ErrorLevel::Reset) => treatments.session_reset += 1,
        }
    }

    /// Decodes an UPDATE and applies it.
    pub fn update(&mut self, neighbor: NeighborId, offset: u64, body: &[u8], context: &Context) {
        if !self.wanted(neighbor) {
            return;
        }
        match decode_update(body, context) {
            Ok(update) => self.apply(neighbor, &update),
            Err(fault) => {
                self.summary.treatments.session_reset += 1;
                self.problem(offset, format!("UPDATE of {neighbor}: {fault}"));
            }
        }
    }

    pub fn apply(&mut self, neighbor: NeighborId, update: &Update) {
        if !self.wanted(neighbor) {
            return;
        }
        self.treated(&update.errors);
        self.counts(neighbor).updates += 1;
        for nlri in &update.withdrawn {
            let family = Family::of_prefix(&nlri.prefix);
            self.counts(neighbor).withdrawn.count(family);
            self.tables.withdraw(neighbor, *nlri);
        }
        for announcement in &update.announced {
            self.announce(neighbor, announcement);
        }
        if let Some(family) = update.end_of_rib {
            self.counts(neighbor).end_of_rib.count(family);
            self.tables.end_of_rib(neighbor, family);
        }
    }

    fn announce(&mut self, neighbor: NeighborId, announcement: &Announcement) {
        let packed = self.tables.intern(&announcement.attributes);
        for nlri in &announcement.nlri {
            let family = Family::of_prefix(&nlri.prefix);
            if announcement.ineligible.is_some() {
                self.counts(neighbor).withdrawn.count(family);
                self.tables.withdraw(neighbor, *nlri);
            } else {
                self.counts(neighbor).announced.count(family);
                self.tables.announce(neighbor, *nlri, &packed);
            }
        }
    }

    fn mrt(&mut self, framer: &mut MrtFramer, reader: &mut MrtReader) -> bool {
        loop {
            let record = match framer.next_record() {
                Ok(Some(record)) => record,
                Ok(None) => return true,
                Err(error) => {
                    self.problem(error.offset, error.text);
                    return false;
                }
            };
            self.record(&mrt_name(record.kind, record.subtype));
            self.time(record.microseconds);
            match reader.decode(&record) {
                Ok(MrtContent::Routes(routes)) => {
                    routes.into_iter().for_each(|route| self.route(route));
                }
                Ok(MrtContent::Message(message)) => {
                    self.message(message.kind);
                    let neighbor = mrt(message.peer.address);
                    if message.local || !self.wanted(neighbor) {
                        continue;
                    }
                    self.counts(neighbor).asn = Some(message.peer.asn);
                    if message.kind == MessageType::Update {
                        self.update(neighbor, record.offset, message.body, &message.context);
                    }
                }
                Ok(MrtContent::StateChange { peer, old, new }) => {
                    // Established is 6.
                    let neighbor = mrt(peer.address);
                    match (old, new) {
                        (_, 6) => self.up(neighbor, Some(peer.asn)),
                        (6, _) => self.down(neighbor),
                        _ => {}
                    }
                }
                Ok(MrtContent::PeerIndex(_) | MrtContent::Skipped) => {}
                Err(error) => self.problem(error.offset, error.text),
            }
        }
    }

    /// A route of a table.
    fn route(&mut self, route: MrtRoute) {
        let neighbor = mrt(route.peer.address);
        if !self.wanted(neighbor) {
            return;
        }
        self.treated(&route.errors);
        let family = Family::of_prefix(&route.nlri.prefix);
        let counts = self.counts(neighbor);
        counts.asn = Some(route.peer.asn);
        counts.updates += 1;
        match route.attributes {
            Some(attributes) => {
                counts.announced.count(family);
                let packed = self.tables.intern(&attributes);
                self.tables.announce(neighbor, route.nlri, &packed);
            }
            None => {
                counts.withdrawn.count(family);
                self.tables.withdraw(neighbor, route.nlri);
            }
        }
    }

    /// Reads the BMP messages that are there. `offset_of` turns octets that are still there into the
    /// offset of the first of them.
    pub fn bmp(
        &mut self,
        framer: &mut BmpFramer,
        station: &mut Station,
        offset_of: impl Fn(usize) -> u64,
    ) -> bool {
        loop {
            let offset = offset_of(framer.pending());
            let frame = match framer.next_frame() {
                Ok(Some(frame)) => frame,
                Ok(None) => return true,
                Err(error) => {
                    self.problem(offset, error.to_string());
                    return false;
                }
            };
            self.record(bmp_name(frame.kind));
            let refused = station.counts.refused;
            match station.handle(&frame) {
                Ok(actions) => actions
                    .into_iter()
                    .for_each(|action| self.station_action(action)),
                // Its length is known: the next one can be read.
                Err(error) => self.problem(offset, error.to_string()),
            }
            if station.counts.refused > refused {
                self.summary.treatments.session_reset += 1;
                let text = "an UPDATE that cannot be read: its table is not known from here on";
                self.problem(offset, text.to_owned());
            }
        }
    }

    /// A router's connection ended.
    pub fn station_lost(&mut self, station: &mut Station) {
        for action in station.lost("the connection ended") {
            self.station_action(action);
        }
    }

    fn station_action(&mut self, action: StationAction) {
        match action {
            StationAction::Up(neighbor, Negotiated { asn, .. }) => self.up(neighbor, Some(asn)),
            StationAction::Update(neighbor, update) => {
                self.message(MessageType::Update);
                self.apply(neighbor, &update);
            }
            StationAction::Down(neighbor, _) => self.down(neighbor),
        }
    }

    /// Reads the BGP messages that are there; `end` is the offset behind the last octet.
    fn bgp(&mut self, framer: &mut Framer, end: u64) -> bool {
        let neighbor = NeighborId::session(NOBODY);
        let context = self.options.context;
        loop {
            let offset = end - length(framer.pending());
            match framer.next_frame() {
                Ok(Some(frame)) => {
                    self.message(frame.kind);
                    if frame.kind == MessageType::Update {
                        self.update(neighbor, offset, &frame.body, &context);
                    }
                }
                Ok(None) => return true,
                Err(fault) => {
                    let skipped = framer.resynchronize(true);
                    self.problem(offset, format!("{}; {skipped} octets skipped", fault.text));
                    if framer.pending() < HEADER_LENGTH {
                        return true;
                    }
                }
            }
        }
    }

    /// Completes the line that has begun, and reads those that follow.
    fn ris(&mut self, line: &mut Vec<u8>, bytes: &[u8], offset: u64) -> bool {
        let mut begin = offset - length(line.len());
        let mut parts = bytes.split(|octet| *octet == b'\n').peekable();
        while let Some(part) = parts.next() {
            line.extend_from_slice(part);
            if line.len() > ris::MAX_LINE {
                self.problem(begin, "the line has no end".to_owned());
                return false;
            }
            if parts.peek().is_some() {
                self.line(line, begin);
                begin += length(line.len()) + 1;
                line.clear();
            }
        }
        true
    }

    fn line(&mut self, line: &[u8], offset: u64) {
        let line = line.trim_ascii();
        if line.is_empty() {
            return;
        }
        let ris = |address| NeighborId {
            address,
            learned: Learned::RisLive,
        };
        match ris::decode(line) {
            Ok(RisMessage::Update { peer, update }) => {
                self.record("UPDATE");
                self.time(peer.microseconds);
                let neighbor = ris(peer.address);
                if self.wanted(neighbor) {
                    self.counts(neighbor).asn = Some(peer.asn);
                    self.apply(neighbor, &update);
                }
            }
            Ok(RisMessage::PeerState { peer, up }) => {
                self.record("RIS_PEER_STATE");
                self.time(peer.microseconds);
                if up {
                    self.up(ris(peer.address), Some(peer.asn));
                } else {
                    self.down(ris(peer.address));
                }
            }
            Ok(RisMessage::Other(kind)) => self.record(&kind),
            Ok(RisMessage::ServiceError(text)) => {
                self.record("ris_error");
                self.problem(offset, format!("the service refused: {text}"));
            }
            Err(error) => self.problem(offset, error.to_string()),
        }
    }
}

const fn mrt(address: IpAddr) -> NeighborId {
    NeighborId {
        address,
        learned: Learned::Mrt,
    }
}

/// Names of RFC 7854 section 4.1.
const fn bmp_name(kind: u8) -> &'static str {
    match kind {
        0 => "Route Monitoring",
        1 => "Statistics Report",
        2 => "Peer Down",
        3 => "Peer Up",
        4 => "Initiation",
        5 => "Termination",
        6 => "Route Mirroring",
        _ => "unknown",
    }
}

/// Names of RFC 6396 and RFC 8050.
fn mrt_name(kind: u16, subtype: u16) -> String {
    let name = match (kind, subtype) {
        (12, 1) => "TABLE_DUMP/AFI_IPv4",
        (12, 2) => "TABLE_DUMP/AFI_IPv6",
        (13, 1) => "TABLE_DUMP_V2/PEER_INDEX_TABLE",
        (13, 2) => "TABLE_DUMP_V2/RIB_IPV4_UNICAST",
        (13, 3) => "TABLE_DUMP_V2/RIB_IPV4_MULTICAST",
        (13, 4) => "TABLE_DUMP_V2/RIB_IPV6_UNICAST",
        (13, 5) => "TABLE_DUMP_V2/RIB_IPV6_MULTICAST",
        (13, 6) => "TABLE_DUMP_V2/RIB_GENERIC",
        (13, 8) => "TABLE_DUMP_V2/RIB_IPV4_UNICAST_ADDPATH",
        (13, 9) => "TABLE_DUMP_V2/RIB_IPV4_MULTICAST_ADDPATH",
        (13, 10) => "TABLE_DUMP_V2/RIB_IPV6_UNICAST_ADDPATH",
        (13, 11) => "TABLE_DUMP_V2/RIB_IPV6_MULTICAST_ADDPATH",
        (13, 12) => "TABLE_DUMP_V2/RIB_GENERIC_ADDPATH",
        (16 | 17, _) => {
            let et = if kind == 17 { "_ET" } else { "" };
            let subtype = match subtype {
                0 => "STATE_CHANGE",
                1 => "MESSAGE",
                4 => "MESSAGE_AS4",
                5 => "STATE_CHANGE_AS4",
                6 => "MESSAGE_LOCAL",
                7 => "MESSAGE_AS4_LOCAL",
                8 => "MESSAGE_ADDPATH",
                9 => "MESSAGE_AS4_ADDPATH",
                10 => "MESSAGE_LOCAL_ADDPATH",
                11 => "MESSAGE_AS4_LOCAL_ADDPATH",
                other => return format!("BGP4MP{et}/{other}"),
            };
            return format!("BGP4MP{et}/{subtype}");
        }
        _ => return format!("{kind}/{subtype}"),
    };
    name.to_owned()
}
