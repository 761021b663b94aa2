//! `netwatch bgp rib`: routes, now or at an earlier time, page by page.

use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use api::{Client, Reply, Request, RibReply};
use events::{NeighborId, OriginValidation, RibQuery, RibRoute, Timestamp};
use jiff::tz::TimeZone;

use crate::cli::RibArguments;
use crate::status::socket;

/// Routes of one reply.
const PAGE: usize = 5_000;

/// Asks the daemon, and prints while it goes on asking.
pub async fn run(arguments: &RibArguments) -> Result<ExitCode> {
    let query: RibQuery = match &arguments.query_for {
        Some(text) => text.parse()?,
        None => RibQuery::All,
    };
    let neighbor = match &arguments.neighbor {
        Some(text) => Some(text.parse::<NeighborId>()?),
        None => None,
    };
    let at = match &arguments.at {
        Some(text) => Some(moment(text)?),
        None => None,
    };
    let mut left = match arguments.limit {
        Some(limit) => usize::try_from(limit).unwrap_or(usize::MAX),
        None => usize::MAX,
    };
    let socket = socket(&arguments.query.socket, &arguments.query.configured)?;
    let mut client = Client::connect(&socket).await?;
    let mut out = Output::new(arguments, query, at);
    let mut after = None;
    let mut any = false;
    loop {
        let request = Request::BgpRib {
            query: Some(query),
            at,
            neighbor,
            limit: Some(left.min(PAGE)),
            after,
        };
        let Reply::BgpRib(reply) = client.request(&request).await? else {
            bail!("the daemon answered something else");
        };
        any |= !reply.routes.is_empty();
        left = left.saturating_sub(reply.routes.len());
        after = reply.next;
        let last = after.is_none() || left == 0;
        if out.page(&reply, last).is_err() {
            // Whoever read it has seen enough.
            break;
        }
        if last {
            break;
        }
    }
    Ok(if any {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

struct Output {
    json: bool,
    query: RibQuery,
    at: Option<Timestamp>,
    begun: bool,
    widths: [usize; 6],
}

impl Output {
    fn new(arguments: &RibArguments, query: RibQuery, at: Option<Timestamp>) -> Self {
        Self {
            json: arguments.query.json,
            query,
            at,
            begun: false,
            widths: [0; 6],
        }
    }

    fn page(&mut self, reply: &RibReply, last: bool) -> io::Result<()> {
        let mut out = io::BufWriter::new(io::stdout().lock());
        if self.json {
            self.json(&mut out, reply, last)?;
        } else {
            self.text(&mut out, reply, last)?;
        }
        out.flush()
    }

    /// One object, written as the pages come.
    fn json(&mut self, out: &mut impl Write, reply: &RibReply, last: bool) -> io::Result<()> {
        if !self.begun {
            write!(out, "{{\"query\":{}", serde_json::to_string(&self.query)?)?;
            if let Some(at) = self.at {
                write!(out, ",\"at\":\"{}\"", clock::wall(at))?;
            }
            write!(out, ",\"routes\":[")?;
        }
        for route in &reply.routes {
            let comma = if self.begun { "," } else { "" };
            self.begun = true;
            write!(out, "{comma}\n{}", serde_json::to_string(route)?)?;
        }
        self.begun = true;
        if last {
            write!(out, "],\n\"truncated\":{}", reply.truncated)?;
            write!(out, ",\"partial\":{}", reply.partial)?;
            if let Some(since) = reply.known_since {
                write!(out, ",\"known_since\":\"{}\"", clock::wall(since))?;
            }
            writeln!(out, "}}")?;
        }
        Ok(())
    }

    fn text(&mut self, out: &mut impl Write, reply: &RibReply, last: bool) -> io::Result<()> {
        if !self.begun && !reply.routes.is_empty() {
            let head = [
                "PREFIX", "NEXT HOP", "EGRESS", "NEIGHBOR", "RECEIVED", "ORIGIN",
            ];
            self.line(out, &head.map(str::to_owned), "AS PATH", &reply.routes)?;
        }
        self.begun |= !reply.routes.is_empty();
        for route in &reply.routes {
            let columns = columns(route);
            self.line(out, &columns, &tail(route), &[])?;
        }
        if !last {
            return Ok(());
        }
        if let Some(since) = reply.known_since {
            writeln!(
                out,
                "nothing is known of that time: the history begins at {}",
                shown(since)
            )?;
        } else if !self.begun {
            match self.query {
                RibQuery::All => writeln!(out, "there are no routes")?,
                query => writeln!(out, "no route covers {query}")?,
            }
        }
        if reply.truncated {
            writeln!(out, "... and more: --limit ended the list")?;
        }
        if reply.partial {
            writeln!(
                out,
                "routes were left out for want of memory (bgp.memory_limit): what is missing may exist"
            )?;
        }
        Ok(())
    }

    /// One line; columns are as wide as the first page needs.
    fn line(
        &mut self,
        out: &mut impl Write,
        columns: &[String; 6],
        tail: &str,
        page: &[RibRoute],
    ) -> io::Result<()> {
        for route in page {
            for (width, column) in self.widths.iter_mut().zip(self::columns(route)) {
                *width = column.len().max(*width);
            }
        }
        for (column, width) in columns.iter().zip(&mut self.widths) {
            *width = column.len().max(*width);
            write!(out, "{column:<0$}  ", *width)?;
        }
        writeln!(out, "{tail}")
    }
}

fn columns(found: &RibRoute) -> [String; 6] {
    let route = &found.route;
    let path = found.path_id.map(|id| format!(" path {id}"));
    [
        format!("{}{}", route.prefix, path.unwrap_or_default()),
        route.next_hop.to_string(),
        found.egress.to_string(),
        found.neighbor.to_string(),
        shown(route.received_at),
        match route.validation {
            Some(OriginValidation::Valid) => "valid",
            Some(OriginValidation::Invalid) => "INVALID",
            Some(OriginValidation::NotFound) => "not found",
            None => "-",
        }
        .to_owned(),
    ]
}

fn tail(found: &RibRoute) -> String {
    let path = found.route.as_path.iter().map(|asn| asn.0.to_string());
    let stale = found.stale.then(|| "  STALE".to_owned());
    path.collect::<Vec<_>>().join(" ") + &stale.unwrap_or_default()
}

/// Local time, to the millisecond.
fn shown(at: Timestamp) -> String {
    let local = clock::wall(at).to_zoned(TimeZone::system());
    local.strftime("%Y-%m-%d %H:%M:%S%.3f").to_string()
}

/// RFC 3339, a time of today, or so long ago.
fn moment(text: &str) -> Result<Timestamp> {
    if let Some(ago) = text.strip_prefix('-') {
        return Ok(clock::now() - clock::read_duration(ago).with_context(|| unknown(text))?);
    }
    if let Ok(wall) = text.parse::<jiff::Timestamp>() {
        if wall > jiff::Timestamp::now() {
            bail!("{text} is in the future");
        }
        return Ok(clock::monotonic(wall));
    }
    let time: jiff::civil::Time = text.parse().with_context(|| unknown(text))?;
    let now = jiff::Zoned::now();
    let mut then = now.with().time(time).build()?;
    if then > now {
        // 23:59:58 at one minute past midnight is yesterday.
        then = then.yesterday()?.with().time(time).build()?;
    }
    Ok(clock::monotonic(then.timestamp()))
}

fn unknown(text: &str) -> String {
    format!(
        "{text:?} is no time: write 2026-03-01T12:03:04.120Z, 12:03:04.120, or -30s, -500ms, -5m, -1h"
    )
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn times_are_absolute_of_today_or_relative() {
        let now = clock::now();
        let ago = |text: &str| now.since(moment(text).unwrap());
        assert!(ago("-30s") <= Duration::from_secs(30));
        assert!(ago("-30s") > Duration::from_secs(29));
        let minute_ago = jiff::Timestamp::now() - Duration::from_secs(60);
        for text in [
            minute_ago.to_string(),
            minute_ago
                .to_zoned(TimeZone::system())
                .strftime("%H:%M:%S%.3f")
                .to_string(),
        ] {
            let ago = ago(&text);
            assert!(ago > Duration::from_secs(58), "{text}: {ago:?}");
            assert!(ago < Duration::from_secs(62), "{text}: {ago:?}");
        }
        for wrong in ["", "-", "-5", "-5d", "25:00:00", "yesterday", "-1.5s"] {
            let error = moment(wrong).unwrap_err().to_string();
            assert!(error.contains("is no time"), "{error}");
        }
        let tomorrow = jiff::Timestamp::now() + Duration::from_secs(86_400);
        let error = moment(&tomorrow.to_string()).unwrap_err().to_string();
        assert!(error.contains("is in the future"), "{error}");
    }
}
