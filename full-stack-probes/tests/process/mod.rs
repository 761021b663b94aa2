//! Processes for the tests: this test's own binary again, in another role.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use events::TcpEvent;
use full_stack_probes::{Collector, Handle, Settings, Watch, WatchedProcess, WatchedThread};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use tokio::sync::mpsc::{Receiver, channel};

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// How long anything may take, also under emulation.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs a test alone, or says why it is skipped.
pub fn alone(test: impl FnOnce()) {
    let reason = if !nix::unistd::geteuid().is_root() {
        "not root"
    } else if !Path::new("/sys/kernel/btf/vmlinux").exists() {
        "no BTF"
    } else {
        let _guard: MutexGuard<'_, ()> =
            ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        return test();
    };
    println!("SKIPPED: {reason}");
}

/// A collector that watches processes.
pub struct Watching {
    pub handle: Handle,
    _events: Receiver<Vec<TcpEvent>>,
}

impl Watching {
    pub fn start(watch: Watch) -> Self {
        Self::with(Settings {
            watch,
            ..Settings::default()
        })
    }

    pub fn with(settings: Settings) -> Self {
        let collector = Collector::start(settings).unwrap();
        for report in collector.report() {
            let ours = report.name.starts_with("watch_") || report.name.starts_with("sched_");
            assert!(
                !ours || report.hook.is_some() || report.reason.contains("not asked for"),
                "{report:?}"
            );
        }
        let (sink, events) = channel(1024);
        Self {
            handle: collector.spawn(sink).unwrap(),
            _events: events,
        }
    }

    pub fn named(name: &str) -> Self {
        Self::start(Watch {
            processes: vec![name.to_owned()],
            ..Watch::default()
        })
    }

    pub fn process(&self, pid: u32) -> Option<WatchedProcess> {
        self.handle
            .watched()
            .into_iter()
            .find(|process| process.pid == pid)
    }

    pub fn thread(&self, tid: u32) -> Option<WatchedThread> {
        self.handle
            .threads()
            .into_iter()
            .find(|thread| thread.tid == tid)
    }
}

/// Waits until it is so.
pub fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "{what} does not come");
        thread::sleep(Duration::from_millis(5));
    }
}

/// `voluntary_ctxt_switches` and `nonvoluntary_ctxt_switches`.
pub fn switches(pid: u32, tid: u32) -> (u64, u64) {
    let status = fs::read_to_string(format!("/proc/{pid}/task/{tid}/status")).unwrap();
    let number = |key: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(key));
        line.unwrap().trim().parse().unwrap()
    };
    (
        number("voluntary_ctxt_switches:"),
        number("nonvoluntary_ctxt_switches:"),
    )
}

/// A child that does what it is told, one line at a time, and answers each line with one.
pub struct Actor {
    child: Child,
    answers: BufReader<std::process::ChildStdout>,
    pub pid: u32,
}

static STOP: AtomicBool = AtomicBool::new(false);
/// What a crowd waits for; true: closed.
static GATE: Mutex<bool> = Mutex::new(true);
static OPENED: Condvar = Condvar::new();

const ROLE: &str = "NETWATCH_TEST_ACTOR";

impl Actor {
    /// This test's binary.
    pub fn spawn(name: &str) -> Self {
        Self::spawn_file(&std::env::current_exe().unwrap(), name)
    }

    /// A copy of it, or a link to it.
    pub fn spawn_file(file: &Path, name: &str) -> Self {
        Self::start(Command::new(file), name)
    }

    /// By a command of which only the arguments are missing.
    pub fn start(mut command: Command, name: &str) -> Self {
        let mut child = command
            .args(["--exact", "actor", "--nocapture", "--test-threads=1"])
            .env(ROLE, name)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let answers = BufReader::new(child.stdout.take().unwrap());
        let mut actor = Self {
            pid: child.id(),
            child,
            answers,
        };
        actor.answer();
        actor
    }

    /// Gives an order and returns the answer.
    pub fn tell(&mut self, order: &str) -> String {
        self.order(order);
        self.answer()
    }

    /// Gives an order.
    pub fn order(&mut self, order: &str) {
        let stdin = self.child.stdin.as_mut().unwrap();
        writeln!(stdin, "{order}").unwrap();
    }

    /// Waits for an answer.
    pub fn answer(&mut self) -> String {
        loop {
            let mut line = String::new();
            assert_ne!(self.answers.read_line(&mut line).unwrap(), 0, "it ended");
            // The test harness says something as well.
            if let Some(answer) = line.trim_end().split("> ").nth(1) {
                return answer.to_owned();
            }
        }
    }

    /// Ends it and waits.
    pub fn end(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Actor {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What an actor does. The name is the main thread's, which is the process's.
pub fn act() {
    let Ok(name) = std::env::var(ROLE) else {
        return;
    };
    if !name.is_empty() {
        rename_process(&name);
    }
    let say = |text: &str| {
        let mut out = std::io::stdout();
        writeln!(out, "> {text}").unwrap();
        out.flush().unwrap();
    };
    say("ready");
    for line in std::io::stdin().lines() {
        let line = line.unwrap();
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            // name, CPU, niceness: a thread that keeps a CPU busy until it is told to stop
            ["spin", name, cpu, nice] => {
                let (cpu, nice) = (cpu.parse().unwrap(), nice.parse().unwrap());
                let (told, tid) = std::sync::mpsc::channel();
                thread::Builder::new()
                    .name(name.to_owned())
                    .spawn(move || {
                        pin(cpu);
                        // SAFETY: plain numbers; 0 is this thread.
                        assert_eq!(unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, nice) }, 0);
                        told.send(nix::unistd::gettid().as_raw()).unwrap();
                        while !STOP.load(Ordering::Relaxed) {
                            std::hint::spin_loop();
                        }
                        // Stays, so that its numbers can be compared.
                        thread::sleep(Duration::from_secs(600));
                    })
                    .unwrap();
                say(&tid.recv().unwrap().to_string());
            }
            ["stop"] => {
                STOP.store(true, Ordering::Relaxed);
                *GATE.lock().unwrap() = false;
                OPENED.notify_all();
                say("done");
            }
            // name, count, milliseconds: a thread that sleeps so often
            ["sleep", name, count, millis] => {
                let (count, time): (u32, u64) = (count.parse().unwrap(), millis.parse().unwrap());
                let (told, tid) = std::sync::mpsc::channel();
                thread::Builder::new()
                    .name(name.to_owned())
                    .spawn(move || {
                        told.send(nix::unistd::gettid().as_raw()).unwrap();
                        for _ in 0..count {
                            thread::sleep(Duration::from_millis(time));
                        }
                        thread::sleep(Duration::from_secs(600));
                    })
                    .unwrap();
                say(&tid.recv().unwrap().to_string());
            }
            // count: threads one after the other that end at once
            ["threads", count] => {
                for number in 0..count.parse().unwrap() {
                    thread::Builder::new()
                        .name(format!("short{number}"))
                        .spawn(thread::yield_now)
                        .unwrap()
                        .join()
                        .unwrap();
                }
                say("done");
            }
            // count: threads at once, until they are told to stop
            ["crowd", count] => {
                for _ in 0..count.parse().unwrap() {
                    thread::Builder::new()
                        .name("crowd".to_owned())
                        .stack_size(64 << 10)
                        .spawn(|| {
                            let closed = GATE.lock().unwrap();
                            drop(OPENED.wait_while(closed, |closed| *closed).unwrap());
                        })
                        .unwrap();
                }
                say("done");
            }
            // a child that executes nothing
            ["fork"] => {
                // SAFETY: the child makes plain system calls only.
                let child = unsafe { libc::fork() };
                if child == 0 {
                    // SAFETY: as above.
                    unsafe {
                        libc::sleep(600);
                        libc::_exit(0);
                    }
                }
                say(&child.to_string());
            }
            ["kill", pid] => {
                let pid = Pid::from_raw(pid.parse().unwrap());
                nix::sys::signal::kill(pid, nix::sys::signal::SIGKILL).unwrap();
                nix::sys::wait::waitpid(pid, None).unwrap();
                say("done");
            }
            ["rename", name] => {
                rename_process(name);
                say("done");
            }
            ["exec", file, name] => {
                let error = Command::new(file)
                    .args(["--exact", "actor", "--nocapture", "--test-threads=1"])
                    .env(ROLE, name)
                    .exec();
                say(&error.to_string());
            }
            _ => say("what?"),
        }
    }
    std::process::exit(0);
}

/// The test harness runs tests in threads of its own.
fn rename_process(name: &str) {
    fs::write(format!("/proc/{}/comm", std::process::id()), name).unwrap();
}

/// Keeps this thread on one CPU.
pub fn pin(cpu: usize) {
    let mut set = CpuSet::new();
    set.set(cpu).unwrap();
    sched_setaffinity(Pid::from_raw(0), &set).unwrap();
}
