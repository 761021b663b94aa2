//! What will work on this host, without loading anything.

use std::fs;

use crate::diag::Diag;
use crate::kernel::{netns, read_btf};
use crate::lockdown;
use crate::offsets::Offsets;
use crate::probes::PROBES;

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

/// Looks at everything that collection needs.
#[must_use]
pub fn preflight() -> Vec<Check> {
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
                checks.push(probe_check(probe, &btf, &offsets));
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

fn probe_check(probe: &crate::probes::Probe, btf: &crate::btf::Btf, offsets: &Offsets) -> Check {
    let missing = probe.missing_fields(offsets);
    let found = probe
        .rungs
        .iter()
        .map(|rung| {
            rung.check(btf)?;
            lockdown::permits(rung)?;
            Ok(rung.hook())
        })
        .collect::<Vec<Result<String, String>>>();
    let hook = found.iter().find_map(|rung| rung.as_ref().ok());
    let (ok, detail) = match (missing.is_empty(), hook) {
        (true, Some(hook)) => (true, hook.clone()),
        (true, None) => {
            let reasons: Vec<_> = found.into_iter().filter_map(Result::err).collect();
            (false, reasons.join("; "))
        }
        (false, _) => (false, missing.join("; ")),
    };
    let remedy = if detail.contains(lockdown::REASON) {
        "boot with lockdown=integrity or less"
    } else {
        "a newer kernel"
    };
    let remedy = format!("{remedy}; without it unseen: {}", probe.loss);
    check(&format!("probe.{}", probe.name), ok, &detail, Some(&remedy))
}

fn kernel_version() -> Check {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let release = release.trim();
    check(
        "kernel",
        is_recent(release),
        release,
        Some("Linux 5.10 or later"),
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
        assert!(is_recent("5.10.0-46-cloud-amd64"));
        assert!(!is_recent("5.9"));
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
