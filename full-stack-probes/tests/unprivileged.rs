//! Without privileges, without type information: a clear error and a remedy. In a process of its
//! own, because what the kernel offers is asked only once per process.

use full_stack_probes::{Collector, Settings, StartError, preflight};

/// Gives up all capabilities of this thread, for good.
fn drop_capabilities() {
    #[repr(C)]
    struct Header {
        version: u32,
        pid: i32,
    }
    const VERSION_3: u32 = 0x2008_0522;
    let header = Header {
        version: VERSION_3,
        pid: 0,
    };
    let none = [0u32; 6];
    // SAFETY: both pointers are to structs of the layout that version 3 prescribes.
    let result = unsafe { libc::syscall(libc::SYS_capset, &raw const header, none.as_ptr()) };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
}

#[test]
fn without_privileges_the_error_names_the_remedy() {
    std::thread::spawn(|| {
        drop_capabilities();
        let Err(error) = Collector::start(Settings::default()) else {
            panic!("programs were loaded without privileges");
        };
        let text = error.to_string();
        assert!(
            matches!(error, StartError::NotPermitted(_)),
            "{error:?}: {text}"
        );
        assert!(text.contains("CAP_BPF") && text.contains("root"), "{text}");
    })
    .join()
    .unwrap();
}

#[test]
fn without_type_information_the_error_names_the_remedy() {
    use nix::mount::{MsFlags, mount};
    use nix::sched::{CloneFlags, unshare};

    std::thread::spawn(|| {
        if let Err(error) = unshare(CloneFlags::CLONE_NEWNS) {
            println!("SKIPPED: no mount namespace: {error}");
            return;
        }
        let none: Option<&str> = None;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
        mount(
            Some("tmpfs"),
            "/sys/kernel/btf",
            Some("tmpfs"),
            MsFlags::empty(),
            none,
        )
        .unwrap();
        let Err(error) = Collector::start(Settings::default()) else {
            panic!("offsets were guessed");
        };
        assert!(matches!(error, StartError::NoBtf(_)), "{error:?}");
        assert!(
            error.to_string().contains("CONFIG_DEBUG_INFO_BTF"),
            "{error}"
        );
        let checks = preflight();
        let btf = checks.iter().find(|check| check.name == "btf").unwrap();
        assert!(!btf.ok && btf.remedy.is_some());

        std::fs::write("/sys/kernel/btf/vmlinux", "no BTF").unwrap();
        assert!(matches!(
            Collector::start(Settings::default()),
            Err(StartError::BadBtf(_))
        ));
    })
    .join()
    .unwrap();
}

#[test]
fn too_many_ports_are_refused_before_anything_is_loaded() {
    let settings = Settings {
        ports: (1..=9).collect(),
        ..Settings::default()
    };
    assert!(matches!(
        Collector::start(settings),
        Err(StartError::TooManyPorts(9))
    ));
    assert!(!preflight().is_empty());
}
