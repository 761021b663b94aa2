//! Running many worlds on all cores.

use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use crate::draw::world_seed;
use crate::judge::Judged;
use crate::params::Params;
use crate::without::Without;
use crate::world::World;

/// What to run.
#[derive(Clone, Debug)]
pub struct Run {
    /// How many worlds.
    pub worlds: usize,
    /// The seed that theirs come from.
    pub seed: u64,
    /// Evidence switched off.
    pub without: Without,
    /// What is shown beside the progress.
    pub title: String,
}

/// Runs the world of one seed.
#[must_use]
pub fn world(params: &Params, seed: u64, without: Without) -> Judged {
    Judged::of(seed, &World::new(params, seed, without, false).run())
}

/// Runs all, in any order, and gives the judgements in the order of the worlds, with the time that it
/// took in seconds.
#[must_use]
pub fn run(params: &Params, run: &Run) -> (Vec<Judged>, f64) {
    let begin = Instant::now();
    let judged = in_parallel(run.worlds, &run.title, |index| {
        world(params, world_seed(run.seed, index as u64), run.without)
    });
    (judged, begin.elapsed().as_secs_f64())
}

/// Does `count` independent things on all cores, with a line of progress on a terminal.
pub fn in_parallel<T: Send>(count: usize, title: &str, each: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let next = AtomicUsize::new(0);
    let done = Mutex::new(Vec::with_capacity(count));
    let shown = Progress::new(title, count);
    std::thread::scope(|scope| {
        for _ in 0..threads.min(count.max(1)) {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    if index >= count {
                        break;
                    }
                    let result = each(index);
                    let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
                    done.push((index, result));
                    shown.show(done.len());
                }
            });
        }
    });
    shown.end();
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_by_key(|(index, _)| *index);
    done.into_iter().map(|(_, result)| result).collect()
}

struct Progress {
    title: String,
    count: usize,
    on: bool,
    shown: Mutex<Instant>,
}

impl Progress {
    fn new(title: &str, count: usize) -> Self {
        Self {
            title: title.to_owned(),
            count,
            on: std::io::stderr().is_terminal(),
            shown: Mutex::new(Instant::now()),
        }
    }

    fn show(&self, done: usize) {
        const PAUSE: std::time::Duration = std::time::Duration::from_millis(200);
        if !self.on {
            return;
        }
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        if shown.elapsed() >= PAUSE {
            *shown = Instant::now();
            let mut out = std::io::stderr();
            // Progress that cannot be shown is no reason to stop.
            let _ = write!(out, "\r{}: {done} of {}\x1b[K", self.title, self.count);
            let _ = out.flush();
        }
    }

    fn end(&self) {
        if self.on {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}
