//! The last plan, the highest epoch and the latest decisions, in an embedded database (redb).

use std::collections::BTreeSet;
use std::path::Path;

use graft_plan::Epoch;
use graft_planner_steer::{Decision, Kept, Memory};
use redb::{Database, ReadableDatabase, ReadableTable, StorageError, Table, TableDefinition};

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
}

/// Keeps the last plan. Epochs that it has given out never come again.
#[derive(Debug)]
pub struct Store {
    database: Database,
    file: String,
}

impl Store {
    /// Opens or makes the store. Only one program can have it open.
    pub fn open(file: &Path) -> Result<Self, StoreError> {
        let name = file.display().to_string();
        let error = |cause: String| StoreError {
            file: name.clone(),
            cause: format!("{cause} (is another planner running on it?)"),
        };
        let database = Database::create(file).map_err(|e| error(e.to_string()))?;
        Ok(Store { database, file: name })
    }

    fn error(&self, cause: impl std::fmt::Display) -> StoreError {
        StoreError {
            file: self.file.clone(),
            cause: cause.to_string(),
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
    pub fn epoch(&self) -> Result<Epoch, StoreError> {
        let bytes = self.get(EPOCH)?;
        let number = bytes.and_then(|b| Some(u64::from_le_bytes(b.try_into().ok()?)));
        Ok(Epoch(number.unwrap_or(0)))
    }

    /// Keeps the highest epoch that was given out; it is on disk before this returns.
    pub fn keep_epoch(&self, epoch: Epoch) -> Result<(), StoreError> {
        self.put(&[(EPOCH, &epoch.0.to_le_bytes())])
    }

    /// All that is kept. Decisions or a plan that can't be read are left, and logged.
    pub fn memory(&self) -> Result<Memory, StoreError> {
        let read = |error: StoreError| tracing::error!(%error, "what was kept can't be read");
        let kept = self.last().map_err(read).ok().flatten();
        if let Some(kept) = &kept {
            tracing::info!(epoch = %kept.plan.epoch, "going on from the plan that was kept");
        }
        Ok(Memory {
            kept,
            highest: self.epoch()?,
            decisions: self.decisions().map_err(read).unwrap_or_default(),
        })
    }

    /// Keeps a plan that was rolled out.
    pub fn keep(&self, kept: &Kept) -> Result<(), StoreError> {
        let plan = serde_json::to_vec(&kept.plan).map_err(|e| self.error(e))?;
        let workload = serde_json::to_vec(&kept.workload).map_err(|e| self.error(e))?;
        let standing = serde_json::to_vec(&kept.standing).map_err(|e| self.error(e))?;
        self.put(&[(PLAN, &plan), (WORKLOAD, &workload), (STANDING, &standing)])
    }

    /// Keeps a decision, in the place of what was kept of it before.
    pub fn keep_decision(&self, decision: &Decision) -> Result<(), StoreError> {
        let json = serde_json::to_vec(decision).map_err(|e| self.error(e))?;
        self.change_decisions(|table| table.insert(decision.epoch.0, &*json).map(drop))
    }

    /// Forgets a decision.
    pub fn forget_decision(&self, epoch: Epoch) -> Result<(), StoreError> {
        self.change_decisions(|table| table.remove(epoch.0).map(drop))
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
    pub fn decisions(&self) -> Result<Vec<Decision>, StoreError> {
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
    pub fn last(&self) -> Result<Option<Kept>, StoreError> {
        let (Some(plan), Some(workload)) = (self.get(PLAN)?, self.get(WORKLOAD)?) else {
            return Ok(None);
        };
        let plan = serde_json::from_slice(&plan).map_err(|e| self.error(e))?;
        let workload = serde_json::from_slice(&workload).map_err(|e| self.error(e))?;
        let standing = match self.get(STANDING)? {
            Some(standing) => serde_json::from_slice(&standing).map_err(|e| self.error(e))?,
            None => BTreeSet::new(),
        };
        Ok(Some(Kept {
            plan,
            workload,
            standing,
        }))
    }
}

#[cfg(test)]
mod tests {
    use graft_plan::{Plan, Workload};

    use super::*;

    #[test]
    fn the_highest_epoch_survives_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("plan.redb");
        assert_eq!(Store::open(&file).unwrap().memory().unwrap().highest, Epoch(0));
        Store::open(&file).unwrap().keep_epoch(Epoch(41)).unwrap();
        assert_eq!(Store::open(&file).unwrap().memory().unwrap().highest, Epoch(41));
    }

    #[test]
    fn a_plan_survives_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("plan.redb");
        let kept = Kept {
            plan: Plan::empty("simple", Epoch(7)),
            workload: Workload {
                version: 1,
                headroom: 0.1,
                fragments: vec![],
            },
            standing: BTreeSet::from(["a/0/standing".to_owned()]),
        };
        assert_eq!(Store::open(&file).unwrap().last().unwrap(), None);
        Store::open(&file).unwrap().keep(&kept).unwrap();
        assert_eq!(Store::open(&file).unwrap().last().unwrap(), Some(kept));
    }

    #[test]
    fn a_second_planner_is_told_that_it_is_one() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("plan.redb");
        let _first = Store::open(&file).unwrap();
        let error = Store::open(&file).unwrap_err().to_string();
        assert!(error.contains("another planner"), "{error}");
    }
}
