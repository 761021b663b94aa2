//! `netwatch doctor`: what will work on this host, each failure with its remedy.

use std::process::ExitCode;

use anyhow::Result;
use config::Config;
use serde::Serialize;

use crate::cli::Doctor;
use crate::wiring;

#[derive(Debug, Serialize)]
struct Check {
    subject: String,
    ok: bool,
    detail: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<String>,
}

/// Checks and prints.
pub fn run(arguments: &Doctor) -> Result<ExitCode> {
    let config = wiring::load(arguments.configured.config.as_deref())?;
    let mut checks = Vec::new();
    if config.tcp.ebpf {
        kernel(&mut checks);
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
                if check.ok { "ok  " } else { "FAIL" },
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

fn kernel(checks: &mut Vec<Check>) {
    checks.extend(
        full_stack_probes::preflight()
            .into_iter()
            .map(|check| Check {
                subject: check.name,
                ok: check.ok,
                detail: check.detail,
                remedy: check.remedy,
            }),
    );
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
            }
        })),
        Err(error) => checks.push(Check {
            subject: "egresses".to_owned(),
            ok: false,
            detail: format!("the kernel cannot be asked: {error}"),
            remedy: Some("run as root".to_owned()),
        }),
    }
}

/// Whether the listening addresses can be had: by the daemon that runs already, or by a new one.
fn bgp(config: &Config, checks: &mut Vec<Check>) {
    let Some(bgp) = &config.bgp else { return };
    for listen in &bgp.listen {
        let error = std::net::TcpListener::bind(listen).err();
        let in_use = error
            .as_ref()
            .is_some_and(|e| e.kind() == std::io::ErrorKind::AddrInUse);
        checks.push(Check {
            subject: format!("bgp.listen {listen}"),
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
        remedy: None,
    });
    checks.push(Check {
        subject: "pager".to_owned(),
        ok: true,
        detail: format!("{}; try it: netwatch page --test", pager.url),
        remedy: None,
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
        });
    }
}
