//! `netwatch bgp decode`: each message, and what a session would do with it.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::SocketAddr;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use bgp_core::capture::{Capture, Chunk, Direction, Segment};
use bgp_core::{
    Capability, Context, ErrorLevel, Families, Family, Fault, Frame, Framer, HEADER_LENGTH,
    MessageType, Notification, Open, OtcRule, Role, RouteRefresh, UpdateView, decode_open,
    open_capabilities, open_my_as, view_update,
};
use events::Asn;

use crate::bgp_input::Input;
use crate::cli::{Decode, DecodeFormat};
use crate::{bgp_decode_bmp, bgp_json, bgp_text};

/// The port of BGP.
const PORT: u16 = 179;

/// Decodes and prints.
pub fn run(arguments: &Decode) -> Result<ExitCode> {
    let reading = Reading::of(arguments)?;
    let input = Input::read(arguments)?;
    let mut out = Output {
        json: arguments.json,
        sound: true,
        count: 0,
        stdout: std::io::BufWriter::new(std::io::stdout().lock()),
    };
    match (input, arguments.format) {
        (input, DecodeFormat::Bmp) => {
            let read = match &input {
                Input::Messages(bytes) => bgp_decode_bmp::messages(bytes, &mut out),
                Input::Capture(bytes) => bgp_decode_bmp::captured(bytes, &mut out),
            };
            out.stdout.flush()?;
            read?;
        }
        (Input::Messages(bytes), DecodeFormat::Bgp) => messages(&bytes, &reading, &mut out)?,
        (Input::Capture(bytes), DecodeFormat::Bgp) => sessions(&bytes, &reading, &mut out)?,
    }
    out.stdout.flush()?;
    Ok(if out.sound {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// How messages are to be read.
struct Reading {
    context: Context,
    extended: bool,
}

impl Reading {
    fn of(arguments: &Decode) -> Result<Self> {
        let add_path = add_path(&arguments.add_path)?;
        let role = match arguments.neighbor_role.as_deref() {
            Some("provider") => Some(Role::Provider),
            Some("rs") => Some(Role::RouteServer),
            Some("rs-client") => Some(Role::RouteServerClient),
            Some("customer") => Some(Role::Customer),
            Some("peer") => Some(Role::Peer),
            _ => None,
        };
        let otc = role.zip(arguments.neighbor_as).map(|(role, asn)| OtcRule {
            neighbor_role: role,
            neighbor_as: Asn(asn),
        });
        Ok(Self {
            context: Context {
                four_octet_as: !arguments.two_byte_as,
                internal: !arguments.external && otc.is_none(),
                families: Families::BOTH,
                add_path,
                extended_next_hop: true,
                otc,
            },
            extended: arguments.extended_message,
        })
    }

    /// What two OPENs agree on, as far as the options do not say more.
    fn between(&self, sender: &Open, receiver: &Open) -> Context {
        let agreed = sender.context_towards(receiver);
        let role = sender.role.and_then(Role::from_wire);
        let mut add_path = agreed.add_path;
        for family in Family::ALL {
            if self.context.add_path.contains(family) {
                add_path.insert(family);
            }
        }
        Context {
            four_octet_as: agreed.four_octet_as && self.context.four_octet_as,
            internal: agreed.internal,
            families: Families::BOTH,
            add_path,
            extended_next_hop: true,
            otc: role
                .filter(|role| {
                    let other = receiver.role.and_then(Role::from_wire);
                    !agreed.internal && other == Some(role.counterpart())
                })
                .map(|neighbor_role| OtcRule {
                    neighbor_role,
                    neighbor_as: sender.asn,
                }),
        }
    }

    fn framer(&self) -> Framer {
        let mut framer = Framer::default();
        if self.extended {
            framer.extend();
        }
        framer
    }
}

/// The families of `--add-path`.
pub fn add_path(texts: &[String]) -> Result<Families> {
    let mut families = Families::NONE;
    for text in texts.iter().filter(|text| *text != "-") {
        families.insert(family(text)?);
    }
    Ok(families)
}

/// By number or by name; SAFI 1, unicast, may be left out.
fn family(text: &str) -> Result<Family> {
    let lower = text.to_ascii_lowercase();
    let (afi, safi) = lower.split_once(['/', ' ']).unwrap_or((&lower, "1"));
    match (afi, safi) {
        ("1" | "ipv4", "1" | "unicast") => Ok(Family::Ipv4),
        ("2" | "ipv6", "1" | "unicast") => Ok(Family::Ipv6),
        _ => bail!("--add-path {text:?}: families are ipv4/unicast (1/1) and ipv6/unicast (2/1)"),
    }
}

/// A message and what would become of it.
pub struct Record<'a> {
    /// Counted from 1.
    pub number: usize,
    /// Where it begins: in the input, or in its direction of the session.
    pub offset: usize,
    /// Its packet, sender and receiver.
    pub from: Option<(usize, SocketAddr, SocketAddr)>,
    /// How long it is, as far as it is there.
    pub length: usize,
    /// Its type, as far as its header says one.
    pub kind: Option<MessageType>,
    /// What it is.
    pub content: Content<'a>,
}

/// What a message is.
pub enum Content<'a> {
    /// OPEN, its capabilities, and the AS in its two octets.
    Open(Open, Vec<Capability>, u16),
    /// UPDATE.
    Update(Box<UpdateView<'a>>),
    /// NOTIFICATION.
    Notification(Notification),
    /// KEEPALIVE.
    Keepalive,
    /// ROUTE-REFRESH.
    RouteRefresh(RouteRefresh),
    /// It ends the session.
    Refused(Fault),
    /// The input ends in it; so many octets it should have, if that can be told.
    Incomplete(Option<usize>),
}

/// What a session does with a message (RFC 7606 section 2), weakest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disposition {
    Accepted,
    AttributeDiscard,
    TreatAsWithdraw,
    SessionReset,
    /// No message yet: a session would wait.
    Incomplete,
}

impl Disposition {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::AttributeDiscard => "attribute-discard",
            Self::TreatAsWithdraw => "treat-as-withdraw",
            Self::SessionReset => "session-reset",
            Self::Incomplete => "incomplete",
        }
    }
}

impl Record<'_> {
    pub fn disposition(&self) -> Disposition {
        match &self.content {
            Content::Update(view) => match view.errors().iter().map(|error| error.level).max() {
                None => Disposition::Accepted,
                Some(ErrorLevel::Discard) => Disposition::AttributeDiscard,
                Some(ErrorLevel::TreatAsWithdraw) => Disposition::TreatAsWithdraw,
                Some(ErrorLevel::Reset) => Disposition::SessionReset,
            },
            Content::Refused(..) => Disposition::SessionReset,
            Content::Incomplete(_) => Disposition::Incomplete,
            Content::Open(..)
            | Content::Notification(_)
            | Content::Keepalive
            | Content::RouteRefresh(_) => Disposition::Accepted,
        }
    }

    /// Why it is not simply accepted.
    pub fn reason(&self) -> Option<String> {
        match &self.content {
            Content::Update(view) => {
                let level = view.errors().iter().map(|error| error.level).max();
                let error = view
                    .errors()
                    .iter()
                    .find(|error| Some(error.level) == level)
                    .map(bgp_text::error);
                let leak = || {
                    let leak = view.announced().find_map(|routes| routes.ineligible)?;
                    Some(format!("{leak}: ineligible (RFC 9234)"))
                };
                error.or_else(leak)
            }
            Content::Refused(fault) => Some(fault.text.clone()),
            Content::Incomplete(Some(length)) => Some(format!(
                "the input ends after {} of the message's {length} octets",
                self.length
            )),
            Content::Incomplete(None) => Some(format!(
                "the input ends after {} of a header's {HEADER_LENGTH} octets",
                self.length
            )),
            Content::Open(..)
            | Content::Notification(_)
            | Content::Keepalive
            | Content::RouteRefresh(_) => None,
        }
    }
}

/// Where messages are printed.
pub struct Output<'a> {
    json: bool,
    /// No message ends a session.
    pub sound: bool,
    count: usize,
    stdout: std::io::BufWriter<std::io::StdoutLock<'a>>,
}

/// Where octets are.
#[derive(Clone, Copy)]
pub struct Place {
    /// Its first, in the input or in its direction of the session.
    pub offset: usize,
    /// How many.
    pub length: usize,
    /// The message's type.
    pub kind: Option<MessageType>,
    /// Its packet, sender and receiver.
    pub from: Option<(usize, SocketAddr, SocketAddr)>,
}

impl Output<'_> {
    /// A message of BMP: its name, where it begins, how long it is; what it says, in both forms.
    pub fn bmp(
        &mut self,
        (name, offset, length): (&str, usize, usize),
        said: serde_json::Value,
        lines: &[String],
    ) -> Result<()> {
        if self.json {
            let head = serde_json::json!({ "bmp": name, "offset": offset, "length": length });
            let mut line = head.as_object().cloned().unwrap_or_default();
            line.extend(said.as_object().cloned().unwrap_or_default());
            writeln!(self.stdout, "{}", serde_json::Value::from(line))?;
        } else {
            writeln!(self.stdout, "BMP at {offset}: {name}, {length} octets")?;
            for line in lines {
                writeln!(self.stdout, "    {line}")?;
            }
        }
        Ok(())
    }

    /// Why there is no message.
    pub fn note(&mut self, text: &str) -> Result<()> {
        if self.json {
            let line = serde_json::json!({ "note": text });
            writeln!(self.stdout, "{line}")?;
        } else {
            writeln!(self.stdout, "    {text}")?;
        }
        Ok(())
    }

    /// A message of BGP.
    pub fn print(&mut self, place: Place, content: Content<'_>) -> Result<()> {
        self.count += 1;
        let record = Record {
            number: self.count,
            offset: place.offset,
            from: place.from,
            length: place.length,
            kind: place.kind,
            content,
        };
        self.sound &= !matches!(
            record.disposition(),
            Disposition::SessionReset | Disposition::Incomplete
        );
        if self.json {
            let line = serde_json::to_string(&bgp_json::record(&record))?;
            writeln!(self.stdout, "{line}")?;
        } else {
            write!(self.stdout, "{}", bgp_text::record(&record))?;
        }
        Ok(())
    }

    fn frame(&mut self, place: Place, frame: &Frame, context: &Context) -> Result<()> {
        let place = Place {
            kind: Some(frame.kind),
            ..place
        };
        self.print(
            place,
            content(frame, context).unwrap_or_else(Content::Refused),
        )
    }
}

fn content<'a>(frame: &'a Frame, context: &Context) -> Result<Content<'a>, Fault> {
    let body = &frame.body;
    Ok(match frame.kind {
        MessageType::Open => Content::Open(
            decode_open(body)?,
            open_capabilities(body)?,
            open_my_as(body).unwrap_or_default(),
        ),
        MessageType::Update => Content::Update(Box::new(view_update(body, context)?)),
        MessageType::Keepalive => Content::Keepalive,
        // Subtypes are shown as they are: they have a meaning only where that was agreed.
        MessageType::RouteRefresh => Content::RouteRefresh(RouteRefresh::decode(body, true)?),
        MessageType::Notification => Content::Notification(Notification::decode(body)?),
    })
}

fn messages(bytes: &[u8], reading: &Reading, out: &mut Output<'_>) -> Result<()> {
    let mut framer = reading.framer();
    framer.push(bytes);
    let mut offset = 0;
    let place = |offset: usize, length| Place {
        offset,
        length,
        kind: bytes
            .get(offset + HEADER_LENGTH - 1)
            .and_then(|number| MessageType::from_wire(*number)),
        from: None,
    };
    loop {
        match framer.next_frame() {
            Ok(Some(frame)) => {
                let length = HEADER_LENGTH + frame.body.len();
                out.frame(place(offset, length), &frame, &reading.context)?;
                offset += length;
            }
            Ok(None) => break,
            Err(fault) => {
                let length = framer.resynchronize(true);
                // Nothing sound follows: the rest belongs to it.
                let rest = framer.pending() < HEADER_LENGTH;
                let length = if rest { bytes.len() - offset } else { length };
                out.print(place(offset, length), Content::Refused(fault))?;
                offset += length;
                if rest {
                    return Ok(());
                }
            }
        }
    }
    let rest = bytes.get(offset..).unwrap_or_default();
    if !rest.is_empty() {
        let length = rest.get(16..18).map(|octets| match octets {
            [high, low] => usize::from(u16::from_be_bytes([*high, *low])),
            _ => 0,
        });
        let length = length.filter(|_| rest.len() >= HEADER_LENGTH);
        out.print(place(offset, rest.len()), Content::Incomplete(length))?;
    }
    Ok(())
}

/// One direction of a session in a capture.
struct Flow {
    direction: Direction,
    framer: Framer,
    /// Of the next message.
    offset: usize,
    /// Whether the framer is at a message's first octet.
    synchronized: bool,
    /// It is BGP.
    ours: Option<bool>,
    open: Option<Open>,
}

impl Flow {
    fn new(reading: &Reading) -> Self {
        Self {
            direction: Direction::default(),
            framer: reading.framer(),
            offset: 0,
            synchronized: false,
            ours: None,
            open: None,
        }
    }
}

type Flows = BTreeMap<(SocketAddr, SocketAddr), Flow>;

fn sessions(bytes: &[u8], reading: &Reading, out: &mut Output<'_>) -> Result<()> {
    let mut flows = Flows::new();
    for segment in Capture::new(bytes)? {
        let segment = match segment {
            Ok(segment) => segment,
            Err(error) => {
                out.stdout.flush()?;
                bail!(error);
            }
        };
        let ends = (segment.from, segment.to);
        let chunks = flows
            .entry(ends)
            .or_insert_with(|| Flow::new(reading))
            .direction
            .push(&segment);
        for chunk in chunks {
            take_chunk(&mut flows, &segment, chunk, reading, out)
                .with_context(|| format!("packet {}", segment.packet))?;
        }
    }
    if out.count == 0 {
        bail!("there is no BGP message in the capture (TCP port {PORT}, or a stream of messages)");
    }
    Ok(())
}

fn take_chunk(
    flows: &mut Flows,
    segment: &Segment<'_>,
    chunk: Chunk,
    reading: &Reading,
    out: &mut Output<'_>,
) -> Result<()> {
    let (ends, back) = ((segment.from, segment.to), (segment.to, segment.from));
    let Some(flow) = flows.get_mut(&ends) else {
        return Ok(());
    };
    match chunk {
        Chunk::Opened => {
            let direction = std::mem::take(&mut flow.direction);
            *flow = Flow {
                direction,
                synchronized: true,
                ..Flow::new(reading)
            };
            return Ok(());
        }
        Chunk::Gap => {
            flow.synchronized = false;
            flow.framer = reading.framer();
            return Ok(());
        }
        Chunk::Bytes(bytes) => {
            let port = segment.from.port() == PORT || segment.to.port() == PORT;
            let marker = bytes.starts_with(&[0xff; 16]);
            if !*flow.ours.get_or_insert(port || marker) {
                return Ok(());
            }
            flow.framer.push(&bytes);
        }
    }
    loop {
        let their_open = flows.get(&back).and_then(|flow| flow.open.clone());
        let Some(flow) = flows.get_mut(&ends) else {
            return Ok(());
        };
        if !flow.synchronized {
            flow.offset += flow.framer.resynchronize(false);
            if flow.framer.pending() < HEADER_LENGTH {
                return Ok(());
            }
            flow.synchronized = true;
        }
        let mut place = Place {
            offset: flow.offset,
            length: 0,
            kind: None,
            from: Some((segment.packet, segment.from, segment.to)),
        };
        let agreed = flow.open.as_ref().zip(their_open.as_ref());
        // What its receiver offers to take (RFC 8654 section 4).
        if their_open
            .as_ref()
            .is_some_and(|open| open.extended_message)
        {
            flow.framer.extend();
        }
        let context = match agreed {
            Some((sender, receiver)) => reading.between(sender, receiver),
            None => reading.context,
        };
        match flow.framer.next_frame() {
            Ok(None) => return Ok(()),
            Ok(Some(frame)) => {
                place.length = HEADER_LENGTH + frame.body.len();
                flow.offset += place.length;
                if frame.kind == MessageType::Open {
                    flow.open = decode_open(&frame.body).ok();
                }
                out.frame(place, &frame, &context)?;
            }
            Err(fault) => {
                place.length = flow.framer.resynchronize(true);
                flow.offset += place.length;
                flow.synchronized = false;
                out.print(place, Content::Refused(fault))?;
            }
        }
    }
}
