//! Decisions: may this request go?
//!
//! Invariant: between parsing a request and answering it nothing is awaited, and no lock is held across
//! an await. Deliberately absent: SQL, and what policies and limits mean, which is the domain's.
//!
//! [`run()`] owns the control flow; [`engine`] decides, [`counters`] count, and the protocols are thin.

pub mod config;
pub mod counters;
pub mod engine;
pub mod feed;
pub mod run;

mod grpc;
mod http;
mod observe;
mod policies;
mod rls;
mod soon;

#[cfg(test)]
mod sockets;

pub use self::http::{DenialView, UnreadableDenial};
pub use self::run::{EnforcerError, EnforcerSettings, run};
