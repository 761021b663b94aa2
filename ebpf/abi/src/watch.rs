/// Bytes of a [`Name`], the kind in the last one included.
pub const NAME: usize = 256;

/// Something that is declared as watched, as programs compare it: its text, zeros up to the last
/// byte, and a [`NameKind`] there.
pub type Name = [u8; NAME];

/// What a [`Name`] names.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameKind {
    /// A process, by `comm`.
    Comm = 1,
    /// An executable, as it is passed to `execve`.
    Executable = 2,
    /// An executable, by its last component once symlinks are followed.
    File = 3,
    /// A cgroup, from its hierarchy's root on.
    CgroupPath = 4,
    /// A cgroup, by its last component.
    CgroupName = 5,
}

/// The key of a text; `None` where it is too long.
#[must_use]
pub fn name(kind: NameKind, text: &[u8]) -> Option<Name> {
    let mut name = [0; NAME];
    name.get_mut(..text.len())?.copy_from_slice(text);
    if name[NAME - 2] != 0 || name[NAME - 1] != 0 {
        return None;
    }
    name[NAME - 1] = kind as u8;
    Some(name)
}

/// Why a process is watched: bits of its entry.
pub mod why {
    /// Its name.
    pub const COMM: u32 = 1;
    /// Its executable, by user space's word.
    pub const EXECUTABLE: u32 = 2;
    /// Its executable, by name alone: until user space has looked.
    pub const PROVISIONAL: u32 = 4;
    /// Its cgroup or one above it.
    pub const CGROUP: u32 = 8;
    /// As [`CGROUP`], because that is a unit's.
    pub const UNIT: u32 = 16;
}

/// A process executes a file that has a watched one's name.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct ExecRecord {
    /// `CLOCK_MONOTONIC` in nanoseconds.
    pub at: u64,
    /// [`ExecRecord::KIND`].
    pub kind: u8,
    /// Always zero.
    pub reserved: [u8; 3],
    /// Thread group id.
    pub tgid: u32,
}

impl ExecRecord {
    /// The record's kind.
    pub const KIND: u8 = 33;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_end_before_their_kind() {
        let longest = [b'a'; NAME - 2];
        let key = name(NameKind::CgroupPath, &longest).unwrap();
        assert_eq!(key[NAME - 3..], [b'a', 0, 4]);
        assert_eq!(name(NameKind::Comm, &[b'a'; NAME - 1]), None);
        assert_eq!(name(NameKind::Comm, &[b'a'; NAME + 1]), None);
    }
}
