//! The cores of this machine.

/// Why a thread can't be confined to some cores.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CoresError {
    /// A partition has a core at least.
    #[error("no cores given")]
    None,
    /// The number is beyond what systems know.
    #[error("there is no core {0}")]
    Unknown(usize),
    /// The system refuses; in its words.
    #[error("the system refuses: {0} (are these cores there, and allowed to this process?)")]
    Refused(String),
}

/// Confines the calling thread, and the threads that it starts from now on, to some cores.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub fn pin_current_thread(cores: &[usize]) -> Result<(), CoresError> {
    let mut set = rustix::thread::CpuSet::new();
    for &core in cores {
        if core >= rustix::thread::CpuSet::MAX_CPU {
            return Err(CoresError::Unknown(core));
        }
        set.set(core);
    }
    rustix::thread::sched_setaffinity(None, &set).map_err(|e| CoresError::Refused(e.to_string()))
}

/// A guard that confines the calling thread to some cores as long as it lives.
pub(crate) struct Confined {
    /// Cores that the thread was allowed before; `None`: these already.
    before: Option<Vec<usize>>,
}

impl Confined {
    pub fn to(cores: &[usize]) -> Result<Self, CoresError> {
        let before = usable_cores();
        if before == cores || cfg!(not(any(target_os = "linux", target_os = "android"))) {
            return Ok(Confined { before: None });
        }
        pin_current_thread(cores)?;
        Ok(Confined { before: Some(before) })
    }
}

impl Drop for Confined {
    fn drop(&mut self) {
        if let Some(cores) = &self.before
            && let Err(error) = pin_current_thread(cores)
        {
            tracing::warn!(%error, "a thread stays confined to the cores of a partition");
        }
    }
}

/// Confines nothing where the system has no way to.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub fn pin_current_thread(_cores: &[usize]) -> Result<(), CoresError> {
    Ok(())
}

/// The cores that this process may use, in order.
pub fn usable_cores() -> Vec<usize> {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    if let Ok(set) = rustix::thread::sched_getaffinity(None) {
        return (0..rustix::thread::CpuSet::MAX_CPU)
            .filter(|&c| set.is_set(c))
            .collect();
    }
    (0..std::thread::available_parallelism().map_or(1, usize::from)).collect()
}

/// Kind of this machine's CPU, for profiles: `cpu-` and the processor's name.
pub fn cpu_kind() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| {
        info.lines()
            .find(|l| l.starts_with(name))
            .and_then(|l| l.split(':').nth(1))
            .map(|v| v.trim().to_owned())
    };
    let name = field("model name")
        .or_else(|| field("CPU part"))
        .unwrap_or_else(|| std::env::consts::ARCH.to_owned());
    let plain: String = name
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() {
                c.to_ascii_lowercase()
            } else {
                '-'
            }
        })
        .collect();
    let words: Vec<&str> = plain.split('-').filter(|w| !w.is_empty()).collect();
    format!("cpu-{}", words.join("-"))
}
