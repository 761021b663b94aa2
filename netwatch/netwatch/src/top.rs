//! `netwatch top`: the running daemon's peers, threads and disks, live.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Read, Write, stdout};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use api::{Client, PeerInfo, PeerState, Reply, Request, StatusReply};
use events::PlanMode;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::cli::Top;
use crate::{show, status};

/// Prints one picture, or shows one after the other until somebody ends it.
pub async fn run(arguments: &Top) -> Result<ExitCode> {
    let socket = status::socket(&arguments.socket, &arguments.configured)?;
    let mut client = Client::connect(&socket).await?;
    if arguments.once || !stdout().is_terminal() {
        let now = ask(&mut client).await?;
        print!("{}", picture(&now, None).join("\n") + "\n");
        return Ok(ExitCode::SUCCESS);
    }
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let screen = Screen::open()?;
    let mut keys = keys();
    let mut before: Option<StatusReply> = None;
    loop {
        let now = ask(&mut client).await?;
        screen.draw(&picture(&now, before.as_ref()))?;
        before = Some(now);
        let next = tokio::time::sleep(Duration::from_secs(arguments.interval.max(1)));
        tokio::pin!(next);
        loop {
            tokio::select! {
                () = &mut next => break,
                _ = terminate.recv() => return Ok(ExitCode::SUCCESS),
                _ = interrupt.recv() => return Ok(ExitCode::SUCCESS),
                Some(key) = keys.recv() => match key {
                    b'q' | b'Q' | 3 => return Ok(ExitCode::SUCCESS),
                    _ => {}
                },
            }
        }
    }
}

async fn ask(client: &mut Client) -> Result<StatusReply> {
    match client.request(&Request::Status).await? {
        Reply::Status(status) => Ok(*status),
        _ => bail!("the daemon answered something else"),
    }
}

/// Keys as they are pressed. The thread ends with the process.
fn keys() -> mpsc::Receiver<u8> {
    let (pressed, keys) = mpsc::channel(16);
    std::thread::spawn(move || {
        for key in std::io::stdin().lock().bytes().map_while(Result::ok) {
            if pressed.blocking_send(key).is_err() {
                return;
            }
        }
    });
    keys
}

/// The other screen of the terminal, with keys read one by one. Dropping it restores everything.
struct Screen {
    before: Option<libc::termios>,
}

impl Screen {
    fn open() -> Result<Self> {
        // SAFETY: termios is plain numbers, and tcgetattr fills it in.
        let before = unsafe {
            let mut settings: libc::termios = std::mem::zeroed();
            (libc::tcgetattr(libc::STDIN_FILENO, &raw mut settings) == 0).then_some(settings)
        };
        if let Some(mut settings) = before {
            settings.c_lflag &= !(libc::ICANON | libc::ECHO);
            set(&settings);
        }
        let screen = Self { before };
        write!(stdout(), "\x1b[?1049h\x1b[?25l").context("cannot write to the terminal")?;
        Ok(screen)
    }

    /// Replaces what is shown, cut to the terminal's size.
    fn draw(&self, lines: &[String]) -> Result<()> {
        let (rows, columns) = size();
        let mut out = String::from("\x1b[H");
        for (row, line) in lines.iter().take(rows).enumerate() {
            if row > 0 {
                out.push_str("\r\n");
            }
            out.extend(line.chars().filter(|c| !c.is_control()).take(columns));
            out.push_str("\x1b[K");
        }
        out.push_str("\x1b[J");
        let mut to = stdout().lock();
        to.write_all(out.as_bytes())
            .and_then(|()| to.flush())
            .context("cannot write to the terminal")
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            set(before);
        }
        // A terminal that is gone needs no restoring.
        let _ = write!(stdout(), "\x1b[?25h\x1b[?1049l");
        let _ = stdout().flush();
    }
}

fn set(settings: &libc::termios) {
    // SAFETY: the pointer is to settings that live as long as the call.
    unsafe { libc::tcsetattr(libc::STDIN_FILENO, libc::TCSANOW, settings) };
}

/// Rows and columns.
fn size() -> (usize, usize) {
    // SAFETY: winsize is plain numbers, and the call fills it in.
    let found = unsafe {
        let mut size: libc::winsize = std::mem::zeroed();
        (libc::ioctl(libc::STDOUT_FILENO, libc::TIOCGWINSZ, &raw mut size) == 0).then_some(size)
    };
    match found {
        Some(size) if size.ws_row > 0 && size.ws_col > 0 => {
            (size.ws_row.into(), size.ws_col.into())
        }
        _ => (24, 80),
    }
}

/// What is shown; with the picture before, retransmissions since then too.
fn picture(now: &StatusReply, before: Option<&StatusReply>) -> Vec<String> {
    let open = now.incidents.iter().filter(|i| i.resolved_at.is_none());
    let mut lines = vec![format!(
        "netwatch {} on {}  up {:.0} s  {}{}  {} open incidents  {} peers",
        now.version,
        now.host,
        now.uptime.as_secs_f64(),
        match now.mode {
            PlanMode::Shadow => "shadow mode",
            PlanMode::Act => "acts",
        },
        if now.kill_switch { ", KILL SWITCH" } else { "" },
        open.count(),
        now.peers.len(),
    )];
    match &now.kernel.off {
        Some(why) => lines.push(format!("kernel probes all off: {why}")),
        None => lines.extend(show::collector(&now.kernel, &now.counters)),
    }
    lines.push(String::new());
    lines.push(format!(
        "{:<39} {:<8} {:>4} {:>8} {:>8} {:>8} {:>7} {:>6} {}",
        "peer", "state", "conn", "rtt 50%", "99%", "usual", "retrans", "since", "process"
    ));
    let was: BTreeMap<_, u64> = before
        .iter()
        .flat_map(|before| &before.peers)
        .map(|peer| (peer.peer, retransmits(peer)))
        .collect();
    let mut peers: Vec<&PeerInfo> = now.peers.iter().collect();
    peers.sort_by_key(|peer| (rank(peer), peer.peer));
    for peer in peers {
        let rtt = show::rtt(&now.kernel, peer);
        let total = retransmits(peer);
        let since = was.get(&peer.peer).map(|was| total.saturating_sub(*was));
        lines.push(format!(
            "{:<39} {:<8} {:>4} {:>8} {:>8} {:>8} {:>7} {:>6} {}",
            peer.peer.to_string(),
            show::state(peer.state),
            peer.connections,
            show::ms_or_dash(rtt.map(|rtt| rtt.p50).or(peer.srtt)),
            show::ms_or_dash(rtt.map(|rtt| rtt.p99)),
            show::ms_or_dash(peer.baseline) + if peer.rtt_spike { "!" } else { "" },
            total,
            since.map_or_else(String::new, |since| format!("+{since}")),
            peer.owner
                .as_ref()
                .map_or_else(String::new, |owner| format!("{} {}", owner.comm, owner.pid)),
        ));
    }
    for more in [
        show::threads(&now.kernel, 10),
        show::udp(&now.kernel, 10),
        show::disks(&now.kernel),
    ] {
        if !more.is_empty() {
            lines.push(String::new());
            lines.extend(more);
        }
    }
    lines
}

/// Trouble first.
fn rank(peer: &PeerInfo) -> u8 {
    match (peer.state, peer.rtt_spike) {
        (PeerState::Overdue, _) => 0,
        (_, true) => 1,
        (PeerState::Opening, _) => 2,
        (PeerState::Up, _) => 3,
        (PeerState::Down, _) => 4,
    }
}

fn retransmits(peer: &PeerInfo) -> u64 {
    peer.retransmits.values().sum()
}
