//! A host in network namespaces of its own, and the real binary in it.
//!
//! The namespaces have no names: they are open files, so they end with the test, however it ends.
#![allow(dead_code)]

pub mod exposition;

use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

pub const NETWATCH: &str = env!("CARGO_BIN_EXE_netwatch");
/// Nothing here takes longer on a machine that is merely busy.
const PATIENCE: Duration = Duration::from_secs(20);

/// Says why a test does nothing, where it cannot.
pub fn unprivileged() -> bool {
    let skip = !nix::unistd::geteuid().is_root();
    if skip {
        println!("skipped: needs root for network namespaces");
    }
    skip
}

/// Asks again and again until there is an answer.
#[track_caller]
pub fn eventually<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < until, "in vain: {what}");
        std::thread::sleep(Duration::from_millis(25));
    }
}

/// A network namespace.
pub struct Net(File);

impl Net {
    pub fn new() -> Self {
        let file = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("unshare");
            File::open("/proc/thread-self/ns/net").expect("its file")
        })
        .join()
        .expect("thread");
        let net = Self(file);
        net.ip("link set lo up");
        net
    }

    /// Another handle of the same namespace.
    pub fn handle(&self) -> Self {
        Self(self.0.try_clone().expect("clone"))
    }

    /// Runs something in it: sockets stay where they were made.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            scope
                .spawn(|| {
                    setns(self.0.as_fd(), CloneFlags::CLONE_NEWNET).expect("setns");
                    work()
                })
                .join()
                .expect("thread")
        })
    }

    /// A path by which `ip` finds it.
    fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }

    pub fn run(&self, program: &str, arguments: &[&str]) -> String {
        let output = self.inside(|| Command::new(program).args(arguments).output());
        let output = output.expect(program);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{program} {arguments:?}: {error}");
        String::from_utf8(output.stdout).expect("text")
    }

    pub fn ip(&self, arguments: &str) -> String {
        self.run("ip", &arguments.split_whitespace().collect::<Vec<_>>())
    }
}

/// A validator's host with two uplinks to one router, which is also the rest of the world.
///
/// `wan0` 192.0.2.2 (default route, metric 100) to 192.0.2.1; `wan1` 192.0.3.2 (metric 200) to
/// 192.0.3.1; likewise 2001:db8:2::2 and 2001:db8:3::2, to ::1 each; 198.51.100.10 on the host's loopback; 203.0.113.1, .65, .129 and .200 on the router's.
pub struct Host {
    pub net: Net,
    pub router: Net,
    pub directory: tempfile::TempDir,
}

impl Host {
    pub fn new() -> Self {
        let (net, router) = (Net::new(), Net::new());
        for (n, third) in [(0, 2), (1, 3)] {
            net.ip(&format!(
                "link add wan{n} type veth peer name r{n} netns {}",
                router.path()
            ));
            net.ip(&format!("addr add 192.0.{third}.2/24 dev wan{n}"));
            router.ip(&format!("addr add 192.0.{third}.1/24 dev r{n}"));
            for (end, name, last) in [(&net, "wan", 2), (&router, "r", 1)] {
                // No link-local address: nothing that the kernel does in its own time.
                end.ip(&format!("link set {name}{n} addrgenmode none"));
                end.ip(&format!(
                    "addr add 2001:db8:{third}::{last}/64 dev {name}{n} nodad"
                ));
                end.ip(&format!("link set {name}{n} up"));
            }
            net.ip(&format!(
                "route add default via 192.0.{third}.1 metric {}",
                100 * (n + 1)
            ));
            router.ip(&format!(
                "route add 198.51.100.10 via 192.0.{third}.2 metric {}",
                100 * (n + 1)
            ));
        }
        net.ip("addr add 198.51.100.10/32 dev lo");
        for last in [1, 65, 129, 200] {
            router.ip(&format!("addr add 203.0.113.{last}/32 dev lo"));
        }
        let directory = tempfile::Builder::new()
            .prefix("netwatch-test-")
            .tempdir()
            .expect("directory");
        for name in ["run", "lib"] {
            std::fs::create_dir(directory.path().join(name)).expect("directory");
        }
        Self {
            net,
            router,
            directory,
        }
    }

    /// What the daemon sees as `/run`.
    pub fn run_dir(&self) -> PathBuf {
        self.directory.path().join("run")
    }

    /// What the daemon sees as `/var/lib`.
    pub fn lib_dir(&self) -> PathBuf {
        self.directory.path().join("lib")
    }

    /// netwatch in this host: its network, its own `/run` and `/var/lib`.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(NETWATCH);
        command
            .args(arguments)
            .env_remove("NETWATCH_CONFIG")
            .env_remove("RUST_LOG")
            .stdin(Stdio::null());
        let net = self.net.0.try_clone().expect("clone");
        let (run, lib) = (self.run_dir(), self.lib_dir());
        let enter = move || -> nix::Result<()> {
            setns(net.as_fd(), CloneFlags::CLONE_NEWNET)?;
            unshare(CloneFlags::CLONE_NEWNS)?;
            let none = None::<&Path>;
            mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
            mount(Some(&run), "/run", none, MsFlags::MS_BIND, none)?;
            mount(Some(&lib), "/var/lib", none, MsFlags::MS_BIND, none)
        };
        // SAFETY: between fork and exec only system calls are made.
        unsafe { command.pre_exec(move || enter().map_err(Into::into)) };
        command
    }

    /// A command that ends by itself.
    pub fn netwatch(&self, arguments: &[&str]) -> Done {
        Done::of(self.command(arguments).output())
    }

    /// A daemon that answers on its socket.
    pub fn daemon(&self, arguments: &[&str], socket: &Path) -> Daemon {
        let mut daemon = Daemon::spawn(self.command(arguments), self.directory.path());
        eventually("the daemon's socket", || {
            assert!(daemon.ended().is_none(), "{}", daemon.log());
            socket.exists().then_some(())
        });
        eventually("the daemon runs", || {
            assert!(daemon.ended().is_none(), "{}", daemon.log());
            daemon.log().contains("netwatch is running").then_some(())
        });
        daemon
    }

    /// Writes a configuration, and gives its path.
    pub fn write(&self, name: &str, text: &str) -> String {
        let path = self.directory.path().join(name);
        std::fs::write(&path, text).expect("written");
        path.to_str().expect("text").to_owned()
    }
}

/// How a command ended.
#[derive(Debug)]
pub struct Done {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Done {
    pub fn of(output: std::io::Result<Output>) -> Self {
        let output = output.expect("netwatch starts");
        let done = Self {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).expect("text"),
            stderr: String::from_utf8(output.stderr).expect("text"),
        };
        assert!(!done.stderr.contains("panicked"), "{done:#?}");
        done
    }

    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(self.code, Some(0), "{self:#?}");
        self.stdout
    }

    #[track_caller]
    pub fn json(self) -> Value {
        let text = self.ok();
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    /// It failed with exit code 1 and said all of this.
    #[track_caller]
    pub fn fails(self, says: &[&str]) -> String {
        assert_eq!(self.code, Some(1), "{self:#?}");
        for text in says {
            assert!(self.stderr.contains(text), "no {text:?} in {self:#?}");
        }
        self.stderr
    }
}

/// netwatch with no host around it, for what needs none.
pub fn netwatch(arguments: &[&str]) -> Done {
    let mut command = Command::new(NETWATCH);
    command.args(arguments).env_remove("NETWATCH_CONFIG");
    Done::of(command.output())
}

/// A running daemon; dropped, it is killed.
pub struct Daemon {
    child: Child,
    log: PathBuf,
}

impl Daemon {
    pub fn spawn(mut command: Command, directory: &Path) -> Self {
        let log = directory.join("daemon.log");
        let file = File::create(&log).expect("log");
        let child = command
            .stdout(Stdio::null())
            .stderr(file)
            .spawn()
            .expect("netwatch starts");
        Self { child, log }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    pub fn ended(&mut self) -> Option<i32> {
        let status = self.child.try_wait().expect("wait")?;
        Some(
            status
                .code()
                .unwrap_or_else(|| -status.signal().unwrap_or(0)),
        )
    }

    /// SIGTERM, and the exit code.
    pub fn terminate(&mut self) -> i32 {
        let pid = Pid::from_raw(i32::try_from(self.pid()).expect("pid"));
        kill(pid, Signal::SIGTERM).expect("kill");
        let code = eventually("the daemon ends", || self.ended());
        assert!(!self.log().contains("panicked"), "{}", self.log());
        code
    }

    /// Kernel programs that it holds, by id.
    pub fn programs(&self) -> Vec<u32> {
        let mut found = Vec::new();
        let directory = format!("/proc/{}/fdinfo", self.pid());
        for entry in std::fs::read_dir(directory).expect("fdinfo").flatten() {
            let text = std::fs::read_to_string(entry.path()).unwrap_or_default();
            found.extend(
                text.lines()
                    .filter_map(|line| line.strip_prefix("prog_id:"))
                    .filter_map(|id| id.trim().parse::<u32>().ok()),
            );
        }
        found.sort_unstable();
        found.dedup();
        found
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            println!("the daemon's log:\n{}", self.log());
        }
    }
}

/// The kernel has such a BPF program.
pub fn program_exists(id: u32) -> bool {
    const BPF_PROG_GET_FD_BY_ID: libc::c_int = 13;
    let attributes = [id, 0, 0];
    // SAFETY: the kernel reads so many bytes from an array of that size.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_PROG_GET_FD_BY_ID,
            attributes.as_ptr(),
            size_of_val(&attributes),
        )
    };
    if fd >= 0 {
        // SAFETY: the descriptor was just made, and nobody else has it.
        unsafe { libc::close(fd as libc::c_int) };
    }
    fd >= 0
}

/// A GET over plain HTTP: status line and headers, and the body.
pub fn get(net: &Net, address: SocketAddr, path: &str) -> (String, String) {
    let answer = net.inside(|| {
        let mut stream = TcpStream::connect(address).expect("connect");
        stream.set_read_timeout(Some(PATIENCE)).expect("timeout");
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
        )
        .expect("request");
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("answer");
        text
    });
    let (head, body) = answer.split_once("\r\n\r\n").expect("HTTP");
    (head.to_owned(), body.to_owned())
}
