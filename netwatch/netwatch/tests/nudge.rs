//! A connection that was cut off until its retransmission timer was doubled retransmits when it is
//! told to, not when its timer fires (RFC 6069). Needs root and the kernel programs.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::process::Command;
use std::time::Duration;

use events::Prefix;
use full_stack_probes::{Collector, Handle, Settings};
use nix::sched::{CloneFlags, unshare};
use probing::Stalled;

fn sh(script: &str) {
    let output = Command::new("sh").args(["-ec", script]).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{script}\n{errors}");
}

/// `tcpi_backoff` and `tcpi_total_retrans`.
fn retransmissions(stream: &TcpStream) -> (u8, u32) {
    let mut info = [0u8; 104];
    let mut length = info.len() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes into `info`.
    let result = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    assert_eq!(result, 0);
    let total = u32::from_ne_bytes(info[100..104].try_into().unwrap());
    (info[4], total)
}

fn backed_off(collector: &Handle, to: SocketAddr) -> Vec<Stalled> {
    collector
        .backed_off(&[Prefix::from(to.ip())])
        .unwrap()
        .iter()
        .map(|one| Stalled {
            local: one.flow.local,
            remote: one.flow.remote,
            unacknowledged: one.unacknowledged,
            doublings: one.doublings,
        })
        .collect()
}

#[test]
fn a_backed_off_connection_retransmits_at_once() {
    std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).expect("run as root");
        sh(
            "ip link set lo up
            ip address add 192.0.2.1/32 dev lo; ip address add 192.0.2.2/32 dev lo
            ip address add 2001:db8::1/128 dev lo nodad; ip address add 2001:db8::2/128 dev lo nodad
            nft 'add table inet cut; add chain inet cut in { type filter hook input priority 0; }'",
        );
        let (batches, _kept) = tokio::sync::mpsc::channel(64);
        let collector = Collector::start(Settings::default()).expect("the programs load");
        let collector = collector.spawn(batches).expect("a thread");
        for (from, to) in [("192.0.2.1", "192.0.2.2"), ("2001:db8::1", "2001:db8::2")] {
            retransmits(&collector, from.parse().unwrap(), to.parse().unwrap());
        }
    })
    .join()
    .unwrap();
}

fn retransmits(collector: &Handle, from: std::net::IpAddr, to: std::net::IpAddr) {
    let listener = TcpListener::bind((to, 0)).unwrap();
    let target = listener.local_addr().unwrap();
    let socket = socket2::Socket::new(
        socket2::Domain::for_address(target),
        socket2::Type::STREAM,
        None,
    )
    .unwrap();
    socket.bind(&SocketAddr::new(from, 0).into()).unwrap();
    socket.connect(&target.into()).unwrap();
    let mut stream: TcpStream = socket.into();
    let mut other = listener.accept().unwrap().0;
    stream.write_all(b"before").unwrap();
    other.read_exact(&mut [0; 6]).unwrap();

    let port = target.port();
    sh(&format!("nft add rule inet cut in tcp dport {port} drop"));
    stream.write_all(b"after").unwrap();
    // 200, 400, 800 ms after one another: the next would come 3.2 s after the last.
    while retransmissions(&stream).0 < 4 {
        std::thread::sleep(Duration::from_millis(5));
    }
    // The timer without doublings would have fired again by now.
    std::thread::sleep(Duration::from_millis(400));
    let (doublings, before) = retransmissions(&stream);
    assert_eq!(doublings, 4, "{to}: still waiting for the timer");

    // A wrong sequence number changes nothing.
    let found = backed_off(collector, target);
    assert_eq!(found.len(), 1, "{to}");
    let wrong = Stalled {
        unacknowledged: found[0].unacknowledged.wrapping_add(1),
        ..found[0]
    };
    assert_eq!(probing::nudge(&[wrong]).unwrap(), 1);
    assert_eq!(retransmissions(&stream), (doublings, before), "{to}");

    sh("nft flush chain inet cut in");
    assert_eq!(probing::nudge(&found).unwrap(), 1);
    // The message is delivered within the call that sends it.
    assert_eq!(retransmissions(&stream).1, before + 1, "{to}");
    let mut read = [0; 5];
    other.read_exact(&mut read).unwrap();
    assert_eq!(&read, b"after");
    assert_eq!(
        backed_off(collector, target),
        [],
        "{to}: nothing is outstanding"
    );
}
