//! The engine's two promises: the same inputs give the same effects, byte for byte, also from a
//! checkpoint; and the route is asked for before anybody is paged.

mod world;

use engine::{Engine, PATIENCE};
use events::{
    Effect, EffectId, EntryKind, Input, Outcome, Page, PageAction, PlanMode, Sequenced, Verdict,
};
use world::{CUT, HEAL, Setup, World, ms, params};

type Effects = Vec<(EffectId, Effect)>;

fn drain(engine: &mut Engine, effects: &mut Effects) {
    while let Some(effect) = engine.poll_effect() {
        effects.push(effect);
    }
}

/// Feeds a recording; effects are drained after each timeout, as the daemon does.
fn replay(engine: &mut Engine, inputs: &[Sequenced]) -> Effects {
    let mut effects = Vec::new();
    for recorded in inputs {
        let again = engine.handle(recorded.at, recorded.input.clone());
        assert_eq!(again, *recorded, "the recording itself is the same");
        if recorded.input == Input::Timeout {
            drain(engine, &mut effects);
        }
    }
    effects
}

fn bytes<T: serde::Serialize>(value: &T) -> String {
    serde_json::to_string(value).expect("serialisable")
}

/// The recording as a file would have it.
fn through_a_file(inputs: &[Sequenced]) -> Vec<Sequenced> {
    serde_json::from_str(&bytes(&inputs)).expect("the recording reads back")
}

fn pages(effects: &Effects) -> Vec<&Page> {
    effects
        .iter()
        .filter_map(|(_, effect)| match effect {
            Effect::Page(page) => Some(page),
            _ => None,
        })
        .collect()
}

fn position(effects: &Effects, wanted: impl Fn(&Effect) -> bool) -> Option<usize> {
    effects.iter().position(|(_, effect)| wanted(effect))
}

fn story(effects: &Effects) -> String {
    effects
        .iter()
        .filter_map(|(_, effect)| match effect {
            Effect::Journal(entry) => {
                Some(format!("{} {:?} {}\n", entry.at, entry.actor, entry.text))
            }
            _ => None,
        })
        .collect()
}

#[test]
fn the_same_inputs_give_the_same_bytes() {
    for seed in 0..4 {
        let world = World::run(Setup::new(seed));
        let told = (world.inputs.len(), world.effects.len());
        assert!(told.0 > 20_000 && told.1 > 30, "{told:?}");
        let recording = through_a_file(&world.inputs);
        let (mut one, mut other) = (
            Engine::new(params(PlanMode::Act)),
            Engine::new(params(PlanMode::Act)),
        );
        let first = replay(&mut one, &recording);
        let second = replay(&mut other, &recording);
        assert_eq!(bytes(&first), bytes(&world.effects), "seed {seed}");
        assert_eq!(bytes(&first), bytes(&second), "seed {seed}");
        assert_eq!(bytes(&one), bytes(&other), "the states agree as well");
    }
}

#[test]
fn a_checkpoint_goes_on_where_it_was_taken() {
    let world = World::run(Setup::new(11));
    let count = world.inputs.len();
    // In the quiet, in the middle of the suspicion, of the judging and of the outage, and at the end.
    let mut places: Vec<usize> = [
        CUT - 500,
        CUT + 120,
        CUT + 200,
        CUT + 400,
        CUT + 2_500,
        HEAL + 500,
    ]
    .iter()
    .map(|at| world.inputs.partition_point(|input| input.at < ms(*at)))
    .collect();
    places.extend([1, count / 3, count - 1]);
    for place in places {
        let (before, after) = world.inputs.split_at(place);
        let mut engine = Engine::new(params(PlanMode::Act));
        let mut effects = replay(&mut engine, before);
        // Effects that wait in it are part of the checkpoint.
        let checkpoint = bytes(&engine);
        let mut restored: Engine = serde_json::from_str(&checkpoint).expect("it reads back");
        assert_eq!(bytes(&restored), checkpoint);
        assert_eq!(restored.next_timeout(), engine.next_timeout());
        effects.extend(replay(&mut restored, after));
        assert_eq!(bytes(&effects), bytes(&world.effects), "from input {place}");
        replay(&mut engine, after);
        assert_eq!(bytes(&restored), bytes(&engine), "from input {place}");
    }
}

/// An undrained engine keeps its effects through a checkpoint, with their numbers.
#[test]
fn effects_that_wait_survive_a_checkpoint() {
    let world = World::run(Setup::new(12));
    let mut engine = Engine::new(params(PlanMode::Act));
    for recorded in &world.inputs {
        engine.handle(recorded.at, recorded.input.clone());
    }
    let mut restored: Engine = serde_json::from_str(&bytes(&engine)).expect("it reads back");
    let mut effects = Vec::new();
    drain(&mut restored, &mut effects);
    assert_eq!(bytes(&effects), bytes(&world.effects));
    let numbers: Vec<u64> = effects.iter().map(|(id, _)| id.0).collect();
    assert!(numbers.iter().copied().eq(1..=numbers.len() as u64));
}

#[test]
fn the_route_comes_before_the_page() {
    for seed in 0..6 {
        let world = World::run(Setup::new(seed));
        let effects = &world.effects;
        let story = story(effects);
        let install = position(effects, |e| matches!(e, Effect::Install(_))).expect(&story);
        let page = position(effects, |e| matches!(e, Effect::Page(_))).expect(&story);
        assert!(install < page, "seed {seed}\n{story}");

        let pages = pages(effects);
        let told: Vec<_> = pages
            .iter()
            .map(|page| {
                (
                    page.action,
                    page.class.as_str(),
                    page.details.remediation.as_str(),
                )
            })
            .collect();
        assert_eq!(
            told,
            [
                (PageAction::Trigger, "upstream_as", "installed, verifying"),
                (PageAction::Trigger, "upstream_as", "verified"),
                (PageAction::Resolve, "upstream_as", "verified"),
            ],
            "seed {seed}\n{story}"
        );
        assert!(pages.iter().all(|page| page.incident == pages[0].incident));
        assert!(pages[0].at < ms(CUT + 500), "{story}");
        assert!(pages[2].at > ms(HEAL), "{story}");
        assert!(!pages[0].details.affected_peers.is_empty());
        assert_eq!(
            pages[2].details.bgp.withdrawn, 8,
            "{:?}",
            pages[2].details.bgp
        );

        // The kernel had answered when the page was asked for.
        let acknowledged = world
            .inputs
            .iter()
            .find(|i| matches!(i.input, Input::Outcome(Outcome::Installed { .. })))
            .expect(&story);
        assert!(acknowledged.at <= pages[0].at);
        // And the routes are taken back in the end, after the resolve.
        let revert = position(effects, |e| matches!(e, Effect::Revert { .. })).expect(&story);
        assert!(revert > page, "{story}");
    }
}

#[test]
fn a_slow_kernel_delays_the_page_by_the_patience_at_most() {
    for seed in 0..3 {
        let mut setup = Setup::new(seed);
        setup.install_takes = 700;
        let world = World::run(setup);
        let story = story(&world.effects);
        let verdict = world
            .effects
            .iter()
            .find_map(|(_, effect)| match effect {
                Effect::Journal(entry) => match &entry.kind {
                    EntryKind::Verdict { verdict } if *verdict != Verdict::None => Some(entry.at),
                    _ => None,
                },
                _ => None,
            })
            .expect(&story);
        let pages = pages(&world.effects);
        assert_eq!(pages[0].at, verdict + PATIENCE, "{story}");
        assert_eq!(pages[0].details.remediation, "installing", "{story}");
        assert_eq!(pages[1].details.remediation, "verified", "{story}");
        let install = position(&world.effects, |e| matches!(e, Effect::Install(_)));
        let page = position(&world.effects, |e| matches!(e, Effect::Page(_)));
        assert!(install < page && install.is_some(), "{story}");
    }
}

#[test]
fn in_shadow_mode_the_page_says_what_would_be_done() {
    let mut setup = Setup::new(5);
    setup.mode = PlanMode::Shadow;
    let world = World::run(setup);
    let story = story(&world.effects);
    let pages = pages(&world.effects);
    assert!(
        pages[0]
            .details
            .remediation
            .starts_with("shadow: would install "),
        "{story}"
    );
    assert_eq!(
        pages[pages.len() - 1].action,
        PageAction::Resolve,
        "{story}"
    );
}

#[test]
fn maintenance_pages_and_installs_nothing() {
    let mut setup = Setup::new(5);
    setup.maintenance = true;
    let world = World::run(setup);
    let story = story(&world.effects);
    let install = position(&world.effects, |e| matches!(e, Effect::Install(_)));
    assert_eq!(install, None, "{story}");
    let pages = pages(&world.effects);
    assert!(
        pages[0]
            .details
            .remediation
            .starts_with("refused: maintenance window: router; advice: install "),
        "{story}"
    );
    assert_eq!(
        pages[pages.len() - 1].action,
        PageAction::Resolve,
        "{story}"
    );
}

#[test]
fn where_no_answers_come_back_no_route_is_kept_and_the_page_says_so() {
    for seed in 0..3 {
        let mut setup = Setup::new(seed);
        setup.answers_die = true;
        let world = World::run(setup);
        let story = story(&world.effects);
        let asked = world
            .effects
            .iter()
            .filter(|(_, e)| matches!(e, Effect::Install(_)));
        let taken_back = world
            .effects
            .iter()
            .filter(|(_, e)| matches!(e, Effect::Revert { .. }));
        assert_eq!(asked.count(), taken_back.count(), "{story}");
        let pages = pages(&world.effects);
        assert!(!pages.is_empty(), "{story}");
        assert!(
            pages
                .iter()
                .all(|page| page.details.remediation != "verified"),
            "{story}"
        );
    }
}

#[test]
fn in_a_world_without_a_fault_nothing_is_done() {
    for seed in 0..3 {
        let mut setup = Setup::new(seed);
        setup.cut = false;
        let world = World::run(setup);
        let story = story(&world.effects);
        assert!(
            world
                .effects
                .iter()
                .all(|(_, e)| matches!(e, Effect::Watch { .. })),
            "{story}"
        );
    }
}

/// Time that runs backwards counts as standing still.
#[test]
fn time_never_runs_backwards() {
    let mut engine = Engine::new(params(PlanMode::Act));
    assert_eq!(engine.handle_timeout(ms(500)).at, ms(500));
    let late = engine.handle_timeout(ms(400));
    assert_eq!((late.at, late.sequence), (ms(500), 2));
}
