//! BMP and BGP out of a capture's TCP connections.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use bgp_core::bmp::BmpFramer;
use bgp_core::capture::{Capture, Chunk, Direction, Segment};
use bgp_core::{Framer, HEADER_LENGTH, MessageType, Open, Station, decode_open};
use events::NeighborId;

use crate::archive::is_bmp;
use crate::archive_replay::State;

/// The port of BGP.
const PORT: u16 = 179;
/// Connections that are followed at a time.
const MAX_FLOWS: usize = 65_536;

type Ends = (SocketAddr, SocketAddr);

/// What one direction of a connection carries.
#[derive(Debug, Default)]
enum Content {
    /// Not known yet.
    #[default]
    New,
    Bmp(BmpFramer, Box<Station>),
    Bgp {
        framer: Framer,
        /// The framer is at a message's first octet.
        synchronized: bool,
        open: Option<Box<Open>>,
    },
    /// Neither, or it cannot be read on.
    Foreign,
}

#[derive(Debug, Default)]
struct Flow {
    direction: Direction,
    content: Content,
}

/// The connections of a capture.
#[derive(Debug, Default)]
pub(crate) struct Packets {
    flows: BTreeMap<Ends, Flow>,
    found: bool,
}

impl Packets {
    pub fn read(mut self, bytes: &[u8], state: &mut State) {
        let capture = match Capture::new(bytes) {
            Ok(capture) => capture,
            Err(error) => return state.problem(0, error.to_string()),
        };
        for segment in capture {
            match segment {
                Ok(segment) => self.segment(&segment, state),
                Err(error) => state.problem(0, error.to_string()),
            }
        }
        if !self.found {
            let text = "there is no BMP and no BGP message in the capture";
            state.problem(0, text.to_owned());
        }
    }

    fn segment(&mut self, segment: &Segment<'_>, state: &mut State) {
        let ends = (segment.from, segment.to);
        if !self.flows.contains_key(&ends) && self.flows.len() >= MAX_FLOWS {
            return;
        }
        let flow = self.flows.entry(ends).or_default();
        for chunk in flow.direction.push(segment) {
            self.chunk(segment, chunk, state);
        }
    }

    fn chunk(&mut self, segment: &Segment<'_>, chunk: Chunk, state: &mut State) {
        let packet = u64::try_from(segment.packet).unwrap_or(0);
        let ends = (segment.from, segment.to);
        let their_open = self.open(&(segment.to, segment.from));
        let Some(flow) = self.flows.get_mut(&ends) else {
            return;
        };
        let bytes = match chunk {
            Chunk::Opened => {
                flow.content.end(segment, state);
                flow.content = Content::New;
                return;
            }
            Chunk::Gap => {
                if !matches!(flow.content, Content::New | Content::Foreign) {
                    state.problem(packet, "packets are missing before this one".to_owned());
                }
                match &mut flow.content {
                    Content::Bgp {
                        framer,
                        synchronized,
                        ..
                    } => {
                        *framer = new_framer();
                        *synchronized = false;
                    }
                    // BMP has nothing to find its next message by.
                    content => *content = Content::Foreign,
                }
                return;
            }
            Chunk::Bytes(bytes) => bytes,
        };
        if matches!(flow.content, Content::New) {
            flow.content = Content::of(segment, &bytes);
        }
        match &mut flow.content {
            Content::New | Content::Foreign => {}
            Content::Bmp(framer, station) => {
                self.found = true;
                state.time(segment.nanoseconds / 1000);
                framer.push(&bytes);
                if !state.bmp(framer, station, |_| packet) {
                    flow.content = Content::Foreign;
                }
            }
            Content::Bgp {
                framer,
                synchronized,
                open,
            } => {
                framer.push(&bytes);
                if !*synchronized {
                    framer.resynchronize(false);
                    *synchronized = framer.pending() >= HEADER_LENGTH;
                }
                if *synchronized {
                    self.found |= bgp(framer, open, their_open.as_deref(), segment, state);
                }
            }
        }
    }

    fn open(&self, ends: &Ends) -> Option<Box<Open>> {
        match &self.flows.get(ends)?.content {
            Content::Bgp { open, .. } => open.clone(),
            _ => None,
        }
    }
}

impl Content {
    fn of(segment: &Segment<'_>, bytes: &[u8]) -> Self {
        let port = segment.from.port() == PORT || segment.to.port() == PORT;
        if port || bytes.starts_with(&[0xff; 16]) {
            Self::Bgp {
                framer: new_framer(),
                synchronized: false,
                open: None,
            }
        } else if is_bmp(bytes) {
            let router = segment.from.ip().to_canonical();
            Self::Bmp(BmpFramer::default(), Box::new(Station::new(router)))
        } else {
            Self::Foreign
        }
    }

    /// The connection begins anew.
    fn end(&mut self, segment: &Segment<'_>, state: &mut State) {
        match self {
            Self::Bmp(_, station) => state.station_lost(station),
            Self::Bgp { open: Some(_), .. } => {
                state.down(NeighborId::session(segment.from.ip().to_canonical()));
            }
            _ => {}
        }
    }
}

fn new_framer() -> Framer {
    let mut framer = Framer::default();
    framer.extend();
    framer
}

/// Reads the messages that are there; whether there were any.
fn bgp(
    framer: &mut Framer,
    open: &mut Option<Box<Open>>,
    their_open: Option<&Open>,
    segment: &Segment<'_>,
    state: &mut State,
) -> bool {
    let neighbor = NeighborId::session(segment.from.ip().to_canonical());
    let packet = u64::try_from(segment.packet).unwrap_or(0);
    let mut found = false;
    loop {
        let frame = match framer.next_frame() {
            Ok(Some(frame)) => frame,
            Ok(None) => return found,
            Err(fault) => {
                let skipped = framer.resynchronize(true);
                state.problem(packet, format!("{}; {skipped} octets skipped", fault.text));
                if framer.pending() < HEADER_LENGTH {
                    return found;
                }
                continue;
            }
        };
        found = true;
        state.message(frame.kind);
        state.time(segment.nanoseconds / 1000);
        match frame.kind {
            MessageType::Open => match decode_open(&frame.body) {
                Ok(said) => {
                    state.up(neighbor, Some(said.asn));
                    *open = Some(Box::new(said));
                }
                Err(fault) => state.problem(packet, fault.to_string()),
            },
            MessageType::Update => {
                let mut context = state.options.context;
                if let (Some(sender), Some(receiver)) = (open.as_deref(), their_open) {
                    let agreed = sender.context_towards(receiver);
                    context.four_octet_as = agreed.four_octet_as;
                    context.add_path = agreed.add_path;
                    context.internal = agreed.internal;
                }
                state.update(neighbor, packet, &frame.body, &context);
            }
            MessageType::Notification => state.down(neighbor),
            MessageType::Keepalive | MessageType::RouteRefresh => {}
        }
    }
}
