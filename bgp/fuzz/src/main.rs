//! Feeds a target with random input until the time is over or something does not hold.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bgp_fuzz::generate;
use bgp_fuzz::random::Random;
use bgp_fuzz::targets::Target;
use clap::Parser;

/// Feed a part of the BGP codec with random input
#[derive(Parser)]
#[command(name = "cargo xtask fuzz")]
struct Arguments {
    /// What to feed
    target: Target,
    /// For how long
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// At most so many inputs
    #[arg(long)]
    inputs: Option<u64>,
    /// Start of the random numbers; default: from the clock
    #[arg(long)]
    seed: Option<u64>,
    /// Run one input, such as one that was written before
    #[arg(long, value_name = "FILE")]
    replay: Option<PathBuf>,
}

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    let target = arguments.target;
    if let Some(file) = &arguments.replay {
        let input = std::fs::read(file).with_context(|| file.display().to_string())?;
        target.run(&input);
        println!("{}: holds", file.display());
        return Ok(ExitCode::SUCCESS);
    }
    let corpus = corpus(target)?;
    let seed = arguments.seed.unwrap_or_else(from_clock);
    println!(
        "{}: {} inputs in the corpus, seed {seed}",
        target.name(),
        corpus.len()
    );
    let mut random = Random::new(seed);
    let begin = Instant::now();
    let end = Duration::from_secs(arguments.seconds);
    let mut count: u64 = 0;
    let mut slowest = Duration::ZERO;
    while begin.elapsed() < end && arguments.inputs.is_none_or(|inputs| count < inputs) {
        // The clock is asked once in a while.
        for _ in 0..256 {
            let input = generate::input(target, &mut random, &corpus);
            let started = Instant::now();
            if catch_unwind(AssertUnwindSafe(|| target.run(&input))).is_err() {
                let file = keep(target, &input)?;
                println!(
                    "{}: input {count} with seed {seed} does not hold; it is in {}",
                    target.name(),
                    file.display()
                );
                return Ok(ExitCode::FAILURE);
            }
            slowest = slowest.max(started.elapsed());
            count += 1;
        }
    }
    println!(
        "{}: {count} inputs in {:.1?}, nothing found; the slowest took {slowest:.1?}",
        target.name(),
        begin.elapsed()
    );
    Ok(ExitCode::SUCCESS)
}

fn from_clock() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(1, |now| now.as_secs())
}

fn corpus(target: Target) -> Result<Vec<Vec<u8>>> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("corpus")
        .join(target.name());
    let mut files: Vec<PathBuf> = std::fs::read_dir(&directory)
        .with_context(|| format!("cannot read the corpus {}", directory.display()))?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()?;
    files.sort();
    files
        .iter()
        .map(|file| std::fs::read(file).with_context(|| file.display().to_string()))
        .collect()
}

/// Writes an input to where it can be replayed from.
fn keep(target: Target, input: &[u8]) -> Result<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/fuzz");
    std::fs::create_dir_all(&directory)?;
    let file = directory.join(format!("{}-{}.bin", target.name(), from_clock()));
    std::fs::write(&file, input)?;
    Ok(file)
}
