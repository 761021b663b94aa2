//! Recordings of the engine's own test worlds: written as the daemon writes them, read and replayed.

#[path = "../../engine/tests/world/mod.rs"]
#[allow(dead_code)]
mod world;

use std::path::{Path, PathBuf};
use std::time::Duration;

use engine::Engine;
use events::{Effect, EntryKind, Input, PlanMode, Sequenced, Timestamp};
use recorder::{
    Changes, Encoder, Options, ReadError, Reader, Record, Recorder, Replayed, Settings,
    WhatIfError, find, keys, list, replay, stories,
};
use world::{CUT, HEAL, Setup, World, ms, params};

fn settings(directory: &Path) -> Settings {
    Settings {
        directory: directory.to_owned(),
        before: Duration::from_secs(60),
        memory: 16 << 20,
        recording: 32 << 20,
        total: 512 << 20,
    }
}

/// Feeds a world's inputs to an engine and a recorder, as the daemon does.
fn record(settings: Settings, inputs: &[Sequenced], mode: PlanMode) -> recorder::Counters {
    let mut engine = Engine::new(params(mode));
    let mut recorder = Recorder::start(settings, &engine, inputs[0].at).unwrap();
    for recorded in inputs {
        let sequenced = engine.handle(recorded.at, recorded.input.clone());
        recorder.input(&sequenced);
        if recorded.input == Input::Timeout {
            while let Some((id, effect)) = engine.poll_effect() {
                recorder.effect(id, &effect);
            }
            recorder.step(&engine, recorded.at);
        }
    }
    let counters = recorder.counters();
    assert!(recorder.stop(inputs[inputs.len() - 1].at, Duration::from_secs(20)));
    counters
}

fn recorded(setup: Setup) -> (tempfile::TempDir, World) {
    let folder = tempfile::tempdir().unwrap();
    let world = World::run(setup);
    let counters = record(settings(folder.path()), &world.inputs, setup.mode);
    assert_eq!((counters.lost, counters.errors), (0, 0));
    (folder, world)
}

fn only(folder: &Path) -> PathBuf {
    let all = list(folder).unwrap();
    assert_eq!(all.len(), 1, "{all:?}");
    all[0].path.clone()
}

fn again(path: &Path) -> Replayed {
    replay(Reader::open(path).unwrap(), &Options::default())
}

/// What the daemon's journal told of an incident, as the world saw it.
fn effects_of(world: &World) -> Vec<String> {
    let effects = world.effects.iter();
    effects
        .map(|(id, effect)| format!("{} {}", id.0, serde_json::to_string(effect).unwrap()))
        .collect()
}

#[test]
fn every_world_replays_to_the_same_bytes() {
    for (seed, change) in [
        (0, Setup::new(0)),
        (
            1,
            Setup {
                mode: PlanMode::Shadow,
                ..Setup::new(1)
            },
        ),
        (
            2,
            Setup {
                answers_die: true,
                ..Setup::new(2)
            },
        ),
        (
            3,
            Setup {
                maintenance: true,
                ..Setup::new(3)
            },
        ),
        (
            4,
            Setup {
                install_takes: 700,
                ..Setup::new(4)
            },
        ),
    ] {
        let (folder, world) = recorded(change);
        for info in list(folder.path()).unwrap() {
            let done = again(&info.path);
            assert_eq!(done.difference, None, "seed {seed}");
            assert_eq!(done.damage, Vec::<String>::new(), "seed {seed}");
            assert_eq!(done.unusable, None);
            assert_eq!(done.closed.as_deref(), Some("the daemon stopped"));
            assert_eq!(done.recorded, done.replayed, "seed {seed}");
            assert!(done.compared > 30 && done.inputs > 20_000, "seed {seed}");
            // All of the world: it is shorter than what is kept.
            let told: Vec<String> = done
                .replayed
                .iter()
                .map(|t| format!("{} {}", t.id.0, serde_json::to_string(&t.effect).unwrap()))
                .collect();
            assert_eq!(told, effects_of(&world), "seed {seed}");
        }
    }
}

#[test]
fn the_story_is_the_engines() {
    let (folder, _) = recorded(Setup::new(7));
    let done = again(&only(folder.path()));
    let stories = stories(&done.recorded);
    let story = stories
        .iter()
        .find(|s| s.incident == done.header.incident)
        .unwrap();
    assert_eq!(story.onset, done.header.onset);
    let verdict = story.first_verdict.as_ref().unwrap();
    assert!(verdict.1.contains("upstream"), "{verdict:?}");
    assert!(ms(CUT) < verdict.0 && verdict.0 < ms(CUT + 500));
    let (route, count) = story.route.unwrap();
    assert!(verdict.0 <= route && route <= story.page.unwrap() && count > 0);
    assert!(story.resolved.unwrap() > ms(HEAL));
    assert!(story.pages >= 3, "{story:?}");
}

/// A second checkpoint is not only a place to begin: the replayed engine must be in that state.
#[test]
fn later_checkpoints_are_compared_and_begin_anew_after_a_gap() {
    let (folder, _) = recorded(Setup::new(3));
    let path = only(folder.path());
    let mut bytes = std::fs::read(&path).unwrap();
    let frames = frames(&bytes);
    let kinds: Vec<u8> = frames.iter().map(|(_, _, kind)| *kind).collect();
    assert_eq!(kinds[..2], [1, 2]);
    let chunk = frames.iter().position(|(_, _, kind)| *kind == 3).unwrap();
    // The world is too short for a second one, so the first is put at the end as well: its state is
    // not the engine's by then.
    let (from, to, _) = frames[1];
    let checkpoint = bytes[from..to].to_vec();
    let end = frames.last().unwrap().0;
    let mut doubled = bytes[..end].to_vec();
    doubled.extend(&checkpoint);
    let done = replay(
        Reader::new(doubled, "doubled").unwrap(),
        &Options::default(),
    );
    assert_eq!(done.difference, None);
    assert!(done.damage[0].contains("missing"), "{:?}", done.damage);

    // A damaged chunk leaves nothing to feed, as no checkpoint follows.
    let place = frames[chunk].0 + 40;
    bytes[place] ^= 1;
    let done = replay(Reader::new(bytes, "bent").unwrap(), &Options::default());
    assert_eq!((done.inputs, done.difference), (0, None));
    assert!(done.damage[0].contains("checksum"), "{:?}", done.damage);
}

/// (from, to, kind) of each frame.
fn frames(bytes: &[u8]) -> Vec<(usize, usize, u8)> {
    let mut found = Vec::new();
    let mut at = 10;
    while let Some(head) = bytes.get(at..at + 13) {
        let length = u32::from_le_bytes(head[5..9].try_into().unwrap()) as usize;
        found.push((at, at + 13 + length, head[4]));
        at += 13 + length;
    }
    assert_eq!(at, bytes.len());
    found
}

#[test]
fn an_effect_that_differs_is_found() {
    let (folder, _) = recorded(Setup::new(5));
    let path = only(folder.path());
    let reader = Reader::open(&path).unwrap();
    // The same inputs, to an engine with other thresholds, are recorded as if it had been that one.
    let change = ["correlator.thresholds.min_dark=300ms".to_owned()];
    let changes = Changes::parse(&reader.header().params, &change).unwrap();
    let world = World::run(Setup::new(5));
    let other = tempfile::tempdir().unwrap();
    let mut engine = Engine::new(params(PlanMode::Act));
    let mut twin = Engine::new(changes.params().clone());
    let mut recorder = Recorder::start(settings(other.path()), &engine, ms(0)).unwrap();
    for input in &world.inputs {
        recorder.input(&engine.handle(input.at, input.input.clone()));
        twin.handle(input.at, input.input.clone());
        while let Some((id, effect)) = twin.poll_effect() {
            recorder.effect(id, &effect);
        }
        while engine.poll_effect().is_some() {}
        if input.input == Input::Timeout {
            recorder.step(&engine, input.at);
        }
    }
    assert!(recorder.stop(ms(world::END), Duration::from_secs(20)));
    let done = again(&only(other.path()));
    let difference = done.difference.unwrap();
    assert_eq!(difference.what, "effect");
    assert!(ms(CUT) < difference.at && difference.at < ms(CUT + 1_000));
    assert_ne!(difference.recorded, difference.replayed);
}

#[test]
fn other_thresholds_decide_otherwise() {
    let (folder, _) = recorded(Setup::new(9));
    let path = only(folder.path());
    let run = |change: &str| {
        let reader = Reader::open(&path).unwrap();
        let params = reader.header().params.clone();
        let what_if = Some(Changes::parse(&params, &[change.to_owned()]).unwrap());
        replay(
            reader,
            &Options {
                what_if,
                until: None,
            },
        )
    };
    let verdict = |told: &[recorder::Told]| stories(told)[0].first_verdict.clone();
    // A change that changes nothing.
    let same = run("correlator.thresholds.min_dark=120ms");
    assert_eq!(same.recorded, same.replayed);
    // A longer patience decides later ...
    let later = run("correlator.thresholds.min_dark=400ms");
    let (before, after) = (verdict(&later.recorded), verdict(&later.replayed));
    assert!(after.unwrap().0 > before.unwrap().0 + Duration::from_millis(100));
    // ... and shadow mode asks for nothing that acts.
    let shadow = run("policy.mode=shadow");
    let acts = |told: &[recorder::Told]| {
        let plans = told.iter().filter_map(|t| match &t.effect {
            Effect::Install(plan) => Some(plan.mode),
            _ => None,
        });
        plans.filter(|mode| *mode == PlanMode::Act).count()
    };
    assert!(acts(&shadow.recorded) > 0);
    assert_eq!(acts(&shadow.replayed), 0);
    assert_eq!(shadow.difference, None, "nothing is compared");
}

#[test]
fn a_replay_can_stop_early() {
    let (folder, _) = recorded(Setup::new(2));
    let options = Options {
        what_if: None,
        until: Some(ms(CUT + 50)),
    };
    let reader = Reader::open(&only(folder.path())).unwrap();
    let done = replay(reader, &options);
    assert!(done.span.unwrap().1 <= ms(CUT + 50) && done.inputs > 5_000);
    assert_eq!(done.difference, None);
    assert!(stories(&done.replayed).is_empty());
}

/// Whatever a file is cut down to: an error in words, or an equal replay of what is left.
#[test]
fn a_recording_cut_short_anywhere_never_misleads() {
    let world = World::run(Setup::new(6));
    let near = |input: &&Sequenced| input.at < ms(CUT + 150);
    let few: Vec<Sequenced> = world.inputs.iter().filter(near).cloned().collect();
    let folder = tempfile::tempdir().unwrap();
    record(settings(folder.path()), &few, PlanMode::Act);
    let whole = std::fs::read(only(folder.path())).unwrap();
    let ends: Vec<usize> = frames(&whole).iter().map(|(_, to, _)| *to).collect();
    let (first, last) = (ends[0], ends[ends.len() - 1]);
    // All places around frames' ends, and every 97th of the others: each costs a replay.
    let places = (0..last)
        .filter(|at| *at < 64 || at % 97 == 0 || ends.iter().any(|end| at.abs_diff(*end) < 20));
    let mut inputs = 0;
    let (mut torn, mut seen) = (0, 0);
    for at in places {
        seen += 1;
        let bytes = whole[..at].to_vec();
        match Reader::new(bytes, "cut") {
            Err(error) => {
                assert!(at < first, "{at}: {error}");
                let expected = match at {
                    0 => matches!(error, ReadError::NotARecording { .. }),
                    1..8 => matches!(
                        error,
                        ReadError::NotARecording { .. } | ReadError::Header { .. }
                    ),
                    _ => matches!(error, ReadError::Header { .. }),
                };
                assert!(expected, "{at}: {error:?}");
            }
            Ok(reader) => {
                assert!(at >= first, "{at}");
                let done = replay(reader, &Options::default());
                assert_eq!(done.difference, None, "{at}");
                assert_eq!(done.closed, None, "{at}");
                assert!(done.inputs >= inputs, "{at}");
                assert_eq!(done.unusable.is_some(), at < ends[1], "{at}");
                assert_eq!(done.damage.is_empty(), ends.contains(&at), "{at}");
                torn += usize::from(!done.damage.is_empty());
                inputs = done.inputs;
            }
        }
    }
    assert!(seen > 200 && torn > 100 && inputs > 0);
}

#[test]
fn bytes_of_another_kind_and_of_another_format_say_what_they_are() {
    let (folder, _) = recorded(Setup::new(1));
    let whole = std::fs::read(only(folder.path())).unwrap();
    let mut newer = whole.clone();
    newer[8] = 9;
    let error = Reader::new(newer, "newer").unwrap_err();
    assert!(matches!(error, ReadError::Format { found: 9, .. }));
    assert!(error.to_string().contains("reads format 1"), "{error}");
    let error = Reader::new(b"SQLite format 3\0 and so on".to_vec(), "journal.db").unwrap_err();
    assert!(
        error.to_string().starts_with("journal.db is no recording"),
        "{error}"
    );
    let error = Reader::open(&folder.path().join("none")).unwrap_err();
    assert!(matches!(error, ReadError::Io { .. }), "{error}");
}

/// Encoded inputs are the same inputs, each kind of them.
#[test]
fn inputs_come_back_as_they_were() {
    let world = World::run(Setup::new(8));
    let mut encoder = Encoder::new(0, Timestamp::ZERO);
    let mut chunks = Vec::new();
    for (index, input) in world.inputs.iter().enumerate() {
        encoder.input(input);
        if index % 1000 == 0 {
            chunks.extend(encoder.take());
        }
    }
    chunks.extend(encoder.take());
    assert_eq!(encoder.take(), None);
    let back: Vec<Sequenced> = chunks
        .iter()
        .flat_map(|chunk| chunk.records().unwrap())
        .map(|record| match record {
            Record::Input(input) => input,
            Record::Effect(..) => unreachable!("no effect was encoded"),
        })
        .collect();
    assert_eq!(back, world.inputs);
    let kinds: std::collections::BTreeSet<String> = back
        .iter()
        .map(|i| serde_json::to_value(&i.input).unwrap()["input"].to_string())
        .collect();
    assert!(kinds.len() >= 5, "{kinds:?}");
}

#[test]
fn an_open_recording_can_be_replayed_and_limits_hold() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::run(Setup::new(4));
    let small = Settings {
        recording: 100 << 10,
        total: 300 << 10,
        ..settings(folder.path())
    };
    for run in 0..8 {
        let mut other = world::params(PlanMode::Act);
        other.correlator.run_id = format!("run-{run}");
        let mut engine = Engine::new(other);
        let mut recorder = Recorder::start(small.clone(), &engine, ms(0)).unwrap();
        for input in &world.inputs {
            recorder.input(&engine.handle(input.at, input.input.clone()));
            if input.input == Input::Timeout {
                while let Some((id, effect)) = engine.poll_effect() {
                    recorder.effect(id, &effect);
                }
                recorder.step(&engine, input.at);
            }
        }
        assert!(recorder.stop(ms(world::END), Duration::from_secs(20)));
    }
    let all = list(folder.path()).unwrap();
    let bytes: u64 = all.iter().map(|info| info.bytes).sum();
    assert!(
        bytes <= (300 << 10) + 64 && !all.is_empty(),
        "{bytes} in {}",
        all.len()
    );
    assert!(all.len() < 8);
    let newest = find(folder.path(), None).unwrap();
    assert!(newest.ends_with("run-7-1.nwrec"), "{}", newest.display());
    assert_eq!(find(folder.path(), Some("run-7")).unwrap(), newest);
    assert!(
        find(folder.path(), Some("run"))
            .unwrap_err()
            .contains("several")
    );
    assert!(
        find(folder.path(), Some("nobody"))
            .unwrap_err()
            .contains("neither")
    );
    let done = again(&newest);
    assert_eq!(done.difference, None);
    assert!(done.closed.unwrap().contains("recording_mib"));
    use std::os::unix::fs::PermissionsExt as _;
    let mode = newest.metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn changes_are_checked() {
    let params = params(PlanMode::Act);
    let all = keys(&params);
    let named = |name: &str| all.iter().find(|key| key.name == name).unwrap();
    assert_eq!(named("correlator.thresholds.confirm").value, "19.0");
    assert_eq!(named("tracker.overdue_floor").value, "40ms");
    assert_eq!(named("policy.mode").value, "act");
    assert_eq!(named("policy.budget.class_window").value, "5m");
    assert!(all.iter().all(|key| key.name != "correlator.run_id"));
    let parse = |change: &str| Changes::parse(&params, &[change.to_owned()]);
    // Every key takes the value that it has.
    for key in &all {
        let same = parse(&format!("{}={}", key.name, key.value)).unwrap();
        assert_eq!(same.params(), &params, "{}", key.name);
    }
    let changed = parse("correlator.thresholds.confirm=25").unwrap();
    assert_eq!(changed.params().correlator.thresholds.confirm, 25.0);
    let changed = parse("policy.settle = 80ms").unwrap();
    assert_eq!(changed.params().policy.settle, Duration::from_millis(80));
    for (change, word) in [
        ("confirm", "write key=value"),
        (
            "correlator.thresholds.confirn=25",
            "is `correlator.thresholds.confirm` meant?",
        ),
        ("confirm=25", "is `correlator.thresholds.confirm` meant?"),
        ("correlator.egresses=1", "there is no parameter"),
        ("policy.settle=80", "it takes a duration"),
        ("policy.settle=99999999999999h", "it takes a duration"),
        ("correlator.thresholds.confirm=many", "it takes a number"),
        ("correlator.thresholds.confirm=NaN", "it takes a number"),
        (
            "correlator.thresholds.min_peers=-1",
            "it takes a whole number",
        ),
        ("tracker.rtt.warm_up=5000000000", "tracker.rtt.warm_up"),
        ("correlator.probes=maybe", "true or false"),
        ("policy.mode=auto", "policy.mode"),
    ] {
        let error = parse(change).unwrap_err();
        assert!(error.to_string().contains(word), "{change}: {error}");
    }
    assert!(matches!(
        parse("xyzzy=1"),
        Err(WhatIfError::Unknown { nearest: None, .. })
    ));
}

/// An incident that ends is closed a little later, while the daemon goes on.
#[test]
fn the_end_comes_after_the_incident() {
    let (folder, world) = recorded(Setup::new(10));
    let resolved = world.effects.iter().find_map(|(_, effect)| match effect {
        Effect::Journal(entry) if entry.kind == EntryKind::Resolved => Some(entry.at),
        _ => None,
    });
    let done = again(&only(folder.path()));
    // The world ends before the recording would.
    assert_eq!(done.closed.as_deref(), Some("the daemon stopped"));
    assert!(done.span.unwrap().1 > resolved.unwrap());
}
