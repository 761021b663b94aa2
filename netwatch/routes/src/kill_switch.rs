//! The kill switch: a file whose existence forbids every route change.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use events::OperatorCommand;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;

/// How often the file is looked for where its directory cannot be watched.
const INTERVAL: Duration = Duration::from_millis(100);
/// How often it is looked for in any case: a directory above it may have been renamed or mounted
/// over, and the one that is watched is no longer the one that the path names.
const ANYWAY: Duration = Duration::from_secs(2);

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
    let mut directory = None;
    loop {
        // First the watch, then the look: a change between the two is noticed.
        if directory.is_none() {
            directory = Directory::of(&path).ok();
        }
        let engaged = kill_switch_engaged(&path);
        if engaged != told {
            tracing::warn!(path = %path.display(), engaged, "kill switch");
            let command = OperatorCommand::KillSwitch { engaged };
            if commands.send(command).await.is_err() {
                return;
            }
            told = engaged;
        }
        let valid = match &mut directory {
            Some(directory) => tokio::select! {
                changed = directory.changed() => changed.is_ok(),
                // Opened anew, in case that the path leads elsewhere by now.
                () = tokio::time::sleep(ANYWAY) => false,
                () = commands.closed() => return,
            },
            None => tokio::select! {
                () = tokio::time::sleep(INTERVAL) => false,
                () = commands.closed() => return,
            },
        };
        if !valid {
            directory = None;
        }
    }
}

/// The directory that a file is in or would be in, watched by `inotify(7)`.
struct Directory(AsyncFd<Watched>);

struct Watched(Inotify);

impl AsRawFd for Watched {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl AsFd for Watched {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Directory {
    fn of(path: &Path) -> io::Result<Self> {
        let directory = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        let changes = AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_MOVE
            | AddWatchFlags::IN_DELETE_SELF
            | AddWatchFlags::IN_MOVE_SELF
            // A directory that may no longer be searched counts as set.
            | AddWatchFlags::IN_ATTRIB
            | AddWatchFlags::IN_ONLYDIR;
        inotify.add_watch(directory, changes)?;
        // SAFETY: the descriptor is the one that the value owns, always the same.
        let watched = unsafe { AsyncFd::register(Watched(inotify)) }?;
        Ok(Self(watched))
    }

    /// Something changed in it. An error: it is no longer watched. Cancel-safe.
    async fn changed(&mut self) -> io::Result<()> {
        let mut ready = self.0.readable().await?;
        let read = ready.try_io(|watched| Ok(watched.get_ref().0.read_events()?));
        match read {
            Ok(Ok(events))
                if !events
                    .iter()
                    .any(|event| event.mask.contains(AddWatchFlags::IN_IGNORED)) =>
            {
                Ok(())
            }
            // Woken for nothing.
            Err(_) => Ok(()),
            _ => Err(io::ErrorKind::NotFound.into()),
        }
    }
}
