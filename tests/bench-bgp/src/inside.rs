//! Parts of the feed, in this process: decoding, lookups, and from an UPDATE to its signal.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use bgp_core::{HEADER_LENGTH, NeighborConfig, Rib, decode_update, view_update};
use bgp_feed::{NeighborSettings, RibLimits, RpkiSettings, Settings};
use events::{Asn, BgpSignal, NeighborId, PeerKey, Prefix};
use results::Measure;
use tokio::sync::mpsc;

use crate::Bench;
use crate::sender::Sender;
use crate::table::{self, CONTEXT, Random, Table, announcement};

const NEIGHBOR: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// UPDATEs per second, checked and walked, attributes packed as the RIB stores them; and decoded
/// into a message's own structure.
pub fn decode(bench: &mut Bench, table: &Table) -> anyhow::Result<()> {
    let bodies: Vec<&[u8]> = table
        .messages()
        .filter_map(|m| m.get(HEADER_LENGTH..))
        .collect();
    let rounds = if bench.quick { 3 } else { 11 };
    let mut walked = Vec::new();
    let mut whole = Vec::new();
    for _ in 0..rounds {
        let mut packed = Vec::new();
        let mut prefixes = 0;
        let start = Instant::now();
        for body in &bodies {
            let view = view_update(body, &CONTEXT).map_err(|_| anyhow::anyhow!("an UPDATE"))?;
            for routes in view.announced() {
                packed.clear();
                routes.pack_into(&mut packed);
                prefixes += routes.nlri.iter().count();
            }
        }
        walked.push(bodies.len() as f64 / start.elapsed().as_secs_f64());
        ensure!(
            prefixes >= table.prefixes,
            "{prefixes} prefixes were decoded"
        );
        let start = Instant::now();
        for body in &bodies {
            let update = decode_update(body, &CONTEXT).map_err(|_| anyhow::anyhow!("an UPDATE"))?;
            std::hint::black_box(update);
        }
        whole.push(bodies.len() as f64 / start.elapsed().as_secs_f64());
    }
    for (case, rates) in [("walked", walked), ("owned", whole)] {
        let case = format!("{}/{case}", table.name);
        let measure = Measure::of("decode_updates_per_second", &case, "1/s", rates);
        bench.add(measure.context("no rounds")?);
    }
    Ok(())
}

/// A table in memory.
fn filled(table: &Table) -> anyhow::Result<(Rib, NeighborId)> {
    let id = NeighborId::session(NEIGHBOR);
    let mut rib = Rib::new([NeighborConfig {
        id,
        egress: "a".into(),
        max_prefixes: u32::MAX,
    }]);
    rib.session_up(id, 1, &negotiated(table.asn), clock::now());
    for message in table.messages() {
        let body = message.get(HEADER_LENGTH..).unwrap_or_default();
        let update = decode_update(body, &CONTEXT).map_err(|_| anyhow::anyhow!("an UPDATE"))?;
        rib.apply(id, 1, &update, clock::now());
    }
    Ok((rib, id))
}

fn negotiated(asn: u32) -> bgp_core::Negotiated {
    bgp_core::Negotiated {
        asn: Asn(asn),
        router_id: Ipv4Addr::new(192, 0, 2, 1),
        hold_time: Duration::from_secs(90),
        graceful_restart: false,
        context: CONTEXT,
    }
}

/// Longest matches of random addresses that have a route, in batches of 32 so that the clock does not count.
pub fn lookup(bench: &mut Bench, table: &Table) -> anyhow::Result<()> {
    const BATCH: usize = 32;
    let start = Instant::now();
    let (rib, id) = filled(table)?;
    let seconds = start.elapsed().as_secs_f64();
    bench.add(Measure::single(
        "rib_fill_seconds",
        table.name,
        "s",
        seconds,
    ));
    let memory = rib.memory();
    bench.add(Measure::single(
        "rib_bytes",
        "synthetic/tables",
        "bytes",
        memory.bytes as f64,
    ));
    let mut random = Random(11);
    for (case, family) in [("ipv4", true), ("ipv6", false)] {
        let family = prefixes(table, 100_000, family);
        let mut samples = Vec::new();
        let mut found = 0;
        for _ in 0..20_000 {
            let addresses: Vec<IpAddr> = (0..BATCH)
                .filter_map(|_| inside(&mut random, &family))
                .collect();
            let start = Instant::now();
            for address in &addresses {
                found += usize::from(rib.covering(id, *address).is_some());
            }
            samples.push(start.elapsed().as_nanos() as f64 / BATCH as f64);
        }
        ensure!(found > 0, "no address was found");
        let measure = Measure::of("lookup_ns", case, "ns", samples).context("no samples")?;
        let p50 = measure.p50;
        bench.add(measure);
        bench.at_most(&format!("lookup_ns/{case}/p50"), p50, 500.0);
    }
    Ok(())
}

/// What CPU time an UPDATE costs the RIB at 10,000 UPDATEs/s with a full table, bursts told in between: no
/// other waits longer than for these.
pub fn apply(bench: &mut Bench, table: &Table) -> anyhow::Result<()> {
    let (mut rib, id) = filled(table)?;
    for family in bgp_core::Family::ALL {
        let end = bgp_core::Update {
            end_of_rib: Some(family),
            ..bgp_core::Update::default()
        };
        rib.apply(id, 1, &end, clock::now());
    }
    let prefixes = prefixes(table, 10_000, true);
    let mut random = Random(9);
    let mut now = clock::now();
    let mut took = Vec::new();
    let mut bursts = 0;
    for number in 0..150_000_u32 {
        now = now + Duration::from_micros(100);
        let path = [
            table.asn,
            4000 + random.below(500) as u32,
            10_000 + number / 10,
        ];
        let place = usize::try_from(random.below(prefixes.len() as u64))?;
        let prefix = prefixes.get(place).context("a prefix")?;
        let message = announcement(prefix, &path, Ipv4Addr::new(192, 0, 2, 1));
        let start = lab::sys::thread_cpu();
        let update = decode_update(message.get(HEADER_LENGTH..).unwrap_or_default(), &CONTEXT)
            .map_err(|_| anyhow::anyhow!("an UPDATE"))?;
        let (signals, _) = rib.apply(id, 1, &update, now);
        if rib.deadline().is_some_and(|due| due <= now) {
            rib.expire(now);
        }
        took.push((lab::sys::thread_cpu() - start) as f64 / 1e3);
        bursts += signals
            .iter()
            .filter(|signal| matches!(signal, BgpSignal::Burst(_)))
            .count();
    }
    ensure!(bursts > 0, "no burst was told");
    let measure = Measure::of("apply_us", "10,000/s", "us", took).context("no samples")?;
    bench.add(measure);
    Ok(())
}

/// The feed in this process, a session over loopback, a full table: how many changes per second it
/// sustains, and the time from an UPDATE's write to its signal at 10,000 UPDATEs per second.
pub fn churn(bench: &mut Bench, table: &Table) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let (sink, mut signals) = mpsc::channel::<BgpSignal>(4096);
    let mut peer = bgp_feed::PeerSettings::new("a".into());
    peer.max_prefixes = 4_000_000;
    let settings = Settings {
        local_as: Asn(64999),
        router_id: Ipv4Addr::new(192, 0, 2, 9),
        listen: vec![SocketAddr::new(NEIGHBOR, 0)],
        hold_time: Duration::from_secs(90),
        connect_retry: Duration::from_secs(10),
        send_hold: None,
        dynamic: Vec::new(),
        rib: RibLimits::default(),
        rpki: RpkiSettings::default(),
        neighbors: vec![NeighborSettings {
            address: NEIGHBOR,
            port: 179,
            asn: Asn(table.asn),
            interface: None,
            passive: true,
            peer,
        }],
    };
    let handle = {
        let _guard = runtime.enter();
        bgp_feed::spawn(settings, sink)?
    };
    let to = *handle.listening().first().context("no listener")?;
    let sender = Sender::connect(to, Ipv4Addr::LOCALHOST, table.asn, 90)?;
    // Prefixes that are watched, outside of the table: each has an address.
    let watched: Vec<(Prefix, IpAddr)> = (0..=255_u8)
        .map(|n| {
            let address = IpAddr::from([10, n, 1, 1]);
            (
                Prefix::new(IpAddr::from([10, n, 0, 0]), 16).unwrap_or(Prefix::from(address)),
                address,
            )
        })
        .collect();
    handle.watch(watched.iter().map(|(_, address)| *address).collect());
    sender.send(&table.bytes, &table.offsets)?;
    sender.end_of_rib()?;
    let wait = |signals: &mut mpsc::Receiver<BgpSignal>, wanted: &dyn Fn(&BgpSignal) -> bool| {
        let end = Instant::now() + Duration::from_secs(120);
        loop {
            match signals.try_recv() {
                Ok(signal) if wanted(&signal) => return Ok(Instant::now()),
                Ok(_) => {}
                Err(_) if Instant::now() > end => anyhow::bail!("a signal does not come"),
                Err(_) => std::thread::sleep(Duration::from_micros(50)),
            }
        }
    };
    wait(&mut signals, &|signal| {
        matches!(signal, BgpSignal::EndOfRib { ipv6: true, .. })
    })?;

    // As fast as it goes: single prefixes of the table by changing paths; a watched one at the end.
    let count = if bench.quick { 50_000 } else { 500_000 };
    let prefixes = prefixes(table, 10_000, true);
    let mut random = Random(5);
    let (mut bytes, mut offsets) = (Vec::new(), vec![0]);
    for _ in 0..count {
        let place = usize::try_from(random.below(prefixes.len() as u64))?;
        let asn = 2000 + u32::try_from(random.below(500))?;
        let prefix = prefixes.get(place).context("a prefix")?;
        bytes.extend(announcement(
            prefix,
            &[table.asn, 1001, asn],
            Ipv4Addr::new(192, 0, 2, 1),
        ));
        offsets.push(bytes.len());
    }
    let mut rates = Vec::new();
    for round in 0..3_u32 {
        let (prefix, address) = watched.first().context("a watched prefix")?;
        let path = [table.asn, 3000 + round];
        let start = Instant::now();
        std::thread::scope(|scope| -> anyhow::Result<()> {
            let sending = scope.spawn(|| {
                sender.send(&bytes, &offsets)?;
                sender.write(&announcement(prefix, &path, Ipv4Addr::new(192, 0, 2, 1)))
            });
            wait(&mut signals, &|signal| is_fact(signal, *address, &path))?;
            sending
                .join()
                .map_err(|_| anyhow::anyhow!("a thread panicked"))?
        })?;
        rates.push(f64::from(count) / start.elapsed().as_secs_f64());
    }
    let measure = Measure::of("updates_per_second", "full table", "1/s", rates);
    bench.add(measure.context("no rounds")?);

    // 10,000 per second, in steps of 1 ms; one of ten changes a watched peer's route.
    let seconds = if bench.quick { 3 } else { 15 };
    let mut written: Vec<(Instant, IpAddr, u32)> = Vec::new();
    let (sending, late) = std::thread::scope(|scope| -> anyhow::Result<(Vec<f64>, Vec<f64>)> {
        let (times, told) = std::sync::mpsc::channel();
        let sender = &sender;
        let (prefixes, watched) = (&prefixes, &watched);
        let asn = table.asn;
        let thread = scope.spawn(move || -> anyhow::Result<Vec<f64>> {
            let mut random = Random(9);
            let start = Instant::now();
            let mut late = Vec::new();
            for step in 0..seconds * 1000_u32 {
                let due = start + Duration::from_millis(u64::from(step));
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
                late.push(due.elapsed().as_secs_f64() * 1e6);
                for number in 0..10_u32 {
                    let path = [asn, 4000 + random.below(500) as u32, 10_000 + step];
                    let prefix = if number == 5 {
                        let (prefix, address) = watched
                            .get(step as usize % watched.len())
                            .context("a watched prefix")?;
                        let _ = times.send((Instant::now(), *address, 10_000 + step));
                        prefix
                    } else {
                        let place = usize::try_from(random.below(prefixes.len() as u64))?;
                        prefixes.get(place).context("a prefix")?
                    };
                    sender.write(&announcement(prefix, &path, Ipv4Addr::new(192, 0, 2, 1)))?;
                }
            }
            Ok(late)
        });
        let mut took = Vec::new();
        let end = Instant::now() + Duration::from_secs(u64::from(seconds) + 3);
        while Instant::now() < end && took.len() < seconds as usize * 1000 {
            let signal = runtime.block_on(async {
                tokio::time::timeout(Duration::from_millis(100), signals.recv()).await
            });
            let now = Instant::now();
            written.extend(told.try_iter());
            let Ok(Some(BgpSignal::Change(change))) = signal else {
                continue;
            };
            let last = change.new.and_then(|route| route.as_path.last().copied());
            let Some(last) = last else { continue };
            let place = written.iter().position(|(_, peer, path)| {
                *path == last.0 && change.peers.contains(&PeerKey(*peer))
            });
            if let Some(place) = place {
                let (at, ..) = written.swap_remove(place);
                took.push(now.duration_since(at).as_secs_f64() * 1e6);
            }
        }
        let late = thread
            .join()
            .map_err(|_| anyhow::anyhow!("a thread panicked"))??;
        Ok((took, late))
    })?;
    let expected = seconds as usize * 1000;
    let detail = format!(
        "{} of {expected} changes of watched peers were told",
        sending.len()
    );
    bench.check("churn/told", sending.len() == expected, detail);
    // What the machine makes of a thread that only wants to wake up.
    bench.add(Measure::of("timer_late_us", "10,000/s", "us", late).context("no timer")?);
    let measure = Measure::of("update_to_signal_us", "10,000/s", "us", sending);
    let measure = measure.context("no signal came")?;
    let p99 = measure.p99;
    bench.add(measure);
    bench.at_most("update_to_signal_us/p99", p99, 1000.0);
    drop(sender);
    runtime.block_on(handle.stop());
    Ok(())
}

fn is_fact(signal: &BgpSignal, peer: IpAddr, path: &[u32]) -> bool {
    matches!(signal, BgpSignal::Fact(fact) if fact.peer == PeerKey(peer)
    && fact.route.as_ref().is_some_and(|route| {
        route.as_path.iter().map(|asn| asn.0).eq(path.iter().copied())
    }))
}

/// An address somewhere in one of the prefixes.
fn inside(random: &mut Random, prefixes: &[Prefix]) -> Option<IpAddr> {
    let place = usize::try_from(random.below(prefixes.len() as u64)).ok()?;
    let bits = random.next();
    Some(match prefixes.get(place)? {
        Prefix::V4(prefix) => {
            let host = (bits >> 32) as u32 & prefix.hostmask().to_bits();
            IpAddr::V4(Ipv4Addr::from_bits(prefix.network().to_bits() | host))
        }
        Prefix::V6(prefix) => {
            let host = u128::from(bits) << 64 & prefix.hostmask().to_bits();
            IpAddr::from((prefix.network().to_bits() | host).to_be_bytes())
        }
    })
}

/// Prefixes of a family, about that many, from all over the table.
fn prefixes(table: &Table, count: usize, ipv4: bool) -> Vec<Prefix> {
    let step = (table.updates() / count).max(1);
    let mut found = BTreeSet::new();
    for message in table.messages().step_by(step) {
        let body = message.get(HEADER_LENGTH..).unwrap_or_default();
        if let Ok(update) = decode_update(body, &table::CONTEXT) {
            let announced = update.announced.iter().flat_map(|routes| routes.prefixes());
            let wanted = |prefix: &Prefix| matches!(prefix, Prefix::V4(_)) == ipv4;
            found.extend(announced.filter(wanted).take(1));
        }
    }
    found.into_iter().collect()
}
