//! Policies: the language in which people say what may be used, and the matcher that it compiles to.
//!
//! Invariant: what cannot be understood is refused, never skipped, and every fault is told at once with
//! file, line, column, path and cure; a set with one fault is refused whole. The JSON Schema, the
//! reference page and the reading of files come from the same types ([`language`]). Deliberately absent:
//! files and folders; counters (see [`crate::limit`]); where a set is kept and swapped.
//!
//! The way of a file: [`read`] = YAML with places → form, by the schema → types → meaning
//! ([`model::Policy`]); then [`compile()`] makes of all policies together a [`CompiledSet`].

pub mod cel;
pub mod files;
pub mod language;
pub mod model;

mod compile;
mod decode;
mod error;
mod holding;
mod key;
mod pattern;
mod resolve;
mod shape;
mod yaml;

#[cfg(test)]
mod tests;

pub use self::compile::{Applies, CompiledLimit, CompiledSet, Matching, compile};
pub use self::error::PolicyError;
pub use self::holding::{Holds, Placed};
pub use self::key::{CounterKey, Keyed, Place, Placing};
pub use self::pattern::{Network, TextPattern};

use self::error::{At, Faults};
use self::language::PolicyText;
use self::model::Policy;
use self::shape::Shape;

/// Reads the policies of a file: one per document. `file` names it in errors.
///
/// # Errors
///
/// Everything that is wrong with the file, in its order; its author mends it. At least one.
pub fn read(file: &str, text: &str) -> Result<Vec<Policy>, Vec<PolicyError>> {
    let mut faults = Faults::of(file);
    let (documents, twice) = match yaml::read(text) {
        Ok(read) => read,
        Err((mark, problem)) => {
            faults.put("", mark, problem);
            return Err(faults.into_errors());
        }
    };
    for (mark, problem) in twice {
        faults.put("", mark, problem);
    }
    let schema = schemars::schema_for!(PolicyText).to_value();
    let mut policies = Vec::with_capacity(documents.len());
    for mut document in documents {
        faults.next_document();
        if matches!(document.item, yaml::Item::Null) {
            // What `---` at the end of a file, or a file of comments, leaves behind.
            continue;
        }
        let fits = Shape::root(&schema).check(&mut document, "", &mut faults);
        let before = faults.len();
        match decode::decode::<PolicyText>(&document) {
            Ok(policy) => {
                let at = At::root(&document);
                policies.extend(resolve::policy(&policy, &at, &mut faults));
            }
            // What is missing was told already.
            Err(_) if !fits || before > 0 => {}
            Err(error) => {
                let mark = error.mark.unwrap_or(document.mark);
                faults.put("", mark, format!("cannot be read: {}", error.problem));
            }
        }
    }
    if faults.len() > 0 {
        return Err(faults.into_errors());
    }
    for policy in &mut policies {
        policy.place.file = file.to_owned();
    }
    Ok(policies)
}
