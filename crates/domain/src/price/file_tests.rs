//! Price files: what they may say, and what the author of a wrong line is told.

use proptest::prelude::{Strategy, any, prop_assert_eq, proptest};

use super::*;
use crate::meter::Meter;

/// The book's rates and aliases, one line each.
fn listed(book: &PriceBook) -> Vec<String> {
    let rates = book.rates().map(|rate| {
        let start = rate
            .start
            .map_or_else(String::new, |start| format!(" from {start}"));
        format!(
            "{}/{} {} >={} {}{start} ({})",
            rate.provider, rate.model, rate.meter, rate.above_input_tokens, rate.rate, rate.source
        )
    });
    let aliases = book
        .aliases()
        .map(|alias| format!("{}/{} = {}", alias.provider, alias.name, alias.model));
    rates.chain(aliases).collect()
}

#[test]
fn a_name_that_would_not_be_read_back_is_refused() {
    let row = "provider,model,meter,usd_per_unit\nhouse,llama,images,1\n";
    for name in [
        " prices.csv",
        "prices.csv ",
        "pri\nces.csv",
        "pri\u{7}ces.csv",
    ] {
        let refused = PriceFile::read(name, row).unwrap_err().to_string();
        assert!(refused.contains("renaming the file"), "{name:?}: {refused}");
        assert!(!refused.contains(char::is_control), "{refused:?}");
    }
    for name in ["my prices.csv", "a \"b\", c.csv", "préis.csv", "#x"] {
        let read = PriceFile::read(name, row).unwrap();
        let text = read.layer().to_canonical();
        let back = PriceLayer::from_canonical(&text, None);
        assert_eq!(back.as_ref().ok(), Some(read.layer()), "{name:?}: {text}");
    }
}

#[test]
fn csv_and_toml_say_the_same() {
    let csv = "\u{feff}# our own models\r\n\
               \r\n\
               model, provider ,meter,usd_per_unit,above_input_tokens,source,read,from,alias_of\r\n\
               llama,house,input_uncached_tokens,1.5e-7,,\"a \"\"page\"\", ours\",2026-11-21,,\r\n\
               # dearer from December on\r\n\
               llama,house,input_uncached_tokens,0.0000002,200000,,,2026-12-01,\r\n\
               chat,house,,,,,,,llama\r\n";
    let toml = r#"
        [[alias]]
        provider = "house"
        model = "chat"
        alias_of = "llama"

        [[rate]]
        provider = "house"
        model = "llama"
        meter = "input_uncached_tokens"
        usd_per_unit = 1.5e-7
        source = 'a "page", ours'
        read = 2026-11-21

        [[rate]]
        provider = "house"
        model = "llama"
        meter = "input_uncached_tokens"
        above_input_tokens = 200_000
        usd_per_unit = "0.0000002"
        source = "prices"
        from = 2026-12-01T00:00:00Z
    "#;
    let expected = [
        "house/llama input_uncached_tokens >=0 0.00000015 (a \"page\", ours)",
        "house/llama input_uncached_tokens >=200000 0.0000002 from 2026-12-01T00:00:00Z (prices)",
        "house/chat = llama",
    ];
    let of_toml = PriceBook::default()
        .with_file("dir/prices.toml", toml)
        .unwrap();
    assert_eq!(listed(&of_toml), expected, "TOML");
    let of_csv = PriceBook::default().with_file("prices.csv", csv).unwrap();
    let expected = expected.map(|line| line.replace("(prices)", "(prices.csv)"));
    assert_eq!(
        listed(&of_csv),
        expected,
        "CSV; a row without a source names its file"
    );
}

#[test]
fn toml_numbers_keep_their_eighteen_digits() {
    let toml = "[[rate]]\nprovider = 'p'\nmodel = 'm'\nmeter = 'images'\n\
                usd_per_unit = 12345.123456789012345678\n";
    let book = PriceBook::default().with_file("p.toml", toml).unwrap();
    assert_eq!(
        listed(&book),
        ["p/m images >=0 12345.123456789012345678 (p.toml)"],
        "the digits"
    );
}

#[test]
fn a_later_file_wins() {
    let first = "provider,model,meter,usd_per_unit,from,alias_of\n\
                 p,a,images,1,,\n\
                 p,a,requests,2,,\n\
                 p,a,images,3,2026-01-01,\n\
                 p,b,images,4,,\n\
                 p,c,,,,b\n\
                 p,d,,,,b\n";
    let first = PriceBook::default().with_file("1.csv", first).unwrap();
    let header = "provider,model,meter,usd_per_unit,from,alias_of\n";
    let images_of_b = "p/b images >=0 4 (1.csv)";
    // The later file's row, and what the book then has.
    let cases: &[(&str, &[&str])] = &[
        // A rate without a start restates its model.
        (
            "p,a,images,9,,",
            &[
                "p/a images >=0 9 (2.csv)",
                images_of_b,
                "p/c = b",
                "p/d = b",
            ],
        ),
        // A rate with one goes on from there.
        (
            "p,a,images,9,2026-06-01,",
            &[
                "p/a requests >=0 2 (1.csv)",
                "p/a images >=0 1 (1.csv)",
                "p/a images >=0 3 from 2026-01-01T00:00:00Z (1.csv)",
                "p/a images >=0 9 from 2026-06-01T00:00:00Z (2.csv)",
                images_of_b,
                "p/c = b",
                "p/d = b",
            ],
        ),
        (
            "p,a,images,9,2026-01-01,",
            &[
                "p/a requests >=0 2 (1.csv)",
                "p/a images >=0 1 (1.csv)",
                "p/a images >=0 9 from 2026-01-01T00:00:00Z (2.csv)",
                images_of_b,
                "p/c = b",
                "p/d = b",
            ],
        ),
    ];
    for (row, expected) in cases {
        let book = first
            .with_file("2.csv", &format!("{header}{row}\n"))
            .unwrap();
        assert_eq!(listed(&book), *expected, "{row}");
    }
    let book = first
        .with_file("2.csv", &format!("{header}p,c,images,9,,\np,d,,,,a\n"))
        .unwrap();
    let aliases: Vec<_> = book
        .aliases()
        .map(|alias| (alias.name, alias.model))
        .collect();
    assert_eq!(
        aliases,
        [("d", "a")],
        "rates end an alias; a later alias replaces one"
    );
}

/// File, text, and the one line that its author is told.
const WRONG: &[(&str, &str, &str)] = &[
    (
        "p.csv",
        "provider,model,meter,usd_per_unit\n\np,m,input_uncached_token,1\n",
        "p.csv line 3: meter \"input_uncached_token\" is unknown; the nearest name is \
         input_uncached_tokens",
    ),
    (
        "p.csv",
        "provider,model,meter,usd_per_unit\np,m,images,1\np,m,output_tokens,1\n",
        "p.csv line 3: meter \"output_tokens\" is a sum and has no rate; price output_text_tokens",
    ),
    (
        "p.csv",
        "# ours\r\nprovider,model,meter,usd_per_unit\r\np,m,images,0.1.2\r\n",
        "p.csv line 3: usd_per_unit \"0.1.2\" is not a decimal number; write a decimal such as \
         0.00000015",
    ),
    (
        "p.csv",
        "provider,model,meter,usd_per_unit\np,m,images,-1\n",
        "p.csv line 2: usd_per_unit \"-1\" is negative; a rate is 0 or more",
    ),
    (
        "p.csv",
        "provider,model,meter,usd_per_unit\np,m,images,1e-19\n",
        "p.csv line 2: usd_per_unit \"1e-19\" has more than 18 decimal places; round it to 18",
    ),
    (
        "p.csv",
        "provider,model,meter,usd_per_unit\np,m,images,1e20\n",
        "p.csv line 2: usd_per_unit \"1e20\" is too large; a rate is below 10^20",
    ),
    (
        "p.csv",
        "provider,model,meter,usd_per_unit\np,m,images\n",
        "p.csv line 2: has 3 cells where the first line names 4 columns; fill it up with commas, \
         and quote a cell that holds one",
    ),
    (
        "p.csv",
        "provider,model,meter,price\np,m,images,1\n",
        "p.csv line 1: there is no \"price\" in a price file; the nearest name is provider",
    ),
    (
        "p.csv",
        "provider,meter,usd_per_unit\np,images,1\n",
        "p.csv line 1: no column model; the first line is provider,model,meter,\
         above_input_tokens,usd_per_unit,source,read,from,alias_of",
    ),
    (
        "p.csv",
        "provider,model,model\n",
        "p.csv line 1: column model occurs twice; leave one out",
    ),
    (
        "p.csv",
        "",
        "p.csv line 1: is empty; its first line is provider,model,meter,above_input_tokens,\
         usd_per_unit,source,read,from,alias_of",
    ),
    (
        "p.csv",
        "provider,model,meter,usd_per_unit\np,,images,1\n",
        "p.csv line 2: model is missing; each row names its provider and model",
    ),
    (
        "p.csv",
        "provider,model,meter,usd_per_unit\np,m,,1\n",
        "p.csv line 2: meter is missing; a row gives one meter's usd_per_unit, or names a model by \
         alias_of",
    ),
    (
        "p.csv",
        "provider,model,meter,usd_per_unit\np,m,images,1\nq,m,images,1\np,m,images,2\n",
        "p.csv line 4: gives the rate of line 2 again (same provider, model, meter, \
         above_input_tokens and from); leave one out",
    ),
    (
        "p.csv",
        "provider,model,meter,usd_per_unit,above_input_tokens\np,m,images,1,200k\n",
        "p.csv line 2: above_input_tokens \"200k\" is not a number of tokens; write 0 or, say, \
         200000",
    ),
    (
        "p.csv",
        "provider,model,meter,usd_per_unit,from\np,m,images,1,1.1.2027\n",
        "p.csv line 2: from \"1.1.2027\" is not a time of 1970 to 9999 in whole milliseconds; write \
         2027-01-31 (midnight in UTC) or 2027-01-31T12:00:00Z",
    ),
    (
        "p.csv",
        "provider,model,meter,usd_per_unit,read\np,m,images,1,yesterday\n",
        "p.csv line 2: read \"yesterday\" is not a date; write 2027-01-31",
    ),
    (
        "p.csv",
        "provider,model,meter,usd_per_unit\np,m*n,images,1\n",
        "p.csv line 2: model \"m*n\" has a `*` that is not its end; write `name*`",
    ),
    (
        "p.csv",
        "provider,model,meter,usd_per_unit,alias_of\np,gpt-4o,images,1,\np,x,,,gpt-4\n",
        "p.csv line 3: p has no rates for \"gpt-4\"; the nearest name is gpt-4o",
    ),
    (
        "p.csv",
        "provider,model,meter,usd_per_unit,alias_of\nopenai,m,images,1,\nopenia,x,,,m\n",
        "p.csv line 3: provider \"openia\" has no rates to point to; the nearest name is openai",
    ),
    (
        "p.csv",
        "provider,model,meter,usd_per_unit,alias_of\np,m,images,1,\np,n,images,1,\np,n,,,m\n",
        "p.csv line 4: \"n\" has rates of its own, which win; leave the alias out",
    ),
    (
        "p.csv",
        "provider,model,meter,usd_per_unit,alias_of\np,m,images,1,\np,n,,,m\np,n,,,m\n",
        "p.csv line 4: n is an alias on line 3 already; leave one out",
    ),
    (
        "p.csv",
        "provider,model,meter,usd_per_unit,alias_of\np,m,images,1,m\n",
        "p.csv line 2: an alias has no meter; leave meter empty",
    ),
    (
        "prices",
        "# a letter\nDear all\n",
        "prices line 2: is no price file: begin it with a line of column names (CSV), [[rate]] \
         (TOML), `rates:` (YAML) or { (LiteLLM's map)",
    ),
    (
        "p.json",
        "{\n  \"a\": 1\n}\n",
        "p.json line 1: is neither a list `rates` nor LiteLLM's map, in which each model has a \
         litellm_provider and its prices",
    ),
    (
        "p.json",
        "{\n  \"m\": {\"litellm_provider\": \"p\", \"input_cost_per_token\": 1e-7,}\n}\n",
        "p.json line 2: is not JSON: key must be a string",
    ),
    (
        "p.json",
        "{\"m\": {\n\"litellm_provider\": \"p\",\n\"input_cost_per_token\": \"1e-7 $\"}}\n",
        "p.json line 3: \"m\": input_cost_per_token \"1e-7 $\" is not a decimal number; write a \
         decimal such as 0.00000015",
    ),
    (
        "p.json",
        "{\"m\": {\n\"litellm_provider\": \"p\",\n\"output_cost_per_second\": true}}\n",
        "p.json line 3: \"m\": output_cost_per_second \"true\" is not a decimal number; write a \
         decimal such as 0.00000015",
    ),
    (
        "p.json",
        "{\"m\": {\n\"litellm_provider\": \"p\",\n\"input_cost_per_token\": -1e-7}}\n",
        "p.json line 3: \"m\": input_cost_per_token \"-1e-7\" is negative; a rate is 0 or more",
    ),
    (
        "p.json",
        "{\"m\": {\"litellm_provider\": \"p\",\n\"input_cost_per_token\": 1e-30}}\n",
        "p.json line 2: \"m\": input_cost_per_token \"1e-30\" has more than 18 decimal places; round \
         it to 18",
    ),
    (
        "p.json",
        "{\"m\": {\"input_cost_per_token\": 1e-7,\n\"input_cost_per_token\": 2e-7}}\n",
        "p.json line 2: \"input_cost_per_token\" stands on line 1 already; leave one out",
    ),
    (
        "p.json",
        "{\n\"m\": {\"input_cost_per_token\": 1e-7}}\n",
        "p.json line 2: \"m\" has no litellm_provider; add one",
    ),
    (
        "p.json",
        "{\"m\": {\"litellm_provider\": \"p\", \"tiered_pricing\": [\n{\"range\": [\"few\"], \
         \"input_cost_per_token\": 1e-7}]}}\n",
        "p.json line 2: \"m\": a tier's range is no pair of token counts; write [0, 32000]",
    ),
    (
        "p.yaml",
        "rates:\n  - provider: p\n    model: m\n    meter: images\n    usd_per_unit: 0,1\n",
        "p.yaml line 5: usd_per_unit \"0,1\" is not a decimal number; write a decimal such as \
         0.00000015",
    ),
    (
        "p.yaml",
        "rates:\n  - provider: p\n    modl: m\n",
        "p.yaml line 3: there is no \"modl\" in a price file; the nearest name is model",
    ),
    (
        "p.yaml",
        "rates: []\nrules: []\n",
        "p.yaml line 2: there is no \"rules\" in a price file; the nearest name is rates",
    ),
    (
        "p.yaml",
        "rates:\n  - provider: p\n    provider: q\n",
        "p.yaml line 3: \"provider\" stands on line 2 already; leave one out",
    ),
    (
        "p.yaml",
        "rates:\n  - &all {provider: p, model: m}\n  - *all\n",
        "p.yaml line 3: stands for another place by `*`; write out what stands there",
    ),
    (
        "p.yaml",
        "---\n- provider: p\n---\n- provider: q\n",
        "p.yaml line 4: begins a second document; put each into a file of its own",
    ),
    (
        "p.yaml",
        "- provider: p\n  model: m\n  meter: [images]\n",
        "p.yaml line 3: meter is no text and no number; write one",
    ),
    (
        "p.toml",
        "[[rate]]\nprovider = \"p\"\nmodel = \"m\"\nmeter = \"imges\"\nusd_per_unit = 1\n",
        "p.toml line 4: meter \"imges\" is unknown; the nearest name is images",
    ),
    (
        "p.toml",
        "[[rate]]\nprovider = \"p\"\nmodl = \"m\"\n",
        "p.toml line 3: there is no \"modl\" in a price file; the nearest name is model",
    ),
    (
        "p.toml",
        "\n[[rates]]\nprovider = \"p\"\n",
        "p.toml line 2: there is no \"rates\" in a price file; the nearest name is rate",
    ),
    (
        "p.toml",
        "\n[rate]\nprovider = \"p\"\n",
        "p.toml line 2: write [[rate]] for each rate",
    ),
    (
        "p.toml",
        "[[rate]]\nmodel = \"m\"\n",
        "p.toml line 1: provider is missing; each row names its provider and model",
    ),
    (
        "p.toml",
        "[[rate]]\nprovider = \"p\"\nmodel = \"m\"\nmeter = \"images\"\nusd_per_unit = [1]\n",
        "p.toml line 5: usd_per_unit is no text and no decimal number; put it in quotes",
    ),
    (
        "p.toml",
        "[[alias]]\nprovider = \"p\"\nmodel = \"m\"\n",
        "p.toml line 1: an [[alias]] names by alias_of the model it stands for",
    ),
    (
        "p.toml",
        "[[rate]]\nprovider = \"p\"\nmodel = \" m\"\n",
        "p.toml line 3: model has white space around it; leave it out",
    ),
    (
        "p.toml",
        "[[rate]]\nprovider = \"p\"\nmodel = \n",
        "p.toml line 3: is not TOML: string values must be quoted, expected literal string",
    ),
];

#[test]
fn a_wrong_line_is_told_in_one_line() {
    for (file, text, expected) in WRONG {
        let error = PriceBook::default().with_file(file, text).unwrap_err();
        assert_eq!(error.to_string(), *expected, "{text}");
        assert!(!error.to_string().contains('\n'), "{text}");
    }
}

#[test]
fn a_changed_canonical_form_is_refused() {
    let canonical = PriceBook::shipped().to_canonical();
    let changes = [
        canonical.replacen("0.0000003,", "0.00000030,", 1),
        format!("{canonical}\n"),
        format!(" {canonical}"),
        canonical.replacen('\n', "\r\n", 1),
        canonical.lines().rev().collect::<Vec<_>>().join("\n"),
        String::new(),
    ];
    for changed in changes {
        let read = PriceBook::from_canonical(&changed);
        assert!(
            read.is_err(),
            "{:?} …",
            changed.chars().take(200).collect::<String>()
        );
    }
}

/// A name of any characters that a name may hold, CSV's own among them.
fn names() -> impl Strategy<Value = String> {
    "[a-c#\",ü·-]{1,3}"
}

/// A row of a book: provider, model, meter, tier, units, start, source, day.
fn rows() -> impl Strategy<Value = [String; 8]> {
    let start = proptest::option::of(0_i64..253_402_300_800_000);
    let day = proptest::option::of(1_i32..3_652_000);
    let rate = 0_i128..=99_999_999_999_999_999_999_999_999_999_999_999_999;
    (
        names(),
        names(),
        any::<proptest::sample::Index>(),
        0_u64..3,
        rate,
        start,
        names(),
        day,
    )
        .prop_map(
            |(provider, model, meter, above, units, start, source, day)| {
                let start = start.and_then(crate::time::UnixMs::new);
                let day = day.and_then(chrono::NaiveDate::from_num_days_from_ce_opt);

                [
                    provider,
                    model,
                    Meter::ALL
                        .get(meter.index(Meter::ALL.len()))
                        .unwrap()
                        .to_string(),
                    above.to_string(),
                    crate::money::Rate::from_units(units).unwrap().to_string(),
                    start.map_or_else(String::new, |start| start.to_string()),
                    source,
                    day.map_or_else(String::new, |day| day.to_string()),
                ]
            },
        )
}

proptest! {
    #[test]
    fn canonical_form_reads_back_as_the_same_book(
        rows in proptest::collection::vec(rows(), 0..20),
        alias in names(),
    ) {
        let mut book = PriceBook::default();
        for row in rows {
            let mut writer = csv::WriterBuilder::new().comment(Some(b'#')).from_writer(Vec::new());
            let header =
                ["provider", "model", "meter", "above_input_tokens", "usd_per_unit", "from",
                 "source", "read"];
            writer.write_record(header).unwrap();
            writer.write_record(&row).unwrap();
            let text = String::from_utf8(writer.into_inner().unwrap()).unwrap();
            book = book.with_file("row.csv", &text).unwrap();
            let [provider, model, ..] = &row;
            let alias = format!(
                "[[alias]]\nprovider = '{provider}'\nmodel = '{alias}'\nalias_of = '{model}'\n"
            );
            // An alias of a name with rates of its own is refused, and then there is none.
            book = book.with_file("alias.toml", &alias).unwrap_or(book);
        }
        let canonical = book.to_canonical();
        let back = PriceBook::from_canonical(&canonical).unwrap();
        prop_assert_eq!(&back, &book);
        prop_assert_eq!(&back.to_canonical(), &canonical);
        let as_file = PriceBook::default().with_file("canonical.csv", &canonical).unwrap();
        prop_assert_eq!(as_file, book);
    }

    #[test]
    fn any_text_is_read_or_refused_in_one_line(text in ".{0,200}", lines in "([a-z,=\\[\\]\"'#. ]{0,20}\n){0,6}") {
        for text in [text, format!("provider,model,meter,usd_per_unit\n{lines}"), lines] {
            for start in ["", "[[rate]]\n", "rates:\n", "{", "---\n"] {
                let text = format!("{start}{text}");
                if let Err(error) = PriceBook::default().with_file("p", &text) {
                    prop_assert_eq!(error.to_string().lines().count(), 1);
                }
            }
        }
    }
}
