//! `netwatch doctor`: what will work on this host, each failure with its remedy.

use std::process::ExitCode;

use anyhow::Result;
use config::Config;
use full_stack_probes::{Collector, ProbeReport};
use serde::Serialize;

use crate::cli::Doctor;
use crate::wiring;

#[derive(Debug, Serialize)]
struct Check {
    subject: String,
    ok: bool,
    /// Nothing asks for it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    unasked: bool,
    detail: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<String>,
}

/// Checks and prints.
pub fn run(arguments: &Doctor) -> Result<ExitCode> {
    let config = wiring::load(arguments.configured.config.as_deref())?;
    let mut checks = Vec::new();
    if config.tcp.ebpf {
        kernel(&config, &mut checks);
    }
    if !config.egress.is_empty() {
        egresses(&config, &mut checks);
    }
    bgp(&config, &mut checks);
    pager(&config, &mut checks);
    directories(&config, &mut checks);
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&checks)?);
    } else {
        for check in &checks {
            println!(
                "{} {:<44} {}",
                match (check.ok, check.unasked) {
                    (true, false) => "ok  ",
                    (true, true) => "--  ",
                    (false, _) => "FAIL",
                },
                check.subject,
                check.detail
            );
            if let Some(remedy) = &check.remedy {
                println!("     remedy: {remedy}");
            }
        }
    }
    let failed = checks.iter().filter(|check| !check.ok).count();
    if failed > 0 && !arguments.json {
        println!("\n{failed} of {} checks failed", checks.len());
    }
    Ok(if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// With the privileges for it each probe is really attached for a moment, and the kernel asked what
/// it holds; without them its type information says what to expect.
fn kernel(config: &Config, checks: &mut Vec<Check>) {
    let settings = wiring::collector(config, &[]);
    let (promised, others): (Vec<_>, Vec<_>) = full_stack_probes::preflight_for(&settings)
        .into_iter()
        .partition(|check| check.name.starts_with("probe."));
    let privileged = others
        .iter()
        .any(|check| check.name == "privileges" && check.ok);
    checks.extend(others.into_iter().map(found));
    if !privileged {
        checks.extend(promised.into_iter().map(|mut check| {
            check.detail = format!("expected: {}", check.detail);
            found(check)
        }));
        return;
    }
    match Collector::start(settings) {
        Ok(collector) => {
            checks.extend(collector.report().iter().map(attached));
            let memory = collector.memory_bytes();
            checks.push(Check {
                subject: "kernel memory".to_owned(),
                detail: format!("{memory} bytes for programs and maps"),
                ..Check::ok()
            });
        }
        Err(error) => {
            checks.push(Check {
                subject: "probes".to_owned(),
                ok: false,
                detail: format!("none can be attached: {error}"),
                remedy: Some(
                    "the sentence above names it; else report the kernel's version".to_owned(),
                ),
                ..Check::ok()
            });
            checks.extend(promised.into_iter().map(found));
        }
    }
    for device in &config.block.devices {
        let there = std::path::Path::new("/sys/block").join(device).exists();
        checks.push(Check {
            subject: format!("block.devices {device}"),
            ok: there,
            detail: if there {
                "there"
            } else {
                "no whole disk has this name now"
            }
            .to_owned(),
            remedy: (!there)
                .then(|| "correct `block.devices`: `lsblk -d` lists the disks".to_owned()),
            ..Check::ok()
        });
    }
}

fn found(check: full_stack_probes::Check) -> Check {
    Check {
        unasked: check.detail.contains("not asked for"),
        subject: check.name,
        ok: check.ok,
        detail: check.detail,
        remedy: check.remedy,
    }
}

fn attached(report: &ProbeReport) -> Check {
    let ok = report.hook.is_some() || !report.asked;
    let detail = match &report.hook {
        Some(hook) if report.reason.is_empty() => hook.clone(),
        Some(hook) => format!("{hook}; {}", report.reason),
        None => report.reason.clone(),
    };
    let is_denied = ["EPERM", "permitted", "Permission denied"]
        .iter()
        .any(|word| report.reason.contains(word));
    Check {
        subject: format!("probe.{}", report.name),
        ok,
        unasked: !report.asked,
        detail,
        remedy: (!ok).then(|| {
            if is_denied {
                "run as root, or grant CAP_BPF and CAP_PERFMON; see kernel.perf_event_paranoid and lockdown".to_owned()
            } else {
                "a newer kernel, or one with BTF, tracepoints and kprobes built in; netwatch runs without this probe".to_owned()
            }
        }),
    }
}

impl Check {
    /// All is well.
    fn ok() -> Self {
        Self {
            subject: String::new(),
            ok: true,
            unasked: false,
            detail: String::new(),
            remedy: None,
        }
    }
}

fn egresses(config: &Config, checks: &mut Vec<Check>) {
    match probing::check(&wiring::prober(config)) {
        Ok(found) => checks.extend(found.into_iter().map(|check| {
            let problem = check.problem.as_deref();
            // The prober says both in one sentence: what is wrong; what to do.
            let (detail, remedy) = match problem.map(|text| text.split_once("; ").ok_or(text)) {
                None => ("", None),
                Some(Ok((detail, remedy))) => (detail, Some(remedy)),
                Some(Err(detail)) => (detail, None),
            };
            Check {
                subject: check.subject,
                ok: problem.is_none(),
                detail: detail.to_owned(),
                remedy: remedy.map(str::to_owned),
                ..Check::ok()
            }
        })),
        Err(error) => checks.push(Check {
            subject: "egresses".to_owned(),
            ok: false,
            detail: format!("the kernel cannot be asked: {error}"),
            remedy: Some("run as root".to_owned()),
            ..Check::ok()
        }),
    }
}

/// Whether the listening addresses can be had: by the daemon that runs already, or by a new one.
fn bgp(config: &Config, checks: &mut Vec<Check>) {
    let Some(bgp) = &config.bgp else { return };
    let stations = bgp.bmp.iter().flat_map(|bmp| &bmp.listen);
    let listen = bgp.listen.iter().map(|listen| ("bgp.listen", listen));
    for (key, listen) in listen.chain(stations.map(|listen| ("bgp.bmp.listen", listen))) {
        let error = std::net::TcpListener::bind(listen).err();
        let in_use = error
            .as_ref()
            .is_some_and(|e| e.kind() == std::io::ErrorKind::AddrInUse);
        checks.push(Check {
            subject: format!("{key} {listen}"),
            ok: error.is_none() || in_use,
            detail: match &error {
                None => "free".to_owned(),
                Some(_) if in_use => {
                    "in use: by netwatch itself, if it runs; see `ss -ltnp`".to_owned()
                }
                Some(error) => error.to_string(),
            },
            remedy: (error.is_some() && !in_use)
                .then(|| "give CAP_NET_BIND_SERVICE, or correct the address".to_owned()),
            ..Check::ok()
        });
    }
}

fn pager(config: &Config, checks: &mut Vec<Check>) {
    let Some(pager) = &config.pager else { return };
    let key = pager.routing_key.resolve();
    checks.push(Check {
        subject: "pager key".to_owned(),
        ok: key.is_ok(),
        detail: key
            .err()
            .map_or_else(|| "32 characters".to_owned(), |error| error.to_string()),
        ..Check::ok()
    });
    checks.push(Check {
        subject: "pager".to_owned(),
        ok: true,
        detail: format!("{}; try it: netwatch page --test", pager.url),
        ..Check::ok()
    });
}

fn directories(config: &Config, checks: &mut Vec<Check>) {
    for (key, path) in [
        ("host.state_dir", &config.host.state_dir),
        ("host.runtime_dir", &config.host.runtime_dir),
    ] {
        // The nearest directory that exists is the one that must be writable.
        let Some(existing) = path.ancestors().find(|ancestor| ancestor.is_dir()) else {
            continue;
        };
        let writable = nix::unistd::access(existing, nix::unistd::AccessFlags::W_OK);
        checks.push(Check {
            subject: key.to_owned(),
            ok: writable.is_ok(),
            detail: path.display().to_string(),
            remedy: writable
                .err()
                .map(|error| format!("{}: {error}; run as root, or set {key}", existing.display())),
            ..Check::ok()
        });
    }
}
