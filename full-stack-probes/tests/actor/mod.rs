//! Another process: a copy of this test's binary under a name of its own, told line by line what to
//! do with its sockets. It is in the network namespace of the thread that starts it.

use std::fs;
use std::io::{BufRead, BufReader, Write, stdin};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};

const ROLE: &str = "NETWATCH_TEST_TCP_ACTOR";
const MARK: &str = "answer> ";

pub struct Actor {
    child: Child,
    answers: BufReader<ChildStdout>,
    folder: PathBuf,
}

impl Actor {
    pub fn spawn(name: &str) -> Self {
        let folder =
            std::env::temp_dir().join(format!("netwatch-actor-{}-{name}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let file = folder.join(name);
        fs::copy(std::env::current_exe().unwrap(), &file).unwrap();
        let mut child = Command::new(&file)
            .args(["--exact", "actor", "--nocapture", "--test-threads=1"])
            .env(ROLE, "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let answers = BufReader::new(child.stdout.take().unwrap());
        Self {
            child,
            answers,
            folder,
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Gives an order and returns the answer.
    pub fn tell(&mut self, order: &str) -> String {
        writeln!(self.child.stdin.as_mut().unwrap(), "{order}").unwrap();
        loop {
            let mut line = String::new();
            assert_ne!(self.answers.read_line(&mut line).unwrap(), 0, "it ended");
            // The test harness says something as well.
            if let Some((_, answer)) = line.trim_end().split_once(MARK) {
                return answer.to_owned();
            }
        }
    }
}

impl Drop for Actor {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// The other side: does what it is told until nobody tells it any more. Nothing, where this is not
/// such a process.
pub fn play() {
    if std::env::var_os(ROLE).is_none() {
        return;
    }
    let mut streams: Vec<TcpStream> = Vec::new();
    let mut listeners: Vec<TcpListener> = Vec::new();
    for line in stdin().lines() {
        let line = line.unwrap();
        let (order, rest) = line.split_once(' ').unwrap_or((&line, ""));
        let answer = match order {
            "connect" => {
                let stream = TcpStream::connect(rest.parse::<SocketAddr>().unwrap()).unwrap();
                let local = stream.local_addr().unwrap();
                streams.push(stream);
                local.to_string()
            }
            "listen" => {
                let listener = TcpListener::bind(rest.parse::<SocketAddr>().unwrap()).unwrap();
                let local = listener.local_addr().unwrap();
                listeners.push(listener);
                local.to_string()
            }
            "send" => {
                let bytes = vec![7u8; rest.parse().unwrap()];
                streams.last_mut().unwrap().write_all(&bytes).unwrap();
                "sent".to_owned()
            }
            other => panic!("{other} is no order"),
        };
        println!("\n{MARK}{answer}");
    }
}
