//! A peer made of bytes.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use bgp_core::{Families, Frame, Framer, GracefulRestart, MessageType, Open, encode};
use events::Asn;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

const LIMIT: Duration = Duration::from_secs(20);

pub struct Raw {
    stream: TcpStream,
    framer: Framer,
}

/// An OPEN with both families and graceful restart.
pub fn open(asn: u32) -> Open {
    Open {
        four_octet_as: true,
        families: Families::BOTH,
        route_refresh: true,
        graceful_restart: Some(GracefulRestart::default()),
        ..Open::new(Asn(asn), 90, Ipv4Addr::new(192, 0, 2, 1))
    }
}

impl Raw {
    pub async fn connect(from: &str, to: SocketAddr) -> Self {
        Self::connect_by(TcpSocket::new_v4().unwrap(), from, to).await
    }

    pub async fn connect_by(socket: TcpSocket, from: &str, to: SocketAddr) -> Self {
        let from: IpAddr = from.parse().unwrap();
        socket.bind(SocketAddr::new(from, 0)).unwrap();
        Self {
            stream: socket.connect(to).await.unwrap(),
            framer: Framer::default(),
        }
    }

    /// Connects and goes as far as Established, with [`open`].
    pub async fn establish(from: &str, to: SocketAddr, asn: u32) -> Self {
        Self::establish_with(from, to, &open(asn).encode()).await
    }

    pub async fn establish_with(from: &str, to: SocketAddr, open: &[u8]) -> Self {
        let mut peer = Self::connect(from, to).await;
        peer.greet(open).await;
        peer
    }

    /// From a connection to Established.
    pub async fn greet(&mut self, open: &[u8]) {
        self.send(open).await;
        assert_eq!(self.next().await.unwrap().kind, MessageType::Open);
        assert_eq!(self.next().await.unwrap().kind, MessageType::Keepalive);
        self.keepalive().await;
    }

    pub async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    pub async fn keepalive(&mut self) {
        self.send(&encode(MessageType::Keepalive, &[])).await;
    }

    /// The bare socket, blocking.
    pub fn into_std(self) -> std::net::TcpStream {
        let stream = self.stream.into_std().unwrap();
        stream.set_nonblocking(false).unwrap();
        stream
    }

    /// The next message; `None` at the connection's end.
    pub async fn next(&mut self) -> Option<Frame> {
        let mut chunk = [0; 4096];
        loop {
            if let Some(frame) = self.framer.next_frame().unwrap() {
                return Some(frame);
            }
            let read = timeout(LIMIT, self.stream.read(&mut chunk)).await;
            match read.expect("no message within the limit") {
                Ok(0) | Err(_) => return None,
                Ok(count) => self.framer.push(&chunk[..count]),
            }
        }
    }

    /// The next message that is neither KEEPALIVE nor End-of-RIB, with KEEPALIVEs in return.
    pub async fn next_but_keepalive(&mut self) -> Frame {
        loop {
            let frame = self.next().await.expect("the connection ended");
            match frame.kind {
                MessageType::Keepalive => self.keepalive().await,
                MessageType::Update => {}
                _ => return frame,
            }
        }
    }

    /// Code and subcode of the NOTIFICATION that ends the connection; KEEPALIVEs are passed over.
    pub async fn notification(&mut self) -> (u8, u8) {
        let mut found = None;
        while let Some(frame) = self.next().await {
            if frame.kind == MessageType::Notification {
                found = Some((frame.body[0], frame.body[1]));
            }
        }
        found.expect("the connection ended without NOTIFICATION")
    }
}
