//! The last plan, the highest epoch and the latest decisions, in an embedded database (redb).

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use graft_plan::Epoch;
use graft_planner_steer::{Decision, Kept, Memory};
use graft_telemetry::metrics as names;
use redb::{Database, DatabaseError, ReadableDatabase, ReadableTable, StorageError, Table, TableDefinition};

const TABLE: TableDefinition<&str, &[u8]> = TableDefinition::new("planner");
/// Table of decisions: JSON by epoch.
const DECISIONS: TableDefinition<u64, &[u8]> = TableDefinition::new("decisions");
const EPOCH: &str = "epoch";
const PLAN: &str = "plan";
const WORKLOAD: &str = "workload";
/// Ids of the workload's fragments that are served whether or not anybody asks.
const STANDING: &str = "standing";

/// A store that can't be used.
#[derive(Debug, thiserror::Error)]
#[error("the planner's store {file}: {cause}")]
pub struct StoreError {
    file: String,
    cause: String,
    /// What is there can't be read.
    damaged: bool,
}

/// Time between two tries to open a store that could not be used.
const TRY_EVERY: Duration = Duration::from_secs(5);
/// Damaged stores that are kept beside the present one at most, for people to look at.
const MOST_DAMAGED: usize = 4;

/// Keeps the last plan. Epochs that it has given out never come again.
///
/// Where the disk is full, or the file can't be used, it goes on in memory, says so once, and tries again every few seconds. A file that is
/// damaged, or none of ours, is set aside. What is lost with it, members tell when they join.
#[derive(Debug)]
pub struct Store {
    file: PathBuf,
    /// `None`: it goes on in memory.
    disk: Option<Disk>,
    trouble: Option<Trouble>,
    /// What is kept, or to be kept when the disk is there again.
    mirror: Memory,
}

#[derive(Debug)]
struct Trouble {
    why: String,
    tried: Instant,
}

/// The database.
#[derive(Debug)]
struct Disk {
    database: Database,
    file: String,
}

/// Why a file can't be opened.
#[derive(Debug)]
enum Unopened {
    /// It holds nothing that can be read: it is to be set aside.
    Damaged(StoreError),
    /// It may be sound: it is locked, or the disk is full or can't be written.
    NotNow(StoreError),
}

/// Closes a database that failed, which may fail once more then.
fn closed(disk: Disk) {
    if catch_unwind(AssertUnwindSafe(move || drop(disk))).is_err() {
        tracing::debug!("a store that failed does not close");
    }
}

/// Does something with the database, which may find damage anywhere.
fn guarded<T>(file: &str, f: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
    let panicked = |_| {
        Err(StoreError {
            file: file.to_owned(),
            cause: "it is damaged".to_owned(),
            damaged: true,
        })
    };
    catch_unwind(AssertUnwindSafe(f)).unwrap_or_else(panicked)
}

impl Store {
    /// Opens or makes the store. Only one program can have it open; another goes on in memory.
    pub fn open(file: &Path) -> Self {
        let mut store = Store {
            file: file.to_owned(),
            disk: None,
            trouble: None,
            mirror: Memory::default(),
        };
        match store.try_disk() {
            Ok((disk, memory)) => (store.disk, store.mirror) = (Some(disk), memory),
            Err(error) => store.fails(&error),
        }
        store
    }

    /// Why it goes on in memory. `None`: it does not.
    pub fn trouble(&self) -> Option<&str> {
        self.trouble.as_ref().map(|t| t.why.as_str())
    }

    /// All that is kept.
    pub fn memory(&self) -> Memory {
        if let Some(kept) = &self.mirror.kept {
            tracing::info!(epoch = %kept.plan.epoch, "going on from the plan that was kept");
        }
        self.mirror.clone()
    }

    /// The database and what it holds; one that is damaged is set aside for a fresh one.
    fn try_disk(&self) -> Result<(Disk, Memory), StoreError> {
        let opened = Disk::open(&self.file).and_then(|disk| match guarded(&disk.file, || disk.memory()) {
            Ok(memory) => Ok((disk, memory)),
            Err(error) => {
                let damaged = error.damaged;
                closed(disk);
                Err(match damaged {
                    true => Unopened::Damaged(error),
                    false => Unopened::NotNow(error),
                })
            }
        });
        let damaged = match opened {
            Ok(opened) => return Ok(opened),
            Err(Unopened::NotNow(error)) => return Err(error),
            Err(Unopened::Damaged(error)) => error,
        };
        let aside = self.set_aside()?;
        tracing::error!(error = %damaged, aside = %aside.display(), "the store can't be read, and is set aside; what members know is kept in a fresh one");
        match Disk::open(&self.file) {
            Ok(disk) => Ok((disk, Memory::default())),
            Err(Unopened::Damaged(error) | Unopened::NotNow(error)) => Err(error),
        }
    }

    /// Renames the file; the oldest of those that were set aside go.
    fn set_aside(&self) -> Result<PathBuf, StoreError> {
        let error = |cause: std::io::Error| StoreError {
            file: self.file.display().to_string(),
            cause: format!("it is damaged, and can't be set aside: {cause}"),
            damaged: false,
        };
        let stem = self
            .file
            .file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let prefix = format!("{stem}.damaged-");
        let folder = self.file.parent().unwrap_or(Path::new("."));
        let list = std::fs::read_dir(folder)
            .map_err(error)?
            .flatten()
            .map(|entry| entry.path());
        let is_one = |path: &PathBuf| {
            path.file_name()
                .is_some_and(|n| n.to_string_lossy().starts_with(&prefix))
        };
        let mut before: Vec<PathBuf> = list.filter(is_one).collect();
        before.sort();
        while before.len() >= MOST_DAMAGED {
            // One that stays is one more.
            let _ = std::fs::remove_file(before.remove(0));
        }
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let aside = folder.join(format!("{prefix}{:020}.redb", since.as_millis()));
        std::fs::rename(&self.file, &aside).map_err(error)?;
        Ok(aside)
    }

    /// From now on it goes on in memory.
    fn fails(&mut self, error: &StoreError) {
        if self.trouble.is_none() {
            tracing::error!(%error, "plans are kept in memory alone until the store can be used");
            metrics::gauge!(names::PLANNER_STORE_IN_MEMORY).set(1.0);
        }
        if let Some(disk) = self.disk.take() {
            closed(disk);
        }
        self.trouble = Some(Trouble {
            why: error.to_string(),
            tried: Instant::now(),
        });
    }

    /// Tries the disk again, where it is time to: to be called now and then.
    pub fn tend(&mut self) {
        if self
            .trouble
            .as_ref()
            .is_none_or(|t| t.tried.elapsed() < TRY_EVERY)
        {
            return;
        }
        let written = self.try_disk().and_then(|(disk, before)| {
            // What was there all the time, while it could not be read, is not lost: later numbers count.
            self.mirror.highest = self.mirror.highest.max(before.highest);
            let epoch = |kept: &Option<Kept>| kept.as_ref().map_or(Epoch(0), |k| k.plan.epoch);
            if epoch(&before.kept) > epoch(&self.mirror.kept) {
                self.mirror.kept = before.kept;
            }
            match guarded(&disk.file, || disk.write_all(&self.mirror)) {
                Ok(()) => Ok(disk),
                Err(error) => {
                    closed(disk);
                    Err(error)
                }
            }
        });
        match written {
            Ok(disk) => {
                tracing::warn!(file = %disk.file, "plans are kept on the disk again");
                metrics::gauge!(names::PLANNER_STORE_IN_MEMORY).set(0.0);
                (self.disk, self.trouble) = (Some(disk), None);
            }
            Err(error) => self.fails(&error),
        }
    }

    fn write(&mut self, f: impl FnOnce(&Disk) -> Result<(), StoreError>) {
        self.tend();
        let Some(disk) = &self.disk else { return };
        let Err(error) = guarded(&disk.file, || f(disk)) else {
            return;
        };
        self.fails(&error);
        if error.damaged {
            // What is to be kept is known here: a fresh one takes it.
            let started_anew = self.set_aside().map(drop);
            if let Some(trouble) = self.trouble.as_mut().filter(|_| started_anew.is_ok()) {
                trouble.tried = Instant::now().checked_sub(TRY_EVERY).unwrap_or(trouble.tried);
            }
            self.tend();
        }
    }

    /// Keeps the highest epoch that was given out; it is on the disk before this returns, where that can be used. Returns the highest
    /// that is known: another, where the disk could be used again and had a later one.
    pub fn keep_epoch(&mut self, epoch: Epoch) -> Epoch {
        self.tend();
        self.mirror.highest = self.mirror.highest.max(epoch);
        let highest = self.mirror.highest;
        self.write(|disk| disk.put(&[(EPOCH, &highest.0.to_le_bytes())]));
        self.mirror.highest
    }

    /// Keeps a plan that was rolled out.
    pub fn keep(&mut self, kept: &Kept) {
        self.mirror.kept = Some(kept.clone());
        self.write(|disk| disk.keep(kept));
    }

    /// Keeps a decision, in the place of what was kept of it before.
    pub fn keep_decision(&mut self, decision: &Decision) {
        self.mirror.decisions.retain(|d| d.epoch != decision.epoch);
        self.mirror.decisions.push(decision.clone());
        self.write(|disk| disk.keep_decision(decision));
    }

    /// Forgets a decision.
    pub fn forget_decision(&mut self, epoch: Epoch) {
        self.mirror.decisions.retain(|d| d.epoch != epoch);
        self.write(|disk| disk.change_decisions(|table| table.remove(epoch.0).map(drop)));
    }
}

impl Disk {
    fn open(file: &Path) -> Result<Self, Unopened> {
        let name = file.display().to_string();
        let error = |cause: String| StoreError {
            file: name.clone(),
            cause,
            damaged: false,
        };
        let opened = catch_unwind(AssertUnwindSafe(|| Database::create(file)));
        let Ok(opened) = opened else {
            return Err(Unopened::Damaged(error("it is damaged".to_owned())));
        };
        let database = opened.map_err(|cause| match cause {
            DatabaseError::DatabaseAlreadyOpen => {
                Unopened::NotNow(error("another planner is running on it".to_owned()))
            }
            DatabaseError::Storage(StorageError::Io(cause)) if is_damage(&cause) => {
                Unopened::Damaged(error(cause.to_string()))
            }
            DatabaseError::Storage(StorageError::Corrupted(cause)) => Unopened::Damaged(error(cause)),
            DatabaseError::UpgradeRequired(version) => {
                Unopened::Damaged(error(format!("it is of another version, {version}")))
            }
            other => Unopened::NotNow(error(other.to_string())),
        })?;
        Ok(Disk { database, file: name })
    }

    fn error(&self, cause: impl Into<redb::Error>) -> StoreError {
        let cause = cause.into();
        StoreError {
            file: self.file.clone(),
            damaged: matches!(cause, redb::Error::Corrupted(_)),
            cause: cause.to_string(),
        }
    }

    /// What was kept is none of ours.
    fn unread(&self, cause: impl std::fmt::Display) -> StoreError {
        StoreError {
            file: self.file.clone(),
            cause: cause.to_string(),
            damaged: true,
        }
    }

    fn get(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let read = self.database.begin_read().map_err(|e| self.error(e))?;
        let table = match read.open_table(TABLE) {
            Ok(table) => table,
            Err(redb::TableError::TableDoesNotExist(_)) => return Ok(None),
            Err(e) => return Err(self.error(e)),
        };
        let value = table.get(key).map_err(|e| self.error(e))?;
        Ok(value.map(|v| v.value().to_vec()))
    }

    fn put(&self, entries: &[(&str, &[u8])]) -> Result<(), StoreError> {
        let write = self.database.begin_write().map_err(|e| self.error(e))?;
        {
            let mut table = write.open_table(TABLE).map_err(|e| self.error(e))?;
            for (key, value) in entries {
                table.insert(*key, *value).map_err(|e| self.error(e))?;
            }
        }
        write.commit().map_err(|e| self.error(e))
    }

    /// The highest epoch that was given out.
    fn epoch(&self) -> Result<Epoch, StoreError> {
        let bytes = self.get(EPOCH)?;
        let number = bytes.and_then(|b| Some(u64::from_le_bytes(b.try_into().ok()?)));
        Ok(Epoch(number.unwrap_or(0)))
    }

    /// All that is kept.
    fn memory(&self) -> Result<Memory, StoreError> {
        Ok(Memory {
            kept: self.last()?,
            highest: self.epoch()?,
            decisions: self.decisions()?,
        })
    }

    /// Writes all that is to be kept.
    fn write_all(&self, memory: &Memory) -> Result<(), StoreError> {
        self.put(&[(EPOCH, &memory.highest.0.to_le_bytes())])?;
        if let Some(kept) = &memory.kept {
            self.keep(kept)?;
        }
        let mut all = vec![];
        for decision in &memory.decisions {
            let json = serde_json::to_vec(decision).map_err(|e| self.unread(e))?;
            all.push((decision.epoch.0, json));
        }
        self.change_decisions(|table| {
            all.iter()
                .try_for_each(|(epoch, json)| table.insert(*epoch, &**json).map(drop))
        })
    }

    fn keep(&self, kept: &Kept) -> Result<(), StoreError> {
        let plan = serde_json::to_vec(&kept.plan).map_err(|e| self.unread(e))?;
        let workload = serde_json::to_vec(&kept.workload).map_err(|e| self.unread(e))?;
        let standing = serde_json::to_vec(&kept.standing).map_err(|e| self.unread(e))?;
        self.put(&[(PLAN, &plan), (WORKLOAD, &workload), (STANDING, &standing)])
    }

    fn keep_decision(&self, decision: &Decision) -> Result<(), StoreError> {
        let json = serde_json::to_vec(decision).map_err(|e| self.unread(e))?;
        self.change_decisions(|table| table.insert(decision.epoch.0, &*json).map(drop))
    }

    fn change_decisions(
        &self,
        change: impl FnOnce(&mut Table<'_, u64, &'static [u8]>) -> Result<(), StorageError>,
    ) -> Result<(), StoreError> {
        let write = self.database.begin_write().map_err(|e| self.error(e))?;
        {
            let mut table = write.open_table(DECISIONS).map_err(|e| self.error(e))?;
            change(&mut table).map_err(|e| self.error(e))?;
        }
        write.commit().map_err(|e| self.error(e))
    }

    /// The decisions that were kept, by epoch. One that an older version wrote is passed over.
    fn decisions(&self) -> Result<Vec<Decision>, StoreError> {
        let read = self.database.begin_read().map_err(|e| self.error(e))?;
        let table = match read.open_table(DECISIONS) {
            Ok(table) => table,
            Err(redb::TableError::TableDoesNotExist(_)) => return Ok(vec![]),
            Err(e) => return Err(self.error(e)),
        };
        let mut decisions = vec![];
        for entry in table.iter().map_err(|e| self.error(e))? {
            let (_, json) = entry.map_err(|e| self.error(e))?;
            decisions.extend(serde_json::from_slice::<Decision>(json.value()).ok());
        }
        Ok(decisions)
    }

    /// The last plan that was kept.
    fn last(&self) -> Result<Option<Kept>, StoreError> {
        let (Some(plan), Some(workload)) = (self.get(PLAN)?, self.get(WORKLOAD)?) else {
            return Ok(None);
        };
        let plan = serde_json::from_slice(&plan).map_err(|e| self.unread(e))?;
        let workload = serde_json::from_slice(&workload).map_err(|e| self.unread(e))?;
        let standing = match self.get(STANDING)? {
            Some(standing) => serde_json::from_slice(&standing).map_err(|e| self.unread(e))?,
            None => BTreeSet::new(),
        };
        Ok(Some(Kept {
            plan,
            workload,
            standing,
        }))
    }
}

/// Whether an error of reading says that the file is cut off or scratched.
fn is_damage(cause: &std::io::Error) -> bool {
    matches!(
        cause.kind(),
        std::io::ErrorKind::InvalidData
            | std::io::ErrorKind::UnexpectedEof
            | std::io::ErrorKind::InvalidInput
    )
}

#[cfg(test)]
mod tests {
    use graft_plan::{Plan, Workload};

    use super::*;

    fn kept(epoch: u64) -> Kept {
        Kept {
            plan: Plan::empty("simple", Epoch(epoch)),
            workload: Workload {
                version: 1,
                headroom: 0.1,
                fragments: vec![],
            },
            standing: BTreeSet::from(["a/0/standing".to_owned()]),
        }
    }

    /// A store with a plan in it.
    fn written(file: &Path) {
        let mut store = Store::open(file);
        store.keep_epoch(Epoch(41));
        store.keep(&kept(41));
        assert_eq!(store.trouble(), None);
    }

    #[test]
    fn the_highest_epoch_and_the_plan_survive_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("plan.redb");
        assert_eq!(Store::open(&file).memory(), Memory::default());
        written(&file);
        let memory = Store::open(&file).memory();
        assert_eq!((memory.highest, memory.kept), (Epoch(41), Some(kept(41))));
    }

    #[test]
    fn a_second_planner_goes_on_in_memory_and_says_why() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("plan.redb");
        let mut first = Store::open(&file);
        first.keep_epoch(Epoch(5));
        first.keep(&kept(5));
        let mut second = Store::open(&file);
        let why = second.trouble().unwrap().to_owned();
        assert!(
            why.contains("another planner") && why.contains("plan.redb"),
            "{why}"
        );
        second.keep_epoch(Epoch(7));
        drop(first);
        // When the file is free, what it knows is kept.
        second.trouble.as_mut().unwrap().tried = Instant::now() - TRY_EVERY;
        second.tend();
        assert_eq!(second.trouble(), None);
        drop(second);
        // What was there is not lost.
        let memory = Store::open(&file).memory();
        assert_eq!((memory.highest, memory.kept), (Epoch(7), Some(kept(5))));
    }

    #[test]
    fn whatever_is_wrong_with_the_file_a_store_is_opened_and_used() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("plan.redb");
        written(&file);
        let sound = std::fs::read(&file).unwrap();
        let mut damaged: Vec<(String, Vec<u8>)> = vec![
            ("empty".to_owned(), vec![]),
            (
                "garbage".to_owned(),
                (0..100_000).map(|i| (i * 7 % 251) as u8).collect(),
            ),
            ("another's".to_owned(), b"SQLite format 3\0".repeat(1000)),
        ];
        for part in [1, 17, 100, 511, 512, 4096, sound.len() / 2, sound.len() - 1] {
            damaged.push((format!("cut off after {part}"), sound[..part].to_vec()));
        }
        for place in (0..sound.len()).step_by(sound.len() / 40) {
            let mut scratched = sound.clone();
            let end = (place + 64).min(sound.len());
            scratched[place..end].fill(0xa5);
            damaged.push((format!("scratched at {place}"), scratched));
        }
        let mut other_version = sound.clone();
        other_version[9..13].fill(0x7f);
        damaged.push(("of another version".to_owned(), other_version));
        for (what, bytes) in damaged {
            std::fs::write(&file, &bytes).unwrap();
            let mut store = Store::open(&file);
            assert_eq!(store.trouble(), None, "{what}");
            store.keep_epoch(Epoch(50));
            store.keep(&kept(50));
            assert_eq!(store.trouble(), None, "{what}");
            drop(store);
            let memory = Store::open(&file).memory();
            assert_eq!(
                (memory.highest, memory.kept),
                (Epoch(50), Some(kept(50))),
                "{what}"
            );
        }
        let files = std::fs::read_dir(folder.path()).unwrap().count();
        assert!((2..=MOST_DAMAGED + 1).contains(&files), "{files} files are there");
    }

    #[test]
    fn a_folder_that_is_not_there_yet_is_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("state");
        let mut store = Store::open(&state.join("plan.redb"));
        assert!(store.trouble().is_some());
        store.keep_epoch(Epoch(3));
        std::fs::create_dir(&state).unwrap();
        store.trouble.as_mut().unwrap().tried = Instant::now() - TRY_EVERY;
        store.tend();
        assert_eq!(store.trouble(), None);
        drop(store);
        assert_eq!(Store::open(&state.join("plan.redb")).memory().highest, Epoch(3));
    }
}
