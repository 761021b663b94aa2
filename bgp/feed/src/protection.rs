//! What guards a TCP connection of BGP: MD5 signatures (RFC 2385) and the TTL (GTSM, RFC 5082).
//! Both fail closed: a socket that cannot be guarded as configured is not used.

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use events::Prefix;
use socket2::{SockAddr, SockAddrStorage};

/// `TCP_MD5SIG_MAXKEYLEN` of linux/tcp.h.
const MAX_KEY: usize = 80;
/// `TCP_MD5SIG_FLAG_PREFIX` of linux/tcp.h.
const FLAG_PREFIX: u8 = 1;
/// `IPV6_MINHOPCOUNT` of linux/in6.h.
const IPV6_MINHOPCOUNT: libc::c_int = 73;
const MAX_TTL: u8 = 255;

/// A TCP-MD5 key. Shown nowhere.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(Vec<u8>);

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password")
    }
}

impl Password {
    /// Reads a key: the file's content without the newline at its end.
    ///
    /// # Errors
    /// The file cannot be read, others than its owner may read it, or its length is none that the
    /// kernel takes (1 to 80 bytes).
    pub fn read(path: &Path) -> io::Result<Self> {
        let mode = std::fs::metadata(path)?.permissions().mode();
        if mode & 0o077 != 0 {
            return Err(io::Error::other(format!(
                "others may read it (mode {:04o}): `chmod 600` it",
                mode & 0o7777
            )));
        }
        let mut key = std::fs::read(path)?;
        while key.last().is_some_and(|last| matches!(last, b'\n' | b'\r')) {
            key.pop();
        }
        if key.is_empty() || key.len() > MAX_KEY {
            return Err(io::Error::other(format!(
                "it holds {} bytes; a TCP-MD5 key has 1 to {MAX_KEY}",
                key.len()
            )));
        }
        Ok(Self(key))
    }
}

/// `struct tcp_md5sig` of linux/tcp.h.
#[repr(C)]
struct TcpMd5Sig {
    address: SockAddrStorage,
    flags: u8,
    prefix_length: u8,
    key_length: u16,
    interface: libc::c_int,
    key: [u8; MAX_KEY],
}

/// Requires signatures by `password` of connections with an address in `peers`. Before `listen` or
/// `connect`.
pub fn require_md5(socket: &impl AsRawFd, peers: Prefix, password: &Password) -> io::Result<()> {
    let network = std::net::SocketAddr::new(peers.network(), 0);
    let mut key = [0; MAX_KEY];
    for (to, from) in key.iter_mut().zip(&password.0) {
        *to = *from;
    }
    let signature = TcpMd5Sig {
        address: SockAddr::from(network).as_storage(),
        flags: FLAG_PREFIX,
        prefix_length: peers.prefix_len(),
        key_length: u16::try_from(password.0.len()).unwrap_or(u16::MAX),
        interface: 0,
        key,
    };
    set(
        socket.as_raw_fd(),
        libc::IPPROTO_TCP,
        libc::TCP_MD5SIG_EXT,
        &signature,
    )
    .map_err(|error| named("TCP-MD5 (the kernel needs CONFIG_TCP_MD5SIG)", &error))
}

/// Packets leave with TTL 255.
pub fn send_max_ttl(socket: &impl AsRawFd, ipv6: bool) -> io::Result<()> {
    let (level, option) = if ipv6 {
        (libc::IPPROTO_IPV6, libc::IPV6_UNICAST_HOPS)
    } else {
        (libc::IPPROTO_IP, libc::IP_TTL)
    };
    set(
        socket.as_raw_fd(),
        level,
        option,
        &libc::c_int::from(MAX_TTL),
    )
    .map_err(|error| named("TTL 255", &error))
}

/// Packets leave with TTL 255, and those that crossed `hops` routers or more are dropped.
pub fn require_ttl(socket: &impl AsRawFd, peer: IpAddr, hops: u8) -> io::Result<()> {
    send_max_ttl(socket, peer.is_ipv6())?;
    let (level, option) = if peer.is_ipv6() {
        (libc::IPPROTO_IPV6, IPV6_MINHOPCOUNT)
    } else {
        (libc::IPPROTO_IP, libc::IP_MINTTL)
    };
    let least = libc::c_int::from(MAX_TTL) + 1 - libc::c_int::from(hops);
    set(socket.as_raw_fd(), level, option, &least)
        .map_err(|error| named("the least TTL (ttl_security)", &error))
}

/// Bytes that the neighbour's TCP has not acknowledged (SIOCOUTQ, tcp(7)).
pub fn unacknowledged(socket: &impl AsRawFd) -> io::Result<usize> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: the request writes one int to a pointer to one.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(usize::try_from(bytes).unwrap_or(0))
}

fn named(what: &str, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("cannot set {what}: {error}"))
}

fn set<T>(socket: RawFd, level: libc::c_int, option: libc::c_int, value: &T) -> io::Result<()> {
    let length = libc::socklen_t::try_from(size_of::<T>()).unwrap_or(0);
    // SAFETY: the kernel reads `length` bytes of a value that is so long and lives.
    let result = unsafe {
        libc::setsockopt(
            socket,
            level,
            option,
            std::ptr::from_ref(value).cast(),
            length,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_read_from_a_private_file_only() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("key");
        let write = |content: &[u8], mode| {
            std::fs::write(&file, content).unwrap();
            let permissions = std::fs::Permissions::from_mode(mode);
            std::fs::set_permissions(&file, permissions).unwrap();
            Password::read(&file)
        };
        let key = write(b"secret\n", 0o600).unwrap();
        assert_eq!(key.0, b"secret");
        assert!(!format!("{key:?}").contains("secret"));
        let error = write(b"secret\n", 0o640).unwrap_err().to_string();
        assert!(error.contains("0640") && error.contains("chmod"), "{error}");
        assert!(write(b"\n", 0o600).is_err());
        assert!(write(&[b'x'; 81], 0o600).is_err());
        assert!(Password::read(&directory.path().join("none")).is_err());
    }
}
