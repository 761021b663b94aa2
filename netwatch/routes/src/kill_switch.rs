//! The kill switch: a file whose existence forbids every route change.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use events::OperatorCommand;
use tokio::sync::mpsc;

/// How often the file is looked for.
const INTERVAL: Duration = Duration::from_millis(100);

/// Whether the file exists. One that cannot be looked for counts as set: the safe side.
#[must_use]
pub fn kill_switch_engaged(path: &Path) -> bool {
    match path.symlink_metadata() {
        Ok(_) => true,
        Err(e) => !matches!(
            e.kind(),
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
        ),
    }
}

/// Sends [`OperatorCommand::KillSwitch`] at the start if the switch is set, and at every change.
/// Ends when the receiver is gone. Cancel-safe.
pub async fn watch_kill_switch(path: PathBuf, commands: mpsc::Sender<OperatorCommand>) {
    let mut told = false;
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let engaged = kill_switch_engaged(&path);
        if engaged != told {
            tracing::warn!(path = %path.display(), engaged, "kill switch");
            let command = OperatorCommand::KillSwitch { engaged };
            if commands.send(command).await.is_err() {
                return;
            }
            told = engaged;
        } else if commands.is_closed() {
            return;
        }
    }
}
