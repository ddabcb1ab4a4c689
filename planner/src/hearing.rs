//! What members say, and whether the planner's actor takes it.

use std::net::SocketAddr;

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

/// A worker gives a router, or another worker, no sign of life.
#[derive(Message)]
#[rtype(result = "Result<(), NotHeard>")]
pub(crate) struct Silent {
    pub number: u64,
    pub worker: String,
}

/// Why a member's message is not taken: it is told so.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotHeard {
    /// Its certificate is another role's.
    #[error("your certificate is not a {0}'s")]
    Certificate(Role),
    /// Its certificate is bound to another name.
    #[error(
        "your certificate is bound to another name than {0:?}: `graft ca issue --part {0}` makes one for this"
    )]
    Name(String),
    /// It has joined under another name.
    #[error("you have joined under another name, or as another role: a connection is one member's")]
    AnotherName,
    /// It closed its connection meanwhile.
    #[error("your connection is gone")]
    Gone,
    /// Another member of its name is there, and gives signs of life.
    #[error(
        "another {role} named {name} is here, from {from}, and gives signs of life: names are unique; change `name` of one of them"
    )]
    Taken {
        /// The role of both.
        role: Role,
        /// The name of both.
        name: String,
        /// Where the other is.
        from: SocketAddr,
    },
    /// It is in no plan's business whether others are silent.
    #[error("you have not joined: who are you?")]
    Unknown,
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
    type Result = ResponseActFuture<Self, Result<(), NotHeard>>;

    /// Where one of its name is there already, that one is asked for a sign of life first.
    fn handle(&mut self, joined: Joined, _: &mut Self::Context) -> Self::Result {
        let (role, name) = match &joined.join {
            Join::Worker(info) => (Role::Worker, info.name.clone()),
            Join::Router { name, .. } => (Role::Router, name.clone()),
        };
        let before = self.alive(role, &name, joined.number);
        Box::pin(
            before
                .into_actor(self)
                .map(move |before, this, context| match before {
                    Some(from) => Err(NotHeard::Taken { role, name, from }),
                    None => this.take_in(joined, context),
                }),
        )
    }
}

impl PlannerActor {
    fn take_in(&mut self, joined: Joined, context: &mut Context<Self>) -> Result<(), NotHeard> {
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
        if self.member(number).is_some_and(|other| other != member) {
            return Err(NotHeard::AnotherName);
        }
        Ok(self.joined(join, member, connection, number, context)?)
    }
}

impl Handler<Silent> for PlannerActor {
    type Result = Result<(), NotHeard>;

    fn handle(&mut self, Silent { number, worker }: Silent, context: &mut Self::Context) -> Self::Result {
        let by = self.member(number).ok_or(NotHeard::Unknown)?;
        self.look_after(worker, &by, context);
        Ok(())
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
