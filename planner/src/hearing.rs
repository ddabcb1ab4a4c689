//! What members say, and whether the planner's actor takes it.

use actix::prelude::*;
use graft_planner_steer::{Event, Member, Unheard};
use graft_transport::{Connection, Role};
use graft_wire::{Join, MixReport, WorkerReport};

use crate::actor::PlannerActor;

/// Somebody joins over a connection.
#[derive(Message)]
#[rtype(result = "Result<(), NotHeard>")]
pub(crate) struct Joined {
    pub join: Join,
    pub connection: Connection,
    /// The connection's.
    pub number: u64,
}

/// The connection of that number is gone.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Left {
    pub number: u64,
}

/// A router's report.
#[derive(Message)]
#[rtype(result = "Result<(), NotHeard>")]
pub(crate) struct Mixed {
    pub number: u64,
    pub report: MixReport,
}

/// A worker's report.
#[derive(Message)]
#[rtype(result = "Result<(), NotHeard>")]
pub(crate) struct Worked {
    pub number: u64,
    pub report: WorkerReport,
}

/// Why a member's message is not taken: it is told so.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotHeard {
    /// Its certificate is another role's.
    #[error("your certificate is not a {0}'s")]
    Certificate(Role),
    /// It closed its connection meanwhile.
    #[error("your connection is gone")]
    Gone,
    /// It reports before it joins.
    #[error("you are no {0} that has joined: join first")]
    NotJoined(Role),
    /// The desk does not take it.
    #[error(transparent)]
    Unheard(#[from] Unheard),
    /// The planner is shutting down, or has more to do than it can.
    #[error(transparent)]
    Busy(#[from] actix::MailboxError),
}

impl Handler<Joined> for PlannerActor {
    type Result = Result<(), NotHeard>;

    fn handle(&mut self, joined: Joined, context: &mut Self::Context) -> Self::Result {
        let Joined {
            join,
            connection,
            number,
        } = joined;
        if connection.is_closed() {
            return Err(NotHeard::Gone);
        }
        let member = match &join {
            Join::Worker(info) => {
                let kinds: Vec<&str> = info.devices.iter().map(|d| d.kind.as_str()).collect();
                let kinds = kinds.join(", ");
                tracing::info!(worker = %info.name, address = %info.address, %kinds, models = info.models.len(), "a worker joins");
                Member::Worker(info.name.clone())
            }
            Join::Router { name, epoch } => {
                tracing::info!(router = %name, %epoch, "a router joins");
                Member::Router(name.clone())
            }
        };
        Ok(self.joined(join, member, connection, number, context)?)
    }
}

impl Handler<Left> for PlannerActor {
    type Result = ();

    fn handle(&mut self, Left { number }: Left, context: &mut Self::Context) {
        self.left(number, context);
    }
}

impl Handler<Mixed> for PlannerActor {
    type Result = Result<(), NotHeard>;

    fn handle(&mut self, Mixed { number, report }: Mixed, context: &mut Self::Context) -> Self::Result {
        let Some(Member::Router(router)) = self.member(number) else {
            return Err(NotHeard::NotJoined(Role::Router));
        };
        Ok(self.hear(Event::Mix { router, report }, context)?)
    }
}

impl Handler<Worked> for PlannerActor {
    type Result = Result<(), NotHeard>;

    fn handle(&mut self, Worked { number, report }: Worked, context: &mut Self::Context) -> Self::Result {
        let Some(Member::Worker(worker)) = self.member(number) else {
            return Err(NotHeard::NotJoined(Role::Worker));
        };
        Ok(self.hear(Event::Work { worker, report }, context)?)
    }
}
