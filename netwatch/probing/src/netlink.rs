//! A route netlink socket: requests, and messages as they come.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use netlink_packet_core::{
    NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send,
    setsockopt, socket, sockopt,
};

pub(crate) struct Netlink {
    fd: OwnedFd,
    buffer: Vec<u8>,
}

/// What came in.
pub(crate) enum Received {
    /// These messages.
    Messages(Vec<NetlinkPayload<RouteNetlinkMessage>>),
    /// Nothing is waiting.
    Nothing,
    /// Messages were lost: what is known must be asked for again.
    Overrun,
}

impl Netlink {
    /// A socket in the calling thread's network namespace that also hears these multicast groups
    /// (`RTMGRP_*`).
    pub(crate) fn open(groups: u32, blocking: bool) -> io::Result<Self> {
        let mut flags = SockFlag::SOCK_CLOEXEC;
        flags.set(SockFlag::SOCK_NONBLOCK, !blocking);
        let fd = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            flags,
            SockProtocol::NetlinkRoute,
        )?;
        // More room for bursts where we may; an overrun is noticed and repaired anyhow.
        let _ = setsockopt(&fd, sockopt::RcvBufForce, &(1 << 20));
        if blocking {
            let patience = nix::sys::time::TimeVal::new(2, 0);
            setsockopt(&fd, sockopt::ReceiveTimeout, &patience)?;
        }
        bind(fd.as_raw_fd(), &NetlinkAddr::new(0, groups))?;
        Ok(Self {
            fd,
            buffer: vec![0; 64 << 10],
        })
    }

    pub(crate) fn request(&self, message: RouteNetlinkMessage, dump: bool) -> io::Result<()> {
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | if dump { NLM_F_DUMP } else { 0 };
        let mut message = NetlinkMessage::new(header, NetlinkPayload::from(message));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        send(self.fd.as_raw_fd(), &bytes, MsgFlags::empty())?;
        Ok(())
    }

    pub(crate) fn receive(&mut self) -> io::Result<Received> {
        let length = match recv(self.fd.as_raw_fd(), &mut self.buffer, MsgFlags::empty()) {
            Ok(length) => length,
            Err(nix::Error::EAGAIN | nix::Error::EINTR) => return Ok(Received::Nothing),
            Err(nix::Error::ENOBUFS) => return Ok(Received::Overrun),
            Err(error) => return Err(error.into()),
        };
        let mut rest = self.buffer.get(..length).unwrap_or_default();
        let mut messages = Vec::new();
        while let Some(bytes) = rest.first_chunk::<4>() {
            let size = usize::try_from(u32::from_ne_bytes(*bytes)).unwrap_or(0);
            let Some(message) = rest.get(..size).filter(|m| m.len() >= 16) else {
                break;
            };
            // What this library cannot read is of no interest here.
            if let Ok(message) = NetlinkMessage::<RouteNetlinkMessage>::deserialize(message) {
                messages.push(message.payload);
            }
            rest = rest.get(size.next_multiple_of(4)..).unwrap_or_default();
        }
        Ok(Received::Messages(messages))
    }
}

impl AsFd for Netlink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
