//! Pure BGP: strict wire codec, session state machine, RIB.
//!
//! Bytes become messages ([`Framer`], [`Session::event_of`]), messages become actions
//! ([`Session::step`]), and UPDATEs become signals about watched peers ([`Rib`]). Nothing here reads
//! a clock, a socket or randomness. bgpkit-parser serves capabilities and the encoding of OPEN; its
//! parser of whole messages is not used, since it accepts what RFC 4271 and RFC 7606 refuse.

mod arena;
mod attributes;
mod fault;
mod frame;
mod nlri;
mod open;
mod outbox;
mod path;
mod rib;
mod session;
mod table;
mod update;

pub use attributes::{AttributeError, Attributes, ErrorLevel, Origin};
pub use fault::{Fault, cease, code};
pub use frame::{
    Frame, Framer, HEADER_LENGTH, MAX_LENGTH, MessageType, encode, encode_notification,
};
pub use nlri::{Families, Family};
pub use open::{AS_TRANS, Open, decode as decode_open, encode as encode_open};
pub use outbox::Outbox;
pub use path::{AsPath, Segment, SegmentKind};
pub use rib::{END_OF_RIB_WAIT, MaxPrefixes, NeighborConfig, Rib, RibQuery, RibRoute, TableStatus};
pub use session::{Action, Event, Negotiated, Session, SessionConfig, State, Stop};
pub use update::{Announcement, Context, Update, decode as decode_update};
