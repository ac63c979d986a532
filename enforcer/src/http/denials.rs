//! `GET /v1/denials` and `/v1/denials/{id}`: recent denials of this process.
//!
//! Invariant: newest first, each page bounded, and a cursor names the last denial of the page before,
//! so that nothing comes twice while new ones arrive.

mod view;

use std::sync::Arc;

use axum::Json;
use axum::Router;
use axum::extract::{Path, RawQuery, State};
use axum::routing::get;
use http::StatusCode;
use serde::Serialize;

use super::problem::Problem;
use crate::engine::{DenialFilter, Engine};

pub use self::view::{DenialView, UnreadableDenial};

/// How many denials a page has where nobody says.
const PAGE: usize = 100;

/// How many it has at most.
const PAGE_MAX: usize = 1_000;

/// Returns the routes.
pub(super) fn routes(engine: Arc<Engine>) -> Router {
    Router::new()
        .route("/v1/denials", get(list))
        .route("/v1/denials/{id}", get(one))
        .with_state(engine)
}

/// A page of denials.
#[derive(Debug, Serialize)]
struct Page {
    denials: Vec<DenialView>,
    /// Asks for the next page by `cursor`; `null` at the end.
    next: Option<String>,
}

async fn list(
    State(engine): State<Arc<Engine>>,
    RawQuery(query): RawQuery,
) -> Result<Json<Page>, Problem> {
    let (filter, max) = read(query.as_deref().unwrap_or_default())?;
    let denials = engine.denials();
    if filter.before.is_some_and(|before| !denials.names(before)) {
        return Err(Problem::bad(
            "cursor is of another replica, or of before its start; begin without one",
        ));
    }
    // One more says whether there is another page.
    let mut found = denials.list(&filter, max.saturating_add(1));
    let has_more = found.len() > max;
    found.truncate(max);
    let next = found.last().filter(|_| has_more);
    Ok(Json(Page {
        next: next.map(|denial| denial.id.to_string()),
        denials: found
            .iter()
            .map(|denial| DenialView::in_list(denial))
            .collect(),
    }))
}

async fn one(
    State(engine): State<Arc<Engine>>,
    Path(id): Path<String>,
) -> Result<Json<DenialView>, Problem> {
    let id = id.parse().map_err(|_unknown| {
        Problem::bad("no such id; take one from an answer's `denial` or from /v1/denials")
    })?;
    let gone = || {
        Problem::new(
            StatusCode::NOT_FOUND,
            "this denial is not kept here, or no longer",
        )
    };
    let denial = engine.denials().get(id).ok_or_else(gone)?;
    Ok(Json(DenialView::of(&denial)))
}

/// Reads `app`, `policy`, `cursor` and `limit`.
fn read(query: &str) -> Result<(DenialFilter, usize), Problem> {
    let (mut filter, mut max) = (DenialFilter::default(), PAGE);
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let value = decoded(value)
            .ok_or_else(|| Problem::bad(format!("{name} is no percent-encoded text")))?;
        match name {
            "app" => filter.app = Some(value),
            "policy" => filter.policy = Some(value),
            "cursor" => {
                let cursor = value.parse();
                let cursor = cursor.map_err(|_unknown| {
                    Problem::bad("cursor is not the `next` of a page before")
                })?;
                filter.before = Some(cursor);
            }
            "limit" => {
                let wanted = value.parse().ok();
                max = wanted
                    .filter(|max| (1..=PAGE_MAX).contains(max))
                    .ok_or_else(|| Problem::bad(format!("limit is from 1 to {PAGE_MAX}")))?;
            }
            _ => {
                let problem = "a query has `app`, `policy`, `cursor` and `limit`, nothing else";
                return Err(Problem::bad(problem));
            }
        }
    }
    Ok((filter, max))
}

/// Decodes `%XX` and `+`.
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [byte, after @ ..] = rest {
        rest = after;
        match byte {
            b'+' => bytes.push(b' '),
            b'%' => {
                let ([high, low], after) = rest.split_first_chunk::<2>()?;
                let digit = |byte: &u8| char::from(*byte).to_digit(16);
                let value = digit(high)?.checked_mul(16)?.checked_add(digit(low)?)?;
                bytes.push(u8::try_from(value).ok()?);
                rest = after;
            }
            _ => bytes.push(*byte),
        }
    }
    String::from_utf8(bytes).ok()
}
