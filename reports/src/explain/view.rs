//! An explanation for a person, or as JSON.
//!
//! Invariant: numbers are exact in both; nothing of a request or of a log reaches a terminal raw.

mod json;

use std::io::Write;

use domain::calendar::{Tz, to_zone_text};
use domain::decision::Verdict;
use domain::explain::{Denial, Reason};
use domain::limit::{Algorithm, MeterSelector};
use domain::money::Amount;
use domain::policy::model::CountedFrom;
use domain::request::Field;
use domain::time::UnixMs;
use domain::units::Units;
use domain::window::WindowSpec;

use super::ledger::{Use, Uses};
use super::{Explained, Explanation};
use crate::error::ReportError;
use crate::table::{self, Align};
use crate::text::{grouped, one_line};

pub(super) use json::write as write_json;

/// How wide the names of the facts are.
const NAME_WIDTH: usize = 12;

/// Writes it for a person.
pub(super) fn write_table(
    explanation: &Explanation<'_>,
    out: &mut dyn Write,
) -> Result<(), ReportError> {
    for (name, text) in facts(explanation) {
        writeln!(out, "{name:<NAME_WIDTH$}{}", one_line(&text))?;
    }
    let width = explanation.args.width;
    let origins = json::origins(explanation);
    if !origins.is_empty() {
        let header = [
            ("who counted", Align::Left),
            ("then", Align::Right),
            ("by part", Align::Right),
            ("now", Align::Right),
            ("by part", Align::Right),
            ("sent to", Align::Right),
        ];
        let number = |number: Option<i64>| number.map_or_else(String::new, |it| it.to_string());
        let text = |text: Option<String>| text.unwrap_or_default();
        let rows = origins.into_iter().map(|origin| {
            let name = match origin.name.as_str() {
                "opening" => "opening, by version of policies".to_owned(),
                _ => origin.name,
            };
            vec![
                name,
                text(origin.then),
                number(origin.part_then),
                text(origin.now),
                number(origin.part_now),
                number(origin.sent),
            ]
        });
        let table = table::render(&header, rows, None, width);
        writeln!(out, "\n{table}")?;
    }
    if let Some(ledger) = &explanation.ledger {
        let what = format!(
            "Postings of {} to {}, known then",
            ledger.span.start(),
            ledger.span.end()
        );
        write_uses(explanation, &what, &ledger.known, out)?;
        if !ledger.since.is_empty() {
            write_uses(explanation, "Posted since", &ledger.since, out)?;
        }
    }
    for finding in &explanation.findings {
        let sign = match finding.agrees {
            Some(true) => "agrees",
            Some(false) => "DIFFERS",
            None => "note",
        };
        writeln!(out, "{sign:<8}{}", one_line(&finding.says))?;
    }
    let last = match explanation.verdict() {
        Explained::Agrees => "explained: the denial is what its numbers say",
        Explained::Differs => "differs: the denial is not what its numbers say, see above",
    };
    writeln!(out, "{last}")?;
    Ok(())
}

/// Returns what was decided, as names and texts in their order.
fn facts(explanation: &Explanation<'_>) -> Vec<(&'static str, String)> {
    let Explanation { denial, limit, .. } = explanation;
    let mut facts = vec![
        (
            "denial",
            format!("{} at {}: {}", denial.id, denial.at, reason(denial)),
        ),
        ("limit", limit_text(explanation)),
    ];
    let per: Vec<_> = denial
        .key
        .iter()
        .map(|(name, value)| format!("{name}={}", value.as_deref().unwrap_or("(missing)")))
        .collect();
    facts.push(("key", per.join(", ")));
    let request: Vec<_> = denial
        .request
        .iter()
        .filter(|(field, _)| *field != Field::Tenant)
        .map(|(field, text)| format!("{}={text}", field.name()))
        .collect();
    facts.push(("request", request.join(", ")));
    if let Some(span) = explanation.span {
        facts.push(("window", format!("{} to {}", span.start(), span.end())));
        for zone in zones(explanation) {
            let [start, end] = [span.start(), span.end()].map(|at| to_zone_text(at, zone));
            facts.push(("", format!("{start} to {end} in {zone}")));
        }
    }
    let source = match limit.from {
        CountedFrom::Log => "by the accounts that ingest tells, counted from the log",
        CountedFrom::Decision => "by what this enforcer counted and the others told",
    };
    let as_of = denial.as_of.map_or_else(
        || format!("never known, {source}"),
        |as_of| format!("{as_of}, {} before, {source}", age(as_of, denial.at)),
    );
    facts.push(("as of", as_of));
    if let Some(again) = &explanation.recomputed {
        facts.push(("verdict", arithmetic(explanation, &again.verdict)));
        let retry = again.verdict.retry;
        let retry = retry.map_or_else(
            || "the same ask never fits".to_owned(),
            |retry| format!("the same ask fits from {retry} on"),
        );
        facts.push(("", format!("{retry}, without more use")));
    }
    facts
}

fn reason(denial: &Denial) -> String {
    match &denial.reason {
        Reason::Over => "over the limit".to_owned(),
        Reason::MissingKey(key) => format!("lacks the key {key}"),
        Reason::Unavailable => "numbers too old".to_owned(),
        Reason::NoRoom => "no room for a counter".to_owned(),
    }
}

fn limit_text(explanation: &Explanation<'_>) -> String {
    let Explanation { denial, limit, .. } = explanation;
    let attachment = match denial.attachment.as_str() {
        "" => String::new(),
        name => format!(" at {name}"),
    };
    let meter = limit.amount.as_ref().map_or_else(
        || limit.spec.meter().name().to_owned(),
        |cel| format!("cel: {}", cel.as_text()),
    );
    format!(
        "{} of policy {}{attachment}, version {}: {meter}, at most {}, {}",
        denial.limit,
        denial.policy,
        denial.version.0,
        explanation.text(limit.spec.limit()),
        limit.spec.algorithm_text()
    )
}

/// Returns the zones in which a window is shown, beside UTC: its own, and the reader's.
fn zones(explanation: &Explanation<'_>) -> Vec<Tz> {
    let own = match explanation.limit.spec.algorithm() {
        Algorithm::Window(WindowSpec::Calendar(calendar)) => Some(calendar.zone),
        _ => None,
    };
    let mut zones: Vec<Tz> = own.into_iter().chain([explanation.args.zone]).collect();
    zones.dedup();
    zones.retain(|zone| *zone != Tz::UTC);
    zones
}

fn age(as_of: UnixMs, at: UnixMs) -> String {
    let ms = at.get().saturating_sub(as_of.get());
    format!("{ms} ms")
}

/// States the comparison that decided.
fn arithmetic(explanation: &Explanation<'_>, verdict: &Verdict) -> String {
    let [used, asked, limit] =
        [verdict.used, verdict.asked, verdict.limit].map(|units| explanation.text(units));
    let (sign, so) = if verdict.is_over {
        (">", "refused")
    } else {
        ("<=", "not passed")
    };
    // Who states no estimate asks for the least that there is.
    let is_least = explanation.limit.spec.meter() == MeterSelector::Cost
        && verdict.asked == Units::ONE
        && explanation.denial.reason == Reason::Over;
    let note = if is_least {
        " (nothing was estimated, so the least there is was asked for)"
    } else {
        ""
    };
    format!("{used} used + {asked} asked {sign} {limit}: {so}{note}")
}

fn write_uses(
    explanation: &Explanation<'_>,
    what: &str,
    uses: &Uses,
    out: &mut dyn Write,
) -> Result<(), ReportError> {
    writeln!(out, "{what}:")?;
    if uses.is_empty() {
        writeln!(out, "  none\n")?;
        return Ok(());
    }
    let header = [
        ("app", Align::Left),
        ("user", Align::Left),
        ("route", Align::Left),
        ("provider", Align::Left),
        ("model", Align::Left),
        ("events", Align::Right),
        ("tokens", Align::Right),
        ("cost", Align::Right),
        ("counted", Align::Right),
    ];
    let row = |names: [&str; 5], used: &Use| {
        let numbers = [
            whole(used.events),
            whole(used.tokens),
            cost(used.cost),
            explanation.text(used.counted),
        ];
        let names = names.map(str::to_owned);
        names.into_iter().chain(numbers).collect::<Vec<String>>()
    };
    let (listed, rest) = uses.biggest(explanation.args.series_max);
    let mut rows: Vec<_> = listed
        .iter()
        .map(|used| {
            let names = [
                &used.app,
                &used.user,
                &used.route,
                &used.provider,
                &used.model,
            ];
            row(names.map(String::as_str), used)
        })
        .collect();
    if let Some((count, others)) = rest {
        let name = format!("{count} others");
        rows.push(row([&name, "", "", "", ""], &others));
    }
    let total = row(["total", "", "", "", ""], &uses.total());
    let table = table::render(
        &header,
        rows.into_iter(),
        Some(total),
        explanation.args.width,
    );
    writeln!(out, "{table}")?;
    Ok(())
}

fn whole(number: i128) -> String {
    let digits = grouped(&number.unsigned_abs().to_string());
    if number < 0 {
        format!("-{digits}")
    } else {
        digits
    }
}

/// Writes a cost exactly.
fn cost(units: i128) -> String {
    let amount = Amount::from_units(units);
    amount.map_or_else(|| units.to_string(), |amount| amount.to_string())
}
