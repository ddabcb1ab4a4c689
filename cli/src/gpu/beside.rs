//! What other programs say of a GPU: the software GPU of the same launches, NVIDIA's sanitizer, torch of the same networks.

use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context;
use graft_cuda::check::Recording;
use serde::{Deserialize, Serialize};

/// Time that another program may take.
const PATIENCE: Duration = Duration::from_secs(900);
/// Rounds of kernels that are run again elsewhere: each family has all of its kinds among them.
pub(super) const ROUNDS: u32 = 6;
/// Characters of what another program told that are kept, at most.
const MAX_TOLD: usize = 2000;

/// Exit code and outputs of a program that had a limited time.
struct Outcome {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Outcome {
    fn ok(&self) -> bool {
        self.code == Some(0)
    }
}

/// Time for the outputs of a program that ended to be read to their ends.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// Runs a program. `Err`: it can't be started, or takes too long.
fn ran(mut command: Command) -> anyhow::Result<Outcome> {
    let name = command.get_program().to_string_lossy().into_owned();
    let mut child = command
        // A group of its own, so that what it starts ends with it.
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| name.clone())?;
    let (out, err) = (child.stdout.take(), child.stderr.take());
    let reading = |pipe: Option<Box<dyn Read + Send>>| {
        let (whole, text) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let mut bytes = vec![];
            // What can't be read any more is not there.
            let _ = pipe.map(|mut p| p.read_to_end(&mut bytes));
            let _nobody_waits = whole.send(String::from_utf8_lossy(&bytes).into_owned());
        });
        text
    };
    let out = reading(out.map(|p| Box::new(p) as Box<dyn Read + Send>));
    let err = reading(err.map(|p| Box::new(p) as Box<dyn Read + Send>));
    let start = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if start.elapsed() > PATIENCE {
            end_group(child.id());
            child.wait()?;
            anyhow::bail!("{name} takes longer than {} s", PATIENCE.as_secs());
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    end_group(child.id());
    let text = |pipe: std::sync::mpsc::Receiver<String>| pipe.recv_timeout(LAST_WORDS).unwrap_or_default();
    Ok(Outcome {
        code: status.code(),
        out: text(out),
        err: text(err),
    })
}

/// Ends what a program started and left.
fn end_group(leader: u32) {
    let mut kill = Command::new("kill");
    kill.args(["-9", "--", &format!("-{leader}")])
        .stderr(Stdio::null());
    // Mostly there is nobody left.
    let _ = kill.status();
}

fn last_part(text: &str) -> String {
    let skipped = text.chars().count().saturating_sub(MAX_TOLD);
    text.chars().skip(skipped).collect()
}

/// The kernels' first rounds on the software GPU, by a process of its own. `Err`: there is none, or it fails.
pub(super) fn on_softgpu(library: &Path, seed: u64, order: u64) -> anyhow::Result<Recording> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("recording.json");
    let mut command = Command::new(std::env::current_exe()?);
    command
        .args(["gpu-check", "--softgpu", "--kernels-only", "--json"])
        .args([
            "--rounds",
            &ROUNDS.to_string(),
            "--seed",
            &seed.to_string(),
            "--record",
        ])
        .arg(&file)
        .env("GRAFT_CUDA_LIBRARY", library)
        // Blocks and warps run in another order: the same numbers have to come out.
        .env("GRAFT_SOFTGPU", format!("seed={order}"));
    let outcome = ran(command)?;
    anyhow::ensure!(
        outcome.ok(),
        "the software GPU fails: {}",
        last_part(&outcome.err)
    );
    let text = std::fs::read(&file).with_context(|| file.display().to_string())?;
    Ok(serde_json::from_slice(&text)?)
}

/// Exit code that the sanitizer is to give where it found something.
const SANITIZER_FOUND: i32 = 9;

/// What NVIDIA's sanitizer found.
#[derive(Debug, Serialize)]
pub(super) struct Sanitizer {
    pub ok: bool,
    pub told: String,
}

/// Runs the kernels' first rounds under compute-sanitizer. `None`: it is not installed.
pub(super) fn sanitizer(gpu: u32) -> anyhow::Result<Option<Sanitizer>> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let usual = PathBuf::from("/usr/local/cuda/bin");
    let mut places = std::env::split_paths(&path).chain([usual]);
    let Some(place) = places.find(|p| p.join("compute-sanitizer").is_file()) else {
        return Ok(None);
    };
    let mut command = Command::new(place.join("compute-sanitizer"));
    command
        .args([
            "--error-exitcode",
            &SANITIZER_FOUND.to_string(),
            "--target-processes",
            "all",
        ])
        .arg(std::env::current_exe()?)
        .args(["gpu-check", "--kernels-only", "--gpu", &gpu.to_string()])
        .args(["--rounds", &ROUNDS.to_string()]);
    let outcome = ran(command)?;
    let found = outcome.code == Some(SANITIZER_FOUND);
    anyhow::ensure!(
        found || outcome.ok(),
        "it does not run: {}{}",
        last_part(&outcome.out),
        last_part(&outcome.err)
    );
    Ok(Some(Sanitizer {
        ok: !found,
        told: last_part(&outcome.out),
    }))
}

/// What torch says.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Torch {
    /// Its version.
    pub torch: String,
    pub figures: Vec<TorchFigure>,
    pub missing: Vec<TorchMissing>,
}

/// One figure of torch.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct TorchFigure {
    pub network: String,
    pub batch: usize,
    /// "eager", "compiled" or "graph".
    pub mode: String,
    pub ms: f64,
}

/// A network that torch does not run, or not in a mode.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct TorchMissing {
    pub network: String,
    pub mode: String,
    pub why: String,
}

impl Torch {
    /// Torch's best way with a network and batch, in milliseconds.
    pub fn best(&self, network: &str, batch: usize) -> Option<&TorchFigure> {
        let of = |f: &&TorchFigure| f.network == network && f.batch == batch;
        self.figures
            .iter()
            .filter(of)
            .min_by(|a, b| a.ms.total_cmp(&b.ms))
    }
}

/// A network's name, as torchvision would call it.
pub(super) fn torch_name(name: &str) -> String {
    name.replace('-', "_")
}

/// Times networks by torch. `Ok(None)`: `python` has no torch and torchvision.
pub(super) fn torch(python: &Path, device: &str, networks: &[String]) -> anyhow::Result<Option<Torch>> {
    let mut look = Command::new(python);
    look.args(["-c", "import torch, torchvision"]);
    if !ran(look).is_ok_and(|outcome| outcome.ok()) {
        return Ok(None);
    }
    let mut command = Command::new(python);
    command
        .args(["-c", include_str!("time_torch.py"), device])
        .args(networks);
    let outcome = ran(command)?;
    anyhow::ensure!(outcome.ok(), "torch fails: {}", last_part(&outcome.err));
    let line = outcome.out.lines().last().unwrap_or_default();
    Ok(Some(
        serde_json::from_str(line).context("what torch's script printed")?,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_s_outputs_and_failure_are_told() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo out; echo err >&2; exit 3"]);
        let outcome = ran(command).unwrap();
        assert_eq!(
            (outcome.code, outcome.out.trim(), outcome.err.trim()),
            (Some(3), "out", "err")
        );
        assert!(ran(Command::new("/nowhere/python")).is_err());
        assert!(torch(Path::new("/nowhere/python"), "cpu", &[]).unwrap().is_none());
    }

    #[test]
    fn torch_s_best_way_is_the_one_that_counts() {
        let figure = |mode: &str, ms| TorchFigure {
            network: "resnet50".to_owned(),
            batch: 1,
            mode: mode.to_owned(),
            ms,
        };
        let torch = Torch {
            torch: "2".to_owned(),
            figures: vec![
                figure("eager", 3.0),
                figure("graph", 1.0),
                figure("compiled", 2.0),
            ],
            missing: vec![],
        };
        assert_eq!(torch.best("resnet50", 1).map(|f| f.mode.as_str()), Some("graph"));
        assert!(torch.best("resnet50", 2).is_none());
    }
}
