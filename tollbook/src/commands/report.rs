//! `tollbook report`.

use std::io::{self, BufWriter};

use domain::calendar::{Tz, parse_zone};
use reports::cost::{self, CostArgs};
use service::{Exit, Failure};
use store::Role;

use crate::arguments::{CostArguments, ReportCommand};
use crate::config::Settings;
use crate::output;

pub(super) async fn run(settings: &Settings, command: ReportCommand) -> Result<Exit, Failure> {
    let ReportCommand::Cost(arguments) = command;
    let args = read(settings, arguments)?;
    let db = super::open(settings, Role::Reports).await?;
    let written = cost::run(&db, &args, &mut BufWriter::new(io::stdout())).await;
    written.map_or_else(
        |error| super::of_report(settings, &error),
        |()| Ok(Exit::Ok),
    )
}

fn read(settings: &Settings, arguments: CostArguments) -> Result<CostArgs, Failure> {
    let by = arguments.by.iter().map(|name| name.trim().parse());
    let format = arguments.output.output;
    Ok(CostArgs {
        by: by
            .collect::<Result<_, _>>()
            .map_err(|error| super::of_flag("--by", &error))?,
        tenant: arguments.tenant,
        from: arguments.from,
        to: arguments.to,
        grain: arguments
            .grain
            .parse()
            .map_err(|error| super::of_flag("--grain", &error))?,
        zone: zone(settings, arguments.zone.as_deref())?,
        only_unpriced: arguments.only_unpriced,
        output: format.into(),
        width: output::width(),
    })
}

/// Reads a zone; without one the configured one.
pub(super) fn zone(settings: &Settings, name: Option<&str>) -> Result<Tz, Failure> {
    let name = name.unwrap_or(&settings.config().reports.zone);
    parse_zone(name).map_err(|error| super::of_flag("--zone", &error))
}
