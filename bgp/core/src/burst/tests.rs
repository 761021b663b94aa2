//! Generated topologies: is the link that was cut the first on the list?

use super::*;
use crate::links::tests::packed;
use events::Prefix;

struct Random(u64);

impl Random {
    fn below(&mut self, below: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % below as u64).unwrap()
    }
}

/// ASes with providers; the neighbour is AS 1. Each AS originates some prefixes.
struct Topology {
    /// By AS number from 1 on: its neighbours.
    links: Vec<Vec<usize>>,
}

impl Topology {
    fn new(random: &mut Random, ases: usize) -> Self {
        let mut links = vec![Vec::new(); ases + 1];
        for asn in 2..=ases {
            // Attached preferentially to those that are there longer, as in the Internet.
            let providers = 1 + random.below(3);
            for _ in 0..providers {
                let span = 1 + random.below(asn - 1);
                let provider = 1 + random.below(span);
                if !links[asn].contains(&provider) {
                    links[asn].push(provider);
                    links[provider].push(asn);
                }
            }
        }
        Self { links }
    }

    /// Shortest paths from AS 1, ties by the lower number; `without` is a link, or an AS twice.
    fn paths(&self, without: (usize, usize)) -> Vec<Option<Vec<u32>>> {
        let usable = |a: usize, b: usize| {
            (a, b) != without
                && (b, a) != without
                && (without.0 != without.1 || (a != without.0 && b != without.0))
        };
        let mut from = vec![0; self.links.len()];
        from[1] = 1;
        let mut queue = VecDeque::from([1]);
        while let Some(asn) = queue.pop_front() {
            let mut next = self.links[asn].clone();
            next.sort_unstable();
            for other in next {
                if from[other] == 0 && usable(asn, other) {
                    from[other] = asn;
                    queue.push_back(other);
                }
            }
        }
        let path = |asn: usize| {
            let mut path = vec![u32::try_from(asn).unwrap()];
            let mut at = asn;
            while at != 1 {
                at = from[at];
                if at == 0 {
                    return None;
                }
                path.push(u32::try_from(at).unwrap());
            }
            path.reverse();
            Some(path)
        };
        (0..self.links.len())
            .map(|asn| if asn == 0 { None } else { path(asn) })
            .collect()
    }
}

fn prefix(asn: usize, number: usize) -> Prefix {
    let bits = u32::try_from(asn << 12 | number << 8).unwrap();
    Prefix::new(bits.to_be_bytes().into(), 24).unwrap()
}

/// Cuts something, lets a share of the prefixes change and others beside them at random, and gives
/// the report.
fn cut(
    random: &mut Random,
    topology: &Topology,
    without: (usize, usize),
    percent: usize,
) -> Option<Report> {
    let mut arena = Arena::new(1);
    let mut bursts = Bursts::default();
    let before = topology.paths((0, 0));
    let after = topology.paths(without);
    let each = |asn: usize| 1 + asn % 7;
    let mut all = 0;
    let mut ids = Vec::new();
    for path in &before {
        let id = path.as_ref().map(|path| arena.intern(&packed(path)));
        ids.push(id);
        if let Some(id) = id {
            for _ in 0..each(ids.len() - 1) {
                arena.add_route(id);
                all += 1;
            }
        }
    }
    let mut changes = Vec::new();
    for asn in 1..before.len() {
        for number in 0..each(asn) {
            let touched = before[asn] != after[asn] && random.below(100) < percent;
            // One in two hundred moves for another reason.
            let noise = !touched && random.below(200) == 0;
            let new = if noise {
                Some(vec![1, u32::try_from(asn).unwrap()])
            } else {
                after[asn].clone()
            };
            if touched || noise {
                changes.push((asn, number, new));
            }
        }
    }
    let mut report = None;
    let mut left = all;
    for (step, (asn, number, path)) in changes.into_iter().enumerate() {
        let now = Timestamp::from_millis(1000 + step as u64);
        let old = ids[asn]?;
        let new = path.map(|path| arena.intern(&packed(&path)));
        if let Some(new) = new {
            arena.add_route(new);
        } else {
            left -= 1;
        }
        bursts.changed(&mut arena, prefix(asn, number), Some(old), new, now);
        arena.remove_route(old);
        report = bursts.poll(&mut arena, left, now).or(report);
    }
    let last = bursts.deadline()?;
    bursts.poll(&mut arena, left, last).or(report)
}

/// Links that carry enough to make a burst.
fn candidates(topology: &Topology) -> Vec<(usize, usize)> {
    let mut counts = std::collections::BTreeMap::new();
    for path in topology.paths((0, 0)).into_iter().flatten() {
        for pair in path.windows(2) {
            *counts
                .entry((pair[0] as usize, pair[1] as usize))
                .or_insert(0) += 1;
        }
    }
    counts.retain(|_, count| *count >= 8);
    counts.into_keys().collect()
}

fn accuracy(percent: usize) -> (usize, usize) {
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    let (mut right, mut all) = (0, 0);
    for _ in 0..30 {
        let topology = Topology::new(&mut random, 400);
        let candidates = candidates(&topology);
        for _ in 0..10 {
            let link = candidates[random.below(candidates.len())];
            let Some(report) = cut(&mut random, &topology, link, percent) else {
                continue;
            };
            all += 1;
            let number = |asn: Asn| asn.0 as usize;
            let best = report.links.first().map(|best| best.link);
            right += usize::from(best.map(|(a, b)| (number(a), number(b))) == Some(link));
        }
    }
    (right, all)
}

#[test]
fn the_link_that_was_cut_is_named() {
    let (right, all) = accuracy(100);
    assert!(all > 250 && right * 100 >= all * 95, "{right} of {all}");
}

#[test]
fn the_link_is_named_while_half_of_the_burst_is_still_to_come() {
    let (right, all) = accuracy(50);
    assert!(all > 200 && right * 100 >= all * 95, "{right} of {all}");
}

#[test]
fn an_as_that_fails_is_the_first_of_the_ases() {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let (mut right, mut all) = (0, 0);
    for _ in 0..30 {
        let topology = Topology::new(&mut random, 400);
        let mut ases: Vec<usize> = candidates(&topology)
            .into_iter()
            .map(|link| link.1)
            .collect();
        ases.dedup();
        for _ in 0..10 {
            let asn = ases[random.below(ases.len())];
            let Some(report) = cut(&mut random, &topology, (asn, asn), 100) else {
                continue;
            };
            all += 1;
            let best = report.ases.first().map(|best| best.asn.0 as usize);
            right += usize::from(best == Some(asn));
        }
    }
    assert!(all > 250 && right * 100 >= all * 95, "{right} of {all}");
}

/// A prefix that goes back and forth is one prefix, and no burst; nor does it take more and more
/// memory.
#[test]
fn a_flapping_prefix_is_no_burst() {
    let mut arena = Arena::new(1);
    let mut bursts = Bursts::default();
    let [a, b] = [[1, 2, 3], [1, 4, 3]].map(|path| arena.intern(&packed(&path)));
    for step in 0..10_000 {
        let now = Timestamp::from_millis(1000 + step);
        let (old, new) = if step % 2 == 0 { (a, b) } else { (b, a) };
        bursts.changed(&mut arena, prefix(1, 1), Some(old), Some(new), now);
        assert_eq!(bursts.poll(&mut arena, 1000, now), None, "step {step}");
    }
    assert!(bursts.mem_size() < 1000, "{}", bursts.mem_size());
    // Five that stay away are one, and those that are back do not count.
    for number in 0..6 {
        let now = Timestamp::from_millis(20_000);
        bursts.changed(&mut arena, prefix(2, number), Some(a), Some(b), now);
        if number == 0 {
            bursts.changed(&mut arena, prefix(2, number), Some(b), Some(a), now);
        }
        let report = bursts.poll(&mut arena, 1000, now);
        assert_eq!(
            report.map(|report| report.prefixes),
            (number == 5).then_some(5)
        );
    }
}
