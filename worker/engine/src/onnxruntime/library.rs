//! Finding onnxruntime's library on this machine, and opening it once.

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use ort::environment::Environment;
use ort::logging::LogLevel;

use crate::checks::guarded;
use crate::error::Panicked;

/// Environment variable that names the library's file.
const FILE_VARIABLE: &str = "ORT_DYLIB_PATH";
/// Environment variable that keeps onnxruntime from sending usage data to its maker; the library reads it when it is
/// loaded.
const TELEMETRY_VARIABLE: &str = "ORT_DISABLE_TELEMETRY";
/// Oldest minor version of onnxruntime 1 that is used. Older ones give wrong numbers: 1.31 for the maximum of large
/// 64-bit integers, 1.28 for average pools with rounded-up shapes, 1.26 for Erf of NaN.
const OLDEST_MINOR: u32 = 32;
/// Advice for people who don't have the library.
const HOW_TO_GET_IT: &str = "pip install onnxruntime, or a release's shared library in the place that ORT_DYLIB_PATH or the \
                             configuration's `onnxruntime` names";

/// Reason why there is no onnxruntime.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    why: String,
    what_to_do: String,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}. {}", self.why, self.what_to_do)
    }
}

impl std::error::Error for Missing {}

/// The library, loaded. There is at most one in a process.
#[derive(Debug)]
pub(super) struct Library {
    pub environment: Environment,
    pub file: PathBuf,
}

/// Library that was opened: a process loads one, and never unloads it.
static OPENED: Mutex<Option<Arc<Library>>> = Mutex::new(None);

/// Starts this program again, in its place and with its arguments, if the environment does not say yet whether
/// onnxruntime may send usage data: the library looks at that when it is loaded, and a program can't soundly change its
/// own environment. For the first line of `main`.
pub fn start_without_telemetry() {
    #[cfg(unix)]
    if std::env::var_os(TELEMETRY_VARIABLE).is_none()
        && let Ok(program) = std::env::current_exe()
    {
        use std::os::unix::process::CommandExt;

        let mut arguments = std::env::args_os();
        let mut again = std::process::Command::new(program);
        if let Some(name) = arguments.next() {
            again.arg0(name);
        }
        again.args(arguments).env(TELEMETRY_VARIABLE, "1");
        // `exec` returns only if it failed; then the engine on onnxruntime says what is to be done.
        let _failed = again.exec();
    }
}

/// Opens the library, if it is there. `asked`: the file, or a folder with it, instead of looking for it.
pub(super) fn open(asked: Option<&Path>) -> Result<Arc<Library>, Missing> {
    let mut opened = OPENED.lock().unwrap_or_else(|e| e.into_inner());
    if let Some(library) = opened.as_ref() {
        return Ok(Arc::clone(library));
    }
    let files = find(asked, std::env::var_os(FILE_VARIABLE), usual_folders)?;
    if std::env::var_os(TELEMETRY_VARIABLE).is_none() {
        return Err(Missing {
            why: format!("onnxruntime sends usage data to its maker unless {TELEMETRY_VARIABLE} is set"),
            what_to_do: format!("Set {TELEMETRY_VARIABLE}=1 in the environment (0: let it)"),
        });
    }
    let mut causes = vec![];
    for file in files {
        match load(&file) {
            Ok(environment) => {
                let library = Arc::new(Library { environment, file });
                *opened = Some(Arc::clone(&library));
                return Ok(library);
            }
            Err(cause) => causes.push(format!("{}: {cause}", file.display())),
        }
    }
    Err(Missing {
        why: format!("onnxruntime is there, but can't be used: {}", causes.join("; ")),
        what_to_do: format!("Needed is version 1.{OLDEST_MINOR} or newer for this machine: {HOW_TO_GET_IT}"),
    })
}

/// Why a file is not used.
#[derive(Debug, thiserror::Error)]
enum Unusable {
    #[error(transparent)]
    NoLibrary(#[from] graft_ort_ffi::VersionError),
    #[error("has version {0}")]
    TooOld(String),
    #[error("{0}")]
    Open(String),
    #[error(transparent)]
    Panicked(#[from] Panicked),
    #[error(transparent)]
    Library(#[from] ort::Error),
}

fn load(file: &Path) -> Result<Environment, Unusable> {
    let version = graft_ort_ffi::version(file)?;
    let mut numbers = version.split('.').map(|n| n.parse::<u32>().unwrap_or(0));
    if (numbers.next(), numbers.next()) < (Some(1), Some(OLDEST_MINOR)) {
        return Err(Unusable::TooOld(version));
    }
    guarded(|| {
        let builder = ort::init_from(file).map_err(|e| Unusable::Open(e.to_string()))?;
        let logger = |level: LogLevel, _: &str, _: &str, at: &str, text: &str| match level {
            LogLevel::Error | LogLevel::Fatal => tracing::debug!(at, "onnxruntime: {text}"),
            _ => tracing::trace!(at, "onnxruntime: {text}"),
        };
        let builder = builder.with_name("graft").with_telemetry(false);
        let environment = builder.with_logger(Arc::new(logger)).build()?;
        graft_ort_ffi::share(&environment)?;
        Ok(environment)
    })
}

/// The library's files, to be tried in this order: the one that was asked for, else the one that the environment names,
/// else the newest in each of the usual folders.
fn find(
    asked: Option<&Path>,
    named: Option<OsString>,
    usual: impl FnOnce() -> Vec<PathBuf>,
) -> Result<Vec<PathBuf>, Missing> {
    let named = named.filter(|n| !n.is_empty()).map(PathBuf::from);
    let place = asked
        .map(|place| (place.to_owned(), "the configuration"))
        .or(named.map(|place| (place, FILE_VARIABLE)));
    if let Some((place, by)) = place {
        let found = if place.is_dir() {
            newest_in(&place)
        } else {
            Some(place.clone()).filter(|p| p.is_file())
        };
        // A name alone would be looked for elsewhere when it is loaded.
        let found = found.and_then(|file| std::path::absolute(file).ok());
        return found.map(|file| vec![file]).ok_or_else(|| Missing {
            why: format!("there is no onnxruntime at {}, which {by} names", place.display()),
            what_to_do: format!("Name the file {} or its folder", file_names()),
        });
    }
    let folders = usual();
    let files: Vec<PathBuf> = folders.iter().filter_map(|folder| newest_in(folder)).collect();
    if !files.is_empty() {
        return Ok(files);
    }
    let there = folders.iter().filter(|f| f.is_dir());
    let mut shown: Vec<String> = there.map(|f| f.display().to_string()).collect();
    shown.push("the packages of a Python environment".to_owned());
    Err(Missing {
        why: format!("there is no {} in {}", file_names(), shown.join(", ")),
        what_to_do: HOW_TO_GET_IT.to_owned(),
    })
}

fn file_names() -> &'static str {
    if cfg!(windows) {
        "onnxruntime.dll"
    } else if cfg!(target_vendor = "apple") {
        "libonnxruntime.dylib or libonnxruntime.VERSION.dylib"
    } else {
        "libonnxruntime.so or libonnxruntime.so.VERSION"
    }
}

/// The version that a file's name says; the name without one stands for the newest. `None`: it is another file.
fn version_of(name: &str) -> Option<[u32; 3]> {
    let version = if cfg!(windows) {
        name.strip_prefix("onnxruntime")?.strip_suffix(".dll")?
    } else if cfg!(target_vendor = "apple") {
        name.strip_prefix("libonnxruntime")?.strip_suffix(".dylib")?
    } else {
        name.strip_prefix("libonnxruntime.so")?
    };
    if version.is_empty() {
        return Some([u32::MAX; 3]);
    }
    let mut numbers = version.strip_prefix('.')?.split('.').map(str::parse);
    let mut next = || numbers.next().unwrap_or(Ok(0)).ok();
    Some([next()?, next()?, next()?])
}

fn newest_in(folder: &Path) -> Option<PathBuf> {
    let entries = std::fs::read_dir(folder).ok()?.flatten();
    let found = entries.filter_map(|entry| Some((version_of(entry.file_name().to_str()?)?, entry.path())));
    let files = found.filter(|(_, path)| path.is_file());
    files.max().map(|(_, path)| path)
}

/// Folders where libraries are kept: beside the program, the system's, those of Python environments.
fn usual_folders() -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> = vec![];
    let variable = |name: &str| {
        std::env::var_os(name)
            .filter(|v| !v.is_empty())
            .map(PathBuf::from)
    };
    if let Ok(program) = std::env::current_exe()
        && let Some(folder) = program.parent()
    {
        folders.extend([folder.to_owned(), folder.join("../lib")]);
    }
    let listed = |name: &str| std::env::var_os(name).map(|v| std::env::split_paths(&v).collect::<Vec<_>>());
    folders.extend(listed("LD_LIBRARY_PATH").unwrap_or_default());
    let system = [
        "/usr/local/lib",
        "/usr/local/lib64",
        "/usr/lib",
        "/usr/lib64",
        "/opt/onnxruntime/lib",
        "/opt/homebrew/lib",
    ];
    folders.extend(system.map(PathBuf::from));
    folders.push(PathBuf::from(format!(
        "/usr/lib/{}-linux-gnu",
        std::env::consts::ARCH
    )));
    // Environments of Python: the active one, then those of the interpreters that a shell would find.
    let mut roots: Vec<PathBuf> = ["VIRTUAL_ENV", "CONDA_PREFIX"]
        .into_iter()
        .filter_map(variable)
        .collect();
    for folder in listed("PATH").unwrap_or_default() {
        let interpreter = folder.join("python3");
        if interpreter.is_file() {
            let real = interpreter.canonicalize().unwrap_or_else(|_| interpreter.clone());
            let of = |path: &Path| path.parent().and_then(Path::parent).map(Path::to_owned);
            roots.extend([of(&interpreter), of(&real)].into_iter().flatten());
        }
    }
    roots.extend(variable("HOME").map(|home| home.join(".local")));
    for root in roots {
        let versions = std::fs::read_dir(root.join("lib"))
            .into_iter()
            .flatten()
            .flatten();
        let is_python = |name: &OsString| name.to_string_lossy().starts_with("python3");
        for library in versions.filter(|e| is_python(&e.file_name())).map(|e| e.path()) {
            let packages =
                ["site-packages", "dist-packages"].map(|p| library.join(p).join("onnxruntime/capi"));
            folders.extend(packages);
        }
    }
    folders.retain(|f| f.is_absolute());
    let mut seen = std::collections::HashSet::new();
    folders.retain(|f| seen.insert(f.clone()));
    folders
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(all(unix, not(target_vendor = "apple")))]
    #[test]
    fn the_newest_version_of_each_folder_is_tried() {
        let folder = tempfile::tempdir().unwrap();
        let [first, second] = ["first", "second"].map(|n| folder.path().join(n));
        for (place, name) in [
            (&first, "libonnxruntime_providers_shared.so"),
            (&first, "libonnxruntime.so.1.9.0"),
            (&first, "libonnxruntime.so.1.22.1"),
            (&second, "libonnxruntime.so"),
        ] {
            std::fs::create_dir_all(place).unwrap();
            std::fs::write(place.join(name), "").unwrap();
        }
        let usual = || vec![folder.path().join("none"), first.clone(), second.clone()];
        let found = |asked: Option<&Path>, named: &str| find(asked, Some(named.into()), usual);
        let newest = first.join("libonnxruntime.so.1.22.1");
        assert_eq!(
            found(None, "").unwrap(),
            [newest, second.join("libonnxruntime.so")]
        );
        assert_eq!(
            found(None, second.to_str().unwrap()).unwrap(),
            [second.join("libonnxruntime.so")]
        );
        assert_eq!(
            found(Some(&second), "elsewhere").unwrap(),
            [second.join("libonnxruntime.so")]
        );
        let error = found(Some(Path::new("/nowhere/lib.so")), "")
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("/nowhere/lib.so") && error.contains("configuration"),
            "{error}"
        );
        let error = found(None, "/nowhere").unwrap_err().to_string();
        assert!(error.contains("ORT_DYLIB_PATH"), "{error}");
        let error = find(None, None, || vec![folder.path().to_owned()])
            .unwrap_err()
            .to_string();
        assert!(
            error.contains(folder.path().to_str().unwrap()) && error.contains("pip install"),
            "{error}"
        );
    }
}
