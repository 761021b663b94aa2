//! Block requests on a real disk that nobody else uses: a loop device over a file, or the disk that
//! `NETWATCH_TEST_DISK` names.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::cell::RefCell;
use std::fs::{self, File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use events::{BlockRequest, TcpEvent};
use full_stack_probes::{
    BlockOperation, Collector, Handle, KernelRecord, RungKind, Series, Settings, Sinks, ladders,
};
use tokio::sync::mpsc::{Receiver, channel};

const BLOCK: usize = 4096;
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// A disk of our own, detached and removed when dropped.
struct Disk {
    path: PathBuf,
    backing: Option<PathBuf>,
}

impl Disk {
    fn take() -> Result<Self, String> {
        if !nix::unistd::geteuid().is_root() {
            return Err("not root".to_owned());
        }
        if let Some(path) = std::env::var_os("NETWATCH_TEST_DISK") {
            return Ok(Self {
                path: path.into(),
                backing: None,
            });
        }
        let backing = std::env::temp_dir().join(format!("netwatch-disk-{}", std::process::id()));
        File::create(&backing)
            .and_then(|file| file.set_len(16 << 20))
            .map_err(|error| error.to_string())?;
        let output = Command::new("losetup")
            .args(["--find", "--show"])
            .arg(&backing)
            .output()
            .map_err(|error| format!("losetup: {error}"))?;
        if !output.status.success() {
            let _ = fs::remove_file(&backing);
            return Err(format!(
                "losetup: {}",
                String::from_utf8_lossy(&output.stderr)
            ));
        }
        let path = String::from_utf8_lossy(&output.stdout).trim().into();
        Ok(Self {
            path,
            backing: Some(backing),
        })
    }

    fn name(&self) -> String {
        self.path.file_name().unwrap().to_str().unwrap().to_owned()
    }

    fn open(&self) -> File {
        OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_DIRECT)
            .open(&self.path)
            .unwrap()
    }

    /// Requests and sectors by the kernel's own account (`Documentation/block/stat.rst`): reads,
    /// writes.
    fn account(&self) -> [(u64, u64); 2] {
        let text = fs::read_to_string(Path::new("/sys/block").join(self.name()).join("stat"));
        let fields: Vec<u64> = text
            .unwrap()
            .split_whitespace()
            .map(|field| field.parse().unwrap())
            .collect();
        [(fields[0], fields[2]), (fields[4], fields[6])]
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if let Some(backing) = &self.backing {
            let _ = Command::new("losetup").arg("-d").arg(&self.path).status();
            let _ = fs::remove_file(backing);
        }
    }
}

/// Memory as direct I/O wants it.
struct Aligned {
    base: *mut u8,
    layout: Layout,
}

impl Aligned {
    fn new(blocks: usize) -> Self {
        let layout = Layout::from_size_align(blocks * BLOCK, BLOCK).unwrap();
        // SAFETY: the layout is not empty.
        let base = unsafe { alloc_zeroed(layout) };
        assert!(!base.is_null());
        Self { base, layout }
    }

    fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: our own allocation, zeroed.
        unsafe { std::slice::from_raw_parts_mut(self.base, self.layout.size()) }
    }
}

impl Drop for Aligned {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout.
        unsafe { dealloc(self.base, self.layout) };
    }
}

/// Whether the disk has a volatile cache that flushes empty.
fn has_cache(disk: &str) -> bool {
    fs::read_to_string(format!("/sys/block/{disk}/queue/write_cache"))
        .is_ok_and(|text| text.starts_with("write back"))
}

struct Watch {
    handle: Handle,
    records: RefCell<Receiver<Vec<KernelRecord>>>,
    _events: Receiver<Vec<TcpEvent>>,
}

impl Watch {
    fn start(settings: Settings) -> Self {
        let (tcp, events) = channel(1024);
        let (records, received) = channel(1024);
        let collector = Collector::start(settings).unwrap();
        let sinks = Sinks {
            tcp,
            records: Some(records),
        };
        Self {
            handle: collector.spawn_with(sinks).unwrap(),
            records: RefCell::new(received),
            _events: events,
        }
    }

    /// Requests of one disk told of one by one.
    fn requests(&self, disk: &str) -> Vec<BlockRequest> {
        let mut found = Vec::new();
        while let Ok(batch) = self.records.borrow_mut().try_recv() {
            found.extend(batch.into_iter().filter_map(|record| match record {
                KernelRecord::Block(request) if request.device == disk => Some(request),
                _ => None,
            }));
        }
        found
    }

    /// Waits until as many requests are counted.
    fn until(&self, disk: &str, operation: BlockOperation, completed: u64) -> (u64, u64, u64) {
        let end = Instant::now() + Duration::from_secs(10);
        loop {
            let found = self
                .handle
                .disks()
                .into_iter()
                .find(|counters| counters.device == disk && counters.operation == operation)
                .map_or((0, 0, 0), |counters| {
                    (counters.completed, counters.bytes, counters.errors)
                });
            if found.0 >= completed || Instant::now() > end {
                return found;
            }
            thread::sleep(Duration::from_millis(50));
        }
    }
}

/// Runs a test for each rung that this kernel has.
fn on_every_rung(test: impl Fn(&Disk, &Watch)) {
    let _guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let disk = match Disk::take() {
        Ok(disk) => disk,
        Err(reason) => {
            println!("SKIPPED: {reason}");
            return;
        }
    };
    let (_, mut kinds) = ladders()
        .into_iter()
        .find(|(name, _)| *name == "block")
        .unwrap();
    kinds.dedup();
    let mut run = 0;
    for kind in kinds {
        let mut settings = Settings::default();
        settings.force.insert("block", kind);
        let watch = Watch::start(settings);
        let report = watch.handle.report();
        let report = report.iter().find(|report| report.name == "block").unwrap();
        let Some(hook) = &report.hook else {
            println!("SKIPPED: {kind:?}: {}", report.reason);
            continue;
        };
        let prefix = match kind {
            RungKind::TpBtf => "tp_btf/block_rq_issue + tp_btf/block_rq_complete",
            RungKind::Function => "fentry/blk_mq_start_request + fentry/blk_update_request",
            RungKind::Kprobe => "kprobe",
            other => panic!("an unknown rung {other:?}"),
        };
        // 5.10 does not say what functions a program is attached to.
        let named = hook.replace(" (this kernel tells no name)", "");
        assert!(named.starts_with(prefix), "{hook}");
        assert_eq!(report.rung, Some(kind));
        test(&disk, &watch);
        run += 1;
    }
    assert!(run > 0, "no rung at all");
}

#[test]
fn every_request_is_counted_once() {
    on_every_rung(|disk, watch| {
        let name = disk.name();
        let before = disk.account();
        let seen = [BlockOperation::Read, BlockOperation::Write]
            .map(|operation| watch.until(&name, operation, 0));
        let file = disk.open();
        let mut small = Aligned::new(1);
        let mut large = Aligned::new(4);
        for index in 0..60u64 {
            file.write_all_at(small.bytes(), index * 7 % 1000 * BLOCK as u64)
                .unwrap();
        }
        for index in 0..40u64 {
            file.read_exact_at(large.bytes(), index * 16 * BLOCK as u64)
                .unwrap();
        }
        let after = disk.account();
        for (index, operation) in [BlockOperation::Read, BlockOperation::Write]
            .into_iter()
            .enumerate()
        {
            let requests = after[index].0 - before[index].0;
            let bytes = 512 * (after[index].1 - before[index].1);
            assert!(requests >= [40, 60][index]);
            let now = watch.until(&name, operation, seen[index].0 + requests);
            assert_eq!(now.0 - seen[index].0, requests, "{operation:?}");
            assert_eq!(now.1 - seen[index].1, bytes, "{operation:?}");
            assert_eq!(now.2, 0);
        }
        let flushes = watch.until(&name, BlockOperation::Flush, 0).0;
        // SAFETY: a descriptor of our own.
        assert_eq!(unsafe { libc::fdatasync(file.as_raw_fd()) }, 0);
        if has_cache(&name) {
            let now = watch.until(&name, BlockOperation::Flush, flushes + 1);
            assert_eq!(now, (flushes + 1, 0, 0));
        }
        let percentiles = watch.handle.percentiles();
        let count = |wanted: &dyn Fn(&Series) -> bool| {
            let found = percentiles.iter().find(|(series, _)| wanted(series));
            found.map_or(0, |(_, percentiles)| {
                assert!(percentiles.p50 > Duration::ZERO && percentiles.p50 <= percentiles.max);
                percentiles.count
            })
        };
        let served = count(&|series| {
            matches!(series, Series::BlockService { device, operation: BlockOperation::Write }
                if *device == name)
        });
        assert!(served >= 60, "{served}");
        let counters = watch.handle.counters();
        assert_eq!(counters.requests_lost, 0);
    });
}

#[test]
fn only_the_disks_asked_for() {
    let _guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let disk = match Disk::take() {
        Ok(disk) => disk,
        Err(reason) => {
            println!("SKIPPED: {reason}");
            return;
        }
    };
    let watch = Watch::start(Settings {
        devices: vec!["no-such-disk".to_owned()],
        ..Settings::default()
    });
    let file = disk.open();
    file.read_exact_at(Aligned::new(1).bytes(), 0).unwrap();
    thread::sleep(Duration::from_millis(1_500));
    assert_eq!(watch.handle.disks(), []);
}

#[test]
fn failed_requests_are_counted_as_such() {
    on_every_rung(|disk, watch| {
        let Some(backing) = &disk.backing else {
            println!("SKIPPED: only a loop device can be broken at will");
            return;
        };
        let seen = watch.until(&disk.name(), BlockOperation::Read, 0);
        let file = disk.open();
        let image = OpenOptions::new().write(true).open(backing).unwrap();
        image.set_len(4 << 20).unwrap();
        let error = file.read_exact_at(Aligned::new(1).bytes(), 8 << 20);
        image.set_len(16 << 20).unwrap();
        assert_eq!(error.unwrap_err().raw_os_error(), Some(libc::EIO));
        let now = watch.until(&disk.name(), BlockOperation::Read, seen.0 + 1);
        assert_eq!(now.0 - seen.0, 1);
        assert_eq!(now.2 - seen.2, 1);
        let told = watch.requests(&disk.name());
        assert_eq!(told.len(), 1, "{told:?}");
        assert_eq!(told[0].operation, BlockOperation::Read);
        assert_eq!(told[0].error, Some(libc::EIO));
    });
}

#[test]
fn slow_requests_are_told_one_by_one() {
    let _guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let disk = match Disk::take() {
        Ok(disk) => disk,
        Err(reason) => {
            println!("SKIPPED: {reason}");
            return;
        }
    };
    // Everything is slower than this.
    let watch = Watch::start(Settings {
        block_slow: Duration::from_nanos(1),
        ..Settings::default()
    });
    let name = disk.name();
    let file = disk.open();
    let mut buffer = Aligned::new(2);
    for index in 0..20u64 {
        file.write_all_at(buffer.bytes(), index * 2 * BLOCK as u64)
            .unwrap();
    }
    watch.until(&name, BlockOperation::Write, 20);
    let told = watch.requests(&name);
    let writes: Vec<_> = told
        .iter()
        .filter(|request| request.operation == BlockOperation::Write)
        .collect();
    assert_eq!(writes.len(), 20, "{told:?}");
    for request in &writes {
        assert_eq!((request.bytes, request.error), (2 * BLOCK as u32, None));
        assert!(request.service > Duration::ZERO);
        assert!(
            request
                .queue
                .is_some_and(|queue| queue < Duration::from_secs(5))
        );
    }
    assert!(writes.is_sorted_by_key(|request| request.at));
}
