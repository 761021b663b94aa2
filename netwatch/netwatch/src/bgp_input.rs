//! What `netwatch bgp decode` reads: hexadecimal text, raw messages or a capture.

use std::io::{IsTerminal, Read};

use anyhow::{Context, Result, bail};
use bgp_core::capture;

use crate::cli::Decode;

/// Messages, in the form in which they came.
#[derive(Debug, PartialEq, Eq)]
pub enum Input {
    /// One after the other.
    Messages(Vec<u8>),
    /// Packets (pcap).
    Capture(Vec<u8>),
}

impl Input {
    /// Reads what the arguments name.
    pub fn read(arguments: &Decode) -> Result<Self> {
        if let Some(hex) = &arguments.hex {
            return Ok(Self::Messages(parse_hex(hex)?));
        }
        let file = arguments.file.as_ref().or(arguments.input.as_ref());
        let stdin = arguments.add_path.iter().any(|value| value == "-");
        let bytes = match file {
            Some(file) if file.as_os_str() != "-" => {
                std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?
            }
            Some(_) => from_stdin()?,
            None if stdin || !std::io::stdin().is_terminal() => from_stdin()?,
            None => {
                bail!("nothing to decode; give --hex HEX, --file FILE, or - for standard input")
            }
        };
        Self::recognize(bytes)
    }

    fn recognize(bytes: Vec<u8>) -> Result<Self> {
        if capture::is_capture(&bytes) {
            return Ok(Self::Capture(bytes));
        }
        match std::str::from_utf8(&bytes) {
            // No octet of a marker is text, nor are most of a header's.
            Ok(text) if !text.contains('\0') => Ok(Self::Messages(parse_hex(text)?)),
            _ => Ok(Self::Messages(bytes)),
        }
    }
}

fn from_stdin() -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    std::io::stdin()
        .read_to_end(&mut bytes)
        .context("cannot read standard input")?;
    Ok(bytes)
}

/// Octets of hexadecimal text. Where lines begin with a message's marker, lines that do not even
/// begin with an octet are notes.
fn parse_hex(text: &str) -> Result<Vec<u8>> {
    let annotated = text.lines().any(begins_message);
    let mut octets = Vec::new();
    let mut high = None;
    let mut digits_at = 0;
    let mut offset = 0;
    for (number, line) in text.split_inclusive('\n').enumerate() {
        let start = offset;
        offset += line.len();
        let note = annotated && !begins_hex(line);
        if line.trim_start().starts_with('#') || note {
            continue;
        }
        let body = line.trim_start();
        let skipped = line.len() - body.len();
        let prefix = if body.starts_with("0x") || body.starts_with("0X") {
            2
        } else {
            0
        };
        for (column, character) in line
            .char_indices()
            .skip_while(|(at, _)| *at < skipped + prefix)
        {
            let Some(digit) = character.to_digit(16) else {
                if is_hex_text(character) {
                    continue;
                }
                bail!(
                    "{character:?} at offset {} (line {}, column {}) is no hexadecimal digit",
                    start + column,
                    number + 1,
                    line.get(..column)
                        .map_or(0, |before| before.chars().count())
                        + 1,
                );
            };
            // Two digits below 16 make an octet.
            let digit = u8::try_from(digit).unwrap_or_default();
            digits_at = start + column;
            match high.take() {
                None => high = Some(digit),
                Some(high) => octets.push(high << 4 | digit),
            }
        }
    }
    if high.is_some() {
        bail!("the octet at offset {digits_at} has only one hexadecimal digit");
    }
    if octets.is_empty() {
        bail!("there are no hexadecimal digits in the input");
    }
    Ok(octets)
}

fn is_hex_text(character: char) -> bool {
    character.is_ascii_hexdigit() || character.is_whitespace() || character == ':'
}

fn begins_hex(line: &str) -> bool {
    let mut characters = line.trim_start().chars().take(2);
    characters.all(|character| character.is_ascii_hexdigit() || character == 'x')
}

/// Whether a line begins as a message does: with 16 octets of ones.
fn begins_message(line: &str) -> bool {
    let line = line.trim_start();
    let line = line.strip_prefix("0x").unwrap_or(line);
    let digits = line
        .chars()
        .filter(|character| !character.is_whitespace() && *character != ':');
    let mut ones = digits.take(32);
    ones.clone().count() == 32 && ones.all(|character| character.eq_ignore_ascii_case(&'f'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hexadecimal_text_in_its_usual_forms() {
        for text in [
            "0013 04",
            "00:13:04",
            "0x001304",
            " 00\n13\t0 4\n",
            "# no\n00 13 04\n",
        ] {
            assert_eq!(parse_hex(text).unwrap(), [0, 0x13, 4], "{text:?}");
        }
        let marker = "f".repeat(32);
        let annotated = format!("update ipv4 unicast\n{marker}0013 04\n{{ \"json\": 1 }}\n");
        assert_eq!(parse_hex(&annotated).unwrap().len(), 19);
    }

    #[test]
    fn broken_text_says_where() {
        let marker = "f".repeat(32);
        for (text, error) in [
            (
                "0013\n0g",
                "'g' at offset 6 (line 2, column 2) is no hexadecimal digit",
            ),
            (
                "00130",
                "the octet at offset 4 has only one hexadecimal digit",
            ),
            ("", "there are no hexadecimal digits in the input"),
            (
                &format!("{marker}\n00 13 0g"),
                "'g' at offset 40 (line 2, column 8) is no hexadecimal digit",
            ),
            (
                &format!("{marker}00x3"),
                "'x' at offset 34 (line 1, column 35) is no hexadecimal digit",
            ),
        ] {
            assert_eq!(parse_hex(text).unwrap_err().to_string(), error);
        }
    }

    #[test]
    fn forms_of_input_are_told_apart() {
        let raw = [&[0xff; 16][..], &[0, 19, 4]].concat();
        let messages = |bytes: &[u8]| Input::recognize(bytes.to_vec()).unwrap();
        assert_eq!(messages(&raw), Input::Messages(raw.clone()));
        let text = "FF".repeat(16) + "001304";
        assert_eq!(messages(text.as_bytes()), Input::Messages(raw));
        let capture = [&[0xd4, 0xc3, 0xb2, 0xa1][..], &[0; 16], &[1, 0, 0, 0]].concat();
        assert_eq!(messages(&capture), Input::Capture(capture.clone()));
    }
}
