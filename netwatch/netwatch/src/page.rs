//! `netwatch page --test`.

use std::process::ExitCode;

use anyhow::Result;
use api::{Reply, Request};

use crate::cli::Page;
use crate::status::ask;

/// Sends a test page through every egress of the running daemon.
pub async fn run(arguments: &Page) -> Result<ExitCode> {
    let Reply::PageTest(test) = ask(&arguments.query, &Request::PageTest).await? else {
        anyhow::bail!("the daemon answered something else");
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
