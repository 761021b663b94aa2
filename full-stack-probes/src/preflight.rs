//! What will work on this host, without loading anything: what the kernel's type information promises.

use std::fs;

use crate::Settings;
use crate::btf::Btf;
use crate::diag::Diag;
use crate::kernel::{netns, read_btf};
use crate::lockdown;
use crate::offsets::Offsets;
use crate::probes::{PROBES, Probe};

const CAP_SYS_PTRACE: u32 = 19;
const CAP_SYS_ADMIN: u32 = 21;
const CAP_PERFMON: u32 = 38;
const CAP_BPF: u32 = 39;

/// One thing that collection needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// What: stable, for scripts.
    pub name: String,
    /// It is there.
    pub ok: bool,
    /// What was found.
    pub detail: String,
    /// What to do about it; `None` where nothing needs to be done, or nothing can be.
    pub remedy: Option<String>,
}

/// Looks at everything that collection with the default settings needs.
#[must_use]
pub fn preflight() -> Vec<Check> {
    preflight_for(&Settings::default())
}

/// Looks at everything that collection with these settings needs.
#[must_use]
pub fn preflight_for(settings: &Settings) -> Vec<Check> {
    let mut checks = vec![
        kernel_version(),
        privileges(),
        lockdown(),
        owners(),
        namespace(),
        diag(),
    ];
    match read_btf() {
        Ok(btf) => {
            checks.push(check("btf", true, "/sys/kernel/btf/vmlinux", None));
            let offsets = Offsets::of(&btf);
            for probe in PROBES {
                checks.push(probe_check(probe, settings, &btf, &offsets));
            }
        }
        Err(error) => checks.push(check(
            "btf",
            false,
            &error.to_string(),
            Some("boot a kernel built with CONFIG_DEBUG_INFO_BTF=y"),
        )),
    }
    checks
}

fn check(name: &str, ok: bool, detail: &str, remedy: Option<&str>) -> Check {
    Check {
        name: name.to_owned(),
        ok,
        detail: detail.to_owned(),
        remedy: remedy.filter(|_| !ok).map(str::to_owned),
    }
}

fn probe_check(probe: &Probe, settings: &Settings, btf: &Btf, offsets: &Offsets) -> Check {
    let name = format!("probe.{}", probe.name);
    let mut reasons = probe.missing_fields(offsets);
    let mut best = None;
    if reasons.is_empty() {
        for rung in probe.rungs {
            match rung.check(btf).and_then(|()| lockdown::permits(rung)) {
                Ok(()) => {
                    best = Some(rung);
                    break;
                }
                Err(reason) => reasons.push(format!("{}: {reason}", rung.hook())),
            }
        }
    }
    let Some(rung) = best else {
        let reasons = reasons.join("; ");
        let remedy = if reasons.contains(lockdown::REASON) {
            "boot with lockdown=integrity or less"
        } else {
            "a newer kernel"
        };
        let remedy = format!("{remedy}; without it unseen: {}", probe.loss);
        let asked = (probe.wanted)(settings);
        return check(&name, !asked, &reasons, Some(&remedy));
    };
    let mut detail = rung.hook();
    if !rung.loss.is_empty() {
        reasons.push(format!("unseen: {}", rung.loss));
    }
    for reason in reasons {
        detail = format!("{detail}; {reason}");
    }
    if !(probe.wanted)(settings) {
        detail = format!("not asked for by the configuration; would be {detail}");
    }
    check(&name, true, &detail, None)
}

fn kernel_version() -> Check {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let release = release.trim();
    check(
        "kernel",
        is_recent(release),
        release,
        Some(
            "Linux 5.10 or later: records go through ring buffers, and typed programs read sockets",
        ),
    )
}

fn is_recent(release: &str) -> bool {
    let mut numbers = release
        .split(|letter: char| !letter.is_ascii_digit())
        .map_while(|number| number.parse::<u32>().ok());
    match (numbers.next(), numbers.next()) {
        (Some(major), Some(minor)) => (major, minor) >= (5, 10),
        _ => false,
    }
}

fn privileges() -> Check {
    let Some(effective) = capabilities() else {
        return check(
            "privileges",
            false,
            "cannot read /proc/self/status",
            Some("mount /proc"),
        );
    };
    let has = |capability: u32| effective & (1 << capability) != 0;
    let missing: Vec<_> = [(CAP_BPF, "CAP_BPF"), (CAP_PERFMON, "CAP_PERFMON")]
        .iter()
        .filter(|(number, _)| !has(*number) && !has(CAP_SYS_ADMIN))
        .map(|(_, name)| *name)
        .collect();
    if missing.is_empty() {
        check("privileges", true, "CAP_BPF, CAP_PERFMON", None)
    } else {
        check(
            "privileges",
            false,
            &format!("missing: {}", missing.join(", ")),
            Some("run as root, or grant both (systemd: AmbientCapabilities=CAP_BPF CAP_PERFMON)"),
        )
    }
}

fn lockdown() -> Check {
    let detail = if lockdown::is_on() {
        "confidentiality: hooks whose programs read kernel memory by address are refused, typed \
         ones work"
    } else {
        "off, or in a mode that does not matter"
    };
    check("lockdown", true, detail, None)
}

fn owners() -> Check {
    let ok = capabilities().is_some_and(|effective| effective & (1 << CAP_SYS_PTRACE) != 0);
    let detail = if ok {
        "owners of existing connections can be told"
    } else {
        "owners of existing connections of other users cannot be told"
    };
    check("owners", ok, detail, Some("grant CAP_SYS_PTRACE"))
}

fn capabilities() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

fn namespace() -> Check {
    match netns() {
        Ok(number) => check("namespace", true, &format!("net:[{number}]"), None),
        Err(error) => check("namespace", false, &error.to_string(), Some("mount /proc")),
    }
}

fn diag() -> Check {
    match Diag::open().and_then(|mut diag| diag.list(false)) {
        Ok(listing) => check(
            "sock_diag",
            true,
            &format!("{} connections", listing.connections.len()),
            None,
        ),
        Err(error) => check(
            "sock_diag",
            false,
            &error.to_string(),
            Some("load the modules inet_diag and tcp_diag"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_by_number() {
        assert!(is_recent("6.1.0-42-cloud-amd64"));
        assert!(is_recent("5.10.0-33-amd64"));
        assert!(!is_recent("5.9.16"));
        assert!(!is_recent("5.4.300"));
        assert!(!is_recent("4.19.0"));
        assert!(!is_recent(""));
    }

    #[test]
    fn every_check_that_fails_has_a_remedy() {
        for check in preflight() {
            assert!(check.ok || check.remedy.is_some(), "{check:?}");
            assert!(!check.detail.is_empty(), "{check:?}");
        }
    }
}
