//! Packages: fetched with apt's own programs, checked by its keys, unpacked into a folder of the
//! build, never installed.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::catalogue::{Kernel, Pinned, Source};
use crate::shell::{command, output, run, step};

/// Where everything that was fetched stays.
#[derive(Debug)]
pub struct Cache {
    folder: PathBuf,
}

impl Cache {
    /// In the build's own folder; `update` empties it.
    pub fn open(target: &Path, update: bool) -> Result<Self> {
        let folder = target.join("kernels");
        if update && folder.exists() {
            fs::remove_dir_all(&folder)
                .with_context(|| format!("cannot empty {}", folder.display()))?;
        }
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        Ok(Self { folder })
    }

    /// A folder that lives as long as the cache does.
    pub fn folder(&self, name: &str) -> Result<PathBuf> {
        let folder = self.folder.join(name);
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        Ok(folder)
    }

    /// A kernel's packages, unpacked.
    pub fn kernel(&self, kernel: &Kernel) -> Result<PathBuf> {
        self.unpacked(&format!("linux-{}", kernel.name), |files| {
            match &kernel.source {
                Source::Debian { release, meta } => {
                    let apt = Apt::of(self, release)?;
                    let package = apt.newest(meta)?;
                    step(&format!("fetching {package} of Debian's {release}"));
                    apt.download(&[package], files)
                }
                Source::Pinned(packages) => packages.iter().try_for_each(|p| pinned(p, files)),
            }
        })
        .with_context(|| format!("the kernel {} cannot be had", kernel.name))
    }

    /// QEMU with what it needs beyond this machine's libraries.
    pub fn qemu(&self) -> Result<PathBuf> {
        self.bookworm("qemu", "qemu-system-x86", true)
    }

    /// A shell and its commands in one static program.
    pub fn busybox(&self) -> Result<PathBuf> {
        self.bookworm("busybox", "busybox-static", false)
    }

    fn bookworm(&self, name: &str, package: &str, closure: bool) -> Result<PathBuf> {
        self.unpacked(name, |files| {
            let apt = Apt::of(self, "bookworm")?;
            let packages = if closure {
                apt.closure(package)?
            } else {
                vec![package.to_owned()]
            };
            step(&format!("fetching {package} ({} packages)", packages.len()));
            apt.download(&packages, files)
        })
        .with_context(|| format!("{package} cannot be had"))
    }

    /// Fetches into a folder of package files and unpacks them all, once: what is complete has its
    /// final name.
    fn unpacked(&self, name: &str, fetch: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
        let done = self.folder.join(name);
        if done.is_dir() {
            return Ok(done);
        }
        let files = self.fresh(&format!("{name}.deb"))?;
        fetch(&files)?;
        let partial = self.fresh(&format!("{name}.partial"))?;
        for entry in fs::read_dir(&files)? {
            let file = entry?.path();
            if file.extension() == Some(OsStr::new("deb")) {
                run(Command::new("dpkg").arg("-x").arg(&file).arg(&partial))?;
            }
        }
        fs::remove_dir_all(&files)?;
        fs::rename(&partial, &done)?;
        Ok(done)
    }

    fn fresh(&self, name: &str) -> Result<PathBuf> {
        let folder = self.folder.join(name);
        if folder.exists() {
            fs::remove_dir_all(&folder)?;
        }
        self.folder(name)
    }
}

fn pinned(package: &Pinned, files: &Path) -> Result<()> {
    let name = package.url.rsplit('/').next().unwrap_or("package.deb");
    step(&format!("fetching {name}"));
    run(Command::new("/usr/lib/apt/apt-helper")
        .args([
            "-qq",
            "-o",
            "APT::Sandbox::User=root",
            "download-file",
            package.url,
        ])
        .arg(files.join(name))
        .arg(format!("SHA256:{}", package.sha256)))
}

/// Apt with package lists of its own, of one release: the machine's are left as they are.
struct Apt {
    release: &'static str,
    options: Vec<String>,
}

impl Apt {
    fn of(cache: &Cache, release: &'static str) -> Result<Self> {
        let state = cache.folder(&format!("apt-{release}"))?;
        fs::create_dir_all(state.join("lists/partial"))?;
        fs::create_dir_all(state.join("cache/archives/partial"))?;
        let sources = state.join("sources.list");
        let (debian, security) = mirrors();
        fs::write(
            &sources,
            format!("deb {debian} {release} main\ndeb {security} {release}-security main\n"),
        )?;
        let set = |key: &str, value: &Path| format!("{key}={}", value.display());
        let apt = Self {
            release,
            options: vec![
                set("Dir::Etc::SourceList", &sources),
                "Dir::Etc::SourceParts=-".to_owned(),
                set("Dir::State::Lists", &state.join("lists")),
                set("Dir::Cache", &state.join("cache")),
                "APT::Sandbox::User=root".to_owned(),
                "Acquire::Retries=2".to_owned(),
                "Acquire::http::Timeout=30".to_owned(),
            ],
        };
        run(apt.command("apt-get").args(["-qq", "update"]))?;
        Ok(apt)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("LC_ALL", "C");
        for option in &self.options {
            command.args(["-o", option]);
        }
        command
    }

    /// The versioned package that a meta package stands for.
    fn newest(&self, meta: &str) -> Result<String> {
        let depends = output(self.command("apt-cache").args(["depends", meta])).unwrap_or_default();
        depends
            .lines()
            .find_map(|line| line.trim().strip_prefix("Depends: "))
            .map(str::to_owned)
            .with_context(|| {
                format!(
                    "{} has no package {meta}; remedy: check that this machine reaches the mirrors \
                     in /etc/apt",
                    self.release
                )
            })
    }

    /// What would have to be installed for a package, itself among it.
    fn closure(&self, package: &str) -> Result<Vec<String>> {
        let plan = output(self.command("apt-get").args([
            "install",
            "--simulate",
            "--no-install-recommends",
            package,
        ]))
        .with_context(|| {
            format!(
                "`apt-get install --simulate {package}` failed; remedy: try it by hand, and mend \
                 the packages that it complains of"
            )
        })?;
        let packages: Vec<String> = plan
            .lines()
            .filter_map(|line| line.strip_prefix("Inst "))
            .filter_map(|line| line.split(' ').next())
            .map(str::to_owned)
            .collect();
        // Where it is installed, only its files are missing here.
        Ok(if packages.iter().any(|found| found == package) {
            packages
        } else {
            [
                package,
                "qemu-system-common",
                "qemu-system-data",
                "seabios",
                "ipxe-qemu",
            ]
            .map(str::to_owned)
            .to_vec()
        })
    }

    fn download(&self, packages: &[String], files: &Path) -> Result<()> {
        if packages.is_empty() {
            bail!("nothing to fetch");
        }
        run(self
            .command("apt-get")
            .args(["-qq", "download"])
            .args(packages)
            .current_dir(files))
    }
}

/// The mirrors that this machine's apt uses, for releases and for security updates.
fn mirrors() -> (String, String) {
    let targets = output(&mut command(
        "apt-get",
        &[
            "indextargets",
            "--format",
            "$(SITE) $(RELEASE)",
            "Created-By: Packages",
        ],
    ))
    .unwrap_or_default();
    let of = |release: &str, default: &str| {
        targets
            .lines()
            .filter_map(|line| line.split_once(' '))
            .find(|(_, found)| *found == release)
            .map_or(default, |(site, _)| site)
            .trim_end_matches('/')
            .to_owned()
    };
    (
        of("bookworm", "http://deb.debian.org/debian"),
        of("bookworm-security", "http://deb.debian.org/debian-security"),
    )
}
