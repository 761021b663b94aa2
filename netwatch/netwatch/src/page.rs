//! `netwatch page --test`.

use std::process::ExitCode;

use anyhow::{Result, bail};
use api::{PageTestReply, Reply, Request};
use tokio::sync::mpsc;

use crate::answers::page_test_reply;
use crate::cli::Page;
use crate::status::{ask, no_daemon};
use crate::wiring;

/// Sends a test page through every egress: by the running daemon, over its warm connections, or by
/// this process where none runs.
pub async fn run(arguments: &Page) -> Result<ExitCode> {
    let test = match ask(&arguments.query, &Request::PageTest).await {
        Ok(Reply::PageTest(test)) => test,
        Ok(_) => bail!("the daemon answered something else"),
        Err(error) if no_daemon(&error) => {
            let config = wiring::load(arguments.query.configured.config.as_deref())?;
            let Some(pager) = &config.pager else {
                return Err(error.context("no [pager] is configured, and no daemon runs to ask"));
            };
            eprintln!("no daemon runs: the test is sent by this command itself");
            by_ourselves(wiring::pager(&config, pager)?).await?
        }
        Err(error) => return Err(error),
    };
    if arguments.query.json {
        println!("{}", serde_json::to_string_pretty(&test)?);
    } else {
        for attempt in &test.attempts {
            println!(
                "{:<8} {:<24} {:>8.1} ms  {}",
                if attempt.accepted { "ok" } else { "FAILED" },
                attempt
                    .egress
                    .as_ref()
                    .map_or("(the host's own routes)", |egress| &egress.0),
                attempt.took.as_secs_f64() * 1e3,
                attempt.detail,
            );
        }
    }
    let accepted = !test.attempts.is_empty() && test.attempts.iter().any(|a| a.accepted);
    Ok(if accepted {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Without an outbox: what the daemon left in it is the daemon's to send.
async fn by_ourselves(mut settings: paging::Settings) -> Result<PageTestReply> {
    settings.outbox = None;
    let (outcomes, _nobody) = mpsc::channel(1);
    let pager = paging::Pager::start(settings, outcomes)?;
    Ok(page_test_reply(pager.test().await?))
}
