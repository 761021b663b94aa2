//! Attaching: each probe on the best rung that this kernel offers, or on the one that is asked for.

use aya::Ebpf;
use aya::programs::kprobe::KProbeLink;
use aya::programs::links::FdLink;
use aya::programs::perf_event::{
    PerfEventConfig, PerfEventLink, PerfEventScope, SamplePolicy, SoftwareEvent,
};
use aya::programs::{BtfTracePoint, FEntry, FExit, KProbe, PerfEvent, Program, ProgramError};

use crate::btf::Btf;
use crate::kernel::describe;
use crate::link;
use crate::lockdown;
use crate::offsets::Offsets;
use crate::probes::{Attachment, Hook, Probe, Rung};
use crate::{ProbeReport, Settings};

/// A link that lives as long as this.
#[derive(Debug)]
pub enum Held {
    /// The kernel's own.
    Link {
        /// Detaches when it is dropped.
        link: FdLink,
    },
    /// A kprobe of a kernel that has no links for it (before 5.15).
    Event {
        /// Detaches when it is dropped.
        #[allow(dead_code)]
        link: KProbeLink,
    },
    /// A timer of such a kernel.
    Timer {
        /// Detaches when it is dropped.
        #[allow(dead_code)]
        link: PerfEventLink,
    },
}

/// Attaches a probe. Returns what became of it, and what holds it.
pub fn attach(
    probe: &Probe,
    settings: &Settings,
    btf: &Btf,
    offsets: &Offsets,
    ebpf: &mut Ebpf,
    kernel_btf: &aya::Btf,
) -> (ProbeReport, Vec<Held>) {
    let report = |rung: Option<&Rung>, hook, reason| ProbeReport {
        name: probe.name,
        asked: (probe.wanted)(settings),
        hook,
        rung: rung.map(|rung| rung.kind),
        reason,
    };
    if !(probe.wanted)(settings) {
        let reason = "not asked for by the configuration".to_owned();
        return (report(None, None, reason), Vec::new());
    }
    let mut reasons = probe.missing_fields(offsets);
    if reasons.is_empty() {
        let forced = settings.force.get(probe.name);
        for rung in probe.rungs {
            if forced.is_some_and(|kind| *kind != rung.kind) {
                continue;
            }
            match rung
                .check(btf)
                .and_then(|()| attach_rung(rung, btf, ebpf, kernel_btf))
            {
                Ok((hook, links)) => {
                    if !rung.loss.is_empty() {
                        tracing::info!(
                            probe = probe.name,
                            hook,
                            unseen = rung.loss,
                            "probe is on a lesser hook"
                        );
                        reasons.push(format!("unseen: {}", rung.loss));
                    }
                    return (report(Some(rung), Some(hook), reasons.join("; ")), links);
                }
                Err(reason) => {
                    let reason = lockdown::explain(rung, reason);
                    reasons.push(format!("{}: {reason}", rung.hook()));
                }
            }
        }
        if let (Some(kind), true) = (forced, reasons.is_empty()) {
            reasons.push(format!("it has no rung {kind:?}"));
        }
    }
    tracing::warn!(
        probe = probe.name,
        reason = reasons.join("; "),
        unseen = probe.loss,
        "probe is off"
    );
    let reason = format!("{}; unseen: {}", reasons.join("; "), probe.loss);
    (report(None, None, reason), Vec::new())
}

/// Attaches all programs of a rung, and says by the kernel's own word what they are attached to.
fn attach_rung(
    rung: &Rung,
    btf: &Btf,
    ebpf: &mut Ebpf,
    kernel_btf: &aya::Btf,
) -> Result<(String, Vec<Held>), String> {
    let mut hooks = Vec::new();
    let mut links = Vec::new();
    for attachment in rung.attachments {
        match attach_one(attachment, btf, ebpf, kernel_btf) {
            Ok((hook, held)) => {
                hooks.push(hook);
                links.push(held);
            }
            Err(reason) => {
                drop(links);
                for attachment in rung.attachments {
                    unload(ebpf, attachment.program);
                }
                return Err(reason);
            }
        }
    }
    Ok((hooks.join(" + "), links))
}

fn attach_one(
    attachment: &Attachment,
    btf: &Btf,
    ebpf: &mut Ebpf,
    kernel_btf: &aya::Btf,
) -> Result<(String, Held), String> {
    let name = attachment.program;
    let program = ebpf
        .program_mut(name)
        .ok_or_else(|| format!("the object has no program {name}"))?;
    let held = hold(program, attachment.hook, kernel_btf).map_err(|error| describe(&error))?;
    let own = program.info().map_err(|error| describe(&error))?.id();
    match &held {
        Held::Link { link } => {
            let id = link.info().map_err(|error| describe(&error))?.id();
            let told = link::told(id, btf).map_err(|error| error.to_string())?;
            if told.program != own {
                return Err(format!(
                    "the link holds program {}, not {own}",
                    told.program
                ));
            }
            let hook = told
                .hook
                .unwrap_or_else(|| format!("{} (this kernel tells no name)", attachment.hook));
            Ok((hook, held))
        }
        Held::Event { .. } | Held::Timer { .. } => Ok((
            format!("{} (by a perf event, which tells no name)", attachment.hook),
            held,
        )),
    }
}

fn hold(program: &mut Program, hook: Hook, btf: &aya::Btf) -> Result<Held, ProgramError> {
    Ok(match hook {
        Hook::TpBtf(tracepoint) => {
            let program: &mut BtfTracePoint = program.try_into()?;
            program.load(tracepoint, btf)?;
            let id = program.attach()?;
            Held::Link {
                link: program.take_link(id)?.into(),
            }
        }
        Hook::Fentry(function) => {
            let program: &mut FEntry = program.try_into()?;
            program.load(function, btf)?;
            let id = program.attach()?;
            Held::Link {
                link: program.take_link(id)?.into(),
            }
        }
        Hook::Fexit(function) => {
            let program: &mut FExit = program.try_into()?;
            program.load(function, btf)?;
            let id = program.attach()?;
            Held::Link {
                link: program.take_link(id)?.into(),
            }
        }
        Hook::Kprobe(function) => {
            let program: &mut KProbe = program.try_into()?;
            program.load()?;
            let id = program.attach(function, 0)?;
            let link = program.take_link(id)?;
            match FdLink::try_from(link) {
                Ok(link) => Held::Link { link },
                // Consumed by the attempt; attach once more and keep it as it is.
                Err(_) => {
                    let id = program.attach(function, 0)?;
                    Held::Event {
                        link: program.take_link(id)?,
                    }
                }
            }
        }
        Hook::CpuClock(hertz) => {
            let program: &mut PerfEvent = program.try_into()?;
            program.load()?;
            let cpu = aya::util::online_cpus()
                .ok()
                .and_then(|cpus| cpus.first().copied())
                .unwrap_or(0);
            let mut attach = || {
                let id = program.attach(
                    PerfEventConfig::Software(SoftwareEvent::CpuClock),
                    PerfEventScope::AllProcessesOneCpu { cpu },
                    SamplePolicy::Frequency(hertz),
                    false,
                )?;
                program.take_link(id)
            };
            match FdLink::try_from(attach()?) {
                Ok(link) => Held::Link { link },
                Err(_) => Held::Timer { link: attach()? },
            }
        }
    })
}

/// A program of a rung that did not hold stays out of the kernel.
fn unload(ebpf: &mut Ebpf, name: &str) {
    let Some(program) = ebpf.program_mut(name) else {
        return;
    };
    let result = match program {
        Program::BtfTracePoint(program) => program.unload(),
        Program::FEntry(program) => program.unload(),
        Program::FExit(program) => program.unload(),
        Program::KProbe(program) => program.unload(),
        Program::PerfEvent(program) => program.unload(),
        _ => Ok(()),
    };
    if let Err(error) = result {
        // It was not loaded.
        tracing::trace!(program = name, %error, "not unloaded");
    }
}
