//! Policies: files and their faults, identities, the matcher against a slow one, hostile input.

#![expect(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    reason = "a test that goes wrong may panic"
)]

mod errors;
mod identity;
mod matcher;
mod meaning;

use super::model::Policy;
use super::{CompiledSet, compile, read};

/// Reads a file that must be right.
fn policies(text: &str) -> Vec<Policy> {
    match read("p.yaml", text) {
        Ok(policies) => policies,
        Err(errors) => {
            let lines: Vec<_> = errors.iter().map(ToString::to_string).collect();
            panic!("{}\nin\n{text}", lines.join("\n"))
        }
    }
}

fn set(text: &str) -> CompiledSet {
    compile(policies(text)).unwrap()
}

/// Reads a file that must be wrong.
fn errors(text: &str) -> Vec<String> {
    let errors = read("p.yaml", text).expect_err("this must be refused");
    errors.iter().map(ToString::to_string).collect()
}
