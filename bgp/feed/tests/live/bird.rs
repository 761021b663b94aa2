//! A BIRD of the test's own: no kernel protocol, so that it touches no route of the host.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

pub struct Bird {
    directory: tempfile::TempDir,
    config: String,
    child: Option<Child>,
}

/// One BGP session of the router.
pub struct Session<'a> {
    /// Where the feed listens.
    pub feed: SocketAddr,
    pub feed_as: u32,
    pub local: &'a str,
    pub local_as: u32,
    /// Further options, in BIRD's language.
    pub options: &'a str,
    /// Options of the IPv4 channel.
    pub ipv4: &'a str,
}

impl Session<'_> {
    pub fn config(&self) -> String {
        format!(
            "protocol bgp feed {{
               local {local} as {local_as};
               neighbor {address} port {port} as {feed_as};
               strict bind yes; multihop 2;
               connect delay time 1; connect retry time 1; error wait time 1, 2;
               {options}
               ipv4 {{ import none; {ipv4} }};
               ipv6 {{ import none; export all; next hop address 2001:db8::1; }};
             }}\n",
            local = self.local,
            local_as = self.local_as,
            address = self.feed.ip(),
            port = self.feed.port(),
            feed_as = self.feed_as,
            options = self.options,
            ipv4 = self.ipv4,
        )
    }
}

impl Bird {
    /// Starts BIRD with these protocols.
    pub fn start(protocols: &str) -> Self {
        let config = format!("router id 192.0.2.1;\nprotocol device {{}}\n{protocols}");
        let mut bird = Self {
            directory: tempfile::tempdir().unwrap(),
            config,
            child: None,
        };
        bird.restart();
        bird
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn restart(&mut self) {
        self.kill();
        let (config, socket) = (self.file("bird.conf"), self.file("bird.ctl"));
        std::fs::write(&config, &self.config).unwrap();
        let _ = std::fs::remove_file(&socket);
        let child = Command::new("/usr/sbin/bird")
            .arg("-f")
            .arg("-c")
            .arg(&config)
            .arg("-s")
            .arg(&socket)
            .stdout(Stdio::null())
            .spawn()
            .expect("bird is needed: apt-get install bird2");
        self.child = Some(child);
        let end = Instant::now() + Duration::from_secs(10);
        while !socket.exists() {
            assert!(Instant::now() < end, "bird did not start");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// SIGKILL: no NOTIFICATION is sent.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Runs one command of birdc.
    pub fn control(&self, command: &str) -> String {
        let output = Command::new("/usr/sbin/birdc")
            .arg("-s")
            .arg(self.file("bird.ctl"))
            .args(command.split(' '))
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "birdc {command}: {text}");
        text
    }

    /// Replaces text in the configuration, for the next start.
    pub fn edit(&mut self, from: &str, to: &str) {
        assert!(self.config.contains(from));
        self.config = self.config.replace(from, to);
    }

    /// Replaces text in the configuration and has BIRD read it again.
    pub fn reconfigure(&mut self, from: &str, to: &str) {
        self.edit(from, to);
        std::fs::write(self.file("bird.conf"), &self.config).unwrap();
        let answer = self.control("configure");
        assert!(answer.contains("Reconfig"), "{answer}");
    }
}

impl Drop for Bird {
    fn drop(&mut self) {
        self.kill();
    }
}
