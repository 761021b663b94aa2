//! Which processes are watched, and since when, on this machine's own kernel.

mod process;

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use full_stack_probes::{Selector, Watch};

use process::{Actor, Watching, act, alone, switches, until};

#[test]
fn actor() {
    act();
}

/// Copies this test's binary.
fn install(path: &Path) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let new = path.with_extension("new");
    fs::copy(std::env::current_exe().unwrap(), &new).unwrap();
    fs::rename(new, path).unwrap();
}

/// A directory that is gone afterwards.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("netwatch-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn why(watching: &Watching, pid: u32) -> Vec<Selector> {
    watching
        .process(pid)
        .map(|process| process.why)
        .unwrap_or_default()
}

/// A name for this run alone, short enough for `comm`.
fn unique(name: &str) -> String {
    format!("{name}{}", std::process::id())
}

/// Every thread but the first, all of whose life came after the exec, has the kernel's own counts.
fn nothing_was_missed(watching: &Watching, pid: u32) -> usize {
    let tids: Vec<u32> = fs::read_dir(format!("/proc/{pid}/task"))
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok())
        .filter(|tid| *tid != pid)
        .collect();
    for tid in &tids {
        until("a moment of rest", || {
            let before = switches(pid, *tid);
            let thread = watching.thread(*tid)?;
            let seen = (thread.voluntary, thread.preempted);
            (switches(pid, *tid) == before && seen == before).then_some(())
        });
    }
    tids.len()
}

#[test]
fn restarts_are_followed_from_the_first_moment_and_the_ended_are_forgotten() {
    alone(|| {
        let scratch = Scratch::new("restart");
        let name = unique("nwv");
        let file = scratch.0.join(&name);
        install(&file);
        let before = Actor::spawn_file(&file, "");
        let stranger = Actor::spawn("nw-stranger");
        let watching = Watching::named(&name);
        assert_eq!(why(&watching, before.pid), [Selector::Name]);
        let mut pids = BTreeSet::from([before.pid]);
        for _ in 0..5 {
            let mut actor = Actor::spawn_file(&file, "");
            pids.insert(actor.pid);
            assert_eq!(why(&watching, actor.pid), [Selector::Name]);
            assert!(watching.thread(actor.pid).is_some());
            actor.tell("sleep late 3 1");
            assert!(nothing_was_missed(&watching, actor.pid) >= 2);
            let pid = actor.pid;
            actor.end();
            assert_eq!(watching.process(pid), None, "it has ended");
        }
        let watched = watching.handle.watched();
        assert_eq!(watched.len(), 1, "{watched:?}");
        assert_eq!(watched[0].comm, name);
        assert!(
            watching
                .handle
                .threads()
                .iter()
                .all(|thread| pids.contains(&thread.pid))
        );
        assert_eq!(why(&watching, stranger.pid), []);
        before.end();
        assert!(watching.handle.watched().is_empty());
        until("an empty table", || {
            watching.handle.threads().is_empty().then_some(())
        });
        assert_eq!(watching.handle.counters().watched_full, 0);
    });
}

#[test]
fn forks_and_new_names_count_at_once() {
    alone(|| {
        let name = unique("nwn");
        let watching = Watching::named(&name);
        let mut actor = Actor::spawn("nw-other");
        assert_eq!(why(&watching, actor.pid), []);
        assert_eq!(actor.tell(&format!("rename {name}")), "done");
        assert_eq!(why(&watching, actor.pid), [Selector::Name]);

        let child = actor.tell("fork");
        let pid: u32 = child.parse().unwrap();
        assert_eq!(why(&watching, pid), [Selector::Name]);
        until("the child's first sleep", || {
            let thread = watching.thread(pid)?;
            (thread.voluntary > 0).then_some(())
        });
        assert_eq!(
            watching
                .thread(pid)
                .map(|thread| (thread.voluntary, thread.preempted)),
            Some(switches(pid, pid))
        );
        actor.tell(&format!("kill {child}"));
        assert_eq!(why(&watching, pid), []);

        assert_eq!(actor.tell("rename nw-other"), "done");
        assert_eq!(why(&watching, actor.pid), []);
        assert!(watching.handle.watched().is_empty());
        until("an empty table", || {
            watching.handle.threads().is_empty().then_some(())
        });
    });
}

/// The actor's thread is not the process's first one: it takes over that one's id.
#[test]
fn another_program_in_the_same_process_is_judged_anew() {
    alone(|| {
        let scratch = Scratch::new("exec");
        let (one, two) = (unique("nwa"), unique("nwb"));
        for name in [&one, &two] {
            install(&scratch.0.join(name));
        }
        let watching = Watching::named(&one);
        let mut actor = Actor::spawn_file(&scratch.0.join(&one), "");
        let pid = actor.pid;
        actor.tell("sleep late 1 1");
        let go = |actor: &mut Actor, name: &str| {
            let file = scratch.0.join(name);
            assert_eq!(actor.tell(&format!("exec {} ", file.display())), "ready");
        };
        assert_eq!(why(&watching, pid), [Selector::Name]);
        go(&mut actor, &two);
        assert_eq!(why(&watching, pid), []);
        until("an empty table", || {
            watching.handle.threads().is_empty().then_some(())
        });
        go(&mut actor, &one);
        assert_eq!(why(&watching, pid), [Selector::Name]);
        nothing_was_missed(&watching, pid);
        go(&mut actor, &one);
        assert_eq!(why(&watching, pid), [Selector::Name]);
        let alive = || fs::read_dir(format!("/proc/{pid}/task")).unwrap().count();
        until("the first image's threads", || {
            (watching.handle.threads().len() <= alive()).then_some(())
        });
    });
}

#[test]
fn an_executable_is_followed_through_symlinks_and_upgrades() {
    alone(|| {
        let scratch = Scratch::new("executable");
        let at = |path: &str| scratch.0.join(path);
        let point = |target: &str, link: &str| {
            let new = at("link.new");
            symlink(at(target), &new).unwrap();
            fs::rename(new, at(link)).unwrap();
        };
        let daemon = unique("nwd");
        let (v1, v2) = (format!("v1/{daemon}"), format!("v2/{daemon}"));
        for path in [
            &v1,
            &v2,
            &format!("elsewhere/{daemon}"),
            "v2/first",
            "v2/second",
        ] {
            install(&at(path));
        }
        point("v1", "current");
        point("v2/first", "run");
        let current = at(&format!("current/{daemon}"));
        let earlier = Actor::spawn_file(&current, "");
        let watching = Watching::start(Watch {
            executables: vec![current.clone(), at("run")],
            ..Watch::default()
        });
        let is_watched = |pid| why(&watching, pid) == [Selector::Executable];
        assert!(is_watched(earlier.pid), "it was there before");

        let old = Actor::spawn_file(&current, "");
        assert!(is_watched(old.pid));
        assert!(nothing_was_missed(&watching, old.pid) >= 1);
        let direct = Actor::spawn_file(&at(&v1), "");
        assert!(is_watched(direct.pid));
        let namesake = Actor::spawn_file(&at(&format!("elsewhere/{daemon}")), "");
        until("the end of a mistake", || {
            (!is_watched(namesake.pid)).then_some(())
        });

        point("v2", "current");
        let new = Actor::spawn_file(&current, "");
        assert!(is_watched(new.pid));
        // A file put in the place of the one that runs.
        install(&at(&v2));
        let replaced = Actor::spawn_file(&current, "");
        assert!(is_watched(replaced.pid));
        // Another name behind the link than at the start.
        point("v2/second", "run");
        let renamed = Actor::spawn_file(&at("run"), "");
        assert!(is_watched(renamed.pid));

        // Past two reconciliations, all are what they were.
        thread::sleep(Duration::from_secs(11));
        let expected = BTreeSet::from(
            [&earlier, &old, &direct, &new, &replaced, &renamed].map(|actor| actor.pid),
        );
        let found: BTreeSet<u32> = watching
            .handle
            .watched()
            .iter()
            .inspect(|process| assert_eq!(process.why, [Selector::Executable]))
            .map(|process| process.pid)
            .collect();
        assert_eq!(found, expected);
    });
}

/// A tree of cgroups in the unified hierarchy, or why there is none.
struct Tree {
    mount: PathBuf,
    base: String,
}

impl Tree {
    fn new() -> Option<Self> {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        let mount = mounts.lines().find_map(|line| {
            let fields: Vec<&str> = line.split(' ').collect();
            (fields[2] == "cgroup2").then(|| PathBuf::from(fields[1]))
        });
        let Some(mount) = mount else {
            println!("SKIPPED: no cgroup2 is mounted");
            return None;
        };
        let tree = Self {
            mount,
            base: format!("/{}.slice", unique("nwtest")),
        };
        tree.make("");
        Some(tree)
    }

    fn dir(&self, path: &str) -> PathBuf {
        self.mount.join(&self.base[1..]).join(path)
    }

    fn make(&self, path: &str) {
        fs::create_dir(self.dir(path)).unwrap();
    }

    fn remove(&self, path: &str) {
        until("an empty cgroup", || fs::remove_dir(self.dir(path)).ok());
    }

    fn put(&self, pid: u32, path: &str) {
        fs::write(self.dir(path).join("cgroup.procs"), pid.to_string()).unwrap();
    }

    /// Starts an actor as a service manager does: moved before it executes.
    fn spawn(&self, path: &str) -> Actor {
        let procs = self.dir(path).join("cgroup.procs");
        let mut command = Command::new(std::env::current_exe().unwrap());
        // SAFETY: the child of a thread that holds no lock writes a file.
        unsafe { command.pre_exec(move || fs::write(&procs, "0")) };
        Actor::start(command, "")
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        fn remove(dir: &Path) {
            for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    remove(&entry.path());
                }
            }
            let _ = fs::remove_dir(dir);
        }
        for _ in 0..50 {
            remove(&self.dir(""));
            if !self.dir("").exists() {
                return;
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
}

#[test]
fn a_unit_is_found_wherever_its_cgroup_is() {
    alone(|| {
        let Some(tree) = Tree::new() else { return };
        let unit = unique("nwunit");
        let service = format!("{unit}.service");
        tree.make(&service);
        tree.make("other.service");
        let before = tree.spawn(&service);
        let watching = Watching::start(Watch {
            units: vec![unit],
            ..Watch::default()
        });
        assert_eq!(why(&watching, before.pid), [Selector::Unit]);
        let restarted = tree.spawn(&service);
        assert_eq!(why(&watching, restarted.pid), [Selector::Unit]);
        assert!(nothing_was_missed(&watching, restarted.pid) >= 1);
        let other = tree.spawn("other.service");
        assert_eq!(why(&watching, other.pid), []);
        before.end();
        restarted.end();

        // Stopped and started: the cgroup is a new one, here of a user's own manager.
        tree.remove(&service);
        for path in ["user.slice", "user.slice/app.slice"] {
            tree.make(path);
        }
        let moved = format!("user.slice/app.slice/{service}");
        tree.make(&moved);
        let mut again = tree.spawn(&moved);
        assert_eq!(why(&watching, again.pid), [Selector::Unit]);
        let child: u32 = again.tell("fork").parse().unwrap();
        assert_eq!(why(&watching, child), [Selector::Unit]);
        again.tell(&format!("kill {child}"));
        assert_eq!(watching.handle.watched().len(), 1);
    });
}

#[test]
fn a_cgroup_is_watched_with_those_below_it() {
    alone(|| {
        let Some(tree) = Tree::new() else { return };
        for path in ["box", "box/old", "boxer"] {
            tree.make(path);
        }
        let before = tree.spawn("box/old");
        let watching = Watching::start(Watch {
            cgroups: vec![
                PathBuf::from(format!("{}/box", tree.base)),
                PathBuf::from(format!("{}/late", tree.base)),
            ],
            ..Watch::default()
        });
        let is_watched = |pid| why(&watching, pid) == [Selector::Cgroup];
        assert!(is_watched(before.pid));
        tree.make("box/new");
        tree.make("box/new/deep");
        let inside = tree.spawn("box/new/deep");
        assert!(is_watched(inside.pid));
        assert!(nothing_was_missed(&watching, inside.pid) >= 1);
        let outside = tree.spawn("boxer");
        assert_eq!(why(&watching, outside.pid), []);

        tree.put(outside.pid, "box");
        assert!(is_watched(outside.pid), "moved in");
        tree.put(outside.pid, "boxer");
        assert_eq!(why(&watching, outside.pid), [], "moved out");

        tree.make("late");
        tree.put(outside.pid, "late");
        assert!(
            is_watched(outside.pid),
            "the cgroup is newer than the watching"
        );
        tree.put(outside.pid, "boxer");
        tree.remove("late");

        // A child that is born in the cgroup (CLONE_INTO_CGROUP).
        let cgroup = fs::File::open(tree.dir("box")).unwrap();
        let pid = clone_into(&cgroup);
        assert!(is_watched(pid));
        let pid = nix::unistd::Pid::from_raw(pid as i32);
        nix::sys::signal::kill(pid, nix::sys::signal::SIGKILL).unwrap();
        nix::sys::wait::waitpid(pid, None).unwrap();
        let found: BTreeSet<u32> = watching
            .handle
            .watched()
            .iter()
            .map(|process| process.pid)
            .collect();
        assert_eq!(found, BTreeSet::from([before.pid, inside.pid]));
        drop((before, inside, outside));
    });
}

fn clone_into(cgroup: &fs::File) -> u32 {
    const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
    let mut arguments = [0u64; 11];
    arguments[0] = CLONE_INTO_CGROUP;
    arguments[4] = libc::SIGCHLD as u64;
    arguments[10] = cgroup.as_raw_fd() as u64;
    // SAFETY: as fork(); the child makes plain system calls only.
    let pid = unsafe {
        let pid = libc::syscall(
            libc::SYS_clone3,
            arguments.as_ptr(),
            std::mem::size_of_val(&arguments),
        );
        if pid == 0 {
            loop {
                libc::pause();
            }
        }
        pid
    };
    assert!(pid > 0, "{}", std::io::Error::last_os_error());
    pid as u32
}

#[test]
fn reasons_add_up() {
    alone(|| {
        let Some(tree) = Tree::new() else { return };
        let scratch = Scratch::new("reasons");
        let name = unique("nwr");
        let file = scratch.0.join(&name);
        install(&file);
        let service = format!("{name}.service");
        tree.make(&service);
        let watching = Watching::start(Watch {
            processes: vec![name.clone()],
            executables: vec![file.clone()],
            units: vec![service.clone()],
            cgroups: vec![PathBuf::from(&tree.base)],
            ..Watch::default()
        });
        let actor = Actor::spawn_file(&file, "");
        assert_eq!(
            why(&watching, actor.pid),
            [Selector::Name, Selector::Executable]
        );
        tree.put(actor.pid, &service);
        assert_eq!(
            why(&watching, actor.pid),
            [
                Selector::Name,
                Selector::Executable,
                Selector::Unit,
                Selector::Cgroup
            ]
        );
        drop(actor);
    });
}
