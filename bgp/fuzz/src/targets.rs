//! What is fed with random input, and what has to hold for any of it.

use std::collections::BTreeSet;

use bgp_core::{
    Attributes, Context, ErrorLevel, Families, Fault, Framer, HEADER_LENGTH, MAX_LENGTH,
    MessageType, Nlri, Notification, OtcRule, Role, RouteRefresh, Update, decode_open,
    open_capabilities, view_update,
};
use events::Asn;

use crate::allocation::measured;
use crate::{oracles, stations};

/// Targets, by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Target {
    /// The framer, UPDATE, and the messages that have little to decode.
    Update,
    /// OPEN.
    Open,
    /// A stream of BMP messages, and the station that takes them.
    Bmp,
    /// An MRT archive.
    Mrt,
}

impl Target {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Update, Self::Open, Self::Bmp, Self::Mrt];

    /// The name of its corpus.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Update => "update",
            Self::Open => "open",
            Self::Bmp => "bmp",
            Self::Mrt => "mrt",
        }
    }

    /// Feeds an input. Two octets say how it is to be read, the rest is a stream.
    ///
    /// # Panics
    /// Where something does not hold that has to.
    pub fn run(self, input: &[u8]) {
        let Some((&[how, more], stream)) = input.split_first_chunk::<2>() else {
            return;
        };
        match self {
            Self::Update => updates(how, more, stream),
            Self::Open => opens(more, stream),
            Self::Bmp => stations::bmp(more, stream),
            Self::Mrt => stations::mrt(more, stream),
        }
    }
}

fn context(how: u8) -> Context {
    let bit = |number: u8| how & 1 << number != 0;
    let internal = bit(1);
    Context {
        four_octet_as: !bit(0),
        internal,
        families: Families::BOTH,
        add_path: Families {
            ipv4: bit(2),
            ipv6: bit(3),
        },
        extended_next_hop: bit(4),
        otc: Role::from_wire(how >> 5)
            .filter(|_| !internal)
            .map(|neighbor_role| OtcRule {
                neighbor_role,
                neighbor_as: Asn(64500),
            }),
    }
}

/// Bytes that anything may allocate whatever its input: texts of errors.
const FREE: usize = 8 * 1024;

fn updates(how: u8, more: u8, stream: &[u8]) {
    let context = context(how);
    let extended = more & 0x80 != 0;
    let step = usize::from(more & 0x7f) + 1;
    let whole = frames(stream, usize::MAX, extended);
    assert_eq!(whole, frames(stream, step, extended), "cut into pieces");
    let mut position = 0;
    for (kind, body) in whole.0 {
        let length = HEADER_LENGTH + body.len();
        assert!(length <= MAX_LENGTH || extended, "longer than negotiated");
        position += length;
        match kind {
            MessageType::Update => update(&body, &context),
            MessageType::Open => open(&body),
            MessageType::Notification => {
                let notification = Notification::decode(&body).expect("framed");
                let said = notification.shutdown_communication().unwrap_or_default();
                assert!(!said.chars().any(char::is_control), "{said:?}");
                let _ = (notification.name(), notification.hard_reset());
            }
            MessageType::Keepalive => assert!(body.is_empty()),
            MessageType::RouteRefresh => {
                let refresh = RouteRefresh::decode(&body, how & 1 == 0);
                assert_eq!(refresh.is_ok(), body.len() == 4);
            }
        }
    }
    // What a header hides from the decoder is looked at nevertheless.
    if let Some(rest) = stream.get(position..)
        && rest.len() <= 65_535
    {
        update(rest.get(HEADER_LENGTH..).unwrap_or(rest), &context);
    }
}

type Frames = (Vec<(MessageType, Vec<u8>)>, Option<Fault>);

fn frames(stream: &[u8], step: usize, extended: bool) -> Frames {
    let mut framer = Framer::default();
    if extended {
        framer.extend();
    }
    let mut frames = Vec::new();
    for chunk in stream.chunks(step.min(stream.len().max(1))) {
        framer.push(chunk);
        loop {
            match framer.next_frame() {
                Ok(Some(frame)) => frames.push((frame.kind, frame.body.to_vec())),
                Ok(None) => break,
                Err(fault) => {
                    assert_eq!(fault.code, 1, "{fault}");
                    // To pick up a recording again never goes backwards or stands still.
                    let pending = framer.pending();
                    let dropped = framer.resynchronize(true);
                    assert!(dropped > 0 && dropped + framer.pending() == pending);
                    return (frames, Some(fault));
                }
            }
        }
    }
    (frames, None)
}

fn update(body: &[u8], context: &Context) {
    let (result, allocated) = measured(|| view_update(body, context));
    assert!(
        allocated <= FREE + 4 * body.len(),
        "checking {} octets allocated {allocated}",
        body.len()
    );
    let view = match result {
        Ok(view) => view,
        Err(fault) => {
            assert_eq!(fault.code, 3, "{fault}");
            assert!((1..=11).contains(&fault.subcode), "{fault}");
            assert!(fault.data.len() <= body.len() + 1, "{fault}");
            oracles::refused(body, context, &fault);
            return;
        }
    };
    let (update, allocated) = measured(|| view.to_update());
    assert!(
        allocated <= FREE + 64 * body.len(),
        "decoding {} octets allocated {allocated}",
        body.len()
    );
    invariants(&update, context);
    // The short way to the packed form and the long one lead to the same.
    assert_eq!(view.announced().count(), update.announced.len());
    for (view, announcement) in view.announced().zip(&update.announced) {
        assert_eq!(view.attributes().as_ref(), Some(&announcement.attributes));
        let mut packed = Vec::new();
        view.pack_into(&mut packed);
        let unpacked = Attributes::unpack(&packed);
        assert_eq!(unpacked.as_ref(), Some(&announcement.attributes));
        assert_eq!(announcement.attributes.pack(), packed);
        let _ = bgp_core::attribute_values(&announcement.attributes.other);
    }
    oracles::accepted(body, context, &update);
}

/// What holds for every UPDATE that does not reset the session.
fn invariants(update: &Update, context: &Context) {
    let worst = update.errors.iter().map(|error| error.level).max();
    assert!(worst < Some(ErrorLevel::Reset), "{update:?}");
    if worst == Some(ErrorLevel::TreatAsWithdraw) {
        assert!(update.announced.is_empty(), "{update:?}");
    }
    if update.end_of_rib.is_some() {
        assert!(update.announced.is_empty() && update.withdrawn.is_empty());
    }
    let announced: BTreeSet<Nlri> = update
        .announced
        .iter()
        .flat_map(|routes| routes.nlri.iter().copied())
        .collect();
    let all = announced.iter().chain(&update.withdrawn);
    for nlri in all {
        assert_eq!(nlri.prefix, nlri.prefix.trunc(), "host bits");
        let family = bgp_core::Family::of_prefix(&nlri.prefix);
        assert_eq!(nlri.path_id.is_some(), context.add_path.contains(family));
    }
    assert!(
        !update.withdrawn.iter().any(|nlri| announced.contains(nlri)),
        "both withdrawn and announced: {update:?}"
    );
    for routes in &update.announced {
        assert!(!routes.nlri.is_empty());
        assert!(routes.ineligible.is_none() || context.otc.is_some());
    }
}

fn opens(more: u8, stream: &[u8]) {
    let step = usize::from(more) + 1;
    let whole = frames(stream, usize::MAX, false);
    assert_eq!(whole, frames(stream, step, false), "cut into pieces");
    let mut position = 0;
    for (kind, body) in whole.0 {
        position += HEADER_LENGTH + body.len();
        if kind == MessageType::Open {
            open(&body);
        }
    }
    let rest = stream.get(position..).unwrap_or_default();
    open(rest.get(HEADER_LENGTH..).unwrap_or(rest));
}

fn open(body: &[u8]) {
    let (result, allocated) = measured(|| decode_open(body));
    assert!(
        allocated <= FREE + 64 * body.len(),
        "{} octets allocated {allocated}",
        body.len()
    );
    match &result {
        Ok(open) => {
            assert!(open.asn.0 != 0 && !open.router_id.is_unspecified());
            assert!(!matches!(open.hold_time, 1 | 2));
            let again = open.encode();
            // Without multiprotocol families there is nothing to encode them by.
            if open.families != Families::NONE {
                assert_eq!(
                    decode_open(again.get(HEADER_LENGTH..).unwrap_or(&[])).as_ref(),
                    Ok(open)
                );
            }
            assert!(open_capabilities(body).is_ok());
        }
        Err(fault) => {
            assert_eq!(fault.code, 2, "{fault}");
            assert!(matches!(fault.subcode, 0..=4 | 6 | 11), "{fault}");
        }
    }
    oracles::open(body, &result);
}
