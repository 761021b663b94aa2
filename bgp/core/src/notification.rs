//! NOTIFICATION (RFC 4271 section 4.5).

use serde::{Deserialize, Serialize};

use crate::fault::{Fault, cease, code};

/// What a NOTIFICATION says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notification {
    /// Error code.
    pub code: u8,
    /// Error subcode.
    pub subcode: u8,
    /// What follows.
    pub data: Vec<u8>,
}

impl Notification {
    /// Decodes the body.
    ///
    /// # Errors
    /// Bad Message Length for one that is cut off, which the framer does not let through.
    pub fn decode(body: &[u8]) -> Result<Self, Fault> {
        let cut = || Fault::new(code::HEADER, 2, "NOTIFICATION has no code and subcode");
        let (&[code, subcode], data) = body.split_first_chunk::<2>().ok_or_else(cut)?;
        Ok(Self {
            code,
            subcode,
            data: data.to_vec(),
        })
    }

    /// What the operator over there says about Administrative Shutdown or Reset (RFC 9003).
    /// Control characters are escaped: the text is to be shown and logged. `None` where there is
    /// none, or where it is malformed (RFC 9003 section 4: it is ignored).
    #[must_use]
    pub fn shutdown_communication(&self) -> Option<String> {
        let text = self.communication()??;
        let escaped = text.chars().flat_map(|character| {
            let (plain, escaped) = if character.is_control() {
                (None, Some(character.escape_default()))
            } else {
                (Some(character), None)
            };
            plain.into_iter().chain(escaped.into_iter().flatten())
        });
        (!text.is_empty()).then(|| escaped.collect())
    }

    /// The same for the log, where one that is malformed is told as well (RFC 9003 section 4).
    pub(crate) fn what_is_said(&self) -> Option<String> {
        match self.communication()? {
            Some(_) => self.shutdown_communication(),
            None => {
                // More than the longest that can be right is not looked at.
                let octets = self.data.iter().take(256);
                let octets: String = octets.map(|octet| format!("{octet:02x}")).collect();
                Some(format!("(a malformed shutdown communication, {octets})"))
            }
        }
    }

    /// What the operator says, `Some(None)` where it is malformed.
    fn communication(&self) -> Option<Option<&str>> {
        let shutdown = matches!(self.subcode, cease::SHUTDOWN | cease::RESET);
        if self.code != code::CEASE || !shutdown {
            return None;
        }
        let (length, text) = self.data.split_first()?;
        let text = text.get(..usize::from(*length));
        Some(text.and_then(|text| std::str::from_utf8(text).ok()))
    }

    /// The data of an Administrative Shutdown or Reset that says why (RFC 9003 section 2). Cut at
    /// 255 octets, between characters.
    #[must_use]
    pub fn shutdown_data(text: &str) -> Vec<u8> {
        let mut end = text.len().min(usize::from(u8::MAX));
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        let said = text.as_bytes().get(..end).unwrap_or_default();
        let length = u8::try_from(said.len()).unwrap_or(u8::MAX);
        [&[length][..], said].concat()
    }

    /// The NOTIFICATION inside of a Hard Reset (RFC 8538 section 3.1).
    #[must_use]
    pub fn hard_reset(&self) -> Option<Self> {
        let hard = self.code == code::CEASE && self.subcode == cease::HARD_RESET;
        hard.then(|| Self::decode(&self.data).ok()).flatten()
    }

    /// Names of code and subcode, in the IANA registry's words.
    #[must_use]
    pub fn name(&self) -> String {
        error_name(self.code, self.subcode)
    }
}

/// Names of an error code and its subcode, in the IANA registry's words.
#[must_use]
pub fn error_name(code: u8, subcode: u8) -> String {
    let (name, subcodes): (&str, &[&str]) = match code {
        code::HEADER => (
            "Message Header Error",
            &[
                "Connection Not Synchronized",
                "Bad Message Length",
                "Bad Message Type",
            ],
        ),
        code::OPEN => (
            "OPEN Message Error",
            &[
                "Unsupported Version Number",
                "Bad Peer AS",
                "Bad BGP Identifier",
                "Unsupported Optional Parameter",
                "",
                "Unacceptable Hold Time",
                "Unsupported Capability",
                "",
                "",
                "",
                "Role Mismatch",
            ],
        ),
        code::UPDATE => (
            "UPDATE Message Error",
            &[
                "Malformed Attribute List",
                "Unrecognized Well-known Attribute",
                "Missing Well-known Attribute",
                "Attribute Flags Error",
                "Attribute Length Error",
                "Invalid ORIGIN Attribute",
                "",
                "Invalid NEXT_HOP Attribute",
                "Optional Attribute Error",
                "Invalid Network Field",
                "Malformed AS_PATH",
            ],
        ),
        code::HOLD_TIMER => ("Hold Timer Expired", &[]),
        code::FSM => (
            "Finite State Machine Error",
            &[
                "Receive Unexpected Message in OpenSent State",
                "Receive Unexpected Message in OpenConfirm State",
                "Receive Unexpected Message in Established State",
            ],
        ),
        code::CEASE => (
            "Cease",
            &[
                "Maximum Number of Prefixes Reached",
                "Administrative Shutdown",
                "Peer De-configured",
                "Administrative Reset",
                "Connection Rejected",
                "Other Configuration Change",
                "Connection Collision Resolution",
                "Out of Resources",
                "Hard Reset",
                "BFD Down",
            ],
        ),
        code::ROUTE_REFRESH => ("ROUTE-REFRESH Message Error", &["Invalid Message Length"]),
        code::SEND_HOLD => ("Send Hold Timer Expired", &[]),
        _ => return format!("error {code}/{subcode}"),
    };
    let index = usize::from(subcode).checked_sub(1);
    let known = index.and_then(|index| subcodes.get(index));
    match known.filter(|text| !text.is_empty()) {
        Some(text) => format!("{name}: {text}"),
        None if subcode == 0 => name.to_owned(),
        None => format!("{name}: subcode {subcode}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cease_with(subcode: u8, data: &[u8]) -> Notification {
        Notification::decode(&[&[6, subcode], data].concat()).unwrap()
    }

    /// RFC 9003 sections 2 and 4.
    #[test]
    fn shutdown_communication() {
        let said = |subcode, data: &[u8]| cease_with(subcode, data).shutdown_communication();
        assert_eq!(said(2, b"\x05hello").as_deref(), Some("hello"));
        assert_eq!(
            said(4, "\x0eÜberholt\x1b[0m\n".as_bytes()).as_deref(),
            Some("Überholt\\u{1b}[0m\\n")
        );
        // Up to 255 octets, where RFC 8203 allowed 128.
        let long = [&[255][..], &[b'x'; 255]].concat();
        assert_eq!(said(2, &long).map(|text| text.len()), Some(255));
        assert_eq!(said(2, &[]), None, "none is there");
        assert_eq!(said(2, &[0]), None, "an empty one");
        assert_eq!(said(2, b"\x06hello"), None, "longer than the message");
        assert_eq!(said(2, &[2, 0xc3, 0x28]), None, "no UTF-8");
        assert_eq!(said(7, b"\x05hello"), None, "another subcode");
    }

    #[test]
    fn what_we_say_fits() {
        assert_eq!(Notification::shutdown_data("bye"), b"\x03bye");
        let long = Notification::shutdown_data(&"ü".repeat(200));
        assert_eq!(
            (long[0], long.len()),
            (254, 255),
            "255 octets would cut a character"
        );
        let heard = cease_with(2, &long).shutdown_communication();
        assert_eq!(heard, Some("ü".repeat(127)));
    }

    #[test]
    fn hard_reset_has_a_notification_inside() {
        let inner = cease_with(9, b"\x06\x02\x03bye").hard_reset().unwrap();
        assert_eq!((inner.code, inner.subcode), (6, 2));
        assert_eq!(inner.shutdown_communication().as_deref(), Some("bye"));
        assert_eq!(cease_with(9, &[6]).hard_reset(), None);
    }

    #[test]
    fn names() {
        for (code, subcode, name) in [
            (1, 2, "Message Header Error: Bad Message Length"),
            (2, 11, "OPEN Message Error: Role Mismatch"),
            (3, 11, "UPDATE Message Error: Malformed AS_PATH"),
            (3, 7, "UPDATE Message Error: subcode 7"),
            (4, 0, "Hold Timer Expired"),
            (6, 9, "Cease: Hard Reset"),
            (7, 1, "ROUTE-REFRESH Message Error: Invalid Message Length"),
            (8, 0, "Send Hold Timer Expired"),
            (99, 1, "error 99/1"),
        ] {
            assert_eq!(error_name(code, subcode), name);
        }
    }
}
