//! `tollbook gaps`.

use domain::ids::Offset;
use serde_json::Value;
use service::{Exit, Failure};
use store::Role;
use store::gap::{self, Accepted, Gap};

use crate::arguments::GapsCommand;
use crate::config::Settings;
use crate::output::{self, Format, Grid};

pub(super) async fn run(settings: &Settings, command: GapsCommand) -> Result<Exit, Failure> {
    match command {
        GapsCommand::List { output } => list(settings, output.output).await,
        GapsCommand::Accept { id, by } => accept(settings, id, &by).await,
    }
}

async fn list(settings: &Settings, format: Format) -> Result<Exit, Failure> {
    let db = super::open(settings, Role::Ingest).await?;
    let gaps = gap::list(&db)
        .await
        .map_err(|error| super::of_store(settings, &error))?;
    let mut grid = Grid::new(&[
        "id",
        "state",
        "source",
        "topic",
        "partition",
        "cause",
        "position",
        "log_start",
        "log_end",
        "doubtful_from",
        "doubtful_to",
        "found",
        "accepted",
        "accepted_by",
        "detail",
    ]);
    for gap in &gaps {
        grid.row(row(gap));
    }
    grid.print(
        format,
        "no gaps: every log is the one that the ledger was folded from",
    )?;
    Ok(Exit::Ok)
}

fn row(gap: &Gap) -> [Value; 15] {
    let (accepted, by) = match &gap.accepted {
        Some((at, by)) => (Value::from(at.to_rfc3339()), Value::from(by.as_str())),
        None => (Value::Null, Value::Null),
    };
    let offset =
        |offset: Option<Offset>| offset.map_or(Value::Null, |offset| Value::from(offset.0));
    [
        Value::from(gap.id),
        Value::from(if gap.accepted.is_some() {
            "accepted"
        } else {
            "open"
        }),
        Value::from(gap.source.as_str()),
        Value::from(gap.topic.as_str()),
        Value::from(gap.partition),
        Value::from(gap.cause.name()),
        Value::from(gap.position.0),
        Value::from(gap.log_start.0),
        Value::from(gap.log_end.0),
        offset(gap.doubtful.map(|(from, _)| from)),
        offset(gap.doubtful.map(|(_, to)| to)),
        Value::from(gap.found.to_rfc3339()),
        accepted,
        by,
        Value::from(gap.detail.as_str()),
    ]
}

async fn accept(settings: &Settings, id: i64, by: &str) -> Result<Exit, Failure> {
    if by.trim().is_empty() {
        return Err(Failure::new(
            Exit::Usage,
            "--by is empty; name who takes responsibility",
        ));
    }
    let db = super::open(settings, Role::Ingest).await?;
    let accepted = gap::accept(&db, id, by).await;
    match accepted.map_err(|error| super::of_store(settings, &error))? {
        Accepted::Now => output::print(&format!("gap {id} is accepted; its partition goes on"))?,
        Accepted::Before => {
            output::print(&format!("gap {id} was accepted before; nothing changed"))?;
        }
        Accepted::Unknown => {
            let sentence =
                format!("the ledger has no gap {id}; `tollbook gaps list` shows those it has");
            return Err(Failure::new(Exit::Usage, sentence));
        }
    }
    Ok(Exit::Ok)
}
