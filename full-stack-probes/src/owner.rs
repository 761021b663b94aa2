//! Who owns a socket, by its inode.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use events::Owner;

/// Owners of these inodes, as far as /proc shows them (other users' processes need
/// CAP_SYS_PTRACE). Where several processes share a socket, the lowest process id wins.
pub fn of(inodes: &BTreeSet<u32>) -> BTreeMap<u32, Owner> {
    let mut owners: BTreeMap<u32, Owner> = BTreeMap::new();
    if inodes.is_empty() {
        return owners;
    }
    let Ok(processes) = fs::read_dir("/proc") else {
        return owners;
    };
    for process in processes.flatten() {
        let Some(pid) = process
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<u32>().ok())
        else {
            continue;
        };
        let Ok(files) = fs::read_dir(process.path().join("fd")) else {
            continue;
        };
        let mut comm: Option<String> = None;
        for file in files.flatten() {
            let Some(inode) = socket_inode(&file.path()).filter(|inode| inodes.contains(inode))
            else {
                continue;
            };
            let comm = comm.get_or_insert_with(|| {
                fs::read_to_string(process.path().join("comm"))
                    .map(|comm| comm.trim_end().to_owned())
                    .unwrap_or_default()
            });
            let owner = owners.entry(inode).or_insert_with(|| Owner {
                pid,
                comm: comm.clone(),
            });
            if pid < owner.pid {
                *owner = Owner {
                    pid,
                    comm: comm.clone(),
                };
            }
        }
    }
    owners
}

/// The inodes of all sockets that these processes hold.
pub fn sockets_of(pids: &BTreeSet<u32>) -> BTreeSet<u32> {
    pids.iter()
        .filter_map(|pid| fs::read_dir(format!("/proc/{pid}/fd")).ok())
        .flat_map(|files| files.flatten())
        .filter_map(|file| socket_inode(&file.path()))
        .collect()
}

fn socket_inode(path: &std::path::Path) -> Option<u32> {
    fs::read_link(path)
        .ok()?
        .to_str()?
        .strip_prefix("socket:[")?
        .strip_suffix(']')?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn this_process_owns_its_socket() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let path = format!("/proc/self/fd/{}", listener.as_raw_fd());
        let inode = socket_inode(path.as_ref()).unwrap();
        let owners = of(&BTreeSet::from([inode]));
        assert_eq!(owners[&inode].pid, std::process::id());
        assert!(!owners[&inode].comm.is_empty());
        assert!(of(&BTreeSet::from([1])).is_empty());
        assert!(sockets_of(&BTreeSet::from([std::process::id()])).contains(&inode));
        assert!(sockets_of(&BTreeSet::new()).is_empty());
    }
}
