//! `netwatch-lab`: scenarios against a real `netwatch`, in network namespaces.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::{Args, Parser, Subcommand};
use lab::narrate::Narrator;
use lab::run::{Options, run};
use lab::scenario::{Scenario, load, load_all};
use lab::sys;
use results::{Check, Document, Samples, measures, merged};

#[derive(Parser)]
#[command(
    name = "netwatch-lab",
    version,
    about = "Scenarios against a real netwatch, in network namespaces (needs root)"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run scenarios; without names all that are shipped
    Run(RunArgs),
    /// The first scenario, told as it happens
    Demo(DemoArgs),
    /// The null benchmark: what the rig itself adds and costs
    Null(NullArgs),
    /// A helper process of the lab's own
    #[command(hide = true)]
    Role {
        #[command(subcommand)]
        role: RoleCommand,
    },
}

#[derive(Subcommand)]
enum RoleCommand {
    /// The validator's end of the workload
    Validator { file: PathBuf },
}

#[derive(Args)]
struct RunArgs {
    /// Names of shipped scenarios
    scenarios: Vec<String>,
    /// List the shipped scenarios
    #[arg(long)]
    list: bool,
    /// A scenario file of your own
    #[arg(long, value_name = "S.toml")]
    file: Vec<PathBuf>,
    /// Run each scenario so many times, each time with the next seed
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    repeat: u32,
    /// No daemon: the lab reroutes by a script of its own, to test the rig
    #[arg(long, conflicts_with = "netwatch")]
    no_daemon: bool,
    /// Tell what happens as it happens
    #[arg(long)]
    verbose: bool,
    #[command(flatten)]
    common: Common,
}

#[derive(Args)]
struct DemoArgs {
    #[command(flatten)]
    common: Common,
}

#[derive(Args)]
struct NullArgs {
    /// For how many seconds
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// Write the results as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Args)]
struct Common {
    /// Draws AS numbers, prefixes, addresses, RTTs and culprits
    #[arg(long)]
    seed: Option<u64>,
    /// Write the results as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// The daemon's binary
    #[arg(long, value_name = "PATH", default_value = "target/debug/netwatch")]
    netwatch: PathBuf,
    /// Keep the run's files: configurations, logs, the journal
    #[arg(long)]
    keep: bool,
    /// Where the shipped scenarios are
    #[arg(long, value_name = "DIR", default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/lab/scenarios"))]
    scenario_dir: PathBuf,
}

fn main() -> ExitCode {
    sys::catch_signals();
    results::exit_code(match Cli::parse().command {
        Command::Run(args) => reported("lab", args.common.json.as_deref(), || run_scenarios(&args)),
        Command::Demo(args) => reported("demo", args.common.json.as_deref(), || demo(&args)),
        Command::Null(args) => reported("lab-null", args.json.as_deref(), || null(&args)),
        Command::Role {
            role: RoleCommand::Validator { file },
        } => lab::chatter::validator_main(&file).map(|()| true),
    })
}

/// Writes a failure that came before anything ran into the file, too.
fn reported(
    name: &str,
    json: Option<&Path>,
    f: impl FnOnce() -> anyhow::Result<Document>,
) -> anyhow::Result<bool> {
    let (document, failure) = match f() {
        Ok(document) => (document, None),
        Err(error) => {
            let mut document = Document::new(name);
            document
                .checks
                .push(Check::new("started", false, format!("{error:#}")));
            (document, Some(error))
        }
    };
    if let Some(path) = json {
        document.write(path)?;
    }
    if let Some(error) = failure {
        return Err(error);
    }
    anyhow::ensure!(
        !sys::interrupted(),
        "interrupted; everything that was made is removed"
    );
    Ok(document.ok())
}

fn run_scenarios(args: &RunArgs) -> anyhow::Result<Document> {
    let mut chosen = Vec::new();
    for file in &args.file {
        chosen.push(load(file)?);
    }
    if args.list || args.file.is_empty() || !args.scenarios.is_empty() {
        let shipped = load_all(&args.common.scenario_dir)?;
        if args.list {
            for scenario in shipped {
                println!("{:<28} {}", scenario.name, scenario.description);
            }
            return Ok(Document::new("lab"));
        }
        for name in &args.scenarios {
            if !shipped.iter().any(|scenario| scenario.name == *name) {
                bail!("there is no scenario `{name}`; see --list");
            }
        }
        let all = args.scenarios.is_empty() && args.file.is_empty();
        chosen.extend(
            shipped
                .into_iter()
                .filter(|scenario| all || args.scenarios.contains(&scenario.name)),
        );
    }
    let options = options(
        &args.common,
        args.no_daemon,
        Narrator::new(args.verbose),
        false,
    )?;
    let seed = seed_or_clock(args.common.seed);
    let mut document = Document::new("lab");
    let mut samples = Vec::new();
    let swept = lab::ns::sweep();
    if swept > 0 {
        println!("removed {swept} namespaces of an earlier run that was killed");
    }
    'all: for scenario in &chosen {
        for round in 0..args.repeat {
            let seed = seed.wrapping_add(u64::from(round));
            println!("{} (seed {seed}): {}", scenario.name, scenario.description);
            let before = document.checks.len();
            one(scenario, seed, &options, &mut document, &mut samples);
            print_checks(&options.narrator, &document.checks[before..]);
            if sys::interrupted() {
                break 'all;
            }
        }
    }
    document.checks = merged(document.checks);
    document.results = measures(samples);
    Ok(document)
}

fn one(
    scenario: &Scenario,
    seed: u64,
    options: &Options,
    document: &mut Document,
    samples: &mut Vec<Samples>,
) {
    match run(scenario, seed, options) {
        Ok(seen) => {
            let mut checks = match options.netwatch {
                Some(_) => seen.checks(scenario),
                None => seen.self_checks(scenario),
            };
            for check in checks.iter_mut().filter(|check| !check.ok) {
                check.detail = format!("{} [seed {seed}]", check.detail);
            }
            document.checks.extend(checks);
            samples.extend(seen.samples(&scenario.name));
        }
        Err(error) => document.checks.push(Check::new(
            format!("{}/ran", scenario.name),
            false,
            format!("{error:#} [seed {seed}]"),
        )),
    }
}

fn demo(args: &DemoArgs) -> anyhow::Result<Document> {
    let narrator = Narrator::new(true);
    let mut document = Document::new("demo");
    let scenario = load(&args.common.scenario_dir.join("upstream-dark.toml"))?;
    let options = options(&args.common, false, narrator, true)?;
    lab::ns::sweep();
    match run(&scenario, seed_or_clock(args.common.seed), &options) {
        Ok(seen) => {
            document.results = measures(seen.samples(&scenario.name));
            document.checks = seen.demo_checks(&scenario);
            if let Some(complaint) = seen.noise.complaint() {
                document.checks.push(Check::new(
                    format!("{}/quiet_rig", scenario.name),
                    false,
                    format!("noisy, so its timings are not reported: {complaint}"),
                ));
            }
        }
        Err(error) => {
            for name in [
                "detected",
                "correlated",
                "rerouted",
                "verified",
                "paged",
                "rolled_back",
            ] {
                document
                    .checks
                    .push(Check::new(name, false, format!("{error:#}")));
            }
        }
    }
    print_checks(&narrator, &document.checks);
    Ok(document)
}

fn null(args: &NullArgs) -> anyhow::Result<Document> {
    let mut document = Document::new("lab-null");
    lab::ns::sweep();
    let duration = std::time::Duration::from_secs(args.seconds);
    if let Err(error) = lab::null::run(duration, &mut document) {
        document
            .checks
            .push(Check::new("ran", false, format!("{error:#}")));
    }
    for measure in &document.results {
        let numbers = [
            ("", measure.value),
            ("p50", measure.p50),
            ("p95", measure.p95),
            ("p99", measure.p99),
            ("max", measure.max),
        ];
        let numbers: Vec<String> = numbers
            .iter()
            .filter_map(|(name, value)| Some(format!("{name} {:.2}", (*value)?).trim().to_owned()))
            .collect();
        println!(
            "{:<26} {:<12} {} {}",
            measure.metric,
            measure.case,
            numbers.join("  "),
            measure.unit
        );
    }
    print_checks(&Narrator::new(true), &document.checks);
    Ok(document)
}

fn options(
    common: &Common,
    no_daemon: bool,
    narrator: Narrator,
    print_report: bool,
) -> anyhow::Result<Options> {
    let netwatch = if no_daemon {
        None
    } else {
        let path = common.netwatch.canonicalize().with_context(|| {
            format!(
                "there is no daemon at {}: build it (`cargo build -p netwatch`) or say --netwatch PATH",
                common.netwatch.display()
            )
        })?;
        Some(path)
    };
    Ok(Options {
        netwatch,
        keep: common.keep,
        narrator,
        print_report,
    })
}

fn seed_or_clock(seed: Option<u64>) -> u64 {
    seed.unwrap_or_else(|| sys::now() % 1_000_000)
}

fn print_checks(narrator: &Narrator, checks: &[Check]) {
    for check in checks {
        println!(
            "  {} {}: {}",
            narrator.outcome(check.ok),
            check.name,
            check.detail
        );
    }
}
