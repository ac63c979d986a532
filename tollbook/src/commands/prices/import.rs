//! `tollbook prices import`.
//!
//! Invariant: a dry run and an import print the same difference; a table is cut where it is long, JSON
//! and CSV are whole. Deliberately absent: how lists lie over one another (`domain`) and in which order
//! (`ingest`).

use std::path::Path;

use domain::ids::Version;
use domain::price::{
    Findings, PriceBook, PriceChange, PriceDiff, PriceFile, PriceFileError, parse_instant,
};
use ingest::prices::{Effect, ImportPlan, plan_import};
use serde_json::{Value, json};
use service::{Exit, Failure};
use store::Role;

use crate::arguments::PricesImportArguments;
use crate::config::Settings;
use crate::output::{self, Format, Grid};

/// How many changes a table shows; a whole map has ten thousand.
const SHOWN_MAX: usize = 40;

pub(super) async fn run(
    settings: &Settings,
    arguments: &PricesImportArguments,
) -> Result<Exit, Failure> {
    let file = read(arguments)?;
    let db = super::super::open(settings, Role::Ingest).await?;
    let shipped = PriceBook::shipped();
    let (plan, version) = if arguments.dry_run {
        let plan = plan_import(&db, &shipped, &file).await;
        (
            plan.map_err(|error| super::of_prices(settings, error))?,
            None,
        )
    } else {
        let imported = ingest::prices::import(&db, &shipped, &file).await;
        imported.map_err(|error| super::of_prices(settings, error))?
    };
    let report = Report {
        diff: PriceDiff::between(&plan.old, &plan.new),
        file: &file,
        plan: &plan,
        version,
        is_dry: arguments.dry_run,
    };
    match arguments.output.output {
        Format::Table => report.print()?,
        Format::Json => output::print(&format!("{:#}", report.to_json()))?,
        Format::Csv => report.changes(usize::MAX).print(Format::Csv, "")?,
    }
    Ok(Exit::Ok)
}

fn read(arguments: &PricesImportArguments) -> Result<PriceFile, Failure> {
    let path = &arguments.file;
    let from = arguments.from.as_deref().map(|text| {
        parse_instant(text)
            .map_err(|problem| super::super::of_flag("--from", &format!("{text:?} {problem}")))
    });
    let from = from.transpose()?;
    let bytes = std::fs::read(path).map_err(|error| {
        let path = path.display();
        let sentence = format!("{path} cannot be read ({error}); name a file that can");
        Failure::new(Exit::Usage, sentence)
    })?;
    let refused = |error: PriceFileError| Failure::new(Exit::Data, error.to_string());
    let file = read_bytes(path, &bytes).map_err(refused)?;
    Ok(match from {
        Some(from) => file.starting_at(from),
        None => file,
    })
}

fn read_bytes(path: &Path, bytes: &[u8]) -> Result<PriceFile, PriceFileError> {
    // The same list in another folder is the same list.
    let name = path.file_name().unwrap_or(path.as_os_str());
    let name = name.to_string_lossy();
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let before = bytes.get(..error.valid_up_to()).unwrap_or_default();
        let lines = before.iter().filter(|byte| **byte == b'\n').count();
        PriceFileError {
            file: name.clone().into_owned(),
            line: lines.saturating_add(1),
            problem: "is not UTF-8; save the file as UTF-8".to_owned(),
        }
    })?;
    PriceFile::read(&name, text)
}

struct Report<'r> {
    file: &'r PriceFile,
    plan: &'r ImportPlan,
    diff: PriceDiff<'r>,
    version: Option<Version>,
    is_dry: bool,
}

impl Report<'_> {
    fn print(&self) -> Result<(), Failure> {
        let layer = self.file.layer();
        let holds = layer.holds_from().map_or_else(
            || "from the beginning of time".to_owned(),
            |from| format!("from {from}"),
        );
        let mut lines = vec![format!(
            "{}: {} layout, {} models, {} rates, {} aliases, {holds}",
            self.file.name(),
            self.file.layout().name(),
            layer.models(),
            layer.rates(),
            layer.aliases(),
        )];
        lines.extend(told(self.file.findings()));
        output::print(&lines.join("\n"))?;
        if self.is_dry && !self.diff.changes.is_empty() {
            self.changes(SHOWN_MAX).print(Format::Table, "")?;
            let hidden = self.diff.changes.len().saturating_sub(SHOWN_MAX);
            if hidden > 0 {
                output::print(&format!("… and {hidden} more; --output csv shows all"))?;
            }
        }
        let [added, changed, removed] = self.counts();
        let (unchanged, aliases) = (self.diff.unchanged, self.diff.aliases);
        output::print(&format!(
            "rates: {added} added, {changed} changed, {removed} removed, {unchanged} unchanged; \
             aliases: {aliases} changed"
        ))?;
        output::print(&self.outcome())
    }

    fn outcome(&self) -> String {
        let effect = match self.plan.effect {
            Effect::Nothing => return "nothing to do: what it says holds already".to_owned(),
            Effect::Hidden => {
                "; files of the configuration say otherwise, so that no price changes now"
            }
            Effect::Changes => "",
        };
        match self.version {
            Some(version) => format!("imported: version {} is in force{effect}", version.0),
            None => format!("dry run: nothing was written{effect}"),
        }
    }

    /// Counts what is added, changed and removed.
    fn counts(&self) -> [usize; 3] {
        let count = |kind| {
            let changes = self.diff.changes.iter();
            changes.filter(|change| kind_of(change) == kind).count()
        };
        ["added", "changed", "removed"].map(count)
    }

    fn changes(&self, shown_max: usize) -> Grid {
        let mut grid = Grid::new(&[
            "change",
            "provider",
            "model",
            "meter",
            "above_input_tokens",
            "from",
            "old_usd_per_unit",
            "new_usd_per_unit",
        ]);
        for change in self.diff.changes.iter().take(shown_max) {
            grid.row(row(change));
        }
        grid
    }

    fn to_json(&self) -> Value {
        let [added, changed, removed] = self.counts();
        let layer = self.file.layer();
        let findings = self.file.findings();
        let kinds = findings.not_expressed.iter().map(|kind| {
            json!({
                "kind": kind.kind,
                "prices": kind.prices,
                "models": kind.models,
                "example": kind.example,
            })
        });
        json!({
            "file": self.file.name(),
            "layout": self.file.layout().name(),
            "from": layer.holds_from().map(|from| from.to_string()),
            "models": layer.models(),
            "rates": layer.rates(),
            "aliases": layer.aliases(),
            "not_expressed": kinds.collect::<Vec<_>>(),
            "models_without_rates": findings.models_without_rates,
            "rounded": findings.rounded,
            "contradicted": findings.contradicted,
            "added": added,
            "changed": changed,
            "removed": removed,
            "unchanged": self.diff.unchanged,
            "aliases_changed": self.diff.aliases,
            "changes": self.changes(usize::MAX).to_json(),
            "effect": match self.plan.effect {
                Effect::Changes => "changes",
                Effect::Hidden => "hidden",
                Effect::Nothing => "nothing",
            },
            "dry_run": self.is_dry,
            "version": self.version.map(|version| version.0),
        })
    }
}

/// Says what a book does not hold of the file.
fn told(findings: &Findings) -> Vec<String> {
    let mut lines = Vec::new();
    let prices = |sum: usize, kind: &domain::price::NotExpressed| sum.saturating_add(kind.prices);
    let all = findings.not_expressed.iter().fold(0, prices);
    if all > 0 {
        lines.push(format!("not expressed: {all} prices"));
    }
    for kind in &findings.not_expressed {
        lines.push(format!(
            "  {}: {} prices of {} models, such as {}",
            kind.kind,
            kind.prices,
            kind.models,
            kind.example.escape_debug()
        ));
    }
    if findings.models_without_rates > 0 {
        lines.push(format!(
            "models without any rate that a price book expresses: {}",
            findings.models_without_rates
        ));
    }
    if findings.rounded > 0 {
        lines.push(format!(
            "rounded to 18 decimal places: {} rates",
            findings.rounded
        ));
    }
    if !findings.contradicted.is_empty() {
        lines.push(format!(
            "given otherwise under another key, of which that with the provider's name counts: {}",
            findings.contradicted.join(", ").escape_debug()
        ));
    }
    lines
}

const fn kind_of(change: &PriceChange<'_>) -> &'static str {
    match (change.old, change.new) {
        (None, _) => "added",
        (Some(_), Some(_)) => "changed",
        (Some(_), None) => "removed",
    }
}

fn row(change: &PriceChange<'_>) -> [Value; 8] {
    let or_null = |text: Option<String>| text.map_or(Value::Null, Value::from);
    [
        Value::from(kind_of(change)),
        Value::from(change.provider),
        Value::from(change.model),
        Value::from(change.meter.name()),
        Value::from(change.above_input_tokens),
        or_null(change.start.map(|start| start.to_string())),
        or_null(change.old.map(|rate| rate.to_string())),
        or_null(change.new.map(|rate| rate.to_string())),
    ]
}
