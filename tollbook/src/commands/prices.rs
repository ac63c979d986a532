//! `tollbook prices`.

use domain::price::PriceBook;
use serde_json::Value;
use service::{Exit, Failure};
use store::{Role, in_force};

use crate::arguments::{PricesCommand, PricesListArguments};
use crate::config::Settings;
use crate::output::Grid;

pub(super) async fn run(settings: &Settings, command: PricesCommand) -> Result<Exit, Failure> {
    let PricesCommand::List(arguments) = command;
    let book = book(settings, &arguments).await?;
    let mut grid = Grid::new(&[
        "provider",
        "model",
        "meter",
        "above_input_tokens",
        "usd_per_unit",
        "from",
        "read",
        "source",
    ]);
    for rate in book.rates() {
        let fits_provider = arguments
            .provider
            .as_deref()
            .is_none_or(|name| rate.provider == name);
        let fits_model = arguments
            .model
            .as_deref()
            .is_none_or(|text| rate.model.contains(text));
        if fits_provider && fits_model {
            grid.row([
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
            ]);
        }
    }
    grid.print(
        arguments.output.output,
        "no such rate; leave out --provider or --model to see all",
    )?;
    Ok(Exit::Ok)
}

async fn book(settings: &Settings, arguments: &PricesListArguments) -> Result<PriceBook, Failure> {
    if arguments.configured {
        return Ok(crate::prices::read(settings)?.book);
    }
    let db = super::open(settings, Role::Reports).await?;
    let in_force = in_force::load(&db)
        .await
        .map_err(|error| super::of_store(settings, &error))?;
    PriceBook::from_canonical(&in_force.price_book).map_err(|error| {
        Failure::new(
            Exit::Data,
            format!("the price book in force was changed in the ledger: {error}"),
        )
    })
}
