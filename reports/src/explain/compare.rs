//! What agrees and what differs: the recorded verdict, the one worked out again, accounts and ledger.
//!
//! Invariant: only what must be equal is compared; what need not be is said, with the reason. Deliberately
//! absent: reading and writing.

use domain::account::Origin;
use domain::decision::Verdict;
use domain::explain::{Difference, Reason, Recomputed, is_refused_by};
use domain::limit::Algorithm;
use domain::policy::model::CountedFrom;
use domain::time::UnixMs;
use domain::units::Units;
use domain::window::{Span, WindowSpec};
use store::explain::AccountSlot;

use super::Explanation;
use super::ledger::Ledger;

/// For how long after it counted last a slot of an account is kept, in ms.
const KEPT_MS: i64 = 3_600_000;

/// Something that was compared, or could not be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Finding {
    /// What was looked at.
    pub(super) of: &'static str,
    /// Whether it agrees; `None` where there is nothing to compare.
    pub(super) agrees: Option<bool>,
    /// What was found, for people.
    pub(super) says: String,
}

impl Finding {
    fn compared(of: &'static str, agrees: bool, says: String) -> Self {
        Self {
            of,
            agrees: Some(agrees),
            says,
        }
    }

    fn noted(of: &'static str, says: impl Into<String>) -> Self {
        Self {
            of,
            agrees: None,
            says: says.into(),
        }
    }
}

/// Compares all that can be, in the order in which it is told.
pub(super) fn findings(explanation: &Explanation<'_>) -> Vec<Finding> {
    let mut findings = vec![verdict(explanation)];
    match explanation.limit.from {
        CountedFrom::Log => of_log(explanation, &mut findings),
        CountedFrom::Decision => findings.push(of_decisions(explanation)),
    }
    findings
}

fn verdict(explanation: &Explanation<'_>) -> Finding {
    let Explanation { denial, policy, .. } = explanation;
    let is_refused = is_refused_by(policy, &explanation.limit, denial);
    let of = "verdict";
    match (&denial.reason, &explanation.recomputed) {
        (Reason::MissingKey(key), _) => Finding::compared(
            of,
            is_refused,
            if is_refused {
                format!("the limit refuses requests without {key}, and looked at no numbers")
            } else {
                format!("the limit does not refuse requests without {key}")
            },
        ),
        (_, None) => Finding::compared(
            of,
            false,
            "the denial does not say what it stands on, so it cannot be worked out again; an older \
             enforcer made it"
                .to_owned(),
        ),
        (reason, Some(again)) => {
            if let Some(first) = again.differences.first() {
                let differences = again.differences.iter();
                let told: Vec<_> = differences.map(|it| told(explanation, again, *it)).collect();
                let why = match first {
                    Difference::Outcome => "worked out again, the request may go",
                    _ => "worked out again, the verdict has other numbers",
                };
                return Finding::compared(of, false, format!("{why}: {}", told.join("; ")));
            }
            let says = match (reason, is_refused) {
                (Reason::Unavailable, true) => {
                    "the numbers were older than the policy tolerates, so on_unavailable refused"
                }
                (Reason::Unavailable, false) => {
                    "the policy tolerates numbers of that age, so on_unavailable refuses nothing"
                }
                (Reason::NoRoom, true) => {
                    "there was no room for a counter of this key, so on_unavailable refused"
                }
                (Reason::NoRoom, false) => {
                    "the policy allows where nothing is known, so on_unavailable refuses nothing"
                }
                _ => "worked out again from what the counter held, the verdict is the same",
            };
            Finding::compared(of, is_refused, says.to_owned())
        }
    }
}

/// Says how a part of a verdict was recorded, and what it is when it is worked out again.
fn told(explanation: &Explanation<'_>, again: &Recomputed, difference: Difference) -> String {
    let name = difference.name();
    let Some(recorded) = explanation.denial.verdict else {
        return name.to_owned();
    };
    let pair = |of: fn(&Verdict) -> Units| {
        let [recorded, again] = [&recorded, &again.verdict].map(|it| explanation.text(of(it)));
        format!("{name} was recorded as {recorded} and is {again}")
    };
    match difference {
        Difference::Used => pair(|it| it.used),
        Difference::Limit => pair(|it| it.limit),
        Difference::Remaining => pair(|it| it.remaining),
        Difference::Reset => {
            let (recorded, again) = (recorded.reset, again.verdict.reset);
            format!("{name} was recorded as {recorded} and is {again}")
        }
        Difference::Outcome | Difference::Retry => name.to_owned(),
        Difference::Origins => "the origins do not sum to what was recorded as used".to_owned(),
    }
}

fn of_decisions(explanation: &Explanation<'_>) -> Finding {
    let replicas = explanation.behind.replicas.len();
    let says = match replicas {
        0 => {
            "this limit counts decisions: its numbers live in the enforcers, and none of them has \
              written any of this counter to Postgres (they write windows of an hour or more, each \
              second)"
                .to_owned()
        }
        count => format!(
            "this limit counts decisions: its numbers live in the enforcers; {count} of their starts \
             wrote theirs to Postgres"
        ),
    };
    Finding::noted("replicas", says)
}

fn of_log(explanation: &Explanation<'_>, findings: &mut Vec<Finding>) {
    let Some(ledger) = &explanation.ledger else {
        findings.push(Finding::noted(
            "ledger",
            "no counter was looked at, so no postings stand behind it",
        ));
        return;
    };
    if ledger.is_exact {
        findings.push(known(explanation, ledger));
        findings.extend(accounts(explanation, ledger));
    } else {
        findings.push(Finding::noted(
            "ledger",
            "the ledger holds quarter-hours, and this limit's window or meter is not a sum of them: \
             the postings below are those that it may have counted",
        ));
    }
    findings.extend(unchanged(explanation));
    if !ledger.since.is_empty() {
        let since = explanation.text(ledger.since.total().counted);
        findings.push(Finding::noted(
            "since",
            format!("{since} were posted after what the decision knew, and are shown apart"),
        ));
    }
}

/// Compares the postings that the decision knew of with what it took for used.
fn known(explanation: &Explanation<'_>, ledger: &Ledger) -> Finding {
    let of = "ledger";
    let denial = explanation.denial;
    let counted = ledger.known.total().counted;
    let used = denial.verdict.map_or(Units::ZERO, |verdict| verdict.used);
    let grounds = denial.grounds.as_ref();
    if grounds.is_some_and(|grounds| grounds.unnamed.is_some()) {
        return Finding::noted(
            of,
            "the denial names only the origins that counted most, so nobody knows which postings of \
             the others it knew",
        );
    }
    if explanation
        .whole_from
        .is_some_and(|whole| whole > denial.at)
    {
        return Finding::noted(
            of,
            "the limit was warming: it had not yet counted a whole window, so the ledger holds more",
        );
    }
    let [counted_text, used_text] = [counted, used].map(|units| explanation.text(units));
    let says = if counted == used {
        format!(
            "the postings that the decision knew sum to {counted_text}, which is what it took for used"
        )
    } else {
        format!(
            "the postings that the decision knew sum to {counted_text}, and it took {used_text} for used"
        )
    };
    Finding::compared(of, counted == used, says)
}

/// Compares the accounts as they are stored now with all that the ledger holds now.
fn accounts(explanation: &Explanation<'_>, ledger: &Ledger) -> Option<Finding> {
    let of = "accounts";
    let behind = &explanation.behind;
    if behind.accounts.is_empty() {
        let says = "Postgres holds no accounts of this counter any longer: they are deleted an hour \
                    after they counted last; the postings stay";
        return Some(Finding::noted(of, says));
    }
    let stored = explanation.stored(|_| true);
    let [stored_text, now_text] = [stored, ledger.now()].map(|units| explanation.text(units));
    if stored == ledger.now() {
        let says = format!("accounts and ledger hold the same now: {now_text}");
        return Some(Finding::compared(of, true, says));
    }
    let says = format!("accounts hold {stored_text} now, and the ledger {now_text}");
    let is_over = explanation.span.is_none_or(|span| behind.at >= span.end());
    if is_over {
        let why = "the window is over, and usage that comes late is posted and no longer counted";
        return Some(Finding::noted(of, format!("{says}: {why}")));
    }
    let in_force = behind.policies;
    if in_force == Some(explanation.denial.version) {
        return Some(Finding::compared(of, false, says));
    }
    let now = in_force.map_or_else(|| "none".to_owned(), |version| version.0.to_string());
    Some(Finding::noted(
        of,
        format!("{says}: other policies are in force since, of version {now}"),
    ))
}

/// Compares the accounts that did not change since with what the decision knew of them.
fn unchanged(explanation: &Explanation<'_>) -> Option<Finding> {
    let grounds = explanation.denial.grounds.as_ref()?;
    // A sliding window's slots are deleted one by one, from an hour after each counted last.
    let is_sliding = matches!(
        explanation.limit.spec.algorithm(),
        Algorithm::Window(WindowSpec::Sliding(_))
    );
    if is_sliding && explanation.behind.at >= explanation.denial.at.saturating_add_ms(KEPT_MS) {
        return None;
    }
    let mut same = 0_usize;
    for origin in &grounds.origins {
        let of_origin = explanation.behind.accounts.iter();
        let of_origin = of_origin.filter(|account| account.origin == origin.origin);
        let newest = of_origin.map(|account| account.revision).max();
        if newest.is_none() || newest != origin.revision {
            continue;
        }
        let stored = explanation.stored(|account| account.origin == origin.origin);
        if stored != origin.sum {
            let [stored, known] = [stored, origin.sum].map(|units| explanation.text(units));
            let name = explanation.name_of(origin.origin);
            let says = format!(
                "the account of {name} has not changed since, and holds {stored} where the decision \
                 knew {known}"
            );
            return Some(Finding::compared("origins", false, says));
        }
        same = same.saturating_add(1);
    }
    (same > 0).then(|| {
        let says = match same {
            1 => "one account has not changed since, and holds what the decision knew".to_owned(),
            _ => format!("{same} accounts have not changed since, and hold what the decision knew"),
        };
        Finding::compared("origins", true, says)
    })
}

impl Explanation<'_> {
    /// Sums what is stored now of the slots that counted.
    pub(super) fn stored(&self, of: impl Fn(&AccountSlot) -> bool) -> Units {
        let is_sliding = matches!(
            self.limit.spec.algorithm(),
            Algorithm::Window(WindowSpec::Sliding(_))
        );
        // Of a sliding window slots ahead of the clock count, too.
        let counts = |start: UnixMs| {
            let counts = |span: Span| span.contains(start) || (is_sliding && start >= span.end());
            self.span.is_some_and(counts)
        };
        let accounts = self.behind.accounts.iter();
        let live = accounts.filter(|account| of(account) && counts(account.slot.start));
        live.fold(Units::ZERO, |sum, account| {
            sum.saturating_add(account.slot.sum)
        })
    }

    /// Names who counted.
    pub(super) fn name_of(&self, origin: Origin) -> String {
        let chains = &self.behind.chains;
        match origin {
            Origin::Chain(chain) => {
                let known = chains.iter().find(|known| known.chain == chain);
                known.map_or_else(|| format!("chain {}", chain.0), |known| known.name.clone())
            }
            Origin::Replica(replica) => format!("replica {:016x}", replica.0),
            Origin::Opening => "opening".to_owned(),
            Origin::Adjustment => "adjustment".to_owned(),
        }
    }
}
