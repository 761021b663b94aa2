//! Telling what happens, as it happens.

use std::io::IsTerminal;

/// What kind of news it is; decides the colour on a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    /// Set-up and other small print.
    Step,
    /// Something breaks.
    Fault,
    /// Something was noticed or done about it.
    Move,
    /// It works again.
    Good,
}

/// Tells on standard output, or keeps quiet.
#[derive(Clone, Copy, Debug)]
pub struct Narrator {
    loud: bool,
    colour: bool,
}

impl Narrator {
    /// One that tells if `loud`. Colours only on a terminal, and not where `NO_COLOR` is set.
    #[must_use]
    pub fn new(loud: bool) -> Self {
        Self {
            loud,
            colour: std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none(),
        }
    }

    /// A line; `since` is the time since the cut in nanoseconds.
    pub fn say(&self, since: Option<i64>, news: News, text: &str) {
        if !self.loud {
            return;
        }
        let when = since.map_or_else(
            || " ".repeat(12),
            |nanos| format!("{:>+9.1} ms", nanos as f64 / 1e6),
        );
        let (before, after) = match (self.colour, news) {
            (false, _) => ("", ""),
            (true, News::Step) => ("\x1b[2m", "\x1b[0m"),
            (true, News::Fault) => ("\x1b[1;31m", "\x1b[0m"),
            (true, News::Move) => ("\x1b[1;33m", "\x1b[0m"),
            (true, News::Good) => ("\x1b[1;32m", "\x1b[0m"),
        };
        println!("{when}  {before}{text}{after}");
    }

    /// The word for a check's outcome.
    #[must_use]
    pub const fn outcome(&self, ok: bool) -> &'static str {
        match (ok, self.colour) {
            (true, true) => "\x1b[32mok\x1b[0m  ",
            (true, false) => "ok  ",
            (false, true) => "\x1b[31mFAIL\x1b[0m",
            (false, false) => "FAIL",
        }
    }
}
