//! The real kubectl, of several versions, run as a user runs it: with nothing but `KUBECONFIG`.

use std::{
    io::{Read, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// No command of a test may take longer, unless it says so.
pub const DEADLINE: Duration = Duration::from_secs(120);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// Debian's `kubernetes-client`: the oldest we promise to work with, the last to speak SPDY only.
    V1_20,
    V1_27,
    V1_33,
}

impl Version {
    pub const ALL: [Version; 3] = [Version::V1_20, Version::V1_27, Version::V1_33];

    /// Where the binary is; the error says what is missing and what to do.
    pub fn path(self) -> Result<PathBuf, String> {
        let name = match self {
            Self::V1_20 => {
                let root =
                    Path::new(env!("CARGO_MANIFEST_DIR")).join("../.cache/kubectl-1.20/usr/bin/kubectl");
                return root
                    .canonicalize()
                    .map_err(|_| "kubectl 1.20 is missing: run tests/clients.sh".to_owned());
            }
            Self::V1_27 => "kubectl.1.27",
            Self::V1_33 => "kubectl.1.33",
        };
        let mut places: Vec<PathBuf> =
            std::env::var_os("PATH").iter().flat_map(std::env::split_paths).collect();
        // Where the installed `kubectl` really lives: a dispatcher keeps its versions beside itself.
        let beside: Vec<PathBuf> = places
            .iter()
            .filter_map(|dir| dir.join("kubectl").canonicalize().ok()?.parent().map(Path::to_owned))
            .collect();
        places.extend(beside);
        places
            .iter()
            .map(|dir| dir.join(name))
            .find(|path| path.is_file())
            .ok_or_else(|| format!("{name} is neither on the PATH nor beside the installed kubectl"))
    }
}

/// What a command printed and how it ended.
#[derive(Debug, Clone)]
pub struct Output {
    pub command: String,
    pub stdout: String,
    pub stderr: String,
    /// `None` if it was killed at the deadline.
    pub code: Option<i32>,
}

impl Output {
    /// Its standard output; panics with everything it said unless it succeeded.
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(self.code, Some(0), "{self}");
        self.stdout
    }

    /// Its standard error; panics unless it failed.
    #[track_caller]
    pub fn fails(self) -> String {
        assert!(self.code.is_some_and(|c| c != 0), "should have failed: {self}");
        self.stderr
    }

    pub fn success(&self) -> bool {
        self.code == Some(0)
    }
}

impl std::fmt::Display for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "`{}` ended with {:?}\n--- stdout\n{}\n--- stderr\n{}",
            self.command, self.code, self.stdout, self.stderr
        )
    }
}

/// Runs a command to its end with `input` on its standard input.
pub fn run(mut command: Command, input: &[u8], deadline: Duration) -> Output {
    let text = format!("{command:?}");
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("cannot run {text}: {e}"));
    let mut stdin = child.stdin.take().expect("stdin was piped");
    let input = input.to_vec();
    // A command that ends early closes its side; that is not the test's concern.
    let writer = std::thread::spawn(move || {
        let _ = stdin.write_all(&input);
    });
    let stdout = drain(child.stdout.take().expect("stdout was piped"));
    let stderr = drain(child.stderr.take().expect("stderr was piped"));
    let code = wait(&mut child, deadline);
    let _ = writer.join();
    let read = |handle: std::thread::JoinHandle<Vec<u8>>| {
        String::from_utf8_lossy(&handle.join().unwrap_or_default()).into_owned()
    };
    Output { command: text, stdout: read(stdout), stderr: read(stderr), code }
}

fn drain(mut from: impl Read + Send + 'static) -> std::thread::JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut all = Vec::new();
        let _ = from.read_to_end(&mut all);
        all
    })
}

/// The exit code, or `None` after killing the child at the deadline.
fn wait(child: &mut Child, deadline: Duration) -> Option<i32> {
    let start = Instant::now();
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return status.code(),
            Ok(None) if start.elapsed() < deadline => std::thread::park_timeout(Duration::from_millis(5)),
            _ => {
                let _ = child.kill();
                let _ = child.wait();
                return None;
            }
        }
    }
}
