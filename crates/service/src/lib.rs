//! Process plumbing: boot, configuration, telemetry, tasks, shutdown, health.
//!
//! Invariant: the room knows no word of the product's domain; what it offers would serve any other
//! service as well. Deliberately absent: metric names, settings and texts of the product, which the
//! rooms that own them bring along.

pub mod clock;
pub mod config;
pub mod cores;
pub mod exit;
pub mod files;
pub mod health;
pub mod http;
pub mod otlp;
pub mod panics;
pub mod random;
pub mod shutdown;
pub mod spans;
pub mod tasks;
pub mod telemetry;

pub use clock::{Clock, SystemClock};
pub use exit::{Exit, Failure};
pub use health::Readiness;
pub use otlp::{Otlp, OtlpSettings};
pub use shutdown::Shutdown;
pub use tasks::Tasks;
