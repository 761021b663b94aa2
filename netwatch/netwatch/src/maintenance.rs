//! Maintenance windows: the engine has no wall clock, so it is told when one begins and ends.

use std::time::Duration;

use config::Maintenance;
use events::OperatorCommand;
use jiff::Timestamp;
use tokio::sync::mpsc;

/// How often the wall clock is looked at. It can be set, so no timer runs until a window's start.
const INTERVAL: Duration = Duration::from_secs(1);

/// Sends [`OperatorCommand::Maintenance`] at the start if a window is open, and at every change.
/// Ends when the receiver is gone. Cancel-safe.
pub async fn watch(windows: Vec<Maintenance>, commands: mpsc::Sender<OperatorCommand>) {
    let mut told = None;
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let reason = reason(&windows, Timestamp::now());
        if reason != told {
            match &reason {
                Some(reason) => tracing::warn!(reason, "maintenance window"),
                None => tracing::info!("the maintenance window ended"),
            }
            let command = OperatorCommand::Maintenance {
                active: reason.is_some(),
                reason: reason.clone(),
            };
            if commands.send(command).await.is_err() {
                return;
            }
            told = reason;
        } else if commands.is_closed() {
            return;
        }
    }
}

/// The reason and end of the window that is open; of several, the one that ends last.
fn reason(windows: &[Maintenance], now: Timestamp) -> Option<String> {
    let window = windows
        .iter()
        .filter(|window| window.start <= now && now < window.end)
        .max_by_key(|window| window.end)?;
    Some(match &window.reason {
        Some(reason) => format!("{reason}, until {}", window.end),
        None => format!("until {}", window.end),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(start: Timestamp, end: Timestamp, reason: Option<&str>) -> Maintenance {
        Maintenance {
            start,
            end,
            reason: reason.map(str::to_owned),
        }
    }

    #[test]
    fn the_window_that_ends_last_counts() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let windows = [
            window(at(10), at(20), Some("router")),
            window(at(15), at(30), None),
            window(at(16), at(18), Some("cable")),
        ];
        for (now, expected) in [
            (9, None),
            (10, Some("router, until 1970-01-01T00:00:20Z")),
            (16, Some("until 1970-01-01T00:00:30Z")),
            (29, Some("until 1970-01-01T00:00:30Z")),
            (30, None),
            // The clock was set back.
            (14, Some("router, until 1970-01-01T00:00:20Z")),
        ] {
            assert_eq!(reason(&windows, at(now)).as_deref(), expected, "{now}");
        }
    }

    #[tokio::test]
    async fn begin_and_end_are_told_once() {
        let now = Timestamp::now();
        let past = now - Duration::from_secs(60);
        let windows = vec![
            window(past, now - Duration::from_secs(1), None),
            window(past, now + Duration::from_secs(3), Some("router")),
        ];
        let (sender, mut commands) = mpsc::channel(4);
        let task = tokio::spawn(watch(windows, sender));
        let mut told = Vec::new();
        for _ in 0..2 {
            let next = tokio::time::timeout(Duration::from_secs(30), commands.recv()).await;
            let Ok(Some(OperatorCommand::Maintenance { active, reason })) = next else {
                panic!("{next:?}");
            };
            told.push((
                active,
                reason.is_some_and(|r| r.starts_with("router, until ")),
            ));
        }
        assert_eq!(told, [(true, true), (false, false)]);
        drop(commands);
        tokio::time::timeout(Duration::from_secs(30), task)
            .await
            .unwrap()
            .unwrap();
    }
}
