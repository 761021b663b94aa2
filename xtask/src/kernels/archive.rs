//! The guest's files: a cpio archive ("newc", Documentation/driver-api/early-userspace) that the
//! kernel unpacks into its first file system. It is not compressed: an emulated processor unpacks
//! slowly.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::shell::output;

const FOLDER: u32 = 0o040_755;
const FILE: u32 = 0o100_755;
const LINK: u32 = 0o120_777;
const CHARACTER_DEVICE: u32 = 0o020_600;

/// An archive that grows.
#[derive(Debug, Default)]
pub struct Archive {
    bytes: Vec<u8>,
    paths: BTreeSet<PathBuf>,
}

impl Archive {
    /// With the folders and the console that every guest has.
    pub fn new() -> Self {
        let mut archive = Self::default();
        for folder in ["dev", "etc", "proc", "root", "run", "sys", "tmp", "var/tmp"] {
            archive.folder(Path::new(folder));
        }
        archive.entry(Path::new("dev/console"), CHARACTER_DEVICE, (5, 1), &[]);
        archive
    }

    /// A file by content.
    pub fn put(&mut self, path: impl AsRef<Path>, content: &[u8]) {
        let path = inside(path.as_ref());
        if !self.paths.contains(&path) {
            self.parents(&path);
            self.entry(&path, FILE, (0, 0), content);
        }
    }

    /// A symbolic link.
    pub fn link(&mut self, path: impl AsRef<Path>, target: &str) {
        let path = inside(path.as_ref());
        if !self.paths.contains(&path) {
            self.parents(&path);
            self.entry(&path, LINK, (0, 0), target.as_bytes());
        }
    }

    /// A file of this machine.
    pub fn copy(&mut self, from: &Path, to: impl AsRef<Path>) -> Result<()> {
        let content = fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
        self.put(to, &content);
        Ok(())
    }

    /// A program of this machine with the libraries that it is linked to.
    pub fn program(&mut self, from: &Path, to: impl AsRef<Path>) -> Result<()> {
        self.copy(from, to)?;
        // A static program has none, and then `ldd` fails.
        let libraries = output(Command::new("ldd").arg(from)).unwrap_or_default();
        for library in libraries
            .lines()
            .filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')))
        {
            self.copy(Path::new(library), library)?;
        }
        Ok(())
    }

    /// All files of a folder of this machine, at the same place.
    pub fn copy_folder(&mut self, folder: &Path) -> Result<()> {
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_file() {
                self.copy(&path, &path)?;
            }
        }
        Ok(())
    }

    /// The whole archive.
    pub fn finish(mut self) -> Vec<u8> {
        self.entry(Path::new("TRAILER!!!"), 0, (0, 0), &[]);
        self.bytes
    }

    fn parents(&mut self, path: &Path) {
        if let Some(parent) = path.parent() {
            self.folder(parent);
        }
    }

    fn folder(&mut self, path: &Path) {
        if path.as_os_str().is_empty() || self.paths.contains(path) {
            return;
        }
        self.parents(path);
        self.entry(path, FOLDER, (0, 0), &[]);
    }

    fn entry(&mut self, path: &Path, mode: u32, device: (u32, u32), content: &[u8]) {
        let name = path.as_os_str().as_encoded_bytes();
        let inode = self.paths.len() as u32 + 1;
        self.paths.insert(path.to_owned());
        let length = content.len() as u32;
        let fields = [
            inode,
            mode,
            0,
            0,
            1,
            0,
            length,
            0,
            0,
            device.0,
            device.1,
            name.len() as u32 + 1,
            0,
        ];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes
                .extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name);
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

/// A path as archives have it: from the root, without its slash.
fn inside(path: &Path) -> PathBuf {
    path.strip_prefix("/").unwrap_or(path).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_has_its_folders_before_it_and_nothing_is_there_twice() {
        let mut archive = Archive::default();
        archive.put("/a/b/c", b"12345");
        archive.put("a/b/c", b"other");
        archive.link("/a/l", "b/c");
        let bytes = archive.finish();
        assert_eq!(bytes.len() % 4, 0);
        // Walks the archive as the kernel does.
        let mut found = Vec::new();
        let mut at = 0;
        while at < bytes.len() {
            assert_eq!(&bytes[at..at + 6], b"070701");
            let field = |index: usize| {
                let start = at + 6 + index * 8;
                let text = std::str::from_utf8(&bytes[start..start + 8]).unwrap();
                usize::from_str_radix(text, 16).unwrap()
            };
            let name = &bytes[at + 110..at + 110 + field(11) - 1];
            let content = (at + 110 + field(11)).next_multiple_of(4);
            found.push((
                String::from_utf8(name.to_vec()).unwrap(),
                field(1) as u32,
                bytes[content..content + field(6)].to_vec(),
            ));
            at = (content + field(6)).next_multiple_of(4);
        }
        let expected = [
            ("a", FOLDER, &b""[..]),
            ("a/b", FOLDER, b""),
            ("a/b/c", FILE, b"12345"),
            ("a/l", LINK, b"b/c"),
            ("TRAILER!!!", 0, b""),
        ]
        .map(|(name, mode, content)| (name.to_owned(), mode, content.to_vec()));
        assert_eq!(found, expected);
    }
}
