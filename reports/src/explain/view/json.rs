//! An explanation as one JSON object.
//!
//! Invariant: amounts and units are decimal texts, instants RFC 3339, counts whole numbers; every field is
//! always there.

use std::collections::BTreeMap;
use std::io::Write;

use domain::account::{Origin, Revision};
use domain::explain::Difference;
use domain::units::Units;
use serde::Serialize;

use super::super::ledger::{Ledger, Use, Uses};
use super::super::{Explained, Explanation};
use super::{arithmetic, cost};
use crate::error::ReportError;
use crate::text;

#[derive(Serialize)]
struct Whole<'a> {
    agrees: bool,
    findings: Vec<Finding<'a>>,
    denial: Denial<'a>,
    window: Option<Window>,
    recomputed: Option<Recomputed>,
    origins: Vec<OriginRow>,
    ledger: Option<Postings<'a>>,
}

#[derive(Serialize)]
struct Finding<'a> {
    of: &'a str,
    agrees: Option<bool>,
    says: &'a str,
}

#[derive(Serialize)]
struct Denial<'a> {
    id: &'a str,
    at: String,
    policy: &'a str,
    policies_version: i64,
    attachment: &'a str,
    limit: &'a str,
    limit_id: String,
    counter: Option<String>,
    from: &'a str,
    meter: &'a str,
    as_of: Option<String>,
    key: BTreeMap<&'a str, Option<&'a str>>,
    request: BTreeMap<&'a str, &'a str>,
}

#[derive(Serialize)]
struct Window {
    algorithm: String,
    start: String,
    end: String,
}

#[derive(Serialize)]
struct Recomputed {
    is_over: bool,
    used: String,
    asked: String,
    limit_value: String,
    remaining: String,
    reset: String,
    retry: Option<String>,
    arithmetic: String,
    differences: Vec<&'static str>,
}

/// What an origin counted, then and now.
#[derive(Serialize)]
pub(super) struct OriginRow {
    pub(super) name: String,
    /// What the decision knew; absent where it knew nothing of it.
    pub(super) then: Option<String>,
    pub(super) part_then: Option<i64>,
    /// What is stored now; absent where nothing is.
    pub(super) now: Option<String>,
    pub(super) part_now: Option<i64>,
    /// Its last part that enforcers were told of.
    pub(super) sent: Option<i64>,
}

#[derive(Serialize)]
struct Postings<'a> {
    start: String,
    end: String,
    is_exact: bool,
    known: Sums<'a>,
    since: Sums<'a>,
    counted_now: String,
}

#[derive(Serialize)]
struct Sums<'a> {
    total: Sum,
    series: Vec<Row<'a>>,
    others: Option<Others>,
}

#[derive(Serialize)]
struct Row<'a> {
    app: &'a str,
    user: &'a str,
    route: &'a str,
    provider: &'a str,
    model: &'a str,
    #[serde(flatten)]
    sum: Sum,
}

#[derive(Serialize)]
struct Others {
    series: usize,
    #[serde(flatten)]
    sum: Sum,
}

#[derive(Serialize)]
struct Sum {
    events: i128,
    tokens: i128,
    cost: String,
    counted: String,
}

/// Writes it.
pub(in super::super) fn write(
    explanation: &Explanation<'_>,
    out: &mut dyn Write,
) -> Result<(), ReportError> {
    let findings = explanation.findings.iter().map(|finding| Finding {
        of: finding.of,
        agrees: finding.agrees,
        says: &finding.says,
    });
    let whole = Whole {
        agrees: explanation.verdict() == Explained::Agrees,
        findings: findings.collect(),
        denial: denial(explanation),
        window: explanation.span.map(|span| Window {
            algorithm: explanation.limit.spec.algorithm_text(),
            start: span.start().to_string(),
            end: span.end().to_string(),
        }),
        recomputed: recomputed(explanation),
        origins: origins(explanation),
        ledger: explanation.ledger.as_ref().map(|ledger| Postings {
            start: ledger.span.start().to_string(),
            end: ledger.span.end().to_string(),
            is_exact: ledger.is_exact,
            known: sums(explanation, &ledger.known),
            since: sums(explanation, &ledger.since),
            counted_now: explanation.text(Ledger::now(ledger)),
        }),
    };
    let json = serde_json::to_string_pretty(&whole)?;
    // Line feeds are the printer's own; those within texts are escaped.
    for line in json.lines() {
        writeln!(out, "{}", text::json_without_controls(line))?;
    }
    Ok(())
}

fn denial<'a>(explanation: &Explanation<'a>) -> Denial<'a> {
    let denial = explanation.denial;
    let key = denial.key.iter();
    let request = denial.request.iter();
    Denial {
        id: &denial.id,
        at: denial.at.to_string(),
        policy: &denial.policy,
        policies_version: denial.version.0,
        attachment: &denial.attachment,
        limit: &denial.limit,
        limit_id: denial.limit_id.0.to_string(),
        counter: denial.counter.map(|counter| counter.0.to_string()),
        from: denial.from.name(),
        meter: explanation.limit.spec.meter().name(),
        as_of: denial.as_of.map(|as_of| as_of.to_string()),
        key: key
            .map(|(name, value)| (name.as_str(), value.as_deref()))
            .collect(),
        request: request
            .map(|(field, text)| (field.name(), text.as_str()))
            .collect(),
    }
}

fn recomputed(explanation: &Explanation<'_>) -> Option<Recomputed> {
    let again = explanation.recomputed.as_ref()?;
    let verdict = &again.verdict;
    let differences = again.differences.iter().copied();
    Some(Recomputed {
        is_over: verdict.is_over,
        used: explanation.text(verdict.used),
        asked: explanation.text(verdict.asked),
        limit_value: explanation.text(verdict.limit),
        remaining: explanation.text(verdict.remaining),
        reset: verdict.reset.to_string(),
        retry: verdict.retry.map(|retry| retry.to_string()),
        arithmetic: arithmetic(explanation, verdict),
        differences: differences.map(Difference::name).collect(),
    })
}

/// Returns who counted, then and now: ascending, each once.
pub(super) fn origins(explanation: &Explanation<'_>) -> Vec<OriginRow> {
    let behind = &explanation.behind;
    let grounds = explanation.denial.grounds.as_ref();
    let known = grounds.iter().flat_map(|grounds| &grounds.origins);
    let mut found: BTreeMap<Origin, (Option<Units>, Option<Revision>)> = known
        .map(|origin| (origin.origin, (Some(origin.sum), origin.revision)))
        .collect();
    for account in &behind.accounts {
        found.entry(account.origin).or_default();
    }
    for replica in &behind.replicas {
        found.entry(Origin::Replica(replica.replica)).or_default();
    }
    let unnamed = grounds.and_then(|grounds| grounds.unnamed);
    let unnamed = unnamed.map(|unnamed| OriginRow {
        name: format!("{} others", unnamed.origins),
        then: Some(explanation.text(unnamed.sum)),
        part_then: None,
        now: None,
        part_now: None,
        sent: None,
    });
    let rows = found.into_iter().map(|(origin, (sum, revision))| {
        let (now, part_now) = now_of(explanation, origin).unzip();
        let chain = behind.chains.iter().find(|chain| chain.origin == origin);
        OriginRow {
            name: explanation.name_of(origin),
            then: sum.map(|sum| explanation.text(sum)),
            part_then: revision.map(|revision| revision.number),
            now: now.map(|now| explanation.text(now)),
            part_now,
            sent: chain.and_then(|chain| chain.sent).map(|sent| sent.0),
        }
    });
    rows.chain(unnamed).collect()
}

/// Returns what Postgres holds now of what an origin counted, and by which part.
fn now_of(explanation: &Explanation<'_>, origin: Origin) -> Option<(Units, i64)> {
    if let Origin::Replica(replica) = origin {
        let mut replicas = explanation.behind.replicas.iter();
        let written = replicas.find(|written| written.replica == replica)?;
        let span = explanation.span;
        let slots = written.slots.iter();
        let live = slots.filter(|slot| span.is_none_or(|span| span.contains(slot.start)));
        let sum = live.fold(Units::ZERO, |sum, slot| sum.saturating_add(slot.sum));
        let sum = if span.is_some() { sum } else { written.total };
        return Some((sum, written.revision.number));
    }
    let accounts = explanation.behind.accounts.iter();
    let of_origin = accounts.filter(|account| account.origin == origin);
    let part = of_origin.map(|account| account.revision.number).max()?;
    Some((explanation.stored(|account| account.origin == origin), part))
}

fn sums<'u>(explanation: &Explanation<'_>, uses: &'u Uses) -> Sums<'u> {
    let sum = |used: &Use| Sum {
        events: used.events,
        tokens: used.tokens,
        cost: cost(used.cost),
        counted: explanation.text(used.counted),
    };
    let (listed, rest) = uses.biggest(explanation.args.series_max);
    let series = listed.iter().map(|used| Row {
        app: &used.app,
        user: &used.user,
        route: &used.route,
        provider: &used.provider,
        model: &used.model,
        sum: sum(used),
    });
    Sums {
        total: sum(&uses.total()),
        series: series.collect(),
        others: rest.map(|(count, others)| Others {
            series: count,
            sum: sum(&others),
        }),
    }
}
