//! Which kernels there are, and whence.

/// A kernel to boot.
#[derive(Debug)]
pub struct Kernel {
    /// What it is called on the command line and in checks.
    pub name: &'static str,
    /// Where its packages come from.
    pub source: Source,
    /// The other kernels must be had; without this one `all` goes on, and says so.
    pub optional: bool,
    /// Without type information no program can be loaded: the daemon's words are all that is tested.
    pub btf: bool,
}

/// Where packages come from.
#[derive(Debug)]
pub enum Source {
    /// A meta package of a Debian release; it depends on the newest version.
    Debian {
        /// The release.
        release: &'static str,
        /// The meta package.
        meta: &'static str,
    },
    /// Files of an archive whose keys Debian does not know, pinned by their SHA-256.
    Pinned(&'static [Pinned]),
}

/// A package file.
#[derive(Debug)]
pub struct Pinned {
    /// Where.
    pub url: &'static str,
    /// The SHA-256 of its content.
    pub sha256: &'static str,
}

/// All kernels, oldest first.
pub const KERNELS: &[Kernel] = &[
    Kernel {
        name: "5.4",
        source: Source::Pinned(&[
            Pinned {
                url: "https://archive.ubuntu.com/ubuntu/pool/main/l/linux-signed/linux-image-5.4.0-26-generic_5.4.0-26.30_amd64.deb",
                sha256: "5f619f3d9123f40603a164c6358fdcb1485b742c9bf497099bcc642076e0e782",
            },
            Pinned {
                url: "https://archive.ubuntu.com/ubuntu/pool/main/l/linux/linux-modules-5.4.0-26-generic_5.4.0-26.30_amd64.deb",
                sha256: "82cf8aa4ab5d8b4bb78f452c7069ffc7429fe1d0e2eef13f4b35ebe0b848b1a4",
            },
        ]),
        optional: true,
        btf: false,
    },
    Kernel {
        name: "5.10",
        source: Source::Debian {
            release: "bullseye",
            meta: "linux-image-cloud-amd64",
        },
        optional: true,
        btf: true,
    },
    Kernel {
        name: "5.15",
        source: Source::Pinned(&[
            Pinned {
                url: "https://archive.ubuntu.com/ubuntu/pool/main/l/linux-signed/linux-image-5.15.0-25-generic_5.15.0-25.25_amd64.deb",
                sha256: "ad56f8c442a54d4f5ff2dff010d00321d53e32b543f3a92f3ba4e042d20a71da",
            },
            Pinned {
                url: "https://archive.ubuntu.com/ubuntu/pool/main/l/linux/linux-modules-5.15.0-25-generic_5.15.0-25.25_amd64.deb",
                sha256: "d0ba4087d9e1d497925b3481d3531fba6c2a852855f8019d73b0b1385aa4da1f",
            },
        ]),
        optional: true,
        btf: true,
    },
    Kernel {
        name: "6.1",
        source: Source::Debian {
            release: "bookworm",
            meta: "linux-image-cloud-amd64",
        },
        optional: false,
        btf: true,
    },
    Kernel {
        name: "6.12",
        source: Source::Debian {
            release: "bookworm",
            meta: "linux-image-6.12-cloud-amd64",
        },
        optional: false,
        btf: true,
    },
];

/// Modules that the tests use, where a kernel has them: what they depend on is found out. Those
/// that are built in need nothing.
pub const MODULES: &[&str] = &[
    "brd",
    "cls_bpf",
    "dummy",
    "inet_diag",
    "loop",
    "null_blk",
    "sch_fq",
    "sch_ingress",
    "sch_netem",
    "sch_tbf",
    "tcp_diag",
    "tun",
    "udp_diag",
    "veth",
    "virtio_blk",
    "virtio_pci",
];

/// Modules that are loaded at boot. Others are in the image for tests to load with parameters of
/// their own.
pub const LOADED: &[&str] = &[
    "inet_diag",
    "sch_netem",
    "tcp_diag",
    "tun",
    "udp_diag",
    "veth",
    "virtio_blk",
    "virtio_pci",
];
