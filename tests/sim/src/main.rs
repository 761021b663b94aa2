//! The simulation's command line; `cargo xtask sim` builds and calls it.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use results::{Check, Document};

use sim::judge::Judged;
use sim::longrun;
use sim::params::Params;
use sim::report::{self, Figures};
use sim::run::{Run, run};
use sim::without::{KINDS, Without};
use sim::world::World;

/// Generated worlds in virtual time against tracker, correlator and planner.
#[derive(Parser)]
#[command(
    name = "cargo xtask sim",
    after_help = "Examples:
  cargo xtask sim --scenarios 10000 --seed 1 --json s.json
  cargo xtask sim --world 123456789 --explain   one world, told
  cargo xtask sim --scenarios 2000 --without bgp
  cargo xtask sim --benign-days 300              no critical page, no reroute
  cargo xtask sim --ablate --scenarios 1000     what each kind of evidence is worth
  cargo xtask sim --params my.toml              tests/sim/params.toml documents the keys

Exit code: 0, or 1 when a check fails (see docs/sim.md)"
)]
struct Arguments {
    /// How many worlds
    #[arg(long, default_value_t = 1000, value_name = "N")]
    scenarios: usize,
    /// The seed that the worlds' seeds come from
    #[arg(long, default_value_t = 1, value_name = "S")]
    seed: u64,
    /// Write results and checks to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Parameters that override the shipped ones
    #[arg(long, value_name = "FILE.toml")]
    params: Option<PathBuf>,
    /// Evidence that the engine is not given: see --kinds
    #[arg(long, value_name = "KIND", value_delimiter = ',')]
    without: Vec<String>,
    /// List the kinds of evidence
    #[arg(long)]
    kinds: bool,
    /// Then run a tenth of them, 1,000 at least, without each kind of evidence in turn
    #[arg(long, conflicts_with_all = ["without", "world"])]
    ablate: bool,
    /// Run one world, by its own seed
    #[arg(long, value_name = "SEED")]
    world: Option<u64>,
    /// Tell the world's or the day's story
    #[arg(long)]
    explain: bool,
    /// Run so many host-days of benign disturbance instead
    #[arg(long, value_name = "N", conflicts_with_all = ["world", "ablate", "without"])]
    benign_days: Option<usize>,
    /// Run one of these days, by its own seed
    #[arg(long, value_name = "SEED", conflicts_with_all = ["world", "ablate", "without", "benign_days"])]
    benign_day: Option<u64>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let mut document = Document::new("sim");
    let result = go(&arguments, &mut document);
    if let Err(error) = &result {
        document
            .checks
            .push(Check::new("ran", false, format!("{error:#}")));
    }
    let written = match &arguments.json {
        Some(file) => document.write(file),
        None => Ok(()),
    };
    if let Err(error) = result.and(written) {
        eprintln!("error: {error:#}");
        return ExitCode::FAILURE;
    }
    for check in &document.checks {
        let sign = if check.ok { "ok" } else { "FAILED" };
        println!("{sign:7}{:18}{}", check.name, check.detail);
    }
    if document.ok() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn go(arguments: &Arguments, document: &mut Document) -> Result<()> {
    if arguments.kinds {
        for (kind, what) in KINDS {
            println!("{kind:16}{what}");
        }
        return Ok(());
    }
    let params = match &arguments.params {
        Some(file) => {
            let text = std::fs::read_to_string(file)
                .with_context(|| format!("cannot read {}", file.display()))?;
            Params::with(&text).with_context(|| format!("{}", file.display()))?
        }
        None => Params::shipped()?,
    };
    if let Some(days) = arguments.benign_days {
        let text = longrun::run(&params, days, arguments.seed, document);
        print!("{text}");
        return Ok(());
    }
    if let Some(seed) = arguments.benign_day {
        let ran = World::benign_day(&params, seed, true).run();
        let (story, judged) = sim::explain::tell(seed, &ran);
        if arguments.explain {
            print!("{story}");
        }
        let detail = judged.wrong.join("; ");
        let check = Check::new("benign_day", judged.wrong.is_empty(), detail);
        document.checks.push(check);
        return Ok(());
    }
    let mut without = Without::default();
    for kind in &arguments.without {
        anyhow::ensure!(
            without.switch_off(kind),
            "there is no kind of evidence {kind}: --kinds lists them"
        );
    }
    if let Some(seed) = arguments.world {
        let (story, judged) = sim::explain::explain(&params, seed, without);
        if arguments.explain {
            print!("{story}");
        }
        document.checks.push(Check::new(
            "world",
            !judged.misjudged(),
            [judged.wrong.join("; "), judged.notes.join("; ")].join(" "),
        ));
        return Ok(());
    }
    let plain = Run {
        worlds: arguments.scenarios,
        seed: arguments.seed,
        without,
        title: "worlds".to_owned(),
    };
    let (worlds, seconds) = run(&params, &plain);
    let minutes = (seconds / 60.0).max(1e-9);
    print!("{}", report::text(&worlds, minutes));
    report::fill(document, &worlds, minutes);
    if arguments.ablate {
        ablate(&params, &plain, &worlds, document);
    }
    Ok(())
}

/// The first worlds again, without each kind of evidence in turn.
fn ablate(params: &Params, plain: &Run, worlds: &[Judged], document: &mut Document) {
    let some = plain.worlds.min((plain.worlds / 10).max(1_000));
    let full = Figures::of(&worlds[..some.min(worlds.len())]);
    println!("\n{some} worlds\n{:18}{}", "all evidence", full.line());
    for (kind, _) in KINDS {
        let mut without = Without::default();
        without.switch_off(kind);
        let again = Run {
            worlds: some,
            without,
            title: format!("without {kind}"),
            ..plain.clone()
        };
        let figures = Figures::of(&run(params, &again).0);
        println!("{:18}{}", format!("- {kind}"), figures.line());
        report::ablated(document, kind, &full, &figures);
    }
}
