//! The guest's side: its first program, which runs the jobs and tells of each, and the reader of
//! what it tells.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::Result;

use super::archive::Archive;
use super::job::{Job, Outcome};
use super::modules::{self, Module};

/// Commands of busybox that the guest offers. `ip` and `tc` are the real ones.
const COMMANDS: &[&str] = &[
    "sh", "cat", "chmod", "cp", "dd", "dmesg", "echo", "env", "false", "grep", "head", "insmod",
    "kill", "ls", "mkdir", "mount", "mv", "nproc", "reboot", "rm", "rmdir", "rmmod", "sed",
    "sleep", "stty", "sync", "tail", "test", "timeout", "tr", "true", "umount", "uname", "wc",
];

/// The first program. The markers carry a word that no output knows, so that only they count.
const INIT: &str = r#"#!/bin/sh
export PATH=/sbin:/usr/sbin:/bin:/usr/bin HOME=/root
mount -t proc none /proc
mount -t sysfs none /sys
mount -t devtmpfs none /dev
mount -t tmpfs none /tmp
mount -t tmpfs none /run
mount -t securityfs none /sys/kernel/security
mount -t cgroup2 none /sys/fs/cgroup
mount -t bpf none /sys/fs/bpf
mount -t tracefs none /sys/kernel/tracing
mount -t debugfs none /sys/kernel/debug
mkdir -p /dev/shm
mount -t tmpfs none /dev/shm
word=none
for option in $(cat /proc/cmdline); do
  case $option in
    netwatch.word=*) word=${option#*=} ;;
  esac
done
stty -F /dev/ttyS1 raw -echo
exec 3>/dev/ttyS1
while read -r name; do
  insmod /modules/$name.ko || echo "module $name cannot be loaded" >&3
done </modules/order
/sbin/ip link set lo up
. /environment
while read -r number limit; do
  read -r start rest </proc/uptime
  echo "@$word start $number $start" >&3
  timeout -s KILL $limit sh /jobs/$number >/tmp/output 2>&1 </dev/null 3>&-
  code=$?
  read -r end rest </proc/uptime
  tail -c 30000 /tmp/output >&3
  echo >&3
  echo "@$word end $number $code $end" >&3
done </jobs/list
echo "@$word done" >&3
sync
sleep 1
reboot -f
"#;

/// An archive with everything but the programs under test.
pub fn base(busybox: &Path, modules: &[Module], loaded: &[&str]) -> Result<Archive> {
    let mut archive = Archive::new();
    archive.copy(busybox, "/bin/busybox")?;
    for name in COMMANDS {
        archive.link(format!("/bin/{name}"), "busybox");
    }
    for module in modules {
        archive.put(format!("/modules/{}.ko", module.name), &module.content);
    }
    let order: String = modules::needed(modules, loaded)
        .iter()
        .map(|module| format!("{}\n", module.name))
        .collect();
    archive.put("/modules/order", order.as_bytes());
    archive.put("/init", INIT.as_bytes());
    archive.put(
        "/etc/passwd",
        b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
    );
    archive.put("/etc/hosts", b"127.0.0.1 localhost\n::1 localhost\n");
    Ok(archive)
}

/// The jobs, and variables for all of them.
pub fn add_jobs(archive: &mut Archive, jobs: &[Job], environment: &[(&str, &str)]) {
    let mut list = String::new();
    for (number, job) in jobs.iter().enumerate() {
        let _ = writeln!(list, "{number} {}", job.limit);
        archive.put(format!("/jobs/{number}"), job.script.as_bytes());
    }
    archive.put("/jobs/list", list.as_bytes());
    let environment: String = environment
        .iter()
        .map(|(name, value)| format!("export {name}={value}\n"))
        .collect();
    archive.put("/environment", environment.as_bytes());
}

/// Reads what a guest tells, as it comes.
#[derive(Debug)]
pub struct Reader<'a> {
    jobs: &'a [Job],
    word: String,
    line: Vec<u8>,
    running: Option<(usize, f64, String)>,
    /// What ended, in order.
    pub outcomes: Vec<Outcome>,
    /// Every job was told of.
    pub done: bool,
    /// What was printed outside of jobs: modules that could not be loaded.
    pub remarks: Vec<String>,
}

impl<'a> Reader<'a> {
    /// For these jobs, whose markers carry this word.
    pub fn new(jobs: &'a [Job], word: &str) -> Self {
        Self {
            jobs,
            word: format!("@{word} "),
            line: Vec::new(),
            running: None,
            outcomes: Vec::new(),
            done: false,
            remarks: Vec::new(),
        }
    }

    /// More came.
    pub fn feed(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            if byte == b'\n' {
                let line = String::from_utf8_lossy(&self.line).into_owned();
                self.line.clear();
                self.read(line.trim_end_matches('\r'));
            } else {
                self.line.push(byte);
            }
        }
    }

    fn read(&mut self, line: &str) {
        let Some(marker) = line.strip_prefix(&self.word) else {
            match &mut self.running {
                Some((.., output)) => {
                    output.push_str(line);
                    output.push('\n');
                }
                None if line.contains("cannot be loaded") => self.remarks.push(line.to_owned()),
                None => {}
            }
            return;
        };
        let words: Vec<&str> = marker.split(' ').collect();
        match words[..] {
            ["start", number, at] => {
                if let (Ok(number), Ok(at)) = (number.parse(), at.parse()) {
                    self.running = Some((number, at, String::new()));
                }
            }
            ["end", number, code, at] => {
                if let Some((running, start, output)) = self.running.take()
                    && number.parse() == Ok(running)
                    && let Some(job) = self.jobs.get(running)
                {
                    self.outcomes.push(Outcome {
                        name: job.name.clone(),
                        code: code.parse().ok(),
                        output: output.trim_end().to_owned(),
                        seconds: at.parse::<f64>().map_or(0.0, |at| at - start),
                    });
                }
            }
            ["done"] => self.done = true,
            _ => {}
        }
    }

    /// The machine stopped: what was running and what never ran count as not ended.
    pub fn finish(mut self, why: &str) -> Vec<Outcome> {
        let running = self.running.take();
        for (number, job) in self.jobs.iter().enumerate() {
            if self.outcomes.iter().any(|outcome| outcome.name == job.name) {
                continue;
            }
            let output = match &running {
                Some((at, _, output)) if *at == number => format!("{output}{why}"),
                _ => format!("never ran: {why}"),
            };
            self.outcomes.push(Outcome {
                name: job.name.clone(),
                code: None,
                output,
                seconds: 0.0,
            });
        }
        self.outcomes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn jobs() -> Vec<Job> {
        ["one", "two", "three"]
            .map(|name| Job {
                name: name.to_owned(),
                limit: 1,
                script: String::new(),
            })
            .to_vec()
    }

    #[test]
    fn only_markers_with_the_word_count() {
        let jobs = jobs();
        let mut reader = Reader::new(&jobs, "w1");
        reader.feed(b"boot\r\nmodule x cannot be loaded\n@w1 start 0 1.50\nhel");
        reader.feed(b"lo\n@w2 end 0 0 2.00\n@w1 end 0 3 2.75\n@w1 start 1 3.00\nfoo\n");
        assert_eq!(reader.remarks, ["module x cannot be loaded"]);
        assert!(!reader.done);
        let outcomes = reader.finish("panic");
        let told: Vec<_> = outcomes
            .iter()
            .map(|o| (o.name.as_str(), o.code, o.output.as_str(), o.seconds))
            .collect();
        assert_eq!(
            told,
            [
                ("one", Some(3), "hello\n@w2 end 0 0 2.00", 1.25),
                ("two", None, "foo\npanic", 0.0),
                ("three", None, "never ran: panic", 0.0),
            ]
        );
    }
}
