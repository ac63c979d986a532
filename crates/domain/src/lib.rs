//! The domain of Tollbook: ids, money, meters, usage events, prices, the fold into postings, limits,
//! policies and the requests that they match.
//!
//! Invariant: everything here is a pure function of its arguments. No I/O, no async, no clock, no
//! environment, no globals, no floating point; time and randomness are arguments. Deliberately
//! absent: JSON (but for the schema of policies), SQL, Kafka. What arrives from outside becomes one of
//! these types at the edge.

#![deny(
    clippy::arithmetic_side_effects,
    clippy::float_arithmetic,
    clippy::as_conversions,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm
)]

pub mod account;
pub mod adjustment;
pub mod calendar;
pub mod counting;
pub mod decision;
pub mod event;
pub mod explain;
pub mod feed;
pub mod fold;
pub mod hash;
pub mod ids;
pub mod limit;
pub mod meter;
pub mod money;
pub mod nearest;
pub mod part;
pub mod policy;
pub mod price;
pub mod reject;
pub mod reprice;
pub mod request;
pub mod series;
pub mod time;
pub mod units;
pub mod window;

#[cfg(test)]
mod tests;
