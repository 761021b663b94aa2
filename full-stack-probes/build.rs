//! Builds the eBPF programs with a toolchain of their own and hands the object to `include_bytes`.
//!
//! Two toolchains will do: Debian's compiler with its sources, else rustup's nightly with rust-src.
//! The linker must link the compiler's LLVM, so `cargo xtask setup` chooses in the same order.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, exit};

const TARGET: &str = "bpfel-unknown-none";
const OBJECT: &str = "netwatch-ebpf";
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
const DEBIAN_CARGO: &str = "/usr/bin/cargo";
const SETUP_BIN: &str = "/opt/netwatch-toolchain/bin";

fn main() {
    if let Err(problem) = build() {
        eprintln!("error: the eBPF programs cannot be built: {problem}");
        eprintln!("remedy: run `cargo xtask setup`, which installs the eBPF toolchain");
        exit(1);
    }
}

fn build() -> Result<(), String> {
    let manifest = PathBuf::from(variable("CARGO_MANIFEST_DIR")?);
    let out = PathBuf::from(variable("OUT_DIR")?);
    let ebpf = manifest
        .parent()
        .ok_or("this package has no parent folder")?
        .join("ebpf");
    for input in [
        "abi/Cargo.toml",
        "abi/src",
        "programs/Cargo.toml",
        "programs/Cargo.lock",
        "programs/src",
    ] {
        println!("cargo:rerun-if-changed={}", ebpf.join(input).display());
    }
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=NETWATCH_TOOLCHAIN");

    let linker = find_linker()?;
    let target_dir = out.join("ebpf");
    let toolchain = Toolchain::find()?;
    let mut command = toolchain.cargo(&linker)?;
    command
        .current_dir(ebpf.join("programs"))
        .args(["build", "--release", "--locked", "-Zbuild-std=core"])
        .args(["--target", TARGET, "--target-dir"])
        .arg(&target_dir);
    let output = command
        .output()
        .map_err(|error| format!("{toolchain:?} does not start: {error}"))?;
    if !output.status.success() {
        return Err(format!(
            "{toolchain:?} failed with {}:\n{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        ));
    }
    let object = target_dir.join(TARGET).join("release").join(OBJECT);
    let embedded = out.join("netwatch-ebpf.o");
    std::fs::copy(&object, &embedded).map_err(|error| {
        format!(
            "copy {} to {}: {error}",
            object.display(),
            embedded.display()
        )
    })?;
    Ok(())
}

fn variable(name: &str) -> Result<OsString, String> {
    env::var_os(name).ok_or_else(|| format!("cargo did not set {name}"))
}

/// `bpf-linker`: where `NETWATCH_TOOLCHAIN` says, where set-up does, on PATH, where cargo installs.
/// Set-up's goes before others, which may link another LLVM.
fn find_linker() -> Result<PathBuf, String> {
    let named = env::var_os("NETWATCH_TOOLCHAIN").map(|folder| PathBuf::from(folder).join("bin"));
    let path = env::var_os("PATH").unwrap_or_default();
    let cargo = env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo")))
        .map(|home| home.join("bin"));
    named
        .into_iter()
        .chain([PathBuf::from(SETUP_BIN)])
        .chain(env::split_paths(&path))
        .chain(cargo)
        .map(|folder| folder.join("bpf-linker"))
        .find(|candidate| candidate.is_file())
        .ok_or_else(|| {
            format!(
                "bpf-linker is neither in $NETWATCH_TOOLCHAIN/bin nor in {SETUP_BIN} nor on PATH"
            )
        })
}

#[derive(Debug)]
enum Toolchain {
    Nightly,
    Debian,
}

impl Toolchain {
    fn find() -> Result<Self, String> {
        let sources = Path::new("/usr/lib/rustlib/src/rust/library/core");
        if Path::new(DEBIAN_RUSTC).is_file()
            && Path::new(DEBIAN_CARGO).is_file()
            && sources.is_dir()
        {
            return Ok(Self::Debian);
        }
        if nightly_has_sources() {
            return Ok(Self::Nightly);
        }
        Err(format!(
            "neither {DEBIAN_RUSTC}, {DEBIAN_CARGO} and {} nor rustup's nightly with rust-src are there",
            sources.display()
        ))
    }

    fn cargo(&self, linker: &Path) -> Result<Command, String> {
        let mut command = match self {
            Self::Nightly => {
                let mut command = scrubbed("rustup");
                command.args(["run", "nightly", "cargo"]);
                command
            }
            Self::Debian => {
                let mut command = scrubbed(DEBIAN_CARGO);
                command.env("RUSTC", DEBIAN_RUSTC);
                command
            }
        };
        let folder = linker.parent().ok_or("bpf-linker has no folder")?;
        let mut path = vec![folder.to_path_buf()];
        path.extend(env::var_os("PATH").iter().flat_map(env::split_paths));
        let path = env::join_paths(path).map_err(|error| format!("PATH: {error}"))?;
        command.env("PATH", path).env("RUSTC_BOOTSTRAP", "1").env(
            "RUSTFLAGS",
            "-C link-arg=--btf -C debuginfo=2 -C target-cpu=v3",
        );
        Ok(command)
    }
}

fn nightly_has_sources() -> bool {
    let Ok(output) = scrubbed("rustup")
        .args(["run", "nightly", "rustc", "--print", "sysroot"])
        .env("RUSTUP_AUTO_INSTALL", "0")
        .output()
    else {
        return false;
    };
    let sysroot = String::from_utf8_lossy(&output.stdout);
    output.status.success()
        && Path::new(sysroot.trim())
            .join("lib/rustlib/src/rust/library/core")
            .is_dir()
}

/// A command that knows nothing of the cargo that runs this script.
fn scrubbed(program: &str) -> Command {
    let mut command = Command::new(program);
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        let keep = text == "CARGO_HOME"
            || text.starts_with("CARGO_HTTP_")
            || text.starts_with("CARGO_NET_");
        let inherited = text.starts_with("CARGO")
            || text.starts_with("RUSTC")
            || text.starts_with("RUSTDOC")
            || [
                "RUSTFLAGS",
                "RUSTUP_TOOLCHAIN",
                "TARGET",
                "HOST",
                "OUT_DIR",
                "NUM_JOBS",
                "MAKEFLAGS",
                "LD_LIBRARY_PATH",
            ]
            .contains(&text.as_ref());
        if inherited && !keep {
            command.env_remove(&name);
        }
    }
    command
}
