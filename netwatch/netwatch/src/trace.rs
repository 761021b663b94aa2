//! `netwatch trace`: what the probes see, one line each, without a daemon.

use std::io::{BufWriter, Stdout, Write, stdout};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use events::{BlockRequest, Datagram, Direction, Flow, Message, TcpEvent, TcpEventKind, Timestamp};
use full_stack_probes::{Collector, Handle, KernelRecord, LongWait, Settings, Sinks, Watch};
use nix::errno::Errno;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::cli::{Trace, TraceKind};
use crate::counters::of_collector;
use crate::families::is_loss;

/// Batches that wait to be printed: a terminal is slow.
const BATCHES: usize = 256;
/// How often what is not told by itself is asked for.
const TICK: Duration = Duration::from_millis(200);

/// Loads the probes, prints what they tell, and what was lost.
pub async fn run(arguments: &Trace) -> Result<ExitCode> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let collector = Collector::start(settings(arguments)?)?;
    let names = arguments.kind.probes();
    for report in collector
        .report()
        .iter()
        .filter(|r| names.contains(&r.name))
    {
        match &report.hook {
            Some(hook) if report.reason.is_empty() => eprintln!("{}: {hook}", report.name),
            Some(hook) => eprintln!("{}: {hook}; {}", report.name, report.reason),
            None => eprintln!("{}: off: {}", report.name, report.reason),
        }
    }
    if !collector
        .report()
        .iter()
        .any(|report| names.contains(&report.name) && report.hook.is_some())
    {
        bail!("none of the probes that this needs could be attached; see `netwatch doctor`");
    }
    let (tcp_sink, mut tcp) = mpsc::channel(BATCHES);
    let (record_sink, mut records) = mpsc::channel(BATCHES);
    let handle = collector.spawn_with(Sinks {
        tcp: tcp_sink,
        records: Some(record_sink),
    })?;
    let mut printer = Printer {
        out: BufWriter::new(stdout()),
        json: arguments.json,
        left: arguments.count.unwrap_or(u64::MAX),
        printed: 0,
    };
    let end = tokio::time::sleep(Duration::from_secs(
        arguments.seconds.unwrap_or(u32::MAX).into(),
    ));
    tokio::pin!(end);
    let mut tick = tokio::time::interval(TICK);
    while printer.left > 0 {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            () = &mut end => break,
            Some(batch) = tcp.recv() => if arguments.kind == TraceKind::Tcp {
                batch.iter().try_for_each(|event| printer.tcp(event))?;
            },
            Some(batch) = records.recv() => {
                batch.iter().try_for_each(|record| printer.record(arguments.kind, record))?;
            },
            _ = tick.tick() => {
                if arguments.kind == TraceKind::Sched {
                    handle.long_waits().iter().try_for_each(|wait| printer.wait(wait))?;
                }
                if !handle.is_running() {
                    bail!("the collector's thread ended");
                }
            },
        }
        printer.out.flush()?;
    }
    printer.end(&handle)?;
    Ok(ExitCode::SUCCESS)
}

fn settings(arguments: &Trace) -> Result<Settings> {
    let watches = !arguments.process.is_empty();
    let ports: Vec<u16> = arguments.port.clone();
    match arguments.kind {
        TraceKind::Messages if ports.is_empty() && !watches => {
            bail!(
                "whose messages? name a port of either end (--port 26656) or a process (--process gaiad)"
            )
        }
        TraceKind::Sched | TraceKind::Udp if !watches => {
            bail!("whose threads? name a process (--process gaiad)")
        }
        _ => {}
    }
    let shortest = Duration::from_micros(arguments.over_us.unwrap_or(match arguments.kind {
        TraceKind::Sched => 1_000,
        _ => 0,
    }));
    let messages = arguments.kind == TraceKind::Messages;
    Ok(Settings {
        ports: ports.clone(),
        ignore_loopback: !arguments.loopback,
        watch: Watch {
            processes: arguments.process.clone(),
            consensus_ports: if messages { ports } else { Vec::new() },
            ..Watch::default()
        },
        block: arguments.kind == TraceKind::Block,
        block_slow: shortest,
        long_wait: shortest,
        ..Settings::default()
    })
}

impl TraceKind {
    /// The probes without which there is nothing to see.
    fn probes(self) -> &'static [&'static str] {
        match self {
            Self::Tcp => &[
                "tcp_state",
                "tcp_receive",
                "tcp_send",
                "tcp_retransmit",
                "tcp_synack",
                "tcp_reset_in",
                "tcp_reset_out",
                "tcp_error",
            ],
            Self::Messages => &["tcp_message"],
            Self::Sched => &["sched_switch", "sched_wakeup", "sched_wakeup_new"],
            Self::Block => &["block"],
            Self::Udp => &["udp"],
        }
    }
}

struct Printer {
    out: BufWriter<Stdout>,
    json: bool,
    /// Records that are still asked for.
    left: u64,
    printed: u64,
}

impl Printer {
    fn line(
        &mut self,
        kind: &str,
        at: Timestamp,
        value: &impl Serialize,
        text: &str,
    ) -> Result<()> {
        if self.left == 0 {
            return Ok(());
        }
        self.left -= 1;
        self.printed += 1;
        let time = clock::wall(at);
        if self.json {
            let mut value = serde_json::to_value(value)?;
            if let Some(map) = value.as_object_mut() {
                map.insert("record".to_owned(), kind.into());
                map.insert("time".to_owned(), time.to_string().into());
            }
            writeln!(self.out, "{value}")
        } else {
            let time = time.strftime("%H:%M:%S%.6f");
            writeln!(self.out, "{time} {kind:<8} {text}")
        }
        .context("cannot write to the standard output")
    }

    fn tcp(&mut self, event: &TcpEvent) -> Result<()> {
        let text = format!("{}  {}", flow(&event.flow), what(&event.kind));
        self.line("tcp", event.at, event, &text)
    }

    fn record(&mut self, kind: TraceKind, record: &KernelRecord) -> Result<()> {
        match (kind, record) {
            (TraceKind::Messages, KernelRecord::Message(message)) => {
                self.line("message", message.at, message, &message_text(message))
            }
            (TraceKind::Udp, KernelRecord::Datagram(datagram)) => {
                self.line("udp", datagram.at, datagram, &datagram_text(datagram))
            }
            (TraceKind::Block, KernelRecord::Block(request)) => {
                self.line("block", request.at, request, &block_text(request))
            }
            _ => Ok(()),
        }
    }

    fn wait(&mut self, wait: &LongWait) -> Result<()> {
        let text = format!(
            "{} {}/{} waited {} us for a CPU, {}; on it was {} {}/{}",
            wait.comm,
            wait.pid,
            wait.tid,
            wait.waited.as_micros(),
            if wait.preempted {
                "preempted"
            } else {
                "after its wake-up"
            },
            wait.by_comm,
            wait.by_pid,
            wait.by_tid,
        );
        self.line("sched", wait.at, wait, &text)
    }

    /// How many were printed, and what was lost.
    fn end(&mut self, handle: &Handle) -> Result<()> {
        let mut lost = Vec::new();
        of_collector(handle, &mut |name, value| {
            if value > 0 && is_loss(name) {
                lost.push((name.to_owned(), value));
            }
        });
        if self.json {
            let lost: serde_json::Map<String, Value> = lost
                .into_iter()
                .map(|(name, value)| (name, value.into()))
                .collect();
            let end = json!({"record": "end", "printed": self.printed, "lost": lost});
            writeln!(self.out, "{end}")?;
        } else {
            let lost: Vec<String> = lost
                .into_iter()
                .map(|(name, value)| format!("{name} {value}"))
                .collect();
            let lost = if lost.is_empty() {
                "nothing".to_owned()
            } else {
                lost.join(", ")
            };
            writeln!(self.out, "{} records; lost: {lost}", self.printed)?;
        }
        self.out
            .flush()
            .context("cannot write to the standard output")
    }
}

fn flow(flow: &Flow) -> String {
    format!("{} > {}", flow.local, flow.remote)
}

/// A count of bytes, or why it failed.
fn result(result: Result<u32, i32>, asked: bool) -> String {
    match result {
        Ok(bytes) if asked => format!("{bytes} bytes asked for"),
        Ok(bytes) => format!("{bytes} bytes"),
        Err(errno) => format!("failed with {:?}", Errno::from_raw(errno)),
    }
}

fn message_text(message: &Message) -> String {
    format!(
        "{}  {} {}{}  {} {}/{}",
        flow(&message.flow),
        match message.direction {
            Direction::Send => "sent",
            Direction::Receive => "received",
        },
        result(message.result, message.asked),
        message.took.map_or_else(String::new, |took| format!(
            " in {:.1} us",
            took.as_secs_f64() * 1e6
        )),
        message.comm,
        message.pid,
        message.tid,
    )
}

fn datagram_text(datagram: &Datagram) -> String {
    format!(
        "{} > {}  sent {}  {} {}/{}",
        datagram.local,
        datagram
            .remote
            .map_or_else(|| "?".to_owned(), |remote| remote.to_string()),
        result(datagram.result, datagram.asked),
        datagram.comm,
        datagram.pid,
        datagram.tid,
    )
}

fn block_text(request: &BlockRequest) -> String {
    format!(
        "{} {:?} {} bytes  queue {} us  service {} us{}",
        request.device,
        request.operation,
        request.bytes,
        request
            .queue
            .map_or_else(|| "?".to_owned(), |queue| queue.as_micros().to_string()),
        request.service.as_micros(),
        request.error.map_or_else(String::new, |errno| format!(
            "  {:?}",
            Errno::from_raw(errno)
        )),
    )
}

fn what(kind: &TcpEventKind) -> String {
    let process = |owner: &Option<events::Owner>| {
        owner.as_ref().map_or_else(String::new, |owner| {
            format!("  {} {}", owner.comm, owner.pid)
        })
    };
    match kind {
        TcpEventKind::StateChanged {
            from,
            to,
            error,
            owner,
        } => format!(
            "{from:?} -> {to:?}{}{}",
            error.map_or_else(String::new, |errno| format!(
                " ({:?})",
                Errno::from_raw(errno)
            )),
            process(owner)
        ),
        TcpEventKind::Found { state, owner } => format!("found, {state:?}{}", process(owner)),
        TcpEventKind::Error { errno } => format!("error {:?}", Errno::from_raw(*errno)),
        TcpEventKind::Sample(sample) => {
            let micros = |value: Duration| value.as_micros();
            format!(
                "rtt {} us, smoothed {}, deviation {}, minimum {}{}{}",
                sample
                    .last_rtt
                    .map_or_else(|| "?".to_owned(), |rtt| micros(rtt).to_string()),
                micros(sample.srtt),
                micros(sample.mdev),
                micros(sample.min_rtt),
                if sample.outstanding.is_some() {
                    ", unacknowledged"
                } else {
                    ""
                },
                if sample.zero_window {
                    ", zero window"
                } else {
                    ""
                },
            )
        }
        TcpEventKind::Retransmitted { class } => format!("retransmitted, {class:?}"),
        TcpEventKind::ResetReceived => "reset by the peer".to_owned(),
        TcpEventKind::ResetSent => "reset by this host".to_owned(),
        TcpEventKind::Gone => "gone".to_owned(),
        TcpEventKind::Handshake { took } => format!("established in {} us", took.as_micros()),
        TcpEventKind::Window { closed_for: None } => "the peer closed its window".to_owned(),
        TcpEventKind::Window {
            closed_for: Some(closed_for),
        } => format!(
            "the peer's window was closed for {} us",
            closed_for.as_micros()
        ),
    }
}
