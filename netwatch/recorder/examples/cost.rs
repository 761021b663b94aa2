//! What recording costs: CPU time per input beside the engine's own, bytes per input, and what a copy
//! of the engine's state takes. `cargo run --release -p recorder --example cost`

#[path = "../../engine/tests/world/mod.rs"]
#[allow(dead_code)]
mod world;

use std::time::{Duration, Instant};

use engine::Engine;
use events::{Input, PlanMode};
use recorder::{Recorder, Settings};
use world::{Setup, World, params};

const ROUNDS: u32 = 10;

fn main() -> std::io::Result<()> {
    let world = World::run(Setup::new(1));
    let inputs = &world.inputs;
    let count = inputs.len();
    let (mut alone, mut recorded) = (Duration::MAX, Duration::MAX);
    let (mut bytes, mut copy) = (0, Duration::MAX);
    for _ in 0..ROUNDS {
        let mut engine = Engine::new(params(PlanMode::Act));
        let begin = Instant::now();
        for input in inputs {
            engine.handle(input.at, input.input.clone());
            while engine.poll_effect().is_some() {}
        }
        alone = alone.min(begin.elapsed());
        let begin = Instant::now();
        let clone = engine.clone();
        copy = copy.min(begin.elapsed());
        drop(clone);

        let folder = tempfile::tempdir()?;
        let mut engine = Engine::new(params(PlanMode::Act));
        let settings = Settings {
            directory: folder.path().to_owned(),
            before: Duration::from_secs(60),
            memory: 64 << 20,
            recording: 64 << 20,
            total: 512 << 20,
        };
        let begin = Instant::now();
        let mut recorder = Recorder::start(settings, &engine, inputs[0].at)?;
        for input in inputs {
            recorder.input(&engine.handle(input.at, input.input.clone()));
            if input.input == Input::Timeout {
                while let Some((id, effect)) = engine.poll_effect() {
                    recorder.effect(id, &effect);
                }
                recorder.step(&engine, input.at);
            }
        }
        recorded = recorded.min(begin.elapsed());
        recorder.stop(inputs[count - 1].at, Duration::from_secs(60));
        bytes = recorder::list(folder.path())?
            .iter()
            .map(|info| info.bytes)
            .max()
            .unwrap_or(0);
    }
    let per = |time: Duration| time.as_nanos() as f64 / count as f64;
    println!("{count} inputs of 24 connections in 14 s, the least of {ROUNDS} rounds");
    println!("engine alone        {:>8.0} ns per input", per(alone));
    println!("engine and recorder {:>8.0} ns per input", per(recorded));
    println!(
        "recording           {:>8.1} bytes per input",
        bytes as f64 / count as f64
    );
    println!("copy of the state   {:>8.0} us", copy.as_secs_f64() * 1e6);
    Ok(())
}
