//! What watched threads wait for, on this machine's own kernel.

mod process;

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use full_stack_probes::{Preemptor, Series, Settings, Watch, WatchedThread};

use process::{Actor, Watching, act, alone, pin, switches, until};

#[test]
fn actor() {
    act();
}

/// The time on the run queue by the kernel's own account.
fn run_delay(pid: u32, tid: u32) -> Option<Duration> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{tid}/schedstat")).ok()?;
    let nanos = text.split(' ').nth(1)?.parse().ok()?;
    Some(Duration::from_nanos(nanos))
}

/// The thread as the collector and the kernel see it, both at a moment when it rests.
fn at_rest(watching: &Watching, pid: u32, tid: u32) -> WatchedThread {
    until("rest", || {
        let before = switches(pid, tid);
        let thread = watching.thread(tid)?;
        let stat = fs::read_to_string(format!("/proc/{pid}/task/{tid}/stat")).unwrap();
        let sleeps = stat.rsplit(')').next().unwrap().trim().starts_with('S');
        (sleeps && switches(pid, tid) == before && thread.waiting.is_none()).then_some(thread)
    })
}

#[test]
fn preemptions_and_waits_are_the_kernels_own_numbers() {
    alone(|| {
        let mut actor = Actor::spawn("nw-sched-a");
        let watching = Watching::named("nw-sched-a");
        assert!(watching.process(actor.pid).is_some());
        // The other process on the same CPU is not watched; it gets more of the CPU.
        let mut other = Actor::spawn("nw-hog");
        let hog: u32 = other.tell("spin hogthread 0 -10").parse().unwrap();
        // Threads that were not there when the watching began: nothing of them was missed.
        let spinners: Vec<u32> = ["spinner-a", "spinner-b"]
            .iter()
            .map(|name| actor.tell(&format!("spin {name} 0 0")).parse().unwrap())
            .collect();
        // On a busy machine others may be in the list as well, and later in its place.
        let hogs: Vec<Preemptor> = spinners
            .iter()
            .map(|tid| {
                until("contention", || {
                    let thread = watching.thread(*tid)?;
                    thread
                        .preemptors
                        .into_iter()
                        .find(|by| by.pid == other.pid && by.count >= 10)
                        .filter(|by| by.longest >= Duration::from_millis(1))
                        .filter(|_| thread.preempted >= 20)
                })
            })
            .collect();
        assert_eq!(actor.tell("stop"), "done");
        assert_eq!(other.tell("stop"), "done");
        for (tid, hogs) in spinners.iter().zip(hogs) {
            let thread = at_rest(&watching, actor.pid, *tid);
            let (voluntary, involuntary) = switches(actor.pid, *tid);
            println!("{thread:#?}");
            assert_eq!(thread.pid, actor.pid);
            assert!(thread.comm.starts_with("spinner-"));
            assert_eq!(thread.preempted, involuntary);
            assert_eq!(thread.voluntary, voluntary);
            let last = thread.last_preemptor.unwrap();
            assert!(last.pid != 0 && !last.comm.is_empty());
            assert_eq!((hogs.tid, hogs.comm.as_str()), (hog, "hogthread"));
            assert!(hogs.longest <= thread.run_queue.max);
            let named: u64 = thread.preemptors.iter().map(|taker| taker.count).sum();
            assert_eq!(named, thread.preempted);
            match run_delay(actor.pid, *tid).filter(|delay| !delay.is_zero()) {
                Some(delay) => {
                    let difference = delay.abs_diff(thread.waited);
                    assert!(
                        difference <= delay / 20 + Duration::from_millis(5),
                        "{:?} for {delay:?}",
                        thread.waited
                    );
                    assert!(delay >= Duration::from_millis(50), "{delay:?}");
                }
                None => println!("SKIPPED: this kernel keeps no schedstat"),
            }
        }
        assert!(
            watching
                .handle
                .threads()
                .iter()
                .all(|thread| thread.pid == actor.pid),
            "only what is watched is in the table"
        );
        let wanted = Series::RunQueue {
            thread: "spinner-a".to_owned(),
        };
        until("percentiles", || {
            let all = watching.handle.percentiles();
            let (_, found) = all.into_iter().find(|(series, _)| *series == wanted)?;
            (found.count >= 20 && found.max >= Duration::from_millis(1)).then_some(())
        });
        actor.end();
        until("the end of all", || {
            (watching.handle.watched().is_empty() && watching.handle.threads().is_empty())
                .then_some(())
        });
    });
}

#[test]
fn sleeps_are_off_cpu_time_and_not_waits() {
    alone(|| {
        let mut actor = Actor::spawn("nw-sleeper");
        let watching = Watching::named("nw-sleeper");
        let tid: u32 = actor.tell("sleep dozer 40 20").parse().unwrap();
        // The last sleep is a long one: it is entered after 40 others.
        let thread = until("40 sleeps", || {
            watching
                .thread(tid)
                .filter(|thread| thread.off_cpu.count >= 40)
        });
        println!(
            "{thread:#?}\nswitches missed: {}",
            watching.handle.counters().switches_missed
        );
        assert_eq!(thread.comm, "dozer");
        let slept = thread.slept + thread.blocked;
        assert!(slept >= Duration::from_millis(40 * 20), "{slept:?}");
        assert!(
            thread.off_cpu.p50 >= Duration::from_millis(19),
            "{:?}",
            thread.off_cpu
        );
        assert!(thread.blocked < thread.slept);
        // Whatever the machine is busy with, waits are not sleeps: both fit in the time that passed.
        assert!(thread.voluntary >= 40);
        let (voluntary, involuntary) = switches(actor.pid, tid);
        assert!(thread.voluntary.abs_diff(voluntary) <= 1);
        assert_eq!(thread.preempted, involuntary);
    });
}

#[test]
fn a_long_wait_is_told_with_who_had_the_cpu() {
    alone(|| {
        let mut actor = Actor::spawn("nw-starved");
        let watching = Watching::with(Settings {
            watch: Watch {
                processes: vec!["nw-starved".to_owned()],
                ..Watch::default()
            },
            long_wait: Duration::from_millis(50),
            ..Settings::default()
        });
        // A thread of a real-time class takes the CPU now and then, from whoever has it: most often
        // from the victim.
        let tid: u32 = actor.tell("spin victim 0 -15").parse().unwrap();
        let enough = Arc::new(AtomicBool::new(false));
        let (told, tids) = std::sync::mpsc::channel();
        let hog = thread::Builder::new()
            .name("nw-realtime".to_owned())
            .spawn({
                let enough = Arc::clone(&enough);
                move || {
                    pin(0);
                    let parameters = libc::sched_param { sched_priority: 1 };
                    // SAFETY: the parameters outlive the call.
                    let result = unsafe {
                        libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const parameters)
                    };
                    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
                    told.send(nix::unistd::gettid().as_raw() as u32).unwrap();
                    while !enough.load(Ordering::Relaxed) {
                        thread::sleep(Duration::from_millis(300));
                        let end = Instant::now() + Duration::from_millis(120);
                        while Instant::now() < end {
                            std::hint::spin_loop();
                        }
                    }
                }
            })
            .unwrap();
        let hog_tid = tids.recv().unwrap();
        let wait = until("a long wait", || {
            watching
                .handle
                .long_waits()
                .into_iter()
                .find(|wait| wait.tid == tid && wait.by_tid == hog_tid && wait.preempted)
        });
        enough.store(true, Ordering::Relaxed);
        hog.join().unwrap();
        println!("{wait:?}");
        assert_eq!(wait.pid, actor.pid);
        assert_eq!(wait.comm, "victim");
        assert!(wait.waited >= Duration::from_millis(50), "{wait:?}");
        assert_eq!(wait.by_pid, std::process::id());
        assert_eq!(wait.by_comm, "nw-realtime");
        let thread = watching.thread(tid).unwrap();
        assert!(thread.run_queue.max >= wait.waited);
    });
}

#[test]
fn a_thousand_short_threads_leave_nothing_behind() {
    alone(|| {
        let mut actor = Actor::spawn("nw-short");
        let watching = Watching::named("nw-short");
        assert_eq!(actor.tell("threads 1000"), "done");
        until("an empty table", || {
            let left = watching.handle.threads();
            left.iter()
                .all(|thread| !thread.comm.starts_with("short"))
                .then_some(())
        });
        let counters = watching.handle.counters();
        assert_eq!(counters.threads_full, 0);
        // Twice more than the table holds in all: entries are used again.
        for _ in 0..4 {
            assert_eq!(actor.tell("threads 1000"), "done");
            thread::sleep(Duration::from_millis(1_500));
        }
        assert_eq!(watching.handle.counters().threads_full, 0);
        let tid: u32 = actor.tell("sleep afterwards 1 1").parse().unwrap();
        until("a thread after them", || watching.thread(tid));
    });
}

#[test]
fn a_full_table_is_counted_and_recovers() {
    const ROOM: usize = 2048;
    alone(|| {
        let mut actor = Actor::spawn("nw-crowd");
        let watching = Watching::named("nw-crowd");
        assert_eq!(actor.tell(&format!("crowd {}", ROOM + 50)), "done");
        until("a full table", || {
            (watching.handle.counters().threads_full > 0).then_some(())
        });
        assert_eq!(watching.handle.threads().len(), ROOM);
        assert_eq!(actor.tell("stop"), "done");
        until("room", || {
            (watching.handle.threads().len() < 50).then_some(())
        });
        // Entries are emptied once a second: the first threads may still find none.
        let mut sleeper = || actor.tell("sleep afterwards 1 1").parse::<u32>().unwrap();
        until("a thread after them", || watching.thread(sleeper()));
        let before = watching.handle.counters().threads_full;
        let tid = sleeper();
        until("another one", || watching.thread(tid));
        assert_eq!(watching.handle.counters().threads_full, before);
    });
}

#[test]
fn nothing_is_attached_where_no_process_is_declared() {
    alone(|| {
        let watching = Watching::start(Watch::default());
        for report in watching.handle.report() {
            if report.name.starts_with("watch_") || report.name.starts_with("sched_") {
                assert_eq!(report.hook, None, "{report:?}");
                assert_eq!(report.reason, "not asked for by the configuration");
            }
        }
        assert!(watching.handle.watched().is_empty());
        assert!(watching.handle.threads().is_empty());
    });
}
