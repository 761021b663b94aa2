//! What becomes of a plan: judged, renewed, taken back.

mod common;

use std::time::Duration;

use common::{
    ANCHORS, ONSET, PEERS, World, acknowledged, default_entry, ms, overdue, policy, transmitted,
    upstream,
};
use events::{
    Asn, EntryKind, IncidentId, OperatorCommand, Outcome, PlanId, PlanMode, ProbeSource,
    RevertReason, Verdict,
};
use remediation::{Policy, RemediationStatus, Remediator, Stage};

const ALL: [usize; 6] = [0, 1, 2, 3, 4, 5];
const INSTALLED: u64 = ONSET + 160;

/// Twelve connections overdue, two per peer; a plan for all of them is in the kernel.
fn installed() -> World {
    installed_with(policy())
}

fn installed_with(policy: Policy) -> World {
    let mut world = World::new(policy);
    world.at(ONSET + 90);
    for connection in 0..12 {
        world.signal((connection % 6) as usize, connection, overdue);
    }
    world.at(ONSET + 100).anchors(true);
    world.at(ONSET + 150).confirm("i", upstream(), &ALL);
    assert_eq!(world.installs().len(), 1);
    world.at(INSTALLED).installed(1);
    world
}

fn verified() -> World {
    verified_with(policy())
}

fn verified_with(policy: Policy) -> World {
    let mut world = installed_with(policy);
    world.at(INSTALLED + 50);
    for connection in 0..6 {
        world.signal((connection % 6) as usize, connection, transmitted);
        world.signal((connection % 6) as usize, connection, acknowledged);
    }
    assert_eq!(world.last_status(), "verified");
    world
}

#[test]
fn half_the_flows_verify_early() {
    let mut world = installed();
    assert_eq!(world.last_status(), "installed, verifying");
    assert_eq!(
        world.probes_asked(),
        1,
        "probes for the case that too few transmit"
    );
    world.at(INSTALLED + 20);
    for connection in 0..5 {
        world.signal((connection % 6) as usize, connection, acknowledged);
    }
    assert_eq!(world.last_status(), "installed, verifying");
    world.signal(5, 5, acknowledged);
    assert_eq!(world.last_status(), "verified");
    assert!(
        world
            .journal()
            .iter()
            .any(|kind| matches!(kind, EntryKind::Verified { plan: PlanId(1) }))
    );
}

#[test]
fn flows_that_transmit_without_progress_bring_the_routes_down() {
    let mut world = installed();
    world.run(INSTALLED + 100, true);
    for connection in 0..8 {
        world.signal((connection % 6) as usize, connection, transmitted);
    }
    for connection in 0..3 {
        world.signal((connection % 6) as usize, connection, acknowledged);
    }
    world.run(INSTALLED + 1_400, true);
    assert!(world.reverts().is_empty());
    world.at(INSTALLED + 1_500);
    assert_eq!(world.reverts(), [(1, RevertReason::NotProgressing)]);
    world.reverted(1, RevertReason::NotProgressing);
    assert_eq!(
        world.last_status(),
        "reverted: flows did not progress over the backup"
    );
    // Not tried again for this incident.
    world.run(INSTALLED + 10_000, true);
    world.confirm("i", upstream(), &ALL);
    assert_eq!(world.installs().len(), 1);
}

#[test]
fn half_progress_at_the_deadline_is_enough() {
    let mut world = installed();
    world.at(INSTALLED + 100);
    for connection in 0..6 {
        world.signal((connection % 6) as usize, connection, transmitted);
    }
    for connection in 0..3 {
        world.signal((connection % 6) as usize, connection, acknowledged);
    }
    // Too young to be judged.
    world.at(INSTALLED + 1_450);
    for connection in 6..12 {
        world.signal((connection % 6) as usize, connection, transmitted);
    }
    world.at(INSTALLED + 1_500);
    assert_eq!(world.last_status(), "verified");
}

#[test]
fn idle_flows_are_judged_by_probes_from_their_source() {
    let mut world = installed();
    world.run(INSTALLED + 700, true);
    assert_eq!(world.last_status(), "installed, verifying");
    world.run(INSTALLED + 800, true);
    assert_eq!(world.last_status(), "verified");

    let mut world = installed();
    world.run(INSTALLED + 1_500, false);
    assert_eq!(world.reverts(), [(1, RevertReason::ReturnPath)]);

    // Anchors answer, and those that matter do not.
    let mut world = installed();
    for at in [100, 120, 140] {
        world.at(INSTALLED + at).anchors(true);
        for (peer, ..) in PEERS {
            world.probe("b", peer, ProbeSource::Flow, false);
        }
    }
    world.run(INSTALLED + 1_600, true);
    assert_eq!(world.reverts(), [(1, RevertReason::ReturnPath)]);

    // Neither flows nor probes.
    let mut world = installed();
    world.at(INSTALLED + 1_500);
    assert_eq!(world.reverts(), [(1, RevertReason::NotProgressing)]);
}

#[test]
fn what_was_sent_before_the_change_says_nothing() {
    let mut world = World::new(policy());
    world.at(ONSET + 90);
    for connection in 0..6 {
        world.signal(connection as usize, connection, overdue);
        world.signal(connection as usize, connection, transmitted);
    }
    world.anchors(true);
    world.at(ONSET + 150).confirm("i", upstream(), &ALL);
    world.at(INSTALLED).installed(1);
    world.run(INSTALLED + 1_500, true);
    assert_eq!(world.last_status(), "verified", "probes decided");
}

#[test]
fn a_verified_plan_is_renewed_every_third_of_its_lease() {
    let mut world = verified();
    world.run(INSTALLED + 61_000, true);
    assert_eq!(world.renewals(), 6);
    assert!(world.reverts().is_empty());
}

#[test]
fn a_backup_that_fails_is_left() {
    let mut world = verified();
    world.run(INSTALLED + 5_000, true);
    world.run(INSTALLED + 7_000, false);
    assert_eq!(world.reverts(), [(1, RevertReason::BackupFailed)]);

    // Nothing is heard of it: asked, not renewed, and given up before the lease ends.
    let mut world = verified();
    world.at(INSTALLED + 24_000);
    assert_eq!(world.renewals(), 0);
    assert!(world.probes_asked() > 1);
    assert_eq!(world.reverts(), [(1, RevertReason::BackupFailed)]);
}

#[test]
fn routes_go_after_the_heal_later_each_time_that_it_flaps() {
    let mut world = World::new(Policy {
        budget: remediation::Budget {
            per_class: 9,
            per_hour: 9,
            class_window: Duration::from_secs(300),
        },
        ..policy()
    });
    for (round, hold) in [(0_u64, 2_000_u64), (1, 4_000), (2, 8_000)] {
        let start = ONSET + round * 100_000;
        let id = format!("i{round}");
        let plan = round + 1;
        world.at(start + 100).anchors(true);
        world.at(start + 150).confirm(&id, upstream(), &ALL);
        world.at(start + 160).installed(plan);
        world.run(start + 10_000, true);
        world.heal(&id);
        world.heal(&id);
        world.run(start + 10_000 + hold - 1, true);
        assert_eq!(world.reverts().len(), plan as usize - 1);
        world.run(start + 10_000 + hold, true);
        assert_eq!(world.reverts().last(), Some(&(plan, RevertReason::Healed)));
        world.reverted(plan, RevertReason::Healed);
        assert_eq!(
            world.last_status(),
            "reverted: the primary path works again"
        );
        assert!(world.remediator.status().cases.is_empty());
        assert!(world.remediator.status().plans.is_empty());
    }
}

#[test]
fn a_relapse_within_the_hold_down_keeps_the_routes() {
    let mut world = verified();
    world.run(INSTALLED + 5_000, true);
    world.heal("i");
    world.run(INSTALLED + 6_000, true);
    world.confirm("j", upstream(), &ALL);
    assert_eq!(world.last_status(), "verified");
    world.run(INSTALLED + 20_000, true);
    assert!(world.reverts().is_empty());
    assert_eq!(world.installs().len(), 1);
    world.heal("j");
    world.run(INSTALLED + 23_000, true);
    assert_eq!(world.reverts(), [(1, RevertReason::Healed)]);
}

#[test]
fn a_better_verdict_that_permits_no_route_takes_it_back() {
    for (verdict, reason) in [
        (
            Verdict::ReturnPath { egress: None },
            RevertReason::ReturnPath,
        ),
        (Verdict::None, RevertReason::Healed),
        (Verdict::HostStall, RevertReason::Healed),
    ] {
        let mut world = verified();
        world.confirm("i", verdict, &ALL);
        assert_eq!(world.reverts(), [(1, reason)]);
    }
    // Everything dark: nothing is changed either way.
    let mut world = verified();
    world.confirm("i", Verdict::TotalIsolation, &ALL);
    assert!(world.reverts().is_empty());
}

#[test]
fn people_have_the_last_word() {
    for (command, reason) in [
        (
            OperatorCommand::KillSwitch { engaged: true },
            RevertReason::KillSwitch,
        ),
        (
            OperatorCommand::Rollback { plan: None },
            RevertReason::Operator,
        ),
        (
            OperatorCommand::Rollback {
                plan: Some(PlanId(1)),
            },
            RevertReason::Operator,
        ),
        (OperatorCommand::Stop, RevertReason::Stopping),
    ] {
        for mut world in [installed(), verified()] {
            let now = ms(world.now);
            world.remediator.operator(now, &command, &mut world.out);
            assert_eq!(world.reverts(), [(1, reason)]);
            world.reverted(1, reason);
            world.run(INSTALLED + 5_000, true);
            world.confirm("i", upstream(), &ALL);
            assert_eq!(world.installs().len(), 1, "{command:?}");
        }
        // While a plan waits for proof.
        let mut world = World::new(policy());
        world.at(ONSET + 150).confirm("i", upstream(), &ALL);
        if !matches!(command, OperatorCommand::Rollback { plan: Some(_) }) {
            world
                .remediator
                .operator(ms(world.now), &command, &mut world.out);
            world.run(ONSET + 5_000, true);
            world.confirm("i", upstream(), &ALL);
            assert!(world.installs().is_empty(), "{command:?}");
            assert!(world.last_status().starts_with("refused"));
        }
    }
}

fn maintenance(world: &mut World, reason: Option<&str>) {
    let command = OperatorCommand::Maintenance {
        active: reason.is_some(),
        reason: reason.map(str::to_owned),
    };
    let now = ms(world.now);
    world.remediator.operator(now, &command, &mut world.out);
    let told = world.remediator.status().maintenance;
    assert_eq!(told.as_deref(), reason);
}

#[test]
fn maintenance_refuses_with_advice_and_acts_afterwards() {
    for mode in [PlanMode::Act, PlanMode::Shadow] {
        for before_the_verdict in [true, false] {
            let mut world = World::new(Policy { mode, ..policy() });
            if before_the_verdict {
                maintenance(&mut world, Some("router"));
                world.at(ONSET + 100).anchors(true);
                world.at(ONSET + 150).confirm("i", upstream(), &ALL);
            } else {
                // While the plan waits for proof.
                world.at(ONSET + 150).confirm("i", upstream(), &ALL);
                maintenance(&mut world, Some("router"));
            }
            // Longer than proof is waited for outside a window.
            world.run(ONSET + 200_000, true);
            world.confirm("i", upstream(), &ALL);
            let status = world.last_status();
            assert!(
                status.starts_with("refused: maintenance window: router; advice: install 198.18."),
                "{status}"
            );
            assert_eq!(world.statuses().len(), 1, "said once");
            assert!(world.installs().is_empty());
            assert_eq!(world.remediator.status().acted_last_hour.0, 0);
            // The reason may change.
            maintenance(&mut world, Some("cable"));
            world.run(ONSET + 201_000, true);
            maintenance(&mut world, None);
            world.run(ONSET + 202_000, true);
            let acted = (world.installs().len(), world.last_status());
            match mode {
                PlanMode::Act => assert_eq!(acted, (1, "installing".to_owned())),
                PlanMode::Shadow => assert!(
                    acted.0 == 0 && acted.1.starts_with("shadow: would install"),
                    "{acted:?}"
                ),
            }
        }
    }
}

#[test]
fn after_maintenance_nothing_is_done_for_what_healed_or_was_forbidden() {
    for end in 0..4 {
        let mut world = World::new(policy());
        maintenance(&mut world, Some("router"));
        world.at(ONSET + 100).anchors(true);
        world.at(ONSET + 150).confirm("i", upstream(), &ALL);
        let now = ms(world.now);
        match end {
            0 => world.heal("i"),
            1 => world.confirm("i", Verdict::ReturnPath { egress: None }, &ALL),
            _ => {
                let command = if end == 2 {
                    OperatorCommand::KillSwitch { engaged: true }
                } else {
                    OperatorCommand::Rollback { plan: None }
                };
                world.remediator.operator(now, &command, &mut world.out);
            }
        }
        world.run(ONSET + 2_000, true);
        maintenance(&mut world, None);
        world.run(ONSET + 10_000, true);
        assert!(world.installs().is_empty(), "{end}");
    }
}

#[test]
fn without_proof_maintenance_is_told_all_the_same() {
    let mut world = World::new(policy());
    maintenance(&mut world, Some("router"));
    world.at(ONSET + 150).confirm("i", upstream(), &ALL);
    world.run(ONSET + 100_000, false);
    let status = world.last_status();
    assert!(
        status.starts_with("refused: maintenance window: router; return path"),
        "{status}"
    );
    maintenance(&mut world, None);
    world.run(ONSET + 105_000, true);
    assert_eq!(world.installs().len(), 1);
}

#[test]
fn maintenance_leaves_what_is_installed_to_its_course() {
    // Judged and renewed.
    let mut world = installed();
    maintenance(&mut world, Some("router"));
    world.run(INSTALLED + 61_000, true);
    assert_eq!(world.last_status(), "verified");
    assert!(world.renewals() >= 5 && world.reverts().is_empty());
    // Taken back when it fails.
    world.run(INSTALLED + 63_000, false);
    assert_eq!(world.reverts(), [(1, RevertReason::BackupFailed)]);

    // Not extended, although IPv6 is proven later.
    let mut world = World::new(policy());
    world.at(ONSET + 100);
    for (anchor, _) in &ANCHORS[..2] {
        world.probe("b", anchor, ProbeSource::Flow, true);
    }
    world.at(ONSET + 150).confirm("i", upstream(), &ALL);
    world.at(ONSET + 260).installed(1);
    maintenance(&mut world, Some("router"));
    world.run(INSTALLED + 2_000, true);
    world.confirm("i", upstream(), &ALL);
    assert_eq!(world.installs().len(), 1);
    assert_eq!(world.last_status(), "verified");
    maintenance(&mut world, None);
    world.run(INSTALLED + 4_000, true);
    assert_eq!(world.installs().len(), 2);
}

#[test]
fn another_plan_is_not_rolled_back_by_mistake() {
    let mut world = verified();
    let command = OperatorCommand::Rollback {
        plan: Some(PlanId(9)),
    };
    world
        .remediator
        .operator(ms(world.now), &command, &mut world.out);
    assert!(world.reverts().is_empty());
}

#[test]
fn the_budget_ends_in_advice() {
    let mut world = World::new(policy());
    let mut acted = 0;
    // Four classes of verdict, each tried twice within five minutes.
    for (round, verdict) in [
        upstream(),
        upstream(),
        Verdict::Gateway { egress: "a".into() },
        Verdict::Gateway { egress: "a".into() },
        Verdict::LocalLink { egress: "a".into() },
        Verdict::RemoteAs {
            asn: events::Asn(64601),
        },
    ]
    .into_iter()
    .enumerate()
    {
        let id = format!("i{round}");
        let start = ONSET + 20_000 * round as u64;
        world.at(start + 100).anchors(true);
        world.probe("b", PEERS[0].0, ProbeSource::Flow, true);
        for millis in [110, 125] {
            world.at(start + millis);
            world.probe("a", PEERS[0].0, ProbeSource::Flow, false);
        }
        world.at(start + 150).confirm(&id, verdict, &ALL);
        world.at(start + 155);
        if world.installs().len() > acted {
            acted += 1;
            world.at(start + 160).installed(acted as u64);
            world.run(start + 2_000, true);
            world.heal(&id);
            // However long the hold-down.
            let all = OperatorCommand::Rollback { plan: None };
            world
                .remediator
                .operator(ms(world.now), &all, &mut world.out);
            world.reverted(acted as u64, RevertReason::Operator);
        } else {
            world.probe("b", PEERS[0].0, ProbeSource::Flow, true);
            world.at(start + 300);
            assert!(
                world.last_status().contains("budget"),
                "{}",
                world.last_status()
            );
            // Behind an AS only the prefix that was probed is proven.
            let status = world.last_status();
            let wide = status.contains("advice: install 1");
            let narrow = status.contains("advice: install 203.0.113.0/24 via");
            assert!(wide || (round == 5 && narrow), "{status}");
        }
    }
    assert_eq!(acted, 3);
    // The window passes.
    world.at(ONSET + 3_700_000).anchors(true);
    world.confirm("later", upstream(), &ALL);
    assert_eq!(world.installs().len(), 4);
}

#[test]
fn adapters_that_fail_or_fall_silent() {
    let mut world = World::new(policy());
    world.at(ONSET + 100).anchors(true);
    world.at(ONSET + 150).confirm("i", upstream(), &ALL);
    let failed = Outcome::InstallFailed {
        plan: PlanId(1),
        error: "EEXIST".to_owned(),
    };
    world
        .remediator
        .outcome(ms(world.now), &failed, &mut world.out);
    assert_eq!(world.last_status(), "refused: EEXIST");
    assert!(world.remediator.status().plans.is_empty());

    // No answer to the installation, nor to the revert: asked again, not forgotten.
    let mut world = World::new(policy());
    world.at(ONSET + 100).anchors(true);
    world.at(ONSET + 150).confirm("i", upstream(), &ALL);
    world.at(ONSET + 20_000);
    assert!(world.reverts().len() >= 3);
    assert!(
        world
            .reverts()
            .iter()
            .all(|r| *r == (1, RevertReason::InstallFailed))
    );
    // An installation that comes after all is not judged.
    world.installed(1);
    assert!(matches!(
        world.remediator.status().plans[0].stage,
        Stage::Reverting { .. }
    ));

    // The watchdog was quicker.
    let mut world = verified();
    world.reverted(1, RevertReason::LeaseExpired);
    assert_eq!(world.last_status(), "reverted: the lease expired");

    // Somebody else deletes a route.
    let mut world = verified();
    for (restored, reverts) in [(true, 0), (false, 1)] {
        let lost = Outcome::RouteLost {
            plan: PlanId(1),
            route: "203.0.113.0/24".to_owned(),
            restored,
        };
        world
            .remediator
            .outcome(ms(world.now), &lost, &mut world.out);
        assert_eq!(world.reverts().len(), reverts);
    }
}

#[test]
fn late_proof_extends_or_begins_an_incidents_plan_without_another_verdict() {
    let mut world = World::new(policy());
    for at in [20, 40, 60] {
        world.at(ONSET + at).anchors(false);
    }
    world.at(ONSET + 150).confirm("i", upstream(), &ALL);
    world.run(ONSET + 3_000, false);
    assert!(
        world.last_status().starts_with("refused: return path"),
        "{}",
        world.last_status()
    );
    assert_eq!(world.statuses().len(), 1, "said once");
    for at in [3_100, 3_200] {
        world.at(ONSET + at);
        for (anchor, _) in &ANCHORS[..2] {
            world.probe("b", anchor, ProbeSource::Flow, true);
        }
    }
    world.at(ONSET + 4_000);
    assert_eq!(world.installs().len(), 1);
    world.installed(1);
    world.run(ONSET + 6_000, true);
    assert_eq!(world.installs().len(), 2, "IPv6 follows");
    let families: Vec<bool> = world
        .installs()
        .iter()
        .map(|plan| plan.routes[0].prefix.addr().is_ipv6())
        .collect();
    assert_eq!(families, [false, true]);
}

#[test]
fn what_an_earlier_run_acted_on_counts_in_the_budget() {
    for (ago, class, refused) in [
        (
            100,
            "upstream_as",
            Some("1 action for upstream_as within 300 s"),
        ),
        (310, "upstream_as", None),
        (100, "gateway", None),
    ] {
        let mut world = World::new(policy());
        world.run(ONSET + 400_000, true);
        let before = ms(world.now) - Duration::from_secs(ago);
        world.remediator.acted_before(before, class.to_owned());
        world.confirm("i", upstream(), &ALL);
        world.run(world.now + 1_000, true);
        match refused {
            Some(text) => assert!(
                world.last_status().contains(text),
                "{}",
                world.last_status()
            ),
            None => assert_eq!(world.installs().len(), 1, "{ago} {class}"),
        }
    }
}

#[test]
fn a_spent_budget_holds_an_outage_back_only_until_there_is_room() {
    let mut world = verified();
    let rollback = OperatorCommand::Rollback { plan: None };
    world
        .remediator
        .operator(ms(world.now), &rollback, &mut world.out);
    world.reverted(1, RevertReason::Operator);
    world.heal("i");
    let again = world.now + 20_000;
    world.run(again, true);
    world.confirm("j", upstream(), &ALL);
    world.run(again + 100_000, true);
    assert!(
        world
            .last_status()
            .starts_with("refused: budget: 1 action for upstream_as within 300 s"),
        "{}",
        world.last_status()
    );
    assert_eq!(world.installs().len(), 1);
    world.run(ONSET + 310_000, true);
    assert_eq!(world.installs().len(), 2, "the outage is still there");
    assert_eq!(world.last_status(), "installing");
}

#[test]
fn the_kill_switch_is_a_pause() {
    for mut world in [installed(), verified()] {
        let switch = |world: &mut World, engaged| {
            let command = OperatorCommand::KillSwitch { engaged };
            world
                .remediator
                .operator(ms(world.now), &command, &mut world.out);
        };
        switch(&mut world, true);
        world.reverted(1, RevertReason::KillSwitch);
        world.run(INSTALLED + 20_000, true);
        assert_eq!(world.installs().len(), 1);
        switch(&mut world, false);
        world.run(INSTALLED + 22_000, true);
        assert_eq!(world.installs().len(), 2, "the outage is still there");
    }
}

#[test]
fn what_heals_everywhere_is_not_rerouted_late() {
    let mut world = World::new(policy());
    let remote = Verdict::RemoteAs { asn: Asn(64601) };
    let target = PEERS[0].0;
    let both = |world: &mut World, at: u64, ok: bool| {
        world.at(ONSET + at);
        // The backup's answer is the first to come in, the primary's comes 4 ms later.
        world.probe("b", target, ProbeSource::Flow, ok);
        world.at(ONSET + at + 4);
        world.probe("a", target, ProbeSource::Flow, ok);
    };
    both(&mut world, 60, false);
    both(&mut world, 110, false);
    world.at(ONSET + 750).confirm("i", remote, &[0]);
    for at in (1_000..5_000).step_by(500) {
        both(&mut world, at, false);
    }
    assert!(world.last_status().starts_with("refused: return path"));
    for at in (5_000..8_000).step_by(500) {
        both(&mut world, at, true);
    }
    assert!(world.installs().is_empty(), "the primary works again too");
}

#[test]
fn the_state_survives_a_checkpoint_and_decisions_stay_the_same() {
    let mut world = installed();
    let text = serde_json::to_string(&world.remediator).unwrap();
    let restored: Remediator = serde_json::from_str(&text).unwrap();
    assert_eq!(restored, world.remediator);
    assert_eq!(serde_json::to_string(&restored).unwrap(), text);

    let mut twin = World {
        remediator: restored,
        now: world.now,
        out: world.out.clone(),
    };
    for each in [&mut world, &mut twin] {
        each.run(INSTALLED + 5_000, true);
        each.heal("i");
        each.run(INSTALLED + 9_000, true);
    }
    assert_eq!(world.out, twin.out);
    assert!(!world.reverts().is_empty());
}

#[test]
fn cases_are_bounded() {
    let mut world = World::new(policy());
    for number in 0..500 {
        world.confirm(&format!("i{number}"), Verdict::HostStall, &ALL);
    }
    assert!(world.remediator.status().cases.len() <= 64);
    let known = &world.remediator.status().cases;
    assert!(
        known
            .iter()
            .any(|case| case.incident == IncidentId("i499".to_owned()))
    );
    assert!(matches!(
        known[0].status,
        Some(RemediationStatus::NothingToDo(_))
    ));
    let _ = default_entry(PEERS[0].0);
}

#[test]
fn connections_are_nudged_once_the_routes_are_in_and_only_where_that_is_wanted() {
    let asked = |policy| {
        let world = installed_with(policy);
        let effects = world.out.iter().filter_map(|output| match output {
            remediation::Output::Effect(events::Effect::Nudge { plan, prefixes, .. }) => {
                Some((plan.0, prefixes.len()))
            }
            _ => None,
        });
        let asked: Vec<_> = effects.collect();
        (asked, world.installs()[0].routes.len())
    };
    let wanted = Policy {
        nudge: true,
        ..policy()
    };
    let (nudged, routes) = asked(wanted);
    assert_eq!(nudged, [(1, routes)]);
    assert_eq!(asked(policy()).0, []);
}
