use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};

use events::TcpSample;
use nix::sys::eventfd::EventFd;
use tokio::sync::mpsc::{Receiver, channel};

use super::*;
use crate::kernel::Kernel;

fn reader(ports: Vec<u16>, depth: usize) -> Option<(Kernel, Reader, Receiver<Vec<TcpEvent>>)> {
    let settings = Settings {
        ports,
        ignore_loopback: false,
        ..Settings::default()
    };
    let (kernel, sources) = match Kernel::load(&settings) {
        Ok(loaded) => loaded,
        Err(error) if !nix::unistd::geteuid().is_root() => {
            println!("SKIPPED: {error}");
            return None;
        }
        Err(error) => panic!("{error}"),
    };
    let (sink, receiver) = channel(depth);
    let reader = Reader::new(
        sources,
        settings,
        Diag::open().unwrap(),
        Sinks {
            tcp: sink,
            records: None,
        },
        Arc::default(),
        EventFd::new()
            .unwrap()
            .as_fd()
            .try_clone_to_owned()
            .unwrap(),
    );
    Some((kernel, reader, receiver))
}

fn event(kind: TcpEventKind) -> TcpEvent {
    let end = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
    TcpEvent {
        at: Timestamp::ZERO,
        connection: ConnectionId(1),
        flow: Flow {
            local: end,
            remote: end,
        },
        kind,
    }
}

#[test]
fn a_connection_that_the_kernel_no_longer_lists_is_gone_with_its_slot() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let Some((_kernel, mut reader, _receiver)) = reader(vec![address.port()], 1) else {
        return;
    };
    let _stream = TcpStream::connect(address).unwrap();
    let _accepted = listener.accept().unwrap();
    reader.reconcile(clock::now());
    assert_eq!(reader.known.len(), 2, "both ends are this host's");
    assert_eq!(reader.swept.len(), 2);
    let cookies: Vec<u64> = reader.known.keys().copied().collect();
    let found: Vec<_> = reader
        .out
        .drain(..)
        .filter(|event| matches!(event.kind, TcpEventKind::Found { .. } | TcpEventKind::Gone))
        .collect();
    assert!(
        found.is_empty(),
        "they were seen from the beginning: {found:?}"
    );

    let cut_short = Listing {
        interrupted: true,
        ..Listing::default()
    };
    reader.reconcile_with(clock::now(), &cut_short);
    assert_eq!(reader.known.len(), 2, "a cut listing proves nothing");

    reader.reconcile_with(clock::now(), &Listing::default());
    assert_eq!(reader.known.len(), 2, "it may be about to be listed");

    reader.reconcile_with(clock::now(), &Listing::default());
    let gone: Vec<_> = reader
        .out
        .drain(..)
        .filter(|event| event.kind == TcpEventKind::Gone)
        .map(|event| event.connection.0)
        .collect();
    assert_eq!(gone, cookies);
    assert!(reader.known.is_empty() && reader.swept.len() == 0);
    for cookie in cookies {
        assert_eq!(reader.sources.table.find(cookie), None);
    }
    assert_eq!(reader.shared.slots_orphaned.load(Ordering::Relaxed), 2);
}

#[test]
fn a_full_sink_costs_samples_and_keeps_edges_in_order() {
    let Some((_kernel, mut reader, mut receiver)) = reader(vec![1], 1) else {
        return;
    };
    let sample = TcpSample {
        outstanding: None,
        acked_at: None,
        sent_at: None,
        received_at: None,
        srtt: Duration::ZERO,
        mdev: Duration::ZERO,
        min_rtt: Duration::ZERO,
        last_rtt: None,
        zero_window: false,
    };
    for errno in 0..1_500 {
        reader.out.push(event(TcpEventKind::Error { errno }));
        reader.out.push(event(TcpEventKind::Sample(sample)));
    }
    assert!(reader.flush());
    assert_eq!(receiver.try_recv().unwrap().len(), BATCH);
    assert_eq!(reader.shared.samples_dropped.load(Ordering::Relaxed), 1_000);
    let mut next = 500;
    while !reader.out.is_empty() {
        assert!(reader.flush());
        for event in receiver.try_recv().unwrap() {
            assert_eq!(event.kind, TcpEventKind::Error { errno: next });
            next += 1;
        }
    }
    assert_eq!(next, 1_500);
    assert_eq!(reader.shared.edges_dropped.load(Ordering::Relaxed), 0);

    reader.sink.try_send(Vec::new()).unwrap();
    for errno in 0..WAITING as i32 + 7 {
        reader.out.push(event(TcpEventKind::Error { errno }));
    }
    assert!(reader.flush());
    assert_eq!(reader.out.len(), WAITING);
    assert_eq!(reader.shared.edges_dropped.load(Ordering::Relaxed), 7);

    drop(receiver);
    assert!(!reader.flush(), "nobody listens any more");
}
