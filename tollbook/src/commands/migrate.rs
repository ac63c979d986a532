//! `tollbook migrate`.

use service::{Exit, Failure};
use store::{Migrated, Roles};

use crate::config::Settings;
use crate::output;

pub(super) async fn run(settings: &Settings) -> Result<Exit, Failure> {
    let migrated = store::migrate(&settings.config().database.url)
        .await
        .map_err(|error| super::of_store(settings, &error))?;
    output::print(&describe(&migrated))?;
    Ok(Exit::Ok)
}

fn describe(migrated: &Migrated) -> String {
    let Migrated {
        version,
        applied,
        roles,
    } = migrated;
    let schema = match applied {
        0 => format!("the schema is at version {version} already"),
        1 => format!("1 migration applied; the schema is at version {version}"),
        more => format!("{more} migrations applied; the schema is at version {version}"),
    };
    match roles {
        Roles::Separate => schema,
        Roles::Missing(names) => format!(
            "{schema}\nwithout the roles {}: their services work with this login's own rights; `tollbook doctor` says what that gives up",
            names.join(", ")
        ),
    }
}
