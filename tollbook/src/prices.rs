//! The price book that the configuration names: the shipped one and the files beside it.

use std::path::Path as FilePath;

use domain::price::{PriceBook, PriceFile, PriceFileError};
use ingest::prices::ConfiguredPrices;
use service::{Exit, Failure};

use crate::config::Settings;
use crate::failure;

/// Reads the shipped book and the configured files; later files win.
pub(crate) fn read(settings: &Settings) -> Result<ConfiguredPrices, Failure> {
    let shipped = PriceBook::shipped();
    let mut prices = ConfiguredPrices {
        book: shipped.clone(),
        shipped,
        files: Vec::new(),
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
        let of_file = |error: PriceFileError| Failure::new(Exit::Configuration, error.to_string());
        let file = read_file(&file, &text).map_err(of_file)?;
        prices.book = prices.book.with(&file).map_err(of_file)?;
        prices.files.push(file);
    }
    Ok(prices)
}

/// Reads a price file's text.
pub(crate) fn read_file(file: &FilePath, text: &str) -> Result<PriceFile, PriceFileError> {
    PriceFile::read(&file.display().to_string(), text)
}

/// Says what the configured prices are made of, and what of it a book cannot hold.
pub(crate) fn describe(prices: &ConfiguredPrices) -> String {
    let rates = prices.book.rates().count();
    let mut made_of = vec!["shipped".to_owned()];
    made_of.extend(prices.files.iter().map(|file| file.name().to_owned()));
    let mut text = format!("{rates} rates ({})", made_of.join("; "));
    for file in &prices.files {
        let findings = file.findings();
        let others = findings.not_expressed.iter();
        let others = others.fold(0_usize, |sum, kind| sum.saturating_add(kind.prices));
        if others > 0 {
            text = format!("{text}; {}: {others} prices not expressed", file.name());
        }
        if findings.rounded > 0 {
            let rounded = findings.rounded;
            text = format!(
                "{text}; {}: {rounded} rounded to 18 decimal places",
                file.name()
            );
        }
    }
    text
}
