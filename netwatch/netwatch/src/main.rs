//! netwatch: the command line. The daemon itself is in `daemon`.

mod answers;
mod bgp;
mod bgp_decode;
mod bgp_decode_bmp;
mod bgp_input;
mod bgp_json;
mod bgp_replay;
mod bgp_rib;
mod bgp_stations;
mod bgp_text;
mod cli;
mod counters;
mod daemon;
mod doctor;
mod failover;
mod families;
mod kernel;
mod leftover;
mod maintenance;
mod metrics;
mod narrate;
mod nudge;
mod page;
mod replay;
mod replay_text;
mod report;
mod rib;
mod show;
mod status;
mod top;
mod trace;
mod uplinks;
mod wiring;

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use tracing_subscriber::EnvFilter;

use cli::{Cli, Command, Configured};

fn main() -> ExitCode {
    restore_sigpipe();
    match dispatch(Cli::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(command: Command) -> Result<ExitCode> {
    match command {
        Command::Run(arguments) => run(&arguments),
        Command::Doctor(arguments) => doctor::run(&arguments),
        Command::Status(query) => client(status::run(&query)),
        Command::Top(arguments) => client(top::run(&arguments)),
        Command::Trace(arguments) => {
            log("warn")?;
            client(trace::run(&arguments))
        }
        Command::Report(arguments) => report::run(&arguments),
        Command::Replay(arguments) => Ok(replay::run(&arguments)),
        Command::Failover { command } => client(failover::run(&command)),
        Command::Page(arguments) => client(page::run(&arguments)),
        Command::Bgp { command } => client(bgp::run(&command)),
        Command::CheckConfig { file } => {
            let config = config::Config::load(&file)?;
            for warning in config.warnings() {
                println!("warning: {warning}");
            }
            println!("{}: valid", file.display());
            Ok(ExitCode::SUCCESS)
        }
        Command::Watchdog(arguments) => {
            log("info")?;
            Ok(routes::watchdog_main(
                &arguments.runtime_dir,
                arguments.protocol,
                arguments.stay,
            ))
        }
    }
}

fn run(arguments: &Configured) -> Result<ExitCode> {
    let config = wiring::load(arguments.config.as_deref())?;
    log(&config.host.log)?;
    // Two workers: a full BGP table that is taken in never holds up the pager.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let result = daemon::run(config, &runtime);
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    result.map(|()| ExitCode::SUCCESS)
}

/// A command that talks to the daemon.
fn client(work: impl Future<Output = Result<ExitCode>>) -> Result<ExitCode> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(work)
}

fn log(filter: &str) -> Result<()> {
    use std::io::IsTerminal;
    let filter = EnvFilter::try_from_default_env().or_else(|_| EnvFilter::try_new(filter))?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    Ok(())
}

/// `netwatch report | head` ends quietly, as other tools do.
fn restore_sigpipe() {
    // SAFETY: runs before any thread is started, and SIG_DFL is no handler that could misbehave.
    let _ = unsafe {
        nix::sys::signal::signal(
            nix::sys::signal::Signal::SIGPIPE,
            nix::sys::signal::SigHandler::SigDfl,
        )
    };
}
