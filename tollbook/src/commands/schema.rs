//! `tollbook schema`: what producers write by; needs no settings.

use ingest::event_schema::event_schema;
use service::{Exit, Failure};

use crate::arguments::SchemaCommand;
use crate::output;

pub(super) fn run(command: SchemaCommand) -> Result<Exit, Failure> {
    match command {
        SchemaCommand::Event => output::print(event_schema().trim_end())?,
    }
    Ok(Exit::Ok)
}
