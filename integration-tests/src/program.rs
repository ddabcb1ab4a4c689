//! Programs as child processes.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// The folder of the built programs. They are built first, with the profile of the tests.
pub fn programs() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut build = Command::new(cargo);
        build.args([
            "build",
            "--quiet",
            "-p",
            "graft",
            "-p",
            "graft-router",
            "-p",
            "graft-planner",
            "-p",
            "graft-worker",
            "-p",
            "graft-softgpu",
        ]);
        if !cfg!(debug_assertions) {
            build.arg("--release");
        }
        build.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
        assert!(
            build.status().expect("cargo runs").success(),
            "the programs can't be built"
        );
        let test = std::env::current_exe().expect("a test has a path");
        let deps = test.parent().expect("a test lies in a folder");
        deps.parent().expect("deps lies in the target folder").to_owned()
    })
}

/// Runs `graft` with arguments and waits for it.
pub fn graft<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Output {
    Command::new(programs().join("graft"))
        .args(arguments)
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .stdin(Stdio::null())
        .output()
        .expect("graft runs")
}

/// A running program; killed when dropped.
#[derive(Debug)]
pub struct Program {
    child: Child,
    name: &'static str,
}

impl Program {
    /// Starts a server program with its configuration; its log goes to `log`.
    pub fn start(name: &'static str, config: &Path, log: &Path) -> Self {
        Self::start_with(name, &[], config, log)
    }

    /// The same, with arguments before the configuration: `graft up`.
    pub fn start_with(name: &'static str, before: &[&str], config: &Path, log: &Path) -> Self {
        Self::start_in(name, before, config, log, &[])
    }

    /// The same, with variables in its environment.
    pub fn start_in(
        name: &'static str,
        before: &[&str],
        config: &Path,
        log: &Path,
        environment: &[(&str, &OsStr)],
    ) -> Self {
        let file = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(log)
            .expect("the log can be written");
        let child = Command::new(programs().join(name))
            .args(before)
            .envs(environment.iter().copied())
            .arg("--config")
            .arg(config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(file)
            .spawn()
            .unwrap_or_else(|e| panic!("{name} can't be started: {e}"));
        Program { child, name }
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).unwrap_or_else(|e| panic!("{} takes no signal: {e}", self.name));
    }

    /// SIGKILL, and waits for the end.
    pub fn kill(mut self) {
        self.signal(Signal::KILL);
        self.child.wait().expect("a killed program ends");
    }

    /// SIGSTOP: it does nothing any more, and does not know it.
    pub fn stop(&self) {
        self.signal(Signal::STOP);
    }

    /// SIGCONT: it goes on.
    pub fn go_on(&self) {
        self.signal(Signal::CONT);
    }

    /// Bytes of memory that it has now (Linux).
    pub fn memory_bytes(&self) -> Option<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).ok()?;
        let line = status.lines().find(|l| l.starts_with("VmRSS:"))?;
        let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
        Some(kib * 1024)
    }

    /// SIGTERM.
    pub fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// Waits for the end.
    pub fn wait(&mut self, patience: Duration) -> Option<ExitStatus> {
        let start = Instant::now();
        while start.elapsed() < patience {
            if let Some(status) = self.child.try_wait().expect("a child can be asked") {
                return Some(status);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        None
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|s| s.is_none()) {
            self.signal(Signal::KILL);
            if let Err(error) = self.child.wait() {
                eprintln!("{} does not end: {error}", self.name);
            }
        }
    }
}
