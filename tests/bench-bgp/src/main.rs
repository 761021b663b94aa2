//! `netwatch-bench-bgp`: a full table over a real session, churn, queries, lookups and decoding;
//! BIRD, GoBGP and FRR receive the same bytes from the same sender in the same run.

mod feed;
mod inside;
mod receivers;
mod sender;
mod table;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use lab::ns::Space;
use results::{Document, Measure};

use crate::receivers::ROUTER_ADDRESS;
use crate::table::Table;

#[derive(Parser)]
#[command(
    name = "netwatch-bench-bgp",
    version,
    about = "How fast and small the BGP feed is, beside BIRD, GoBGP and FRR (needs root)"
)]
struct Cli {
    /// A tenth of the synthetic table, one run each
    #[arg(long)]
    quick: bool,
    /// Only these parts: decode, lookup, apply, churn, queries, feed
    #[arg(long, value_delimiter = ',', value_name = "PART")]
    only: Vec<String>,
    /// Write results and checks as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// The daemon's binary, built with the release profile
    #[arg(long, value_name = "PATH", default_value = "target/release/netwatch")]
    netwatch: PathBuf,
}

/// One run of the benchmark.
pub struct Bench {
    space: Space,
    netwatch: PathBuf,
    quick: bool,
    only: Vec<String>,
    document: Document,
}

impl Bench {
    fn add(&mut self, measure: Measure) {
        self.document.add(measure);
    }

    fn check(&mut self, name: &str, ok: bool, detail: String) {
        self.document.check(name, ok, detail);
    }

    fn at_most(&mut self, name: &str, figure: Option<f64>, limit: f64) {
        let ok = figure.is_some_and(|figure| figure <= limit);
        let shown = figure.map_or_else(
            || "not measured".to_owned(),
            |figure| format!("{figure:.3}"),
        );
        self.check(name, ok, format!("{shown}, at most {limit} wanted"));
    }

    /// A failure is a failed check, not the end of the others.
    fn part(
        &mut self,
        name: &str,
        run: impl FnOnce(&mut Self) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let family = name.split('/').next().unwrap_or(name);
        if !self.only.is_empty() && !self.only.iter().any(|only| only == family) {
            return Ok(());
        }
        eprintln!("==> {name}");
        if let Err(error) = run(self) {
            anyhow::ensure!(!lab::sys::interrupted(), "interrupted");
            self.check(&format!("{name}/measured"), false, format!("{error:#}"));
        }
        Ok(())
    }
}

fn main() -> ExitCode {
    lab::sys::catch_signals();
    let cli = Cli::parse();
    let bench = receivers::world()
        .context("cannot build the network (root?)")
        .and_then(|space| {
            Ok(Bench {
                space,
                netwatch: std::path::absolute(&cli.netwatch)?,
                quick: cli.quick,
                only: cli.only,
                document: Document::new("bgp"),
            })
        });
    let (document, result) = match bench {
        Ok(mut bench) => {
            let result = run(&mut bench);
            (bench.document, result)
        }
        Err(error) => (Document::new("bgp"), Err(error)),
    };
    results::exit_code(document.finish(result, cli.json.as_deref()))
}

fn run(bench: &mut Bench) -> anyhow::Result<()> {
    let part = if bench.quick { 10 } else { 1 };
    let synthetic = table::synthetic(1_050_000 / part, 220_000 / part, ROUTER_ADDRESS)?;
    let real = real_feed()?;
    if real.is_none() {
        eprintln!("skipped: the real feed is absent (../shared/data or NETWATCH_SHARED_DATA)");
    }
    for table in [Some(&synthetic), real.as_ref()].into_iter().flatten() {
        eprintln!(
            "    {}: {} prefixes in {} UPDATEs, {} bytes",
            table.name,
            table.prefixes,
            table.updates(),
            table.bytes.len()
        );
    }
    let decoded = real.as_ref().unwrap_or(&synthetic);
    bench.part("decode", |bench| inside::decode(bench, decoded))?;
    bench.part("lookup", |bench| inside::lookup(bench, &synthetic))?;
    bench.part("apply", |bench| inside::apply(bench, &synthetic))?;
    bench.part("churn", |bench| inside::churn(bench, &synthetic))?;
    bench.part("queries", |bench| feed::queries(bench, &synthetic))?;
    bench.part("feed/synthetic", |bench| feed::compare(bench, &synthetic))?;
    if let Some(real) = &real {
        bench.part("feed/real", |bench| feed::compare(bench, real))?;
    }
    Ok(())
}

fn real_feed() -> anyhow::Result<Option<Table>> {
    let data = std::env::var_os("NETWATCH_SHARED_DATA")
        .map_or_else(|| Path::new("../shared/data").to_owned(), PathBuf::from);
    let file = data.join("mrt/updates.et-header.2015.gz");
    if !file.exists() {
        return Ok(None);
    }
    table::real(&file, ROUTER_ADDRESS).map(Some)
}
