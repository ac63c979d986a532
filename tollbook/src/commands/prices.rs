//! `tollbook prices`.

mod import;

use domain::price::{BookRate, LayeredBook, PriceBook, PriceLayer};
use ingest::prices::{PricesError, read_lists};
use serde_json::Value;
use service::{Exit, Failure};
use store::prices::{ListKind, PricesInForce};
use store::{Role, StoreError};

use crate::arguments::{PricesCommand, PricesListArguments};
use crate::config::Settings;
use crate::output::Grid;

pub(super) async fn run(settings: &Settings, command: PricesCommand) -> Result<Exit, Failure> {
    match command {
        PricesCommand::List(arguments) => list(settings, &arguments).await,
        PricesCommand::Import(arguments) => import::run(settings, &arguments).await,
    }
}

async fn list(settings: &Settings, arguments: &PricesListArguments) -> Result<Exit, Failure> {
    let listed = if arguments.configured {
        configured(settings)?
    } else {
        in_force(settings).await?
    };
    let mut grid = Grid::new(&[
        "provider",
        "model",
        "meter",
        "above_input_tokens",
        "usd_per_unit",
        "from",
        "read",
        "source",
        "layer",
    ]);
    for rate in listed.book.book.rates() {
        let fits_provider = arguments
            .provider
            .as_deref()
            .is_none_or(|name| rate.provider == name);
        let fits_model = arguments
            .model
            .as_deref()
            .is_none_or(|text| rate.model.contains(text));
        if fits_provider && fits_model {
            grid.row(row(&rate, listed.name_of(&rate)));
        }
    }
    grid.print(
        arguments.output.output,
        "no such rate; leave out --provider or --model to see all",
    )?;
    Ok(Exit::Ok)
}

fn row(rate: &BookRate<'_>, layer: Option<&str>) -> [Value; 9] {
    [
        Value::from(rate.provider),
        Value::from(rate.model),
        Value::from(rate.meter.name()),
        Value::from(rate.above_input_tokens),
        Value::from(rate.rate.to_string()),
        rate.start
            .map_or(Value::Null, |start| Value::from(start.to_string())),
        rate.read
            .map_or(Value::Null, |day| Value::from(day.to_string())),
        Value::from(rate.source),
        layer.map_or(Value::Null, Value::from),
    ]
}

/// A book and the names of the lists that it is made of.
struct Listed {
    book: LayeredBook,
    names: Vec<String>,
}

impl Listed {
    /// Returns the name of the list that a rate comes from; `None` where that is not known.
    fn name_of(&self, rate: &BookRate<'_>) -> Option<&str> {
        let place = self.book.layer_of(rate)?;
        self.names.get(place).map(String::as_str)
    }
}

/// Returns the shipped book with the configured files.
fn configured(settings: &Settings) -> Result<Listed, Failure> {
    let prices = crate::prices::read(settings)?;
    let mut layers = vec![PriceLayer::from(prices.shipped)];
    let mut names = vec!["shipped".to_owned()];
    for file in &prices.files {
        layers.push(file.layer().clone());
        names.push(format!("file {}", file.name()));
    }
    Ok(Listed {
        book: LayeredBook::of(&layers),
        names,
    })
}

/// Returns what is in force in the ledger.
async fn in_force(settings: &Settings) -> Result<Listed, Failure> {
    let db = super::open(settings, Role::Reports).await?;
    let prices = store::prices::load(&db).await.and_then(|prices| {
        if prices.version.is_some() {
            Ok(prices)
        } else {
            Err(StoreError::NothingInForce)
        }
    });
    let prices = prices.map_err(|error| super::of_store(settings, &error))?;
    if prices.lists.is_empty() {
        let book = PriceBook::from_canonical(&prices.book).map_err(|error| {
            let problem = format!("the price book in force was changed in the ledger: {error}");
            Failure::new(Exit::Data, problem)
        })?;
        return Ok(Listed {
            book: LayeredBook::of([&PriceLayer::from(book)]),
            names: Vec::new(),
        });
    }
    let layers = read_lists(&prices.lists).map_err(|error| of_prices(settings, error))?;
    Ok(Listed {
        book: LayeredBook::of(&layers),
        names: names_of(&prices),
    })
}

fn names_of(prices: &PricesInForce) -> Vec<String> {
    let lists = prices.lists.iter();
    lists
        .map(|stored| match stored.list.kind {
            ListKind::Shipped => stored.list.name.clone(),
            ListKind::Import => format!("import {}", stored.id.0),
            ListKind::File => format!("file {}", stored.list.name),
        })
        .collect()
}

fn of_prices(settings: &Settings, error: PricesError) -> Failure {
    match error {
        PricesError::Store(error) => super::of_store(settings, &error),
        PricesError::Stored { .. } | PricesError::NotReadBack { .. } | PricesError::File(_) => {
            Failure::new(Exit::Data, error.to_string())
        }
    }
}
