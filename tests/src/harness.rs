//! What the suites stand on: servers, topics, databases, processes of the product, faults.
//!
//! Invariant: nothing outlives the test process: every child gets a death signal, every folder the
//! process's name. Waiting is for a state, with a bound. Deliberately absent: any stand-in for the
//! product, Kafka or Postgres.

pub mod children;
pub mod database;
pub mod envoy;
pub mod folders;
pub mod kafka;
pub mod load;
pub mod otlp;
pub mod postgres;
pub mod product;
pub mod proxy;
pub mod runner;
pub mod stream;
pub mod topic;
pub mod wait;
pub mod world;
