//! Small files in the runtime directory: bounded reads, atomic writes, locks.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use nix::fcntl::{Flock, FlockArg};

/// Creates the runtime directory, for us alone, if it is missing.
pub(crate) fn make_dir(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
}

/// Reads a regular file of at most `limit` bytes that we own; symbolic links are not followed.
pub(crate) fn read_bounded(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open(path)?;
    let meta = file.metadata()?;
    let ours = meta.uid() == nix::unistd::geteuid().as_raw();
    if !meta.is_file() || !ours || meta.len() > limit {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!(
                "{} is not a regular file of this user of at most {limit} bytes",
                path.display()
            ),
        ));
    }
    let mut bytes = Vec::new();
    file.take(limit).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Replaces a file in one step: readers see the old or the new content, never a part.
pub(crate) fn write_atomic(path: &Path, content: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("tmp");
    // A leftover of a crash, or someone's symbolic link: either way not to be written through.
    match fs::remove_file(&temporary) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&temporary)?;
    file.write_all(content)?;
    fs::rename(&temporary, path)
}

/// Takes an exclusive lock without waiting. `None`: another process has it.
pub(crate) fn lock(path: &Path) -> io::Result<Option<Flock<File>>> {
    try_lock(path, FlockArg::LockExclusiveNonblock)
}

/// Whether some process holds the exclusive lock.
pub(crate) fn locked(path: &Path) -> io::Result<bool> {
    Ok(try_lock(path, FlockArg::LockSharedNonblock)?.is_none())
}

fn try_lock(path: &Path, how: FlockArg) -> io::Result<Option<Flock<File>>> {
    loop {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(path)?;
        let inode = file.metadata()?.ino();
        match Flock::lock(file, how) {
            // The holder removed the file at its end: a lock on it locks nobody out.
            Ok(_) if path.metadata().map(|m| m.ino()).ok() != Some(inode) => {}
            Ok(lock) => return Ok(Some(lock)),
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => return Ok(None),
            Err((_, e)) => return Err(e.into()),
        }
    }
}
