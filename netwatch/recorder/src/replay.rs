//! Feeding a recording through the engine again.

use std::collections::VecDeque;
use std::time::Duration;

use engine::Engine;
use events::{Effect, EffectId, Input, Sequenced, Timestamp};
use serde::Serialize;

use crate::chunk::{Record, json};
use crate::frame::{Frame, Header};
use crate::read::{Part, Reader};
use crate::what_if::Changes;

/// How to replay.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Other parameters: then nothing is compared.
    pub what_if: Option<Changes>,
    /// Inputs after this time of the engine are left out.
    pub until: Option<Timestamp>,
}

/// An effect with its time.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Told {
    /// The engine's time when it was polled.
    pub at: Timestamp,
    /// Its number.
    pub id: EffectId,
    /// What was asked for.
    pub effect: Effect,
}

/// The first place where the engine did something else than was recorded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// The engine's time.
    pub at: Timestamp,
    /// The newest input fed.
    pub sequence: u64,
    /// What differs: `effect` or `state`.
    pub what: &'static str,
    /// What was recorded; `None`: nothing.
    pub recorded: Option<String>,
    /// What the engine did now; `None`: nothing.
    pub replayed: Option<String>,
}

/// What a replay did.
#[derive(Clone, Debug)]
pub struct Replayed {
    /// What the recording says of itself.
    pub header: Header,
    /// The engine's time of the first checkpoint and of the last input fed.
    pub span: Option<(Timestamp, Timestamp)>,
    /// Inputs fed.
    pub inputs: u64,
    /// The effects as recorded.
    pub recorded: Vec<Told>,
    /// The effects of the engine now.
    pub replayed: Vec<Told>,
    /// Effects that were compared.
    pub compared: u64,
    /// Later checkpoints whose state was compared.
    pub states: u64,
    /// The first difference.
    pub difference: Option<Difference>,
    /// What of the file could not be used, in words.
    pub damage: Vec<String>,
    /// Why the recording was closed; `None`: it was not, or its end is lost.
    pub closed: Option<String>,
    /// Why nothing could be replayed.
    pub unusable: Option<String>,
}

/// Feeds a recording through the engine. Without [`Options::what_if`] every effect is compared with
/// the recorded one, byte for byte, and so is the engine's state at each later checkpoint.
///
/// After a gap the replay goes on at the next checkpoint.
#[must_use]
pub fn replay(reader: Reader, options: &Options) -> Replayed {
    let mut run = Run {
        done: Replayed {
            header: reader.header().clone(),
            span: None,
            inputs: 0,
            recorded: Vec::new(),
            replayed: Vec::new(),
            compared: 0,
            states: 0,
            difference: None,
            damage: Vec::new(),
            closed: None,
            unusable: None,
        },
        options,
        engine: None,
        next: 0,
        fresh: VecDeque::new(),
        at: Timestamp::ZERO,
        over: false,
        timed_out: false,
    };
    for part in reader {
        if run.over {
            break;
        }
        run.part(part);
    }
    run.nothing_is_left();
    let mut done = run.done;
    if done.span.is_none() && done.unusable.is_none() {
        done.unusable = Some("it holds no intact checkpoint to begin at".to_owned());
    }
    done
}

struct Run<'a> {
    done: Replayed,
    options: &'a Options,
    /// `None`: a checkpoint is needed first.
    engine: Option<Engine>,
    /// The number of the next input in the recording.
    next: u64,
    /// Effects polled that the recording has not told of yet.
    fresh: VecDeque<Told>,
    at: Timestamp,
    over: bool,
    /// The last input was a timeout: after it effects are polled.
    timed_out: bool,
}

impl Run<'_> {
    fn part(&mut self, part: Part) {
        match part {
            Part::Damage(damage) => {
                self.done.damage.push(damage.to_string());
            }
            Part::Frame(Frame::Header(_)) => {}
            Part::Frame(Frame::End(reason)) => self.done.closed = Some(reason),
            Part::Frame(Frame::Checkpoint {
                sequence,
                effect,
                at,
                engine,
            }) => self.checkpoint(sequence, effect, at, &engine),
            Part::Frame(Frame::Chunk(chunk)) => {
                if self.engine.is_some() && self.next != chunk.head.first {
                    let before = chunk.head.first;
                    self.gap(format!(
                        "inputs from {} to before {before} are missing",
                        self.next
                    ));
                }
                if self.engine.is_none() {
                    return;
                }
                match chunk.records() {
                    Ok(records) => {
                        for record in records {
                            self.record(record);
                        }
                    }
                    Err(error) => self.gap(error.to_string()),
                }
            }
        }
    }

    /// Nothing can be fed until the next checkpoint.
    fn gap(&mut self, why: String) {
        self.nothing_is_left();
        self.done.damage.push(why);
        self.engine = None;
    }

    fn checkpoint(&mut self, sequence: u64, effect: EffectId, at: Timestamp, state: &[u8]) {
        self.nothing_is_left();
        if let Some(engine) = &self.engine {
            if self.next == sequence + 1 {
                if self.comparing() {
                    self.done.states += 1;
                    let now = json(engine);
                    if now != state {
                        self.differs("state", Some(state), Some(&now));
                    }
                }
                return;
            }
            self.gap(format!("inputs before {sequence} are missing"));
        }
        let mut engine: Engine = match serde_json::from_slice(state) {
            Ok(engine) => engine,
            Err(error) => {
                let why = format!(
                    "the checkpoint of netwatch {} cannot be read by netwatch {}: {error}; replay it with the version that recorded it",
                    self.done.header.netwatch,
                    env!("CARGO_PKG_VERSION")
                );
                if self.done.span.is_none() {
                    self.done.unusable = Some(why);
                    self.over = true;
                } else {
                    self.done.damage.push(why);
                }
                return;
            }
        };
        if (engine.sequence(), engine.last_effect()) != (sequence, effect) {
            self.done.damage.push(format!(
                "the checkpoint after input {sequence} is another's"
            ));
            return;
        }
        if let Some(changes) = &self.options.what_if {
            engine.set_params(changes.params().clone());
        }
        self.at = at;
        self.next = sequence + 1;
        self.done.span.get_or_insert((at, at));
        self.engine = Some(engine);
    }

    fn record(&mut self, record: Record) {
        if self.over {
            return;
        }
        match record {
            Record::Input(input) => self.input(input),
            Record::Effect(id, recorded) => self.effect(id, &recorded),
        }
    }

    fn input(&mut self, input: Sequenced) {
        if self.timed_out {
            self.nothing_is_left();
        }
        if self.options.until.is_some_and(|until| input.at > until) {
            self.over = true;
            return;
        }
        if self.options.what_if.is_some() {
            self.due_before(input.at);
        }
        let Some(engine) = &mut self.engine else {
            return;
        };
        self.timed_out = input.input == Input::Timeout;
        self.at = input.at;
        self.done.inputs += 1;
        self.next = input.sequence + 1;
        if let Some((_, until)) = &mut self.done.span {
            *until = input.at;
        }
        engine.handle(input.at, input.input);
        // Told to nobody here.
        while engine.poll_signal().is_some() {}
        if self.timed_out {
            self.poll();
        }
    }

    /// Timeouts that became due since and that the recorded engine had no need of.
    fn due_before(&mut self, at: Timestamp) {
        /// The daemon's own timer was that late at most.
        const LATE: Duration = Duration::from_millis(5);
        /// No engine asks for more between two inputs.
        const MOST: usize = 1000;
        for _ in 0..MOST {
            let Some(engine) = &mut self.engine else {
                return;
            };
            let Some(due) = engine
                .next_timeout()
                .filter(|due| *due > self.at && *due + LATE < at)
            else {
                return;
            };
            self.at = due;
            engine.handle_timeout(self.at);
            self.poll();
        }
    }

    fn poll(&mut self) {
        let Some(engine) = &mut self.engine else {
            return;
        };
        while let Some((id, effect)) = engine.poll_effect() {
            let told = Told {
                at: self.at,
                id,
                effect,
            };
            self.done.replayed.push(told.clone());
            self.fresh.push_back(told);
        }
    }

    fn effect(&mut self, id: EffectId, recorded: &[u8]) {
        if self.fresh.is_empty() {
            // At its stop the daemon polls without a timeout.
            self.poll();
        }
        let fresh = self.fresh.pop_front();
        if let Ok(effect) = serde_json::from_slice(recorded) {
            self.done.recorded.push(Told {
                at: self.at,
                id,
                effect,
            });
        }
        if !self.comparing() {
            return;
        }
        self.done.compared += 1;
        let now = fresh.as_ref().map(|told| json(&told.effect));
        if now.as_deref() != Some(recorded) || fresh.is_some_and(|told| told.id != id) {
            self.differs("effect", Some(recorded), now.as_deref());
        }
    }

    /// Effects that the recording does not have.
    fn nothing_is_left(&mut self) {
        if let Some(told) = self.fresh.pop_front()
            && self.comparing()
        {
            let now = json(&told.effect);
            self.differs("effect", None, Some(&now));
        }
        self.fresh.clear();
    }

    fn comparing(&self) -> bool {
        self.options.what_if.is_none()
    }

    fn differs(&mut self, what: &'static str, recorded: Option<&[u8]>, replayed: Option<&[u8]>) {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let sequence = self.next.saturating_sub(1);
        let at = self.at;
        self.done.difference.get_or_insert_with(|| Difference {
            at,
            sequence,
            what,
            recorded: recorded.map(text),
            replayed: replayed.map(text),
        });
    }
}
