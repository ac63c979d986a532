//! The case `limits`: what accounts cost, whose use ingest writes in the batch's transaction.
//!
//! Invariant: a run whose accounts do not hold what the ledger does is an error and no figure.
//! Deliberately absent: decisions.

use ::tests::harness::database::Database;

/// Three limits counted from the log, of the kinds that a gateway has most.
pub(super) const LIMITS: &str = r#"name: bench
limits:
  - { name: daily-cost, meter: cost, limit: "1000000", per: [app], window: { calendar: day }, from: log }
  - { name: model-tokens, meter: total_tokens, limit: 1000000000, per: [app, model], window: { sliding: 60s }, from: log }
  - { name: monthly-requests, meter: requests, limit: 1000000000, per: [app], window: { calendar: month }, from: log }
"#;

/// Names the file that holds them.
pub(super) const SETTINGS: &str = "[policies]\nfiles = [\"policies.yaml\"]\n";

/// Fails unless the accounts of the month hold every request of the ledger.
///
/// # Errors
///
/// They do not, or there are none.
pub(super) fn check_accounts(database: &Database, requests: u64) -> Result<(), String> {
    let sql = "select coalesce(sum(a.sum), 0)::bigint from account a \
               where a.limit_id in (select l.limit_id from policy_limit l \
                                    where l.name = 'monthly-requests')";
    let counted = database.number(sql);
    if u64::try_from(counted) == Ok(requests) {
        return Ok(());
    }
    Err(format!(
        "the accounts are wrong: {sql} is {counted}, not {requests}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limits_are_valid_and_count_from_the_log() {
        let policies = domain::policy::read("limits", LIMITS).unwrap();
        let limits: usize = policies.iter().map(|policy| policy.limits.len()).sum();
        assert_eq!(limits, 3, "{policies:?}");
        assert!(
            domain::policy::compile(policies).is_ok(),
            "they fit together"
        );
    }
}
