//! Limits that count from the log: their accounts are what the ledger holds, at every instant, whatever
//! changes or dies meanwhile, and the feed tells them.

mod accounts;

use std::time::Duration;

use domain::ids::PartRef;
use domain::time::UnixMs;
use serde_json::Value;
use store::accounts::{StoredAccount, changes as changes_after, delete_old, load as load_accounts};
use store::{Database as Store, Role};

use self::accounts::{assert_equal, assert_fed, config_with, differences, policies};
use crate::harness::database::RUNTIME;
use crate::harness::load::{Load, Random, seed};
use crate::harness::product::{Config, drain};
use crate::harness::runner::Test;
use crate::harness::stream::Stream;
use crate::harness::wait;
use crate::harness::world::{FOLD, World};
use crate::test;

pub(super) use self::accounts::{
    assert_equal as assert_accounts_equal, config_with as with_policies, file,
};

pub(super) const TESTS: &[Test] = &[
    test!(accounts_equal_the_ledger_while_policies_and_prices_change),
    test!(a_limit_begins_with_what_the_ledger_holds_and_comes_back_whole),
    test!(corrections_count_as_adjustments),
    test!(a_restart_sends_what_was_not_sent),
    test!(a_reader_gets_what_changed_or_all_where_the_notes_are_gone),
    test!(policies_are_applied_whole_and_once),
];

fn apply(config: &Config, files: &[&str]) -> Value {
    let arguments = [&["policy", "apply", "--output", "json"], files].concat();
    serde_json::from_str(&config.output(&arguments)).unwrap()
}

fn changes(report: &Value, change: &str) -> Vec<String> {
    let limits = report["limits"].as_array().unwrap().iter();
    let named = limits.filter(|limit| limit["change"] == change);
    named
        .map(|limit| limit["limit"].as_str().unwrap().to_owned())
        .collect()
}

fn accounts_equal_the_ledger_while_policies_and_prices_change() {
    let world = World::new("limits_change");
    let topic = world.topic(6);
    let mut random = Random::new(seed("limits_change"));
    let config = world.config(&topic);
    let running: Vec<_> = (0..3).map(|_| config.ingest()).collect();
    let stream = Stream::start(&topic, 6, Load::new(random.bits()), 150);
    world.await_events(500);
    let sets = [
        file(
            "a.yaml",
            &policies(&["daily-cost", "hourly-requests", "minute-tokens"]),
        ),
        file("b.yaml", &policies(&["monthly-tokens"])),
        file(
            "c.yaml",
            &policies(&["daily-cost", "monthly-tokens", "hourly-requests"]),
        ),
        file("d.yaml", &policies(&["daily-cost"])),
    ];
    let mut checks = 0;
    for round in 0..12 {
        if random.percent(30) {
            let rate = format!("0.0000{}", 1 + random.below(9));
            let list = format!(
                "provider,model,meter,above_input_tokens,usd_per_unit,source,from\n\
                 openai,gpt-4o,output_text_tokens,0,{rate},test,\n"
            );
            let _imported = config.output(&["prices", "import", &file("rates.csv", &list)]);
        } else {
            let set = random.one_of(&sets).clone();
            let _applied = apply(&config, &[&set]);
        }
        for _check in 0..15 {
            let found = differences(&world);
            assert!(found.is_empty(), "round {round}: {found:?}");
            checks += 1;
            wait::pause(Duration::from_millis(random.below(60)));
        }
    }
    stream.stop();
    let _applied = apply(&config, &[&sets[2]]);
    world.await_caught_up(&topic);
    assert_equal(&world);
    for process in &running {
        drain(process, FOLD);
    }
    assert_equal(&world);
    println!("{checks} checks beside the stream");
}

fn a_limit_begins_with_what_the_ledger_holds_and_comes_back_whole() {
    let world = World::new("limits_opening");
    let topic = world.topic(2);
    let mut load = Load::new(seed("limits_opening"));
    let config = world.config(&topic).with_ingest(super::kill::ROLL_UP_OFTEN);
    let all = file("all.yaml", &policies(&accounts::NAMES));
    let some = file("some.yaml", &policies(&["hourly-requests"]));
    topic.send_texts(2, load.mixed(600));
    config.catch_up();
    let dry: Value = serde_json::from_str(&config.output(&[
        "policy",
        "apply",
        "--dry-run",
        "--output",
        "json",
        &all,
    ]))
    .unwrap();
    assert_eq!(dry["version"], Value::Null, "{dry}");
    let none = world.database.number("select count(*) from account");
    assert_eq!(none, 0, "a dry run writes nothing");
    let report = apply(&config, &[&all]);
    assert_eq!(changes(&report, "starts").len(), 4, "{report}");
    assert_equal(&world);
    let origins = "select string_agg(distinct origin, ' ') from account";
    assert_eq!(world.database.value(origins), "opening", "nothing else yet");
    let whole = |name: &str| {
        world.database.value(&format!(
            "select whole_from > now() from policy_limit join in_force on policies = version
             where name = '{name}'"
        ))
    };
    assert_eq!(whole("daily-cost"), "f", "told by the ledger");
    assert_eq!(whole("minute-tokens"), "t", "warming");
    topic.send_texts(2, load.mixed(600));
    config.catch_up();
    assert_equal(&world);
    // Out of force nothing counts; back, nothing is missing and nothing twice.
    let report = apply(&config, &[&some]);
    assert_eq!(changes(&report, "ends").len(), 3, "{report}");
    topic.send_texts(2, load.mixed(600));
    config.catch_up();
    assert_equal(&world);
    let report = apply(&config, &[&all]);
    assert_eq!(changes(&report, "stays"), ["hourly-requests"], "{report}");
    assert_equal(&world);
    topic.send_texts(2, load.mixed(600));
    config.catch_up();
    assert_equal(&world);
}

const COSTS: &str = "select sum(sum)::text from account where origin = 'adjustment'";

fn corrections_count_as_adjustments() {
    let world = World::new("limits_corrected");
    let topic = world.topic(2);
    let mut load = Load::new(seed("limits_corrected"));
    topic.send_texts(2, load.mixed(500));
    // Everything is rejected by a source that reads another format.
    super::corrections::wrong(&world, &topic).catch_up();
    let config = config_with(world.config(&topic), &accounts::NAMES);
    config.catch_up();
    let _retried = config.output(&["rejected", "retry", "--all"]);
    let adjusted = "select count(*) from account where origin = 'adjustment'";
    let retried = world.database.number(adjusted);
    assert!(retried > 0, "what was retried counts");
    assert_equal(&world);
    topic.send_texts(2, load.mixed(500));
    config.catch_up();
    assert_equal(&world);
    let list = "provider,model,meter,above_input_tokens,usd_per_unit,source\n\
                openai,in-house-llama,input_uncached_tokens,0,0.00000025,test\n\
                openai,in-house-llama,output_text_tokens,0,0.0000011,test\n";
    let _imported = config.output(&["prices", "import", &file("rates.csv", list)]);
    let before = world.database.value(COSTS);
    let _repriced = config.output(&["reprice", "--yes"]);
    let after = world.database.value(COSTS);
    assert_ne!(before, after, "what was priced anew counts");
    assert_equal(&world);
}

fn a_restart_sends_what_was_not_sent() {
    let world = World::new("limits_feed");
    let topic = world.topic(3);
    let mut load = Load::new(seed("limits_feed"));
    let config = config_with(world.config(&topic), &accounts::NAMES);
    let ingest = config.ingest();
    topic.send_texts(3, load.mixed(800));
    world.await_caught_up(&topic);
    assert_fed(&world, &config);
    // Killed in the instant after a commit, so that the feed was not told.
    drain(&ingest, FOLD);
    let dying = config.clone().dying_at("batch::after_commit", 0).ingest();
    topic.send_texts(3, load.mixed(800));
    let _status = dying.wait(Duration::from_secs(60));
    let successor = config.ingest();
    world.await_caught_up(&topic);
    assert_fed(&world, &config);
    let list = config.output(&["policy", "list", "--output", "csv"]);
    assert_eq!(list.lines().count(), 2, "one version: {list}");
    drain(&successor, FOLD);
    assert_equal(&world);
}

fn a_reader_gets_what_changed_or_all_where_the_notes_are_gone() {
    let world = World::new("limits_changes");
    let topic = world.topic(2);
    let mut load = Load::new(seed("limits_changes"));
    let config = config_with(world.config(&topic), &accounts::NAMES);
    let database = RUNTIME
        .block_on(Store::open(world.database.url(), Role::Enforcer))
        .unwrap();
    let all = || RUNTIME.block_on(load_accounts(&database, UnixMs::FIRST));
    let after = |known: &[PartRef]| {
        let read = changes_after(&database, known, UnixMs::FIRST);
        RUNTIME.block_on(read).unwrap().accounts
    };
    topic.send_texts(2, load.mixed(800));
    config.catch_up();
    let known = all().unwrap().parts();
    assert_eq!(after(&known), [], "nothing changed since");
    topic.send_texts(1, [load.line()]);
    config.catch_up();
    let accounts = all().unwrap();
    let newest = accounts.parts();
    let is_new = |account: &&StoredAccount| {
        let part = known.iter().find(|part| part.chain == account.chain);
        part.is_none_or(|part| account.message.use_.revision().number > part.number.0)
    };
    let changed: Vec<_> = accounts.accounts.iter().filter(is_new).cloned().collect();
    let count = accounts.accounts.len();
    assert!(!changed.is_empty() && changed.len() < count, "some changed");
    assert_eq!(after(&known), changed, "each is whole");
    // A chain that the reader never heard of is told whole, beside what changed of the others.
    let chain = changed[0].chain;
    let others: Vec<_> = known
        .iter()
        .copied()
        .filter(|part| part.chain != chain)
        .collect();
    let of_chain = |account: &&StoredAccount| account.chain == chain;
    let whole: Vec<_> = accounts.accounts.iter().filter(of_chain).cloned().collect();
    assert_eq!(after(&others), whole, "all of {chain:?}");
    assert_eq!(
        RUNTIME.block_on(delete_old(&database, 1_000)).unwrap(),
        0,
        "nothing is old"
    );
    assert_eq!(after(&known), changed, "notes of now stay");
    world
        .database
        .run("update account_change set written_at = now() - interval '3 minutes'");
    // Whoever deletes goes on while there was as much as it may delete at once.
    let mut turns = 0;
    while RUNTIME.block_on(delete_old(&database, 1)).unwrap() > 0 {
        turns += 1;
    }
    assert!(turns > 1, "{turns} turns");
    let notes = "select count(*) from account_change";
    assert_eq!(world.database.number(notes), 0, "the notes are gone");
    assert_eq!(
        after(&known),
        whole,
        "all of the chain that changed, since nobody knows what did"
    );
    assert_eq!(after(&newest), [], "who knows everything misses nothing");
    topic.send_texts(2, load.mixed(100));
    config.catch_up();
    let later = all().unwrap().accounts;
    let expected = later
        .iter()
        .filter(|account| of_chain(account) || is_new(account));
    let expected: Vec<_> = expected.cloned().collect();
    assert_eq!(
        after(&known),
        expected,
        "new notes of the other chain go back far enough"
    );
    assert!(
        after(&newest).len() < later.len(),
        "new notes tell from there on"
    );
    assert_equal(&world);
}

fn policies_are_applied_whole_and_once() {
    let world = World::new("limits_apply");
    let topic = world.topic(1);
    topic.send_texts(1, Load::new(seed("limits_apply")).lines(50));
    let versions = || world.database.number("select count(*) from policy_set");
    let config = config_with(world.config(&topic), &["daily-cost"]);
    let refusing = config.clone().with_ingest("apply_at_start = false");
    config.catch_up();
    assert_eq!(versions(), 1, "the configuration's files");
    let other = file("other.yaml", &policies(&["monthly-tokens"]));
    let _applied = apply(&config, &[&other]);
    config.catch_up();
    refusing.catch_up();
    assert_eq!(versions(), 2, "a restart undoes nothing");
    let again = apply(&config, &[&other]);
    assert_eq!(again["effect"], "nothing", "{again}");
    let wrong = file("wrong.yaml", "name: x\nlimits: [{ name: y, meter: coins }]");
    let (exit, stdout, stderr) = config.run(&["policy", "apply", &other, &wrong]);
    assert_eq!(exit, 5, "{stdout}\n{stderr}");
    assert!(stdout.contains("wrong.yaml:2:"), "{stdout}");
    assert!(stderr.contains("nothing was changed"), "{stderr}");
    let (exit, _, stderr) = config.run(&["policy", "apply", "/nowhere.yaml"]);
    assert_eq!(exit, 3, "{stderr}");
    assert_eq!(versions(), 2, "a bad set changes nothing");
    let listed: Value =
        serde_json::from_str(&config.output(&["policy", "list", "--output", "json"])).unwrap();
    assert_eq!(listed[0]["in_force"], true, "{listed}");
    assert_eq!(listed[1]["origin"], "configuration", "{listed}");
    assert_equal(&world);
    // A start with a fault in its files does not begin.
    let faulty = world
        .config(&topic)
        .with_more(&format!("[policies]\nfiles = [\"{wrong}\"]\n"));
    let (exit, _, stderr) = faulty.run(&["ingest", "--until-caught-up"]);
    assert_eq!(exit, 3, "{stderr}");
}
