//! The price book that the configuration names: the shipped one and the files beside it.

use std::path::Path as FilePath;

use domain::price::PriceBook;
use service::{Exit, Failure};

use crate::config::Settings;
use crate::failure;

/// A price book and what it was made of.
#[derive(Debug)]
pub(crate) struct ConfiguredPrices {
    /// The book.
    pub(crate) book: PriceBook,
    /// The shipped book and the files, in their order.
    pub(crate) origin: String,
}

/// Reads the shipped book and the configured files; later files win.
pub(crate) fn read(settings: &Settings) -> Result<ConfiguredPrices, Failure> {
    let mut prices = ConfiguredPrices {
        book: PriceBook::shipped(),
        origin: "shipped".to_owned(),
    };
    for (index, name) in settings.config().prices.files.iter().enumerate() {
        let file = settings.base().join(name);
        let text = std::fs::read_to_string(&file).map_err(|error| {
            let path = service::config::Path::of_keys("prices.files").index(index);
            let problem = format!(
                "names the price file {}, which cannot be read ({error}); create it, or take it out",
                file.display()
            );
            failure::of_config(&settings.refuse(&path, &problem))
        })?;
        prices.book = with_file(&prices.book, &file, &text)?;
        prices.origin = format!("{}; {name}", prices.origin);
    }
    Ok(prices)
}

fn with_file(book: &PriceBook, file: &FilePath, text: &str) -> Result<PriceBook, Failure> {
    book.with_file(&file.display().to_string(), text)
        .map_err(|error| Failure::new(Exit::Configuration, error.to_string()))
}
