//! `tollbook rejected`: listing and showing; see `resolve` for retrying and dropping.

mod resolve;

use std::io::{self, BufWriter};

use domain::reject::Reason;
use reports::rejected::{self, ListArgs, ShowArgs};
use service::{Exit, Failure};
use store::Role;

use super::report::zone;
use crate::arguments::{RejectedCommand, RejectedListArguments, RejectedShowArguments};
use crate::config::Settings;
use crate::output;

pub(super) async fn run(settings: &Settings, command: RejectedCommand) -> Result<Exit, Failure> {
    match command {
        RejectedCommand::List(arguments) => list(settings, arguments).await,
        RejectedCommand::Show(arguments) => show(settings, arguments).await,
        RejectedCommand::Retry(arguments) => resolve::retry(settings, arguments).await,
        RejectedCommand::Drop(arguments) => resolve::give_up(settings, arguments).await,
    }
}

async fn list(settings: &Settings, arguments: RejectedListArguments) -> Result<Exit, Failure> {
    let after = arguments.after.as_deref().map(str::parse);
    let args = ListArgs {
        source: arguments.source,
        reason: arguments.reason.as_deref().map(reason).transpose()?,
        since: arguments.since,
        limit: arguments.limit,
        after: after
            .transpose()
            .map_err(|error| super::of_flag("--after", &error))?,
        zone: zone(settings, arguments.zone.as_deref())?,
        output: arguments.output.output.into(),
        width: output::width(),
    };
    let db = super::open(settings, Role::Reports).await?;
    let written = rejected::list(&db, &args, &mut BufWriter::new(io::stdout())).await;
    written.map_or_else(
        |error| super::of_report(settings, &error),
        |()| Ok(Exit::Ok),
    )
}

async fn show(settings: &Settings, arguments: RejectedShowArguments) -> Result<Exit, Failure> {
    let args = ShowArgs {
        place: arguments
            .place
            .parse()
            .map_err(|error| super::of_flag("rejected show", &error))?,
        zone: zone(settings, arguments.zone.as_deref())?,
        output: arguments.output.output.into(),
    };
    let db = super::open(settings, Role::Reports).await?;
    let written = rejected::show(&db, &args, &mut BufWriter::new(io::stdout())).await;
    written.map_or_else(
        |error| super::of_report(settings, &error),
        |()| Ok(Exit::Ok),
    )
}

fn reason(name: &str) -> Result<Reason, Failure> {
    name.parse().map_err(|_unknown| {
        let known = Reason::ALL.map(Reason::name).join(", ");
        super::of_flag(
            "--reason",
            &format!("\"{name}\" is no reason; the reasons are {known}"),
        )
    })
}
