//! Lines of bounded length.

use std::io;

use tokio::io::{AsyncBufRead, AsyncBufReadExt};

/// What came of reading a line.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Line {
    /// A line, without its end.
    Text(Vec<u8>),
    /// More than the limit came without an end of line.
    TooLong,
    /// The other end closed. A last line without an end is not served: it may be cut short.
    End,
}

/// Reads up to the next end of line. Not cancel-safe: a caller that gives up must close.
pub(crate) async fn read_line(
    from: &mut (impl AsyncBufRead + Unpin),
    limit: usize,
) -> io::Result<Line> {
    let mut line = Vec::new();
    loop {
        let available = from.fill_buf().await?;
        if available.is_empty() {
            return Ok(Line::End);
        }
        let (part, done) = match available.iter().position(|b| *b == b'\n') {
            Some(end) => (available.get(..end).unwrap_or_default(), true),
            None => (available, false),
        };
        if line.len() + part.len() > limit {
            return Ok(Line::TooLong);
        }
        line.extend_from_slice(part);
        let used = part.len() + usize::from(done);
        from.consume(used);
        if done {
            return Ok(Line::Text(line));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lines_are_cut_at_their_ends_and_at_the_limit() {
        let mut from = tokio::io::BufReader::with_capacity(3, &b"one\n\nthree\n123456\nrest"[..]);
        let mut lines = Vec::new();
        for _ in 0..4 {
            lines.push(read_line(&mut from, 6).await.unwrap());
        }
        let text = |s: &str| Line::Text(s.as_bytes().to_vec());
        assert_eq!(
            lines,
            [text("one"), text(""), text("three"), text("123456")]
        );
        assert_eq!(read_line(&mut from, 6).await.unwrap(), Line::End);
        let mut from = &b"1234567\n"[..];
        assert_eq!(read_line(&mut from, 6).await.unwrap(), Line::TooLong);
    }
}
