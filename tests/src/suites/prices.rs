//! Lists of prices: what an import puts in force, in which order lists lie, and that nothing of it is
//! lost beside a running ingest, a restart, or another import.

use std::path::PathBuf;
use std::thread;

use serde_json::Value;

use crate::harness::folders;
use crate::harness::load::{Load, now_ms, seed};
use crate::harness::product::{Config, drain};
use crate::harness::runner::Test;
use crate::harness::world::{FOLD, World};
use crate::oracle::{Oracle, time};
use crate::test;

pub(super) const TESTS: &[Test] = &[
    test!(an_import_while_ingest_runs_prices_what_comes_after),
    test!(imports_lie_over_the_shipped_book_and_under_the_files),
    test!(imports_at_once_are_all_in_force),
    test!(an_import_says_what_it_changes_and_what_it_cannot),
    test!(prices_of_before_lists_were_kept_apart_are_kept),
];

const HEADER: &str = "provider,model,meter,above_input_tokens,usd_per_unit,source,from\n";

/// Writes a file and returns its path.
fn file(name: &str, text: &str) -> String {
    let path: PathBuf = folders::make("lists").join(name);
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

fn import(config: &Config, file: &str, more: &[&str]) -> Value {
    let arguments = [&["prices", "import", file, "--output", "json"], more].concat();
    serde_json::from_str(&config.output(&arguments)).unwrap()
}

/// Returns rate and layer of a model's meter in force, from the beginning of time.
fn in_force(config: &Config, provider: &str, model: &str, meter: &str) -> Option<(String, String)> {
    let arguments = [
        "prices",
        "list",
        "--provider",
        provider,
        "--model",
        model,
        "--output",
        "json",
    ];
    let rates: Vec<Value> = serde_json::from_str(&config.output(&arguments)).unwrap();
    let found = rates
        .iter()
        .find(|rate| rate["model"] == model && rate["meter"] == meter && rate["from"].is_null());
    found.map(|rate| {
        let text = |key: &str| rate[key].as_str().unwrap_or_default().to_owned();
        (text("usd_per_unit"), text("layer"))
    })
}

fn an_import_while_ingest_runs_prices_what_comes_after() {
    let world = World::new("price_import");
    let topic = world.topic(2);
    let mut load = Load::new(seed("price_import"));
    let change = time::format(now_ms() - 3_600_000);
    let rates = format!(
        "{HEADER}openai,gpt-4o,input_uncached_tokens,0,0.000000000001,test,{change}\n\
         openai,gpt-4o-2024-08-06,output_text_tokens,0,123.000000000000000001,test,{change}\n"
    );
    let config = world.config(&topic);
    let ingest = config.ingest();
    // Half is folded before anybody knows of the new price, which holds from an hour ago.
    let before = now_ms() - 2 * 3_600_000;
    topic.send_texts(2, (0..300).map(|_| load.line_at(before)));
    world.await_events(300);
    let imported = import(&config, &file("rates.csv", &rates), &[]);
    assert_eq!(imported["effect"], "changes", "{imported}");
    let version = imported["version"].as_i64().unwrap();
    topic.send_texts(2, load.lines(600));
    world.await_caught_up(&topic);
    let newest = world.database.number("select max(prices) from part");
    assert_eq!(newest, version, "the running ingest folds by the import");
    drain(&ingest, FOLD);
    // A restart with the same files undoes nothing.
    config.catch_up();
    let now = world.database.number("select prices from in_force");
    assert_eq!(now, version, "after a restart");
    let expected = Oracle::new(topic.name())
        .with_prices(&rates)
        .fold_topic(&topic);
    assert_ne!(
        expected,
        Oracle::new(topic.name()).fold_topic(&topic),
        "the change matters"
    );
    world.assert_exactly(&topic, &expected);
    let verified = config.output(&["verify"]);
    assert!(verified.contains("verified: "), "{verified}");
}

fn imports_lie_over_the_shipped_book_and_under_the_files() {
    let world = World::new("price_order");
    let topic = world.topic(1);
    let meter = "output_text_tokens";
    let list = |model: &str, rate: &str| format!("{HEADER}house,{model},{meter},0,{rate},test,\n");
    let of_file = file("files.csv", &list("a", "1"));
    let config = world
        .config(&topic)
        .with_more(&format!("[prices]\nfiles = [\"{of_file}\"]\n"));
    // Before any start: the import lies over the shipped book.
    let both = format!("{}house,b,{meter},0,2,test,\n", list("a", "2"));
    let first = import(&config, &file("one.csv", &both), &[]);
    assert_eq!(
        (&first["added"], &first["effect"]),
        (&2.into(), &"changes".into()),
        "{first}"
    );
    assert_eq!(
        in_force(&config, "house", "a", meter).unwrap().0,
        "2",
        "nothing lies above"
    );
    assert!(
        in_force(&config, "openai", "gpt-4o", meter).is_some(),
        "the shipped book below"
    );
    config.catch_up();
    let layer = format!("file {of_file}");
    let of_the_file = Some(("1".to_owned(), layer));
    assert_eq!(
        in_force(&config, "house", "a", meter),
        of_the_file,
        "the file lies above"
    );
    assert_eq!(
        in_force(&config, "house", "b", meter).unwrap().0,
        "2",
        "the import stays"
    );
    // After a start: an import lies under the file all the same.
    let hidden = import(&config, &file("two.csv", &list("a", "3")), &[]);
    assert_eq!(hidden["effect"], "hidden", "{hidden}");
    assert_eq!(
        in_force(&config, "house", "a", meter),
        of_the_file,
        "still the file"
    );
    let third = import(&config, &file("three.csv", &list("b", "4")), &[]);
    let number = third["version"].as_i64().unwrap();
    let (rate, layer) = in_force(&config, "house", "b", meter).unwrap();
    assert_eq!(rate, "4", "the latest wins");
    assert!(layer.starts_with("import "), "{layer}");
    // The same again, also under another name, changes nothing.
    let again = import(&config, &file("again.csv", &list("b", "4")), &[]);
    assert_eq!(
        (&again["effect"], &again["version"]),
        (&"nothing".into(), &Value::Null),
        "{again}"
    );
    config.catch_up();
    let now = world.database.number("select prices from in_force");
    assert_eq!(now, number, "neither it nor a restart makes a version");
    // Other files are a new set: they are applied, and the imports stay below them.
    let of_file = file("other.csv", &list("c", "5"));
    world
        .config(&topic)
        .with_more(&format!("[prices]\nfiles = [\"{of_file}\"]\n"))
        .catch_up();
    for (model, rate) in [("a", "3"), ("b", "4"), ("c", "5")] {
        let found = in_force(&config, "house", model, meter).unwrap().0;
        assert_eq!(found, rate, "{model}");
    }
}

fn imports_at_once_are_all_in_force() {
    let world = World::new("price_race");
    let topic = world.topic(1);
    let config = world.config(&topic);
    let ingest = config.ingest();
    topic.send_texts(1, Load::new(seed("price_race")).lines(200));
    let versions: Vec<i64> = thread::scope(|scope| {
        let imports: Vec<_> = (0..4)
            .map(|number| {
                let config = &config;
                scope.spawn(move || {
                    let row = format!("house,m{number},images,0,{number}.5,test,");
                    let list = file("list.csv", &format!("{HEADER}{row}\n"));
                    import(config, &list, &[])["version"].as_i64().unwrap()
                })
            })
            .collect();
        imports
            .into_iter()
            .map(|import| import.join().unwrap())
            .collect()
    });
    for number in 0..4 {
        let found = in_force(&config, "house", &format!("m{number}"), "images");
        assert_eq!(
            found.unwrap().0,
            format!("{number}.5"),
            "of versions {versions:?}"
        );
    }
    world.await_caught_up(&topic);
    drain(&ingest, FOLD);
    world.assert_exact(&topic);
}

fn an_import_says_what_it_changes_and_what_it_cannot() {
    let world = World::new("price_report");
    let config = world.bare_config();
    let map = folders::workspace().join("testdata/prices/litellm.json");
    let map = map.display().to_string();
    let versions = || world.database.number("select count(*) from price_book");
    let dry = import(&config, &map, &["--dry-run"]);
    assert_eq!(
        (versions(), &dry["version"]),
        (0, &Value::Null),
        "a dry run writes nothing"
    );
    let table = config.output(&["prices", "import", &map, "--dry-run"]);
    for said in [
        "litellm layout",
        "per second: 2 prices of 1 models, such as whisper-1",
        "batch tier: 19 prices of 7 models",
        "rounded to 18 decimal places: 1 rates",
        "dry run: nothing was written",
    ] {
        assert!(table.contains(said), "{said:?}\n{table}");
    }
    let done = import(&config, &map, &[]);
    assert_eq!(done["changes"], dry["changes"], "as the dry run said");
    assert_eq!(
        done["not_expressed"], dry["not_expressed"],
        "as the dry run said"
    );
    assert_eq!(versions(), 1, "one version");
    assert_eq!(
        import(&config, &map, &[])["effect"],
        "nothing",
        "the same again"
    );
    // From an instant on, the old rate is kept until then.
    let list = "rates:\n- provider: acme\n  model: odd\n  meter: input_uncached_tokens\n  \
                usd_per_unit: 1e-6\n";
    let from = "2026-12-01T00:00:00Z";
    let later = import(&config, &file("later.yaml", list), &["--from", from]);
    assert_eq!(
        (&later["layout"], &later["from"]),
        (&"yaml".into(), &from.into()),
        "{later}"
    );
    let changes = later["changes"].as_array().unwrap();
    let all_start_then = changes.iter().all(|change| change["from"] == from);
    assert!(all_start_then && !changes.is_empty(), "{later}");
    let csv = config.output(&["prices", "list", "--output", "csv"]);
    let back = import(&config, &file("back.csv", &csv), &[]);
    assert_eq!(
        (&back["added"], &back["changed"], &back["removed"]),
        (&0.into(), &0.into(), &0.into()),
        "what `prices list` prints is a list"
    );
    let before = versions();
    let wrong = "{\n\"m\": {\"litellm_provider\": \"p\",\n\"input_cost_per_token\": \"free\"}}";
    let (exit, stdout, stderr) = config.run(&["prices", "import", &file("map.json", wrong)]);
    assert_eq!((exit, stdout.as_str()), (5, ""), "refused: {stderr}");
    assert_eq!(
        stderr,
        "tollbook: map.json line 3: \"m\": input_cost_per_token \"free\" is not a decimal number; \
         write a decimal such as 0.00000015\n",
        "one line with place and cure"
    );
    assert_eq!(versions(), before, "nothing of a wrong file is kept");
}

fn prices_of_before_lists_were_kept_apart_are_kept() {
    let world = World::new("price_upgrade");
    let topic = world.topic(1);
    let config = world.config(&topic);
    config.catch_up();
    // As an older version left it: a book without lists.
    world.database.run(
        "insert into price_book (content, content_hash, origin)
             select content, content_hash, origin from price_book;
         update in_force set prices = (select max(version) from price_book)",
    );
    let list = format!("{HEADER}house,m,images,0,1,test,\n");
    import(&config, &file("list.csv", &list), &[]);
    let both = || {
        let ours = in_force(&config, "house", "m", "images").is_some();
        let shipped = in_force(&config, "openai", "gpt-4o", "output_text_tokens").is_some();
        (ours, shipped)
    };
    assert_eq!(both(), (true, true), "the import over what was");
    config.catch_up();
    assert_eq!(both(), (true, true), "after a restart");
}
