//! `netwatch bgp decode --format bmp`: what a monitored router tells, message by message.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use anyhow::{Context as _, Result, bail};
use bgp_core::bmp::{self, BmpFrame, BmpFramer, BmpMessage, Information, PeerHeader};
use bgp_core::capture::{Capture, Chunk, Direction};
use bgp_core::{HEADER_LENGTH, MessageType, Station};
use serde_json::{Value, json};

use crate::bgp_decode::{Content, Output, Place};
use crate::bgp_text::family_name;

/// Octets of BMP's common header.
const HEADER: usize = 6;

/// One router's connection.
struct Flow {
    direction: Direction,
    framer: BmpFramer,
    station: Station,
    /// Of the next message.
    offset: usize,
    /// It begins as BMP does.
    ours: Option<bool>,
}

impl Flow {
    fn new(router: IpAddr) -> Self {
        Self {
            direction: Direction::default(),
            framer: BmpFramer::default(),
            station: Station::new(router),
            offset: 0,
            ours: None,
        }
    }

    fn push(&mut self, bytes: &[u8], out: &mut Output<'_>) -> Result<()> {
        self.framer.push(bytes);
        loop {
            let at = self.offset;
            match self.framer.next_frame() {
                Ok(None) => return Ok(()),
                Ok(Some(frame)) => {
                    let length = HEADER + frame.body.len();
                    self.offset += length;
                    message(&frame, at, length, &mut self.station, out)?;
                }
                Err(error) => bail!("at {at}: {error}; nothing behind it can be read"),
            }
        }
    }

    fn end(&self) -> Result<()> {
        match self.framer.pending() {
            0 => Ok(()),
            rest => bail!(
                "at {}: the input ends after {rest} octets of a message",
                self.offset
            ),
        }
    }
}

/// Decodes a stream of BMP.
pub fn messages(bytes: &[u8], out: &mut Output<'_>) -> Result<()> {
    // The router has no address here.
    let mut flow = Flow::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    flow.push(bytes, out)?;
    flow.end()
}

/// Decodes the connections of a capture that begin as BMP does.
pub fn captured(bytes: &[u8], out: &mut Output<'_>) -> Result<()> {
    let mut flows: BTreeMap<(SocketAddr, SocketAddr), Flow> = BTreeMap::new();
    for segment in Capture::new(bytes)? {
        let segment = segment?;
        let ends = (segment.from, segment.to);
        let flow = flows
            .entry(ends)
            .or_insert_with(|| Flow::new(segment.from.ip()));
        for chunk in flow.direction.push(&segment) {
            match chunk {
                Chunk::Opened => {
                    let direction = std::mem::take(&mut flow.direction);
                    *flow = Flow {
                        direction,
                        ..Flow::new(segment.from.ip())
                    };
                }
                Chunk::Gap if flow.ours == Some(true) => {
                    bail!("packet {}: octets before it are missing", segment.packet)
                }
                Chunk::Gap => {}
                Chunk::Bytes(bytes) => {
                    let begins = matches!(bytes.first(), Some(3 | 4));
                    if *flow.ours.get_or_insert(begins) {
                        flow.push(&bytes, out)
                            .with_context(|| format!("packet {}", segment.packet))?;
                    }
                }
            }
        }
    }
    let mut ours = flows.values().filter(|flow| flow.ours == Some(true));
    if ours.clone().next().is_none() {
        bail!("no connection of the capture begins as BMP does");
    }
    ours.try_for_each(Flow::end)
}

fn message(
    frame: &BmpFrame,
    offset: usize,
    length: usize,
    station: &mut Station,
    out: &mut Output<'_>,
) -> Result<()> {
    let message = match bmp::decode(frame) {
        Ok(message) => message,
        Err(error) => {
            let reason = error.to_string();
            let said = json!({ "reason": reason.as_str() });
            out.sound = false;
            return out.bmp(("unreadable", offset, length), said, &[reason]);
        }
    };
    let mut lines = Vec::new();
    let (name, said) = match &message {
        BmpMessage::RouteMonitoring(monitored) => {
            lines.push(peer_text(&monitored.peer));
            ("route monitoring", json!({ "peer": peer(&monitored.peer) }))
        }
        BmpMessage::Statistics { peer, statistics } => {
            lines.push(peer_text(peer));
            let figure = |figure: &bmp::Statistic| {
                let name = figure.name().unwrap_or("unknown");
                let family = figure.family.map(|(afi, safi)| family_name(afi, safi));
                let of = family.as_ref().map(|family| format!(", {family}"));
                let of = of.unwrap_or_default();
                lines.push(format!("{}: {name}{of}: {}", figure.kind, figure.value));
                json!({
                    "type": figure.kind,
                    "name": figure.name(),
                    "family": family,
                    "value": figure.value,
                })
            };
            let statistics: Vec<Value> = statistics.iter().map(figure).collect();
            let said = json!({ "peer": self::peer(peer), "statistics": statistics });
            ("statistics", said)
        }
        BmpMessage::PeerDown { peer, reason } => {
            lines.extend([peer_text(peer), reason.to_string()]);
            let said = json!({ "peer": self::peer(peer), "reason": reason.to_string() });
            ("peer down", said)
        }
        BmpMessage::PeerUp(up) => {
            lines.push(peer_text(&up.peer));
            let side = |open: &bgp_core::Open| {
                let capabilities = open.capabilities();
                let texts = capabilities.iter().map(crate::bgp_text::capability_text);
                texts.collect::<Vec<String>>()
            };
            let (sent, received) = (side(&up.sent), side(&up.received));
            lines.push(format!("the router offers {}", sent.join(", ")));
            lines.push(format!("the peer offers {}", received.join(", ")));
            let said = json!({
                "peer": peer(&up.peer),
                "local_address": up.local_address,
                "sent": { "asn": up.sent.asn.0, "capabilities": sent },
                "received": { "asn": up.received.asn.0, "capabilities": received },
            });
            ("peer up", said)
        }
        BmpMessage::Initiation(information) => {
            lines.extend(information.iter().map(text));
            ("initiation", json!({ "information": lines }))
        }
        BmpMessage::Termination {
            reason,
            information,
        } => {
            lines.extend(reason.map(|reason| format!("reason {reason}")));
            lines.extend(information.iter().map(text));
            let said = json!({ "reason": reason, "information": lines });
            ("termination", said)
        }
        BmpMessage::RouteMirroring(header) => {
            lines.push(peer_text(header));
            ("route mirroring", json!({ "peer": peer(header) }))
        }
        BmpMessage::Unknown(kind) => ("unknown", json!({ "number": kind })),
    };
    out.bmp((name, offset, length), said, &lines)?;
    if let BmpMessage::RouteMonitoring(monitored) = &message {
        // The UPDATE's header is before its body, which is a part of the frame's.
        let body = monitored.update.as_ptr().addr() - frame.body.as_ptr().addr();
        let place = Place {
            offset: offset + HEADER + body - HEADER_LENGTH,
            length: HEADER_LENGTH + monitored.update.len(),
            kind: Some(MessageType::Update),
            from: None,
        };
        match station.view(monitored) {
            Some(Ok(view)) => out.print(place, Content::Update(Box::new(view)))?,
            Some(Err(fault)) => out.print(place, Content::Refused(fault))?,
            None => out.note("no Peer Up says how to read its UPDATE (RFC 7854 section 4.6)")?,
        }
    }
    // Its own reading of the message cannot fail where this one did not.
    let _ = station.handle(frame);
    Ok(())
}

fn text(information: &Information) -> String {
    match information {
        Information::Text(text) => format!("text {text}"),
        Information::SystemDescription(text) => format!("sysDescr {text}"),
        Information::SystemName(text) => format!("sysName {text}"),
        Information::TableName(text) => format!("table {text}"),
        Information::Other(kind) => format!("type {kind}"),
    }
}

fn peer_text(peer: &PeerHeader) -> String {
    format!(
        "{} of {}, {}, distinguisher {:x}",
        peer.view, peer.address, peer.asn, peer.distinguisher
    )
}

fn peer(peer: &PeerHeader) -> Value {
    json!({
        "address": peer.address,
        "asn": peer.asn.0,
        "bgp_id": peer.bgp_id,
        "view": peer.view.to_string(),
        "distinguisher": peer.distinguisher,
    })
}
