//! A command that runs beside the test: `kubectl proxy`, a watch, a followed log.

use crate::{kubectl::Output, wait::wait_for};
use std::{
    io::{Read, Write},
    process::{Child, ChildStdin, Command, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

/// Killed when dropped.
pub struct Background {
    command: String,
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: Arc<Mutex<Vec<u8>>>,
    stderr: Arc<Mutex<Vec<u8>>>,
}

impl Background {
    #[track_caller]
    pub fn start(mut command: Command) -> Self {
        let text = format!("{command:?}");
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| panic!("cannot run {text}: {e}"));
        let stdin = child.stdin.take();
        let stdout = gather(child.stdout.take().expect("stdout was piped"));
        let stderr = gather(child.stderr.take().expect("stderr was piped"));
        Self { command: text, child, stdin, stdout, stderr }
    }

    pub fn stdout(&self) -> String {
        text(&self.stdout)
    }

    /// Writes to its standard input.
    #[track_caller]
    pub fn send(&mut self, input: &str) {
        let stdin = self.stdin.as_mut().expect("stdin is still open");
        stdin.write_all(input.as_bytes()).and_then(|()| stdin.flush()).expect("the command reads its input");
    }

    /// Waits until `accept` takes what it has written to standard output so far.
    #[track_caller]
    pub fn wait_output(&mut self, deadline: Duration, accept: impl Fn(&str) -> bool) -> String {
        wait_for(&format!("output of {}", self.command), deadline, || {
            let seen = self.stdout();
            if accept(&seen) { Ok(seen) } else { Err(self.state()) }
        })
    }

    /// Closes its standard input and waits for it to end.
    #[track_caller]
    pub fn wait_end(&mut self, deadline: Duration) -> Output {
        drop(self.stdin.take());
        wait_for(&format!("{} to end", self.command), deadline, || {
            let now = self.state();
            if now.code.is_some() { Ok(()) } else { Err(now) }
        });
        // What is left in the pipes: their readers end when the command's last child has closed them.
        wait_for("the end of its output", deadline, || {
            if Arc::strong_count(&self.stdout) == 1 && Arc::strong_count(&self.stderr) == 1 {
                Ok(())
            } else {
                Err("its output is still open")
            }
        });
        self.state()
    }

    fn state(&mut self) -> Output {
        let code = self.child.try_wait().ok().flatten().map(|status| status.code().unwrap_or(-1));
        Output { command: self.command.clone(), stdout: self.stdout(), stderr: text(&self.stderr), code }
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn text(bytes: &Mutex<Vec<u8>>) -> String {
    String::from_utf8_lossy(&bytes.lock().expect("the reader did not panic")).into_owned()
}

fn gather(mut from: impl Read + Send + 'static) -> Arc<Mutex<Vec<u8>>> {
    let all = Arc::new(Mutex::new(Vec::new()));
    let to = Arc::clone(&all);
    std::thread::spawn(move || {
        let mut chunk = [0; 4096];
        while let Ok(n @ 1..) = from.read(&mut chunk) {
            to.lock().expect("the test did not panic").extend_from_slice(&chunk[..n]);
        }
    });
    all
}
