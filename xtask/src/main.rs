//! The project's chores. `cargo xtask --help` lists them.

mod bench;
mod checks;
mod fuzz;
mod kernels;
mod lab;
mod setup;
mod shell;
mod sim;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Set up, try out and test netwatch.
#[derive(Parser)]
#[command(
    name = "cargo xtask",
    after_help = "Examples:
  cargo xtask demo                      the main job, live, in network namespaces
  cargo xtask test                      everything that CI runs
  cargo xtask kernels 6.1               the kernel tests on Debian 12's kernel
  cargo xtask lab --list                the scenarios
  cargo xtask lab gateway-dead --seed 7 one of them, with everything drawn anew
  cargo xtask sim --scenarios 10000     the detector against generated worlds
  cargo xtask fuzz update --seconds 60  random input for the decoder of UPDATEs"
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Install what a build and the lab need: system packages, the eBPF toolchain, BIRD
    Setup,
    /// The main job in the lab, narrated: cut, detect, reroute, page, heal; then the timeline
    Demo(lab::Demo),
    /// Run scenarios in the lab
    Lab(lab::Lab),
    /// The live kernel tests on other kernels, booted in QEMU, and on this machine's own
    Kernels(kernels::Kernels),
    /// Benchmarks, each beside its peers in the same run
    Bench(bench::Bench),
    /// Churn for minutes with the real daemon: nothing leaks, nothing is lost unaccounted
    Soak(bench::Soak),
    /// The pure cores against generated worlds in virtual time: are verdicts and actions right?
    Sim(sim::Sim),
    /// Feed a part of the BGP codec with random input
    Fuzz(fuzz::Fuzz),
    /// What CI runs: format, lints, dependency rules, unit and live tests, the lab
    Test(checks::Test),
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Setup => setup::run(),
        Command::Demo(arguments) => setup::run().and_then(|()| arguments.run()),
        Command::Lab(arguments) => setup::run().and_then(|()| arguments.run()),
        Command::Kernels(arguments) => arguments.run(),
        Command::Bench(arguments) => arguments.run(),
        Command::Soak(arguments) => setup::run().and_then(|()| arguments.run()),
        Command::Sim(arguments) => arguments.run(),
        Command::Fuzz(arguments) => arguments.run(),
        Command::Test(arguments) => setup::run().and_then(|()| arguments.run()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
