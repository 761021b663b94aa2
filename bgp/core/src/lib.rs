//! Pure BGP: strict wire codec, session state machine, RIB.
//!
//! Bytes become messages ([`Framer`], [`Session::event_of`]), messages become actions
//! ([`Session::step`]), and UPDATEs become signals about watched peers ([`Rib`]). Nothing here reads
//! a clock, a socket or randomness.

mod arena;
mod attributes;
pub mod bmp;
mod bmp_station;
mod burst;
mod capability;
pub mod capture;
mod fault;
mod frame;
mod history;
mod links;
pub mod mrt;
mod nlri;
mod notification;
mod open;
mod outbox;
mod path;
mod preference;
mod refresh;
mod rib;
pub mod ris;
mod role;
mod rtr;
mod session;
mod session_step;
mod session_timers;
mod table;
mod update;
mod validation;
mod values;
mod views;

pub use attributes::{AttributeError, Attributes, ErrorLevel, Origin};
pub use bmp_station::{Station, StationAction, StationCounts, StationPeer};
pub use capability::Capability;
pub use fault::{Fault, cease, code};
pub use frame::{
    EXTENDED_LENGTH, Frame, Framer, HEADER_LENGTH, MAX_LENGTH, MessageType, encode,
    encode_notification,
};
pub use history::HistoryLimits;
pub use nlri::{Families, Family, Nlri, NlriField, NlriIter};
pub use notification::{Notification, error_name};
pub use open::{
    AS_TRANS, GracefulRestart, Open, capabilities as open_capabilities, check_role,
    decode as decode_open, my_as as open_my_as,
};
pub use outbox::Outbox;
pub use path::{AsPath, Segment, SegmentKind};
pub use refresh::{RefreshKind, RouteRefresh};
pub use rib::{
    END_OF_RIB_WAIT, MaxPrefixes, NeighborConfig, Rib, RibLimits, RibMemory, RibPage, RibRequest,
    RibWalk, TableStatus,
};
pub use role::{OtcRule, Role, RouteLeak};
pub use rtr::{RTR_PORT, RtrClient, RtrError, RtrErrorCode, RtrIntervals, RtrPdu, RtrStep};
pub use session::{
    Action, Event, Jitter, Negotiated, RunningTimers, Session, SessionConfig, State, Stop,
};
pub use update::{
    Announcement, AnnouncementView, Context, MessageAttributes, Update, UpdateView,
    decode as decode_update, view as view_update,
};
pub use validation::{Vrp, Vrps};
pub use values::{AttributeValue, attribute_name, attribute_values};
pub use views::Views;
