//! The file, kept within a bound: a full one becomes `FILE.1`, that one `FILE.2`, and the last goes.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

/// Kubernetes' default for `--audit-log-maxsize`.
pub(super) const MAX_BYTES: u64 = 100 << 20;
/// Full files kept beside the one that is written.
const KEPT: usize = 4;

pub(super) struct Rotating {
    path: PathBuf,
    file: File,
    bytes: u64,
    max_bytes: u64,
}

impl Rotating {
    pub(super) fn open(path: &Path, max_bytes: u64) -> io::Result<Self> {
        let file = open(path)?;
        let bytes = file.metadata()?.len();
        Ok(Self { path: path.to_owned(), file, bytes, max_bytes })
    }

    /// Whole lines, so that no line is torn over two files.
    pub(super) fn append(&mut self, lines: &[u8]) -> io::Result<()> {
        let more = lines.len() as u64;
        if self.bytes > 0 && self.bytes + more > self.max_bytes {
            self.rotate()?;
        }
        self.file.write_all(lines)?;
        self.bytes += more;
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        for number in (1..KEPT).rev() {
            match std::fs::rename(self.numbered(number), self.numbered(number + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        std::fs::rename(&self.path, self.numbered(1))?;
        self.file = open(&self.path)?;
        self.bytes = 0;
        Ok(())
    }

    fn numbered(&self, number: usize) -> PathBuf {
        let mut name = self.path.clone().into_os_string();
        name.push(format!(".{number}"));
        name.into()
    }
}

/// Only its owner may read who did what.
fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).mode(0o600).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_files_are_put_aside_and_the_oldest_goes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.log");
        let mut log = Rotating::open(&path, 10).unwrap();
        for number in 0..8 {
            log.append(format!("line {number}\n").as_bytes()).unwrap();
        }
        drop(log);
        let mut log = Rotating::open(&path, 20).unwrap();
        log.append(b"after a restart\n").unwrap();
        log.append(b"x\n").unwrap();
        let read = |name: &str| std::fs::read_to_string(dir.path().join(name)).unwrap();
        assert_eq!(read("audit.log"), "after a restart\nx\n");
        let old: Vec<String> = (1..=4).map(|n| read(&format!("audit.log.{n}"))).collect();
        assert_eq!(old, ["line 7\n", "line 6\n", "line 5\n", "line 4\n"]);
        assert!(!dir.path().join("audit.log.5").exists());
        assert!(Rotating::open(&dir.path().join("none/audit.log"), 10).is_err());
    }
}
