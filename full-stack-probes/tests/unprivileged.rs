//! Without privileges: a clear error, a remedy, and nothing left behind. In a process of its own,
//! because what the kernel offers is asked only once per process.

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
