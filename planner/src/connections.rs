//! Connections to members.

use std::collections::BTreeMap;
use std::future::Future;
use std::time::Duration;

use graft_planner_steer::{Member, Undone};
use graft_telemetry::metrics as names;
use graft_transport::{Connection, Role, TellError};
use graft_wire::{ControlMessage, ToRouter, ToWorker};

/// A member's connection, and its number.
type Numbered = (Connection, u64);

/// Connections to workers and routers, by name.
#[derive(Debug, Default)]
pub(crate) struct Connections {
    workers: BTreeMap<String, Numbered>,
    routers: BTreeMap<String, Numbered>,
}

impl Connections {
    /// A member joined; one of its name that was there before is let go.
    pub fn add(&mut self, member: Member, connection: Connection, number: u64) {
        let (list, name) = match member {
            Member::Worker(name) => (&mut self.workers, name),
            Member::Router(name) => (&mut self.routers, name),
        };
        if let Some((before, old)) = list.insert(name.clone(), (connection, number))
            && old != number
        {
            tracing::warn!(
                name,
                "another member of this name joined; the one before is let go"
            );
            before.close("another member of your name joined");
        }
        self.count();
    }

    /// A connection is gone: the member, if it was its latest.
    pub fn remove(&mut self, number: u64) -> Option<Member> {
        let member = self.member(number)?;
        match &member {
            Member::Worker(name) => self.workers.remove(name),
            Member::Router(name) => self.routers.remove(name),
        };
        self.count();
        Some(member)
    }

    /// Who is at the other end of a connection.
    pub fn member(&self, number: u64) -> Option<Member> {
        let of = |list: &BTreeMap<String, Numbered>| {
            let mut members = list.iter();
            members
                .find(|(_, (_, n))| *n == number)
                .map(|(name, _)| name.clone())
        };
        of(&self.workers)
            .map(Member::Worker)
            .or_else(|| of(&self.routers).map(Member::Router))
    }

    /// The number of a router's connection.
    pub fn router(&self, name: &str) -> Option<u64> {
        self.routers.get(name).map(|(_, number)| *number)
    }

    /// The connection of the member of a role and a name, if its number is not this.
    pub fn other(&self, role: Role, name: &str, number: u64) -> Option<Connection> {
        let list = match role {
            Role::Worker => &self.workers,
            Role::Router => &self.routers,
            Role::Planner => return None,
        };
        let (connection, own) = list.get(name)?;
        (*own != number && !connection.is_closed()).then(|| connection.clone())
    }

    /// The number of a worker's connection.
    pub fn worker(&self, name: &str) -> Option<u64> {
        self.workers.get(name).map(|(_, number)| *number)
    }

    /// Ends a worker's connection, if it is still the one of that number.
    pub fn let_go_worker(&self, worker: &str, number: Option<u64>, why: &str) {
        if let Some((connection, own)) = self.workers.get(worker)
            && Some(*own) == number
        {
            connection.close(why);
        }
    }

    /// Ends a router's connection.
    pub fn let_go(&self, router: &str, why: &str) {
        if let Some((connection, _)) = self.routers.get(router) {
            connection.close(why);
        }
    }

    pub fn tell_worker(
        &self,
        name: &str,
        message: ToWorker,
        patience: Duration,
    ) -> impl Future<Output = Result<(), Undone>> + use<> {
        told(self.workers.get(name), message, patience)
    }

    pub fn tell_router(
        &self,
        name: &str,
        message: ToRouter,
        patience: Duration,
    ) -> impl Future<Output = Result<(), Undone>> + use<> {
        told(self.routers.get(name), message, patience)
    }

    fn count(&self) {
        metrics::gauge!(names::PLANNER_MEMBERS, "role" => "worker").set(self.workers.len() as f64);
        metrics::gauge!(names::PLANNER_MEMBERS, "role" => "router").set(self.routers.len() as f64);
    }
}

/// Tells a member something. `Err`: why it was not done.
fn told<M: ControlMessage>(
    to: Option<&Numbered>,
    message: M,
    patience: Duration,
) -> impl Future<Output = Result<(), Undone>> + use<M> {
    let connection = to.map(|(connection, _)| connection.clone());
    async move {
        let connection = connection.ok_or(Undone::Absent)?;
        let told = connection.tell(&message, patience).await;
        told.map_err(|error| match error {
            TellError::Failed(why) => Undone::Refused(why),
            TellError::Write(_) => Undone::Broken(error.to_string()),
            TellError::Call(_) => Undone::Unanswered(error.to_string()),
        })
    }
}
