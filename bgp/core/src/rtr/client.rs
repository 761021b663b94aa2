//! A router's side of a session (RFC 8210 section 8): bytes and time in, bytes out.

use std::collections::BTreeSet;
use std::time::Duration;

use events::Timestamp;

use super::{RtrError, RtrErrorCode, RtrIntervals, RtrPdu};
use crate::validation::Vrp;

/// A cache that says nothing for so long while it should answer is taken to be lost.
const ANSWER: Duration = Duration::from_mins(1);
/// More VRPs than the world has, by far: about 200 MB.
const MAX_VRPS: usize = 4_000_000;

/// What is to be done after an event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RtrStep {
    /// Bytes for the cache.
    pub send: Vec<u8>,
    /// The connection is to be closed, then; why.
    pub close: Option<String>,
    /// The VRPs have changed: ask [`RtrClient::all`].
    pub changed: bool,
}

/// What a cache told, and where the talk with it stands. It outlives connections.
#[derive(Debug, Default)]
pub struct RtrClient {
    version: Version,
    /// Session identifier and serial number of the data.
    state: Option<(u16, u32)>,
    data: BTreeSet<Vrp>,
    intervals: RtrIntervals,
    received: Vec<u8>,
    talk: Talk,
    /// When the cache has to have said something.
    answer_due: Option<Timestamp>,
    query_due: Option<Timestamp>,
    expires: Option<Timestamp>,
}

/// The version that is spoken: 1, until a cache proves to know only 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Version {
    #[default]
    One,
    Zero,
}

impl Version {
    const fn number(self) -> u8 {
        match self {
            Self::One => 1,
            Self::Zero => 0,
        }
    }
}

#[derive(Debug, Default)]
enum Talk {
    #[default]
    Idle,
    /// A query was sent; for all data if `reset`.
    Asked { reset: bool },
    /// Data is coming.
    Receiving {
        session: u16,
        reset: bool,
        changes: Vec<(bool, Vrp)>,
    },
}

impl RtrClient {
    /// A connection is there: asks for what changed, or for everything.
    pub fn connected(&mut self, now: Timestamp) -> RtrStep {
        self.received.clear();
        self.talk = Talk::Idle;
        RtrStep {
            send: self.query(now),
            ..RtrStep::default()
        }
    }

    /// The connection is gone, or could not be had. What is known stays until it expires. Try again
    /// after this time.
    pub fn disconnected(&mut self) -> Duration {
        self.talk = Talk::Idle;
        self.answer_due = None;
        self.query_due = None;
        // A first attempt is worth more haste than the ten minutes of the RFC's default.
        match self.state {
            Some(_) => self.intervals.retry.min(Duration::from_secs(60)),
            None => Duration::from_secs(5),
        }
    }

    /// What the cache told so far, as a whole: data that is still on its way does not count.
    #[must_use]
    pub fn all(&self) -> Vec<Vrp> {
        self.data.iter().copied().collect()
    }

    /// How many VRPs there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.data.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.data.is_empty()
    }

    /// When [`Self::timer`] is due.
    #[must_use]
    pub fn deadline(&self) -> Option<Timestamp> {
        [self.answer_due, self.query_due, self.expires]
            .into_iter()
            .flatten()
            .min()
    }

    /// Time has passed.
    pub fn timer(&mut self, now: Timestamp) -> RtrStep {
        let due = |at: Option<Timestamp>| at.is_some_and(|at| at <= now);
        let mut step = RtrStep::default();
        if due(self.expires) {
            self.expires = None;
            self.state = None;
            self.data.clear();
            step.changed = true;
        }
        if due(self.answer_due) {
            self.answer_due = None;
            step.close = Some("the cache does not answer".to_owned());
        } else if due(self.query_due) {
            self.query_due = None;
            step.send = self.query(now);
        }
        step
    }

    /// Bytes have come.
    pub fn receive(&mut self, bytes: &[u8], now: Timestamp) -> RtrStep {
        self.received.extend_from_slice(bytes);
        let mut step = RtrStep::default();
        let received = std::mem::take(&mut self.received);
        let mut rest = received.as_slice();
        while step.close.is_none() {
            let taken = match RtrPdu::decode(rest) {
                Ok(None) => break,
                Ok(Some((pdu, version, length))) => {
                    rest = rest.get(length..).unwrap_or_default();
                    self.take(pdu, version, now, &mut step)
                }
                Err(error) => Err(error),
            };
            if let Err(error) = taken {
                let code = error.code;
                let text = error.text.clone();
                let report = RtrPdu::ErrorReport { code, text };
                step.send.extend(report.encode(self.version.number()));
                step.close = Some(error.text);
                // Nothing of the data is certain: everything is asked for again.
                self.state = None;
            }
        }
        self.received = rest.to_vec();
        step
    }

    fn query(&mut self, now: Timestamp) -> Vec<u8> {
        let pdu = match self.state {
            Some((session, serial)) => RtrPdu::SerialQuery { session, serial },
            None => RtrPdu::ResetQuery,
        };
        self.talk = Talk::Asked {
            reset: self.state.is_none(),
        };
        self.answer_due = Some(now + ANSWER);
        self.query_due = None;
        pdu.encode(self.version.number())
    }

    fn take(
        &mut self,
        pdu: RtrPdu,
        version: u8,
        now: Timestamp,
        step: &mut RtrStep,
    ) -> Result<(), RtrError> {
        if version != self.version.number() {
            return self.other_version(&pdu, version, step);
        }
        if !matches!(self.talk, Talk::Idle) {
            self.answer_due = Some(now + ANSWER);
        }
        let unexpected = |what: &str| {
            let text = format!("{what} is not expected now");
            Err(RtrError::new(RtrErrorCode::InvalidRequest, text))
        };
        match (pdu, &mut self.talk) {
            (RtrPdu::SerialNotify { session, serial }, Talk::Idle) => {
                if self.state != Some((session, serial)) {
                    if self.state.is_some_and(|(ours, _)| ours != session) {
                        self.state = None;
                    }
                    step.send.extend(self.query(now));
                }
                Ok(())
            }
            // What it tells is being asked for already.
            (RtrPdu::SerialNotify { .. } | RtrPdu::RouterKey, _) => Ok(()),
            (RtrPdu::CacheResponse { session }, Talk::Asked { reset }) => {
                if self.state.is_some_and(|(ours, _)| ours != session) {
                    let text = "the session identifier has changed";
                    return Err(RtrError::new(RtrErrorCode::CorruptData, text));
                }
                self.talk = Talk::Receiving {
                    session,
                    reset: *reset,
                    changes: Vec::new(),
                };
                Ok(())
            }
            (RtrPdu::Prefix { announce, vrp }, Talk::Receiving { changes, .. }) => {
                if changes.len() >= MAX_VRPS {
                    let text = format!("more than {MAX_VRPS} prefixes");
                    return Err(RtrError::new(RtrErrorCode::InternalError, text));
                }
                changes.push((announce, vrp));
                Ok(())
            }
            (
                RtrPdu::EndOfData {
                    session,
                    serial,
                    intervals,
                },
                Talk::Receiving { .. },
            ) => self.commit(session, serial, intervals, now, step),
            (RtrPdu::CacheReset, Talk::Asked { .. }) => {
                self.state = None;
                step.send.extend(self.query(now));
                Ok(())
            }
            (RtrPdu::ErrorReport { code, text }, _) => {
                self.answer_due = None;
                self.talk = Talk::Idle;
                if code == RtrErrorCode::NoDataAvailable {
                    // It says so while it validates: no reason to go away.
                    self.query_due = Some(now + self.intervals.retry.min(Duration::from_secs(30)));
                } else {
                    self.state = None;
                    step.close = Some(format!("the cache reports {code:?}: {text}"));
                }
                Ok(())
            }
            (RtrPdu::SerialQuery { .. } | RtrPdu::ResetQuery, _) => unexpected("a query"),
            (RtrPdu::CacheResponse { .. }, _) => unexpected("Cache Response"),
            (RtrPdu::Prefix { .. }, _) => unexpected("a prefix"),
            (RtrPdu::EndOfData { .. }, _) => unexpected("End of Data"),
            (RtrPdu::CacheReset, _) => unexpected("Cache Reset"),
        }
    }

    /// RFC 8210 section 7: a cache that knows only version 0 answers in that, or reports an error.
    fn other_version(
        &mut self,
        pdu: &RtrPdu,
        version: u8,
        step: &mut RtrStep,
    ) -> Result<(), RtrError> {
        let first = matches!(self.talk, Talk::Asked { .. }) && self.state.is_none();
        if !first || version != 0 {
            // A notification may cross with the first query (section 7).
            if matches!(pdu, RtrPdu::SerialNotify { .. }) {
                return Ok(());
            }
            let text = format!("the version has changed to {version}");
            return Err(RtrError::new(RtrErrorCode::UnexpectedVersion, text));
        }
        self.version = Version::Zero;
        match pdu {
            RtrPdu::CacheResponse { session } => {
                self.talk = Talk::Receiving {
                    session: *session,
                    reset: true,
                    changes: Vec::new(),
                };
            }
            RtrPdu::SerialNotify { .. } => {}
            _ => step.close = Some("the cache speaks version 0: trying that".to_owned()),
        }
        Ok(())
    }

    fn commit(
        &mut self,
        session: u16,
        serial: u32,
        intervals: RtrIntervals,
        now: Timestamp,
        step: &mut RtrStep,
    ) -> Result<(), RtrError> {
        let Talk::Receiving {
            session: ours,
            reset,
            changes,
        } = std::mem::take(&mut self.talk)
        else {
            return Ok(());
        };
        if ours != session {
            let text = "End of Data has another session identifier";
            return Err(RtrError::new(RtrErrorCode::CorruptData, text));
        }
        let changed = reset || !changes.is_empty();
        if reset {
            self.data.clear();
        }
        for (announce, vrp) in changes {
            let error = if announce {
                (!self.data.insert(vrp)).then_some(RtrErrorCode::DuplicateAnnouncement)
            } else {
                (!self.data.remove(&vrp)).then_some(RtrErrorCode::WithdrawalOfUnknown)
            };
            if let Some(code) = error {
                let text = format!("{code:?}: {} of {}", vrp.prefix, vrp.asn);
                return Err(RtrError::new(code, text));
            }
        }
        self.state = Some((session, serial));
        self.intervals = intervals;
        self.answer_due = None;
        self.query_due = Some(now + intervals.refresh);
        self.expires = Some(now + intervals.expire);
        step.changed |= changed;
        Ok(())
    }
}
