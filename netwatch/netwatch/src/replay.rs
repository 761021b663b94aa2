//! `netwatch replay`: a recording through the engine again.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use recorder::{Changes, Options, Reader, Replayed, Story, find, keys, stories};
use serde_json::{Value, json};

use crate::cli::ReplayIncident;
use crate::{replay_text, wiring};

/// Nothing could be replayed.
const UNUSABLE: u8 = 2;

/// Replays, prints, and says by the exit code how it went.
pub fn run(arguments: &ReplayIncident) -> ExitCode {
    match replayed(arguments) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(UNUSABLE)
        }
    }
}

fn replayed(arguments: &ReplayIncident) -> Result<ExitCode> {
    let directory = match &arguments.recordings {
        Some(directory) => directory.clone(),
        None => wiring::recordings(&wiring::load(arguments.configured.config.as_deref())?),
    };
    let path = match find(&directory, arguments.recording.as_deref()) {
        Ok(path) => path,
        Err(why) => bail!(why),
    };
    let reader = Reader::open(&path)?;
    let header = reader.header();
    if arguments.list_keys {
        list_keys(arguments, &reader)?;
        return Ok(ExitCode::SUCCESS);
    }
    let until = arguments
        .until
        .as_deref()
        .map(|text| {
            clock::read_duration(text)
                .map(|after| header.onset + after)
                .with_context(|| {
                    format!(
                        "--until takes a time after the onset, such as 500ms or 2s, not `{text}`"
                    )
                })
        })
        .transpose()?;
    let what_if = (!arguments.what_if.is_empty())
        .then(|| Changes::parse(&header.params, &arguments.what_if))
        .transpose()
        .context("--what-if (--list-keys lists the parameters)")?;
    let options = Options { what_if, until };
    let done = recorder::replay(reader, &options);
    let pairs = options.what_if.as_ref().map(|_| pairs(&done));
    if arguments.json {
        let json = in_json(&path, &done, options.what_if.as_ref(), pairs.as_deref());
        println!("{}", serde_json::to_string_pretty(&json)?);
    } else {
        replay_text::head(&path, &done);
        match (&options.what_if, &pairs) {
            (Some(changes), Some(pairs)) => {
                if arguments.verbose {
                    replay_text::effects(&done, true);
                }
                replay_text::side_by_side(&done, changes, pairs);
            }
            _ => {
                replay_text::effects(&done, arguments.verbose);
                replay_text::verdict(&done);
            }
        }
    }
    if let Some(why) = &done.unusable {
        bail!("{}: {why}", path.display());
    }
    Ok(if done.difference.is_some() {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

fn list_keys(arguments: &ReplayIncident, reader: &Reader) -> Result<()> {
    let keys = keys(&reader.header().params);
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&keys)?);
        return Ok(());
    }
    for key in keys {
        println!("{:<48} {:<9} {}", key.name, key.kind, key.value);
    }
    Ok(())
}

/// An incident as it was recorded and as it would have been.
pub type Pair = (Option<Story>, Option<Story>);

/// Incidents whose onsets are near are the same: with other thresholds their numbers may differ.
fn pairs(done: &Replayed) -> Vec<Pair> {
    /// Evidence of one cause comes within this.
    const NEAR: Duration = Duration::from_secs(5);
    let mut others: Vec<Option<Story>> = stories(&done.replayed).into_iter().map(Some).collect();
    let mut pairs: Vec<Pair> = Vec::new();
    for story in stories(&done.recorded) {
        let apart = |other: &Story| {
            let (a, b) = (story.onset, other.onset);
            a.since(b).max(b.since(a))
        };
        let nearest = others
            .iter_mut()
            .filter(|other| other.as_ref().is_some_and(|o| apart(o) <= NEAR))
            .min_by_key(|other| other.as_ref().map(apart));
        let other = nearest.and_then(Option::take);
        pairs.push((Some(story), other));
    }
    pairs.extend(
        others
            .into_iter()
            .flatten()
            .map(|story| (None, Some(story))),
    );
    pairs
}

fn in_json(
    path: &std::path::Path,
    done: &Replayed,
    changes: Option<&Changes>,
    pairs: Option<&[Pair]>,
) -> Value {
    let header = &done.header;
    let offset = |at| replay_text::offset_ms(header.onset, at);
    let timeline: Vec<Value> = done
        .replayed
        .iter()
        .map(|told| json!({"offset_ms": offset(told.at), "id": told.id, "effect": told.effect}))
        .collect();
    let mut object = json!({
        "recording": path.display().to_string(),
        "netwatch": header.netwatch,
        "incident": header.incident,
        "onset": replay_text::wall(header, header.onset).to_string(),
        "from_ms": done.span.map(|(from, _)| offset(from)),
        "until_ms": done.span.map(|(_, until)| offset(until)),
        "inputs": done.inputs,
        "closed": done.closed,
        "damage": done.damage,
        "unusable": done.unusable,
        "effects": timeline,
    });
    if let Some(map) = object.as_object_mut() {
        match (changes, pairs) {
            (Some(changes), Some(pairs)) => {
                let made: Vec<Value> = changes
                    .made()
                    .iter()
                    .map(|(key, value)| json!({"key": key.name, "recorded": key.value, "what_if": value}))
                    .collect();
                let pairs: Vec<Value> = pairs
                    .iter()
                    .map(|(recorded, what_if)| json!({"recorded": recorded, "what_if": what_if}))
                    .collect();
                map.insert("changes".to_owned(), made.into());
                map.insert("incidents".to_owned(), pairs.into());
                map.insert("note".to_owned(), replay_text::NOTE.into());
            }
            _ => {
                let equal = done.unusable.is_none() && done.difference.is_none();
                map.insert("equal".to_owned(), equal.into());
                map.insert("effects_compared".to_owned(), done.compared.into());
                map.insert("states_compared".to_owned(), done.states.into());
                map.insert("difference".to_owned(), json!(done.difference));
            }
        }
    }
    object
}
