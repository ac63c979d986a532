//! Accounts compared with the ledger by SQL of the tests' own, and with what the feed tells.

use std::collections::HashMap;

use domain::account::{Account, Message};
use domain::feed::{Balance, BalanceKey};
use domain::policy::CounterKey;

use crate::harness::folders;
use crate::harness::product::Config;
use crate::harness::topic::Topic;
use crate::harness::wait;
use crate::harness::world::{FOLD, World};

/// All limits that the suite knows.
pub(crate) const NAMES: [&str; 4] = [
    "daily-cost",
    "hourly-requests",
    "monthly-tokens",
    "minute-tokens",
];

/// Writes policies with these limits.
#[must_use]
pub(crate) fn policies(names: &[&str]) -> String {
    let mut text = "name: budgets\nlimits:\n".to_owned();
    for name in names {
        text.push_str(match *name {
            "daily-cost" => {
                "  - { name: daily-cost, meter: cost, limit: \"1000\", per: [app], from: log, \
                 window: { calendar: day }, unpriced_rate: \"0.00001\" }\n"
            }
            "hourly-requests" => {
                "  - { name: hourly-requests, meter: requests, limit: 5000, per: [user], \
                 from: log, window: { calendar: hour, timezone: Asia/Kathmandu } }\n"
            }
            "monthly-tokens" => {
                "  - { name: monthly-tokens, meter: total_tokens, limit: 5000, per: [app, model], \
                 window: { calendar: month, timezone: Europe/Berlin } }\n"
            }
            "minute-tokens" => {
                "  - { name: minute-tokens, meter: total_tokens, limit: 5000, \
                 window: { sliding: 60s } }\n"
            }
            name => panic!("no limit {name}"),
        });
    }
    text
}

/// Writes a file and returns its path.
#[must_use]
pub(crate) fn file(name: &str, text: &str) -> String {
    let path = folders::make("policies").join(name);
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

/// Adds these limits to a configuration.
#[must_use]
pub(crate) fn config_with(config: Config, names: &[&str]) -> Config {
    let path = file("limits.yaml", &policies(names));
    config.with_more(&format!("[policies]\nfiles = [\"{path}\"]\n"))
}

/// A limit that the ledger tells: name, the values of its keys and what it counts, by columns of the
/// journal, then unit and zone of its window.
const TOLD: [(&str, &str, &str, &str, &str); 3] = [
    (
        "daily-cost",
        "nullif(s.app, 'unattributed')",
        "coalesce(p.amount, 0) * 1e18 + 1e13 * (
            case when r.input_uncached_tokens is null then p.input_uncached_tokens else 0 end
            + case when r.input_cache_read_tokens is null then p.input_cache_read_tokens else 0 end
            + case when r.input_cache_write_tokens is null
                then p.input_cache_write_tokens else 0 end
            + case when r.input_cache_write_1h_tokens is null
                then p.input_cache_write_1h_tokens else 0 end
            + case when r.input_audio_tokens is null then p.input_audio_tokens else 0 end
            + case when r.output_text_tokens is null then p.output_text_tokens else 0 end
            + case when r.output_reasoning_tokens is null
                then p.output_reasoning_tokens else 0 end
            + case when r.output_audio_tokens is null then p.output_audio_tokens else 0 end
            + case when r.images is null then p.images else 0 end)",
        "day",
        "UTC",
    ),
    (
        "hourly-requests",
        "nullif(s.user_id, '')",
        "p.requests",
        "hour",
        "Asia/Kathmandu",
    ),
    (
        "monthly-tokens",
        "nullif(s.app, 'unattributed'), s.model",
        "p.input_uncached_tokens + p.input_cache_read_tokens + p.input_cache_write_tokens
            + p.input_cache_write_1h_tokens + p.input_audio_tokens + p.output_text_tokens
            + p.output_reasoning_tokens + p.output_audio_tokens",
        "month",
        "Europe/Berlin",
    ),
];

/// Returns how the accounts of limits in force differ from the ledger in their present windows; each limit
/// is compared in one statement, so in one snapshot.
#[must_use]
pub(crate) fn differences(world: &World) -> Vec<String> {
    let mut found = Vec::new();
    for (name, keys, units, unit, zone) in TOLD {
        let rows = world.database.rows(&format!(
            "with wanted as (
                select limit_id from policy_limit join in_force on policies = version
                where name = '{name}'
            ),
            span as (
                select start at time zone '{zone}' as start,
                    (start + interval '1 {unit}') at time zone '{zone}' as until
                from (select date_trunc('{unit}', now() at time zone '{zone}') as start) as local
            ),
            ledger as (
                select array[{keys}]::text[] as k, sum({units}) as units
                from span join posting p on p.quarter >= span.start and p.quarter < span.until
                join series s on s.key = p.series join rate_set r on r.key = p.rate_set
                group by 1
            ),
            counted as (
                select key_values as k, sum(sum) as units from account join wanted using (limit_id)
                join span on span.start = slot group by 1
            )
            select k, ledger.units, counted.units from ledger full join counted using (k)
            where coalesce(ledger.units, 0) <> coalesce(counted.units, 0)
                and exists (select from wanted)"
        ));
        found.extend(rows.into_iter().map(|row| format!("{name}: {row:?}")));
    }
    found
}

/// Panics unless the accounts of all limits in force that the ledger tells are what it holds, and there
/// are some.
pub(crate) fn assert_equal(world: &World) {
    let found = differences(world);
    assert!(
        found.is_empty(),
        "accounts differ from the ledger: {found:#?}"
    );
    let accounts = world.database.number("select count(*) from account");
    assert!(accounts > 0, "something is counted");
}

/// What the feed says: accounts merged as a reader does, and up to which part each chain is told.
struct Fed {
    accounts: HashMap<CounterKey, Account>,
    marks: HashMap<i32, i64>,
}

fn fed(world: &World, config: &Config) -> Fed {
    let topic = Topic::named(&world.kafka, &config.balances_topic());
    let mut fed = Fed {
        accounts: HashMap::new(),
        marks: HashMap::new(),
    };
    for record in topic.read() {
        let key = BalanceKey::from_bytes(&record.key.unwrap()).unwrap();
        let Some(value) = record.payload else {
            continue;
        };
        match (key, Balance::from_bytes(&value).unwrap()) {
            (
                BalanceKey::Account {
                    counter, origin, ..
                },
                Balance::Account(message),
            ) => {
                assert_eq!(message.origin, origin, "key and value agree");
                let message: Message = message;
                fed.accounts.entry(counter).or_default().merge(message);
            }
            (BalanceKey::Mark(chain), Balance::Mark(mark)) => {
                assert_eq!(mark.chain, chain, "key and value agree");
                let known = fed.marks.entry(chain.0).or_default();
                *known = (*known).max(mark.part.0);
            }
            other => panic!("a value of another kind: {other:?}"),
        }
    }
    fed
}

/// Waits until the feed tells every live account as Postgres holds it, and marks every chain's last part.
pub(crate) fn assert_fed(world: &World, config: &Config) {
    let live = "select counter::text, slot::text, sum(sum)::text,
            (extract(epoch from slot) * 1000)::bigint::text
        from account where counts_until > now() + interval '5 minutes' group by 1, 2, 4, slot";
    let chains = "select chain::text, part::text from source_position where part > 0";
    wait::until_true("the feed tells all accounts", FOLD, || {
        let fed = fed(world, config);
        let text = |row: &[Option<String>], place: usize| row[place].clone().unwrap();
        let accounts = world.database.rows(live);
        let is_told = accounts.iter().all(|row| {
            let counter = text(row, 0).replace('-', "");
            let slot: i64 = text(row, 3).parse().unwrap();
            let told = fed
                .accounts
                .iter()
                .find(|(key, _)| key.0.to_string() == counter);
            let sum: i128 = told.map_or(0, |(_, account)| {
                let slots = account
                    .origins()
                    .flat_map(|(_, use_)| use_.slots().to_vec());
                let here = slots.filter(|found| found.start.get() == slot);
                here.map(|found| found.sum.get()).sum()
            });
            sum.to_string() == text(row, 2)
        });
        let is_marked = world.database.rows(chains).iter().all(|row| {
            let chain: i32 = text(row, 0).parse().unwrap();
            fed.marks.get(&chain).map(ToString::to_string) == Some(text(row, 1))
        });
        !accounts.is_empty() && is_told && is_marked
    });
}
