//! `netwatch report`: reads the journal, with or without a running daemon.

use std::io::IsTerminal;
use std::process::ExitCode;

use anyhow::Result;
use journal::{Reader, TextStyle, incidents_text};

use crate::cli::Report;
use crate::wiring;

/// The newest incidents that a list shows.
const LISTED: u32 = 1000;

/// Prints a timeline, or the list of incidents.
pub fn run(arguments: &Report) -> Result<ExitCode> {
    let config = wiring::load(arguments.configured.config.as_deref())?;
    let path = arguments.journal.clone().unwrap_or_else(|| wiring::journal(&config));
    let reader = Reader::open(&path)?;
    let style = TextStyle { color: std::io::stdout().is_terminal() };
    if arguments.list {
        let incidents = reader.incidents(LISTED)?;
        if arguments.json {
            println!("{}", serde_json::to_string_pretty(&incidents)?);
        } else {
            print!("{}", incidents_text(&incidents, style));
        }
        return Ok(ExitCode::SUCCESS);
    }
    let id = match &arguments.incident {
        Some(name) => reader.find(name)?,
        None => match reader.latest()? {
            Some(id) => id,
            None => {
                eprintln!("no incidents in {}", path.display());
                return Ok(ExitCode::FAILURE);
            }
        },
    };
    let report = reader.report(&id)?;
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&report.json())?);
    } else {
        print!("{}", report.text(style));
    }
    Ok(ExitCode::SUCCESS)
}
