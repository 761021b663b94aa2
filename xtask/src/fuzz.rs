//! `cargo xtask fuzz`: random input for the BGP codec.

use anyhow::Result;
use clap::Args;

use crate::shell::{cargo, run, step};

/// Arguments of `cargo xtask fuzz`.
#[derive(Args)]
#[command(after_help = "\
Targets: update (framer and UPDATE), open, bmp (a station), mrt (an archive). An input for which
something does not hold is written to target/fuzz; `--replay FILE` runs it again, and a copy in bgp/fuzz/corpus keeps it from coming
back: `cargo test` replays the corpus.

Examples:
  cargo xtask fuzz update --seconds 60
  cargo xtask fuzz open --inputs 10000000 --seconds 3600")]
pub struct Fuzz {
    /// What to feed
    target: String,
    /// For how long
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// At most so many inputs
    #[arg(long)]
    inputs: Option<u64>,
    /// Start of the random numbers; default: from the clock
    #[arg(long)]
    seed: Option<u64>,
    /// Run one input instead
    #[arg(long, value_name = "FILE")]
    replay: Option<String>,
}

impl Fuzz {
    /// Runs the target; something that does not hold is an error.
    pub fn run(self) -> Result<()> {
        step(&format!("fuzz {}", self.target));
        // The development profile: it checks arithmetic for overflow.
        let mut fuzz = cargo(&["run", "--quiet", "-p", "bgp-fuzz", "--", &self.target]);
        fuzz.args(["--seconds", &self.seconds.to_string()]);
        let numbers = [("--inputs", self.inputs), ("--seed", self.seed)];
        for (name, number) in numbers {
            if let Some(number) = number {
                fuzz.args([name, &number.to_string()]);
            }
        }
        if let Some(file) = &self.replay {
            fuzz.args(["--replay", file]);
        }
        run(&mut fuzz)
    }
}
