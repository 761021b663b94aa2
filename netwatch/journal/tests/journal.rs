//! Real SQLite files: what is written is read again, whatever happens in between.

mod story;

use std::path::{Path, PathBuf};
use std::time::Duration;

use events::{Actor, EntryKind, IncidentId, IncidentState, Verdict};
use journal::{Journal, JournalError, ReadError, Reader, Retention, TextStyle, incidents_text};
use story::{entry, incident, story, wall};

const LONG: Duration = Duration::from_secs(20);

fn folder() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal.db");
    (folder, path)
}

fn write_story(journal: &Journal, id: &str) {
    for entry in story(id) {
        let wall = wall(entry.at);
        journal.append(entry, wall);
    }
    let incident = incident(id);
    let onset = wall(incident.onset);
    journal.incident(incident, onset);
}

fn note(id: &str, micros: i64, text: &str) -> (events::Entry, jiff::Timestamp) {
    let entry = entry(id, micros, Actor::Host, EntryKind::Note, text);
    let wall = wall(entry.at);
    (entry, wall)
}

fn texts(path: &Path, id: &str) -> Vec<String> {
    let report = Reader::open(path)
        .unwrap()
        .report(&IncidentId(id.into()))
        .unwrap();
    report.entries.into_iter().map(|line| line.text).collect()
}

fn golden(name: &str, actual: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, actual).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        expected == actual,
        "{name} differs; UPDATE_GOLDEN=1 accepts the new one:\n{actual}"
    );
}

#[test]
fn a_report_reads_as_it_should() {
    let (_folder, path) = folder();
    let journal = Journal::open(&path).unwrap();
    write_story(&journal, "nw-1");
    assert!(journal.flush(LONG));
    let reader = Reader::open(&path).unwrap();
    let report = reader.report(&reader.latest().unwrap().unwrap()).unwrap();
    golden("report.txt", &report.text(TextStyle::default()));
    let style = TextStyle {
        width: Some(120),
        color: false,
    };
    golden("report-120.txt", &report.text(style));
    golden(
        "report.json",
        &format!(
            "{}\n",
            serde_json::to_string_pretty(&report.json()).unwrap()
        ),
    );
    golden(
        "incidents.txt",
        &incidents_text(&reader.incidents(10).unwrap(), TextStyle::default()),
    );
}

#[test]
fn text_keeps_its_width_and_has_escapes_only_when_asked() {
    let (_folder, path) = folder();
    let journal = Journal::open(&path).unwrap();
    write_story(&journal, "nw-1");
    assert!(journal.flush(LONG));
    let report = Reader::open(&path)
        .unwrap()
        .report(&IncidentId("nw-1".into()))
        .unwrap();
    let narrow = report.text(TextStyle {
        width: Some(110),
        color: false,
    });
    assert!(
        narrow.lines().all(|line| line.chars().count() <= 110),
        "{narrow}"
    );
    // An error text in the story holds an escape sequence.
    assert!(!narrow.contains('\u{1b}'));
    let colored = report.text(TextStyle {
        width: Some(110),
        color: true,
    });
    let mut plain = String::new();
    let mut rest = colored.as_str();
    while let Some((before, after)) = rest.split_once('\u{1b}') {
        plain.push_str(before);
        rest = after.split_once('m').unwrap().1;
    }
    plain.push_str(rest);
    assert!(colored.len() > narrow.len());
    assert_eq!(plain.replace(' ', ""), narrow.replace(' ', ""));
}

#[test]
fn entries_are_sorted_by_time_and_then_by_order_of_writing() {
    let (_folder, path) = folder();
    let journal = Journal::open(&path).unwrap();
    for (micros, text) in [(5, "c"), (5, "d"), (-3, "a"), (9, "e"), (0, "b")] {
        let (entry, wall) = note("nw-1", micros, text);
        journal.append(entry, wall);
    }
    assert!(journal.flush(LONG));
    assert_eq!(texts(&path, "nw-1"), ["a", "b", "c", "d", "e"]);
}

#[test]
fn a_name_may_be_shortened_as_long_as_it_is_clear() {
    let (_folder, path) = folder();
    let journal = Journal::open(&path).unwrap();
    for id in ["nw-1", "nw-12", "nw-20"] {
        let (entry, wall) = note(id, 0, "x");
        journal.append(entry, wall);
    }
    assert!(journal.flush(LONG));
    let reader = Reader::open(&path).unwrap();
    assert_eq!(reader.find("nw-1").unwrap().0, "nw-1");
    assert_eq!(reader.find("nw-2").unwrap().0, "nw-20");
    assert!(
        matches!(reader.find("nw-"), Err(ReadError::Ambiguous { fitting, .. }) if fitting.len() == 3)
    );
    assert!(matches!(reader.find("x"), Err(ReadError::NoIncident(_))));
    assert!(matches!(
        reader.report(&IncidentId("x".into())),
        Err(ReadError::NoIncident(_))
    ));
}

#[test]
fn a_reader_sees_each_entry_while_the_writer_goes_on() {
    let (_folder, path) = folder();
    let journal = Journal::open(&path).unwrap();
    let reader = Reader::open(&path).unwrap();
    assert_eq!(reader.incidents(10).unwrap(), []);
    for count in 1..=50_usize {
        let (entry, wall) = note("nw-1", i64::try_from(count).unwrap(), "x");
        journal.append(entry, wall);
        assert!(journal.flush(LONG));
        let report = reader.report(&IncidentId("nw-1".into())).unwrap();
        assert_eq!(report.entries.len(), count);
    }
    assert_eq!(reader.incidents(10).unwrap()[0].state, None);
    assert_eq!(journal.counters().written, 50);
}

/// Runs this test binary again as a writer that is killed; returns when it is dead.
fn killed_writer(path: &Path) {
    let mut child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child_writer", "--nocapture"])
        .env("NETWATCH_TEST_JOURNAL", path)
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = std::io::BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    while !line.contains("written") {
        line.clear();
        assert!(std::io::BufRead::read_line(&mut out, &mut line).unwrap() > 0);
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn child_writer() {
    let Some(path) = std::env::var_os("NETWATCH_TEST_JOURNAL") else {
        return;
    };
    let journal = Journal::open(Path::new(&path)).unwrap();
    write_story(&journal, "nw-1");
    assert!(journal.flush(LONG));
    println!("written");
    // Writing goes on until the kill.
    for micros in 0.. {
        let (entry, wall) = note("nw-2", micros, "x");
        journal.append(entry, wall);
        journal.flush(LONG);
    }
}

#[test]
fn a_killed_writer_leaves_a_readable_journal_that_the_next_one_continues() {
    let (_folder, path) = folder();
    killed_writer(&path);
    assert_eq!(texts(&path, "nw-1").len(), story("nw-1").len());
    let journal = Journal::open(&path).unwrap();
    assert_eq!(journal.counters().moved_aside, 0);
    let (entry, wall) = note("nw-1", 1, "after");
    journal.append(entry, wall);
    drop(journal);
    assert_eq!(texts(&path, "nw-1").len(), story("nw-1").len() + 1);
}

fn aside(path: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = std::fs::read_dir(path.parent().unwrap())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.to_string_lossy().contains(".damaged-"))
        .collect();
    found.sort();
    found
}

fn filled(path: &Path) {
    let journal = Journal::open(path).unwrap();
    for number in 0..200 {
        write_story(&journal, &format!("nw-{number}"));
        assert!(journal.flush(LONG));
    }
}

#[test]
fn a_damaged_file_is_moved_aside_and_a_new_one_begins() {
    type Damage = fn(&mut Vec<u8>);
    let damages: [Damage; 3] = [
        |bytes| bytes.truncate(bytes.len() / 2 + 100),
        |bytes| bytes[..100].fill(0x55),
        |bytes| {
            let middle = bytes.len() / 2;
            bytes[middle..middle + 20_000].fill(0xff);
        },
    ];
    for (number, damage) in damages.into_iter().enumerate() {
        let (_folder, path) = folder();
        filled(&path);
        let mut bytes = std::fs::read(&path).unwrap();
        damage(&mut bytes);
        std::fs::write(&path, &bytes).unwrap();
        let journal = Journal::open(&path).unwrap();
        assert_eq!(journal.counters().moved_aside, 1, "damage {number}");
        let kept = aside(&path);
        assert_eq!(kept.len(), 1);
        assert_eq!(std::fs::read(&kept[0]).unwrap(), bytes);
        write_story(&journal, "nw-new");
        assert!(journal.flush(LONG));
        assert_eq!(texts(&path, "nw-new").len(), story("").len());
    }
}

#[test]
fn damage_under_way_does_not_stop_the_daemon() {
    let (_folder, path) = folder();
    filled(&path);
    let journal = Journal::open(&path).unwrap();
    let length = std::fs::metadata(&path).unwrap().len();
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    std::os::unix::fs::FileExt::write_all_at(
        &file,
        &vec![0xff; usize::try_from(length).unwrap()],
        0,
    )
    .unwrap();
    write_story(&journal, "nw-new");
    assert!(journal.flush(LONG));
    let counters = journal.counters();
    assert_eq!((counters.moved_aside, counters.lost), (1, 0));
    assert_eq!(texts(&path, "nw-new").len(), story("").len());
}

#[test]
fn a_file_that_was_removed_under_way_is_made_anew() {
    let (_folder, path) = folder();
    let journal = Journal::open(&path).unwrap();
    write_story(&journal, "nw-old");
    assert!(journal.flush(LONG));
    for suffix in ["", "-wal", "-shm"] {
        std::fs::remove_file(format!("{}{suffix}", path.display())).unwrap();
    }
    write_story(&journal, "nw-new");
    assert!(journal.flush(LONG));
    assert_eq!(texts(&path, "nw-new").len(), story("").len());
}

#[test]
fn only_a_few_damaged_files_are_kept() {
    let (_folder, path) = folder();
    for _ in 0..5 {
        std::fs::write(&path, vec![0x55; 10_000]).unwrap();
        drop(Journal::open(&path).unwrap());
    }
    assert_eq!(aside(&path).len(), 3);
}

#[test]
fn an_empty_file_is_a_new_journal() {
    let (_folder, path) = folder();
    std::fs::write(&path, b"").unwrap();
    assert_eq!(Reader::open(&path).unwrap().incidents(1).unwrap(), []);
    let journal = Journal::open(&path).unwrap();
    assert_eq!(journal.counters().moved_aside, 0);
}

#[test]
fn files_of_others_and_of_later_versions_are_left_alone() {
    let (folder, path) = folder();
    drop(Journal::open(&path).unwrap());
    let connection = rusqlite::Connection::open(&path).unwrap();
    connection.pragma_update(None, "user_version", 99).unwrap();
    drop(connection);
    let error = Journal::open(&path).unwrap_err();
    assert!(
        matches!(error, JournalError::Newer { found: 99, .. }),
        "{error}"
    );
    assert!(matches!(Reader::open(&path), Err(ReadError::Unknown(_))));

    let other = folder.path().join("other.db");
    let connection = rusqlite::Connection::open(&other).unwrap();
    connection
        .execute_batch("CREATE TABLE t (x); PRAGMA user_version = 1")
        .unwrap();
    drop(connection);
    assert!(matches!(
        Journal::open(&other),
        Err(JournalError::Foreign { .. })
    ));
    assert!(matches!(Reader::open(&other), Err(ReadError::Unknown(_))));
    let absent = folder.path().join("absent.db");
    assert!(matches!(Reader::open(&absent), Err(ReadError::Absent(_))));
    let nowhere = folder.path().join("no/such/folder/journal.db");
    assert!(matches!(
        Journal::open(&nowhere),
        Err(JournalError::Open { .. })
    ));
}

#[test]
fn old_incidents_go_first_by_number_and_by_age() {
    let (_folder, path) = folder();
    let journal = Journal::open(&path).unwrap();
    let now = jiff::Timestamp::now();
    for days in 0..6 {
        let (entry, _) = note(&format!("nw-{days}"), 0, "x");
        let wall = now - jiff::SignedDuration::from_hours(24 * days);
        journal.append(entry, wall);
    }
    drop(journal);
    let names = |path: &Path| -> Vec<String> {
        let lines = Reader::open(path).unwrap().incidents(10).unwrap();
        lines.into_iter().map(|line| line.id.0).collect()
    };
    let retention = Retention {
        age: Duration::from_secs(4 * 86_400 - 3_600),
        ..Retention::default()
    };
    let journal = Journal::open_with(&path, retention).unwrap();
    assert_eq!(journal.counters().pruned, 2);
    drop(journal);
    assert_eq!(names(&path), ["nw-0", "nw-1", "nw-2", "nw-3"]);
    let retention = Retention {
        incidents: 2,
        ..Retention::default()
    };
    drop(Journal::open_with(&path, retention).unwrap());
    assert_eq!(names(&path), ["nw-0", "nw-1"]);
    let connection = rusqlite::Connection::open(&path).unwrap();
    let entries: i64 = connection
        .query_row("SELECT count(*) FROM entry", [], |row| row.get(0))
        .unwrap();
    assert_eq!(entries, 2);
}

#[test]
fn a_suspicion_that_came_to_nothing_does_not_hide_the_incident_before_it() {
    let (_folder, path) = folder();
    let journal = Journal::open(&path).unwrap();
    let write = |id: &str, second: i64, verdict: Option<Verdict>| {
        let mut incident = incident(id);
        incident.verdict = verdict;
        let wall = wall(incident.onset) + jiff::SignedDuration::from_secs(second);
        journal.incident(incident, wall);
    };
    let latest = || Reader::open(&path).unwrap().latest().unwrap();
    write("nw-1", 0, Some(Verdict::None));
    assert!(journal.flush(LONG));
    assert_eq!(latest().unwrap().0, "nw-1", "better than nothing");
    write("nw-2", 1, Some(story::verdict()));
    write("nw-3", 2, Some(Verdict::None));
    write("nw-4", 3, None);
    assert!(journal.flush(LONG));
    assert_eq!(latest().unwrap().0, "nw-2");
}

#[test]
fn a_full_journal_makes_room_by_dropping_its_oldest_incidents() {
    let (_folder, path) = folder();
    let retention = Retention {
        bytes: 400_000,
        ..Retention::default()
    };
    let journal = Journal::open_with(&path, retention).unwrap();
    for number in 0..200 {
        let mut incident = incident(&format!("nw-{number:03}"));
        incident.state = IncidentState::Confirmed;
        let wall = wall(incident.onset) + jiff::SignedDuration::from_secs(number);
        for _ in 0..5 {
            let (entry, _) = note(&incident.id.0, 0, &"x".repeat(1_000));
            journal.append(entry, wall);
        }
        journal.incident(incident, wall);
        assert!(journal.flush(LONG));
    }
    let counters = journal.counters();
    assert_eq!((counters.written, counters.lost), (1_200, 0));
    assert!(counters.pruned > 0 && counters.errors > 0, "{counters:?}");
    let reader = Reader::open(&path).unwrap();
    assert_eq!(reader.latest().unwrap().unwrap().0, "nw-199");
    drop(journal);
    assert!(std::fs::metadata(&path).unwrap().len() <= 400_000);
}

#[test]
fn a_disk_that_stays_full_costs_entries_and_nothing_else() {
    let (_folder, path) = folder();
    let retention = Retention {
        bytes: 100_000,
        ..Retention::default()
    };
    let journal = Journal::open_with(&path, retention).unwrap();
    // One incident alone is larger than the journal may be: there is nothing older to drop.
    for micros in 0..25_000 {
        let (entry, wall) = note("nw-1", micros, &"x".repeat(100));
        journal.append(entry, wall);
        if micros % 1_000 == 0 {
            journal.flush(LONG);
        }
    }
    assert!(!journal.flush(LONG));
    let counters = journal.counters();
    assert!(counters.errors > 0 && counters.lost > 0, "{counters:?}");
    assert!(!texts(&path, "nw-1").is_empty());
}

#[test]
fn a_user_who_may_only_read_can_read_whether_the_daemon_runs_or_not() {
    use std::os::unix::fs::PermissionsExt;
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: changing the user needs root");
        return;
    }
    let (folder, path) = folder();
    std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let read = || {
        let path = path.clone();
        let reading = std::thread::spawn(move || {
            // For this thread's file accesses only.
            nix::unistd::setfsuid(nix::unistd::Uid::from_raw(65_534));
            assert!(std::fs::write(path.with_extension("x"), b"").is_err());
            texts(&path, "nw-1").len()
        });
        reading.join().unwrap()
    };
    let journal = Journal::open(&path).unwrap();
    write_story(&journal, "nw-1");
    assert!(journal.flush(LONG));
    assert_eq!(read(), story("").len());
    drop(journal);
    assert_eq!(read(), story("").len());
}
