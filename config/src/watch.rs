//! The sections `[watch]` and `[block]`.

use std::collections::BTreeSet;
use std::path::{Component, PathBuf};
use std::time::Duration;

use crate::read::{At, Item, Report, Section};
use crate::{Block, Watch};

/// `TASK_COMM_LEN` without the final zero: the kernel cuts longer names.
const COMM: usize = 15;
/// `DISK_NAME_LEN` without the final zero.
const DISK: usize = 31;
/// What the programs' tables hold; a validator needs a handful.
const MOST: usize = 64;
/// As many as the programs compare with.
const PORTS: usize = 8;

const MS: Duration = Duration::from_millis(1);
const MINUTE: Duration = Duration::from_secs(60);

pub(crate) fn watch(s: &mut Section<'_>, report: &Report<'_>) -> Watch {
    let default = Watch::default();
    let processes = texts(s.take("processes"), "process names", report, |name| {
        if name.len() > COMM {
            let end = (0..=COMM).rev().find(|end| name.is_char_boundary(*end));
            let cut = name.get(..end.unwrap_or(0)).unwrap_or_default();
            return Err(format!(
                "is longer than the {COMM} bytes that the kernel keeps of a name; write what `cat /proc/PID/comm` shows (probably \"{cut}\"), or use watch.executables"
            ));
        }
        if name.contains('/') {
            return Err("is a path; paths belong in watch.executables".to_owned());
        }
        Ok(())
    });
    let executables = paths(s.take("executables"), report, |path| {
        if path.file_name().is_none() {
            return Err("names no file".to_owned());
        }
        Ok(())
    });
    let units = texts(s.take("units"), "systemd units", report, |unit| {
        let named = [".service", ".scope"]
            .iter()
            .find_map(|suffix| unit.strip_suffix(suffix));
        match named {
            _ if unit.contains('/') => Err("is a path; cgroups belong in watch.cgroups".to_owned()),
            Some("") => Err("has a suffix only; write the unit's whole name".to_owned()),
            Some(_) => Ok(()),
            None => Err(format!(
                "is no unit with processes: write its full name with .service or .scope, such as \"{}.service\"",
                unit.split('.').next().unwrap_or_default()
            )),
        }
    });
    let cgroups = paths(s.take("cgroups"), report, |path| {
        if path.starts_with("/sys/fs/cgroup") {
            return Err(
                "begins with the mount point; write the part below /sys/fs/cgroup, such as \"/system.slice/gaiad.service\"".to_owned(),
            );
        }
        if path.file_name().is_none() {
            return Err("is the root of all cgroups: every process would be watched".to_owned());
        }
        Ok(())
    });
    Watch {
        processes,
        executables,
        units,
        cgroups,
        consensus_ports: ports(s.take("consensus_ports"), report),
        wait: s
            .take("wait")
            .and_then(|i| i.duration(MS..=MINUTE))
            .unwrap_or(default.wait),
    }
}

pub(crate) fn block(s: &mut Section<'_>, report: &Report<'_>) -> Block {
    let default = Block::default();
    Block {
        enabled: s.take("enabled").and_then(|i| i.boolean()).unwrap_or(true),
        devices: texts(s.take("devices"), "disks", report, |name| {
            if name.contains('/') || name.len() > DISK || name.contains(char::is_whitespace) {
                return Err(
                    "is no disk's name; write it as `lsblk -d` does, such as \"nvme0n1\""
                        .to_owned(),
                );
            }
            Ok(())
        }),
        slow: s
            .take("slow")
            .and_then(|i| i.duration(MS..=MINUTE))
            .unwrap_or(default.slow),
    }
}

/// Different texts that a check accepts.
fn texts(
    item: Option<Item<'_>>,
    of: &str,
    report: &Report<'_>,
    check: impl Fn(&str) -> Result<(), String>,
) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    for text in item.map_or_else(Vec::new, |i| i.array(of)) {
        let Some(text) = text.text() else { continue };
        let shown = shown(&text.value);
        if found.contains(&text.value) {
            text.problem(report, format!("{shown} is listed twice"));
        } else if let Err(why) = check(&text.value) {
            text.problem(report, format!("{shown} {why}"));
        } else if is_room(&found, &text, report) {
            found.push(text.value);
        }
    }
    found
}

/// Different absolute paths, without `.` and `..`, that a check accepts.
fn paths(
    item: Option<Item<'_>>,
    report: &Report<'_>,
    check: impl Fn(&PathBuf) -> Result<(), String>,
) -> Vec<PathBuf> {
    let found = texts(item, "absolute paths", report, |text| {
        let path = PathBuf::from(text);
        if !path.is_absolute() {
            return Err("must be an absolute path, such as \"/usr/local/bin/gaiad\"".to_owned());
        }
        let plain: PathBuf = path.components().collect();
        if plain.as_os_str() != path.as_os_str()
            || path.components().any(|part| part == Component::ParentDir)
        {
            return Err("must be written without `.`, `..`, `//` and a final `/`".to_owned());
        }
        check(&path)
    });
    found.into_iter().map(PathBuf::from).collect()
}

/// Different ports, as many as the programs compare with.
pub(crate) fn ports(item: Option<Item<'_>>, report: &Report<'_>) -> BTreeSet<u16> {
    let mut found = BTreeSet::new();
    for item in item.map_or_else(Vec::new, |i| i.array("ports")) {
        let Some(port) = item.integer::<u16>(1..=65535, "a port number") else {
            continue;
        };
        if found.contains(&port.value) {
            port.problem(report, format!("{} is listed twice", port.value));
        } else if found.len() == PORTS {
            port.problem(report, format!("is one too many: at most {PORTS} ports"));
        } else {
            found.insert(port.value);
        }
    }
    found
}

fn is_room(found: &[String], text: &At<String>, report: &Report<'_>) -> bool {
    let is_room = found.len() < MOST;
    if !is_room {
        text.problem(report, format!("is one too many: at most {MOST}"));
    }
    is_room
}

fn shown(text: &str) -> String {
    format!("`{}`", text.chars().take(80).collect::<String>())
}
