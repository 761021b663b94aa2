//! The peer: a bpftrace script that collects per connection what the daemon's programs collect on
//! the same two hooks.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use lab::sys;

use crate::bpf::Program;
use crate::daemon::Objects;

/// Per connection, keyed by the socket's cookie: when it last received and sent, its smoothed
/// round-trip time, and what is outstanding.
const SCRIPT: &str = "\
tracepoint:tcp:tcp_probe {
  @received[args->sock_cookie] = (nsecs, args->srtt, args->snd_nxt - args->snd_una);
}
tracepoint:sock:sock_send_length /args->protocol == 6 && args->ret > 0/ {
  $tcp = (struct tcp_sock *)args->sk;
  $cookie = $tcp->inet_conn.icsk_inet.sk.__sk_common.skc_cookie.counter;
  @sent[$cookie] = (nsecs, $tcp->srtt_us, $tcp->snd_nxt - $tcp->snd_una);
}
";

/// The hooks of the script, in its order.
pub const HOOKS: [&str; 2] = ["tcp_probe", "sock_send_length"];

/// Nanoseconds until it is attached; its compiler is slow on a busy machine.
const PATIENCE: u64 = 60_000_000_000;

/// A running script. Dropping it ends it.
pub struct Bpftrace {
    child: Child,
    /// Its programs, in the order of [`HOOKS`].
    pub programs: Vec<Program>,
}

impl Bpftrace {
    /// Starts it and waits until it is attached.
    ///
    /// # Errors
    /// bpftrace is missing, or the kernel refuses the script.
    pub fn start(directory: &Path) -> anyhow::Result<Self> {
        let script = directory.join("peer.bt");
        std::fs::write(&script, SCRIPT)?;
        let log = directory.join("bpftrace.log");
        let out = std::fs::File::create(&log)?;
        // It wants tracefs, which is mounted where nobody else sees it.
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "sh", "-c"])
            .arg(
                "for place in tracing debug; do [ -e /sys/kernel/$place/README ] || \
                 mount -t ${place}fs none /sys/kernel/$place 2>/dev/null; done; \
                 mount -t tracefs none /sys/kernel/tracing 2>/dev/null; exec bpftrace \"$1\"",
            )
            .arg("sh")
            .arg(&script)
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out)
            .process_group(0);
        // SAFETY: prctl is async-signal-safe.
        unsafe {
            command.pre_exec(|| {
                sys::check(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL)).map(drop)
            });
        }
        let child = command.spawn().context("cannot run unshare")?;
        let mut peer = Self {
            child,
            programs: Vec::new(),
        };
        let end = sys::now() + PATIENCE;
        loop {
            let objects = Objects::of(peer.child.id()).unwrap_or_default();
            if objects.programs.len() >= HOOKS.len() {
                // They are loaded in the script's order, attached right after.
                sys::sleep(Duration::from_millis(500))?;
                let ids = objects.programs.keys();
                peer.programs = ids
                    .map(|id| Ok(Program::by_id(u32::try_from(*id)?)?))
                    .collect::<anyhow::Result<_>>()?;
                return Ok(peer);
            }
            let ended = peer.child.try_wait()?;
            if ended.is_some() || sys::now() > end {
                let text = std::fs::read_to_string(&log).unwrap_or_default();
                match ended {
                    Some(status) => bail!("bpftrace ended ({status}): {}", text.trim()),
                    None => bail!("bpftrace does not attach in time: {}", text.trim()),
                }
            }
            sys::sleep(Duration::from_millis(20))?;
        }
    }
}

impl Drop for Bpftrace {
    fn drop(&mut self) {
        // It removes its programs when it is asked to end; the kernel does when it is killed.
        // SAFETY: no pointers; the child is not reaped, so its id is still its own.
        unsafe { libc::kill(self.child.id() as libc::pid_t, libc::SIGTERM) };
        for _ in 0..150 {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
