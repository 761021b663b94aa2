//! `netwatch report`: reads the journal, with or without a running daemon.

use std::io::IsTerminal;
use std::process::ExitCode;

use anyhow::{Result, anyhow};
use journal::{ReadError, Reader, TextStyle, incidents_text};

use crate::cli::Report;
use crate::wiring;

/// The newest incidents that a list shows.
const LISTED: u32 = 1000;

/// Prints a timeline, or the list of incidents.
pub fn run(arguments: &Report) -> Result<ExitCode> {
    let config = wiring::load(arguments.configured.config.as_deref())?;
    let path = arguments
        .journal
        .clone()
        .unwrap_or_else(|| wiring::journal(&config));
    let reader = Reader::open(&path).map_err(|error| match error {
        ReadError::Sqlite(error) => anyhow!(
            "cannot read the journal {}: {error}; the daemon moves a damaged one aside when it starts",
            path.display()
        ),
        other => other.into(),
    })?;
    let color = std::io::stdout().is_terminal();
    // Piped output is not wrapped: tools and pagers cut lines as they like.
    let width = color.then(terminal_width).flatten();
    let style = TextStyle { color, width };
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
    // Beside the journal, wherever that is.
    let recordings = path.with_file_name(wiring::RECORDINGS);
    let recording = recorder::find(&recordings, Some(&id.0)).ok();
    if arguments.json {
        let mut json = report.json();
        if let (Some(map), Some(recording)) = (json.as_object_mut(), recording) {
            map.insert(
                "recording".to_owned(),
                recording.display().to_string().into(),
            );
        }
        println!("{}", serde_json::to_string_pretty(&json)?);
    } else {
        print!("{}", report.text(style));
        if let Some(recording) = recording {
            println!(
                "\nRecording       {} (netwatch replay)",
                recording.display()
            );
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The terminal's columns.
fn terminal_width() -> Option<usize> {
    nix::ioctl_read_bad!(window_size, nix::libc::TIOCGWINSZ, nix::libc::winsize);
    let mut size = nix::libc::winsize {
        ws_row: 0,
        ws_col: 0,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: TIOCGWINSZ writes one winsize to the address given, which is a valid one.
    unsafe { window_size(nix::libc::STDOUT_FILENO, &raw mut size) }.ok()?;
    (size.ws_col > 0).then_some(usize::from(size.ws_col))
}
