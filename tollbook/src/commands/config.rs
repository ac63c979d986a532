//! `tollbook config`.

use service::{Exit, Failure};

use crate::arguments::ConfigCommand;
use crate::config::{Settings, json_schema};
use crate::{output, prices};

pub(super) fn run(settings: &Settings, command: Option<ConfigCommand>) -> Result<Exit, Failure> {
    match command {
        None | Some(ConfigCommand::Print) => output::print(&settings.to_toml()?)?,
        Some(ConfigCommand::Schema) => return schema(),
        Some(ConfigCommand::Check) => {
            let prices = prices::read(settings)?;
            let sources = settings.config().ingest.sources.len();
            output::print(&format!(
                "well-formed: {}; {sources} sources, {}",
                settings.file(),
                prices::describe(&prices)
            ))?;
        }
    }
    Ok(Exit::Ok)
}

pub(super) fn schema() -> Result<Exit, Failure> {
    output::print(&json_schema())?;
    Ok(Exit::Ok)
}
