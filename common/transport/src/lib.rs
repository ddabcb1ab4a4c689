//! QUIC between Graft's parts.
//!
//! [`Identity`] and [`Authority`] are who a part is, [`Endpoint`] and [`Connection`] reach others:
//! [`Connection::call`] sends one framed request on a stream of its own and waits for the reply,
//! [`Connection::serve`] answers such streams. Dropping a call's future resets its stream, which the other
//! side's handler notices. [`Link`] keeps a connection to one place, with back-off, and a
//! [`Pulse`] says whether the other end is alive.
//!
//! It moves frames and control messages, and says who sent them. It never looks at what they say, and knows no plan.

mod account;
mod callers;
mod connection;
mod control;
mod endpoint;
mod identity;
mod link;
mod pulse;
mod token;

pub use account::{Account, Charge, NoRoom, Purse, SLOW_AFTER, network_of};
pub use callers::Window;
pub use connection::{CallError, Caller, Connection, Reply};
pub use control::TellError;
pub use endpoint::{ClientAuth, Endpoint, EndpointError, EndpointOptions, Protocol};
pub use identity::{Authority, Identity, IdentityError, Role, UnknownRole, VALID};
pub use link::{Link, Telling, Whereabouts};
pub use pulse::{Asking, Pulse, silence};
pub use token::{Claims, TokenError, Tokens, issue_token};
