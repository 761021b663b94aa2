//! A kernel's modules: found by name, unpacked, in an order in which they can be loaded.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::catalogue::MODULES;

/// A module as the guest gets it.
#[derive(Debug)]
pub struct Module {
    /// Its name, with underscores.
    pub name: String,
    /// The object file.
    pub content: Vec<u8>,
    /// What must be loaded before it.
    depends: Vec<String>,
}

/// Those of [`MODULES`] that the kernel has as modules, each after what it depends on.
pub fn of(kernel: &Path) -> Result<Vec<Module>> {
    let mut files = BTreeMap::new();
    for folder in ["lib/modules", "usr/lib/modules"] {
        gather(&kernel.join(folder), &mut files)?;
    }
    if files.is_empty() {
        bail!("{} has no modules", kernel.display());
    }
    let mut ordered = Vec::new();
    for name in MODULES {
        add(name, &files, &mut ordered)?;
    }
    Ok(ordered)
}

fn gather(folder: &Path, files: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    if !folder.is_dir() {
        return Ok(());
    }
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            gather(&path, files)?;
        } else if let Some(name) = module_name(&path) {
            files.insert(name, path);
        }
    }
    Ok(())
}

fn module_name(path: &Path) -> Option<String> {
    let (name, rest) = path.file_name()?.to_str()?.split_once(".ko")?;
    matches!(rest, "" | ".xz" | ".zst").then(|| name.replace('-', "_"))
}

fn add(name: &str, files: &BTreeMap<String, PathBuf>, ordered: &mut Vec<Module>) -> Result<()> {
    if ordered.iter().any(|module| module.name == name) {
        return Ok(());
    }
    let Some(file) = files.get(name) else {
        return Ok(());
    };
    let content = unpack(file)?;
    let depends = depends(&content);
    for other in &depends {
        add(other, files, ordered)?;
    }
    ordered.push(Module {
        name: name.to_owned(),
        content,
        depends,
    });
    Ok(())
}

/// Those that must be loaded for the wanted ones, in order.
pub fn needed<'a>(modules: &'a [Module], wanted: &[&str]) -> Vec<&'a Module> {
    let mut names: Vec<&str> = wanted.to_vec();
    // Each comes after what it depends on, so one pass from the end finds all.
    for module in modules.iter().rev() {
        if names.contains(&module.name.as_str()) {
            names.extend(module.depends.iter().map(String::as_str));
        }
    }
    modules
        .iter()
        .filter(|module| names.contains(&module.name.as_str()))
        .collect()
}

fn unpack(file: &Path) -> Result<Vec<u8>> {
    let program = match file.extension().and_then(|end| end.to_str()) {
        Some("xz") => "xz",
        Some("zst") => "zstd",
        _ => return fs::read(file).with_context(|| format!("cannot read {}", file.display())),
    };
    let unpacked = Command::new(program)
        .arg("-dc")
        .arg(file)
        .output()
        .with_context(|| format!("{program} does not start"))?;
    if !unpacked.status.success() {
        bail!("{program} cannot unpack {}", file.display());
    }
    Ok(unpacked.stdout)
}

/// `depends=` in the section `.modinfo`, whose entries end with a zero byte.
fn depends(module: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(at) = module.windows(KEY.len()).position(|bytes| bytes == KEY) else {
        return Vec::new();
    };
    let rest = &module[at + KEY.len()..];
    let list = rest.split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(list)
        .split(',')
        .filter(|name| !name.is_empty())
        .map(|name| name.replace('-', "_"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependencies_are_read_and_come_first() {
        assert_eq!(
            depends(b"x\0depends=inet_diag,a-b\0y"),
            ["inet_diag", "a_b"]
        );
        assert_eq!(depends(b"x\0depends=\0name=y\0"), [""; 0]);
        assert_eq!(depends(b"no such key"), [""; 0]);
        assert_eq!(
            module_name(Path::new("/x/null-blk.ko.xz")).as_deref(),
            Some("null_blk")
        );
        assert_eq!(module_name(Path::new("/x/modules.dep")), None);

        let module = |name: &str, depends: &[&str]| Module {
            name: name.to_owned(),
            content: Vec::new(),
            depends: depends.iter().map(|&name| name.to_owned()).collect(),
        };
        let all = [module("a", &[]), module("b", &["a"]), module("c", &["b"])];
        let names = |wanted: &[&str]| -> Vec<String> {
            needed(&all, wanted)
                .iter()
                .map(|m| m.name.clone())
                .collect()
        };
        assert_eq!(names(&["c"]), ["a", "b", "c"]);
        assert_eq!(names(&["a", "absent"]), ["a"]);
    }
}
