//! The cgroup hierarchy that processes are told apart by.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Cgroups looked at in one walk, at most.
const WALK: usize = 20_000;

/// A hierarchy: the unified one where it is mounted, else systemd's own of cgroup v1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hierarchy {
    /// Its number in `/proc/PID/cgroup`; 0 is the unified one.
    pub id: u32,
    mount: PathBuf,
}

impl Hierarchy {
    /// The hierarchy of this host; `None` where none is mounted.
    pub fn find() -> io::Result<Option<Self>> {
        let mounts = fs::read_to_string("/proc/self/mountinfo")?;
        let own = fs::read_to_string("/proc/self/cgroup")?;
        Ok(Self::choose(&mounts, &own))
    }

    /// From `/proc/self/mountinfo` and `/proc/self/cgroup` (proc(5), cgroups(7)).
    fn choose(mounts: &str, own: &str) -> Option<Self> {
        let find = |wanted: &dyn Fn(&str, &str) -> bool| {
            mounts.lines().find_map(|line| {
                let (mount, kind) = line.split_once(" - ")?;
                let mut kind = kind.split(' ');
                let (name, options) = (kind.next()?, kind.nth(1).unwrap_or_default());
                wanted(name, options).then(|| mount.split(' ').nth(4).map(PathBuf::from))?
            })
        };
        if let Some(mount) = find(&|name, _| name == "cgroup2") {
            return Some(Self { id: 0, mount });
        }
        let mount = find(&|name, options| {
            name == "cgroup" && options.split(',').any(|option| option == "name=systemd")
        })?;
        let id = own.lines().find_map(|line| {
            let (id, rest) = line.split_once(':')?;
            rest.starts_with("name=systemd:")
                .then(|| id.parse().ok())
                .flatten()
        })?;
        Some(Self { id, mount })
    }

    /// The cgroup of a process, by the text of its `/proc/PID/cgroup`.
    pub fn of<'a>(&self, text: &'a str) -> Option<&'a str> {
        text.lines().find_map(|line| {
            let mut parts = line.splitn(3, ':');
            let id: u32 = parts.next()?.parse().ok()?;
            parts.next()?;
            parts.next().filter(|_| id == self.id)
        })
    }

    /// Walks all cgroups, parents first: their numbers, and what `judge` says of them and of those
    /// above them. `found` is called before those below are listed.
    pub fn walk(
        &self,
        judge: &dyn Fn(&str) -> u32,
        found: &mut dyn FnMut(u64, u32),
    ) -> BTreeMap<u64, u32> {
        let mut all = BTreeMap::new();
        let mut queue = vec![(self.mount.clone(), 0)];
        while let Some((directory, above)) = queue.pop() {
            let Ok(entries) = fs::read_dir(&directory) else {
                continue;
            };
            for entry in entries.flatten() {
                if all.len() >= WALK || !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    continue;
                }
                let (path, Ok(id)) = (entry.path(), entry.metadata().map(|data| data.ino())) else {
                    continue;
                };
                let bits = above | self.relative(&path).map_or(0, |path| judge(&path));
                all.insert(id, bits);
                if bits != 0 {
                    found(id, bits);
                }
                queue.push((path, bits));
            }
        }
        all
    }

    fn relative(&self, path: &Path) -> Option<String> {
        let path = path.strip_prefix(&self.mount).ok()?;
        Some(format!("/{}", path.to_str()?))
    }
}

/// Whether a cgroup is this one or below it.
pub fn is_within(path: &str, cgroup: &Path) -> bool {
    Path::new(path).starts_with(cgroup)
}

/// Whether a cgroup is the unit's or below it.
pub fn is_of_unit(path: &str, unit: &str) -> bool {
    path.split('/').any(|part| part == unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
20 1 0:5 / /proc rw - proc proc rw
35 25 0:30 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd
36 25 0:31 / /sys/fs/cgroup/unified rw shared:9 - cgroup2 cgroup2 rw
";
    const OWN: &str = "10:pids:/\n9:name=systemd:/a\n0::/system.slice/x.service\n";

    #[test]
    fn the_unified_hierarchy_comes_first() {
        let unified = Hierarchy::choose(HYBRID, OWN).unwrap();
        assert_eq!(unified.id, 0);
        assert_eq!(unified.mount, Path::new("/sys/fs/cgroup/unified"));
        assert_eq!(unified.of(OWN), Some("/system.slice/x.service"));

        let v1: String = HYBRID
            .lines()
            .filter(|line| !line.contains("cgroup2"))
            .map(|line| format!("{line}\n"))
            .collect();
        let systemd = Hierarchy::choose(&v1, OWN).unwrap();
        assert_eq!(systemd.id, 9);
        assert_eq!(systemd.of(OWN), Some("/a"));
        assert_eq!(Hierarchy::choose("", OWN), None);
    }

    #[test]
    fn descendants_belong_and_namesakes_do_not() {
        let unit = "/user.slice/user@1.service/app.slice/gaiad.service/sub";
        assert!(is_of_unit(unit, "gaiad.service"));
        assert!(!is_of_unit("/x/gaiad.service.d", "gaiad.service"));
        assert!(is_within("/a/b/c", Path::new("/a/b")));
        assert!(is_within("/a/b", Path::new("/a/b")));
        assert!(!is_within("/a/bc", Path::new("/a/b")));
    }
}
