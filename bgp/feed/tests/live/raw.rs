//! A peer made of bytes.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use bgp_core::{Frame, Framer, MessageType, encode, encode_open};
use events::Asn;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

const LIMIT: Duration = Duration::from_secs(20);

pub struct Raw {
    stream: TcpStream,
    framer: Framer,
}

impl Raw {
    pub async fn connect(from: &str, to: SocketAddr) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        let from: IpAddr = from.parse().unwrap();
        socket.bind(SocketAddr::new(from, 0)).unwrap();
        Self {
            stream: socket.connect(to).await.unwrap(),
            framer: Framer::default(),
        }
    }

    /// Connects and goes as far as Established, with the OPEN that the feed itself would send.
    pub async fn establish(from: &str, to: SocketAddr, asn: u32) -> Self {
        let hold = Duration::from_secs(90);
        let open = encode_open(Asn(asn), hold, Ipv4Addr::new(192, 0, 2, 1));
        Self::establish_with(from, to, &open).await
    }

    pub async fn establish_with(from: &str, to: SocketAddr, open: &[u8]) -> Self {
        let mut peer = Self::connect(from, to).await;
        peer.send(open).await;
        assert_eq!(peer.next().await.unwrap().kind, MessageType::Open);
        assert_eq!(peer.next().await.unwrap().kind, MessageType::Keepalive);
        peer.keepalive().await;
        peer
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
