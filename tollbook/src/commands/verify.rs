//! `tollbook verify`.

use std::io;

use ingest::verify::{self, VerifyError};
use service::{Exit, Failure};
use store::Role;

use crate::config::Settings;
use crate::{failure, output};

pub(super) async fn run(settings: &Settings) -> Result<Exit, Failure> {
    let db = super::open(settings, Role::Reports).await?;
    // A line at a time: a chain may take minutes, and its findings show once they are there.
    let mut stdout = io::LineWriter::new(io::stdout());
    let verdict = verify::run(&db, &settings.config().kafka, &mut stdout).await;
    match verdict {
        Ok(verdict) => Ok(verdict.exit()),
        Err(VerifyError::Store(error)) => Err(super::of_store(settings, &error)),
        Err(VerifyError::Log(error)) => {
            Err(failure::of_log(&error, &settings.place("kafka.brokers")))
        }
        Err(VerifyError::Correction(error)) => Err(super::of_correction(settings, &error)),
        // Nobody heard a verdict, so the code must not be that of one.
        Err(VerifyError::Output(error)) => output::of_write(&error).map(|()| Exit::Unexpected),
        Err(error @ VerifyError::Thread(_)) => Err(Failure::unexpected(error.to_string())),
    }
}
