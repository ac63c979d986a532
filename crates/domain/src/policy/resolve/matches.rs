//! Conditions: from what was written to patterns.

use super::super::cel::Purpose;
use super::super::cel::regex;
use super::super::error::{At, Faults};
use super::super::language::{AddressMatch, MatchText, TextMatch};
use super::super::model::Match;
use super::super::pattern::{Network, TextPattern};
use crate::request::Field;

/// Checks conditions; those with a fault are left out.
pub(super) fn matches(text: &MatchText, at: &At<'_>, faults: &mut Faults<'_>) -> Match {
    let fields = [
        (Field::Tenant, &text.tenant),
        (Field::App, &text.app),
        (Field::User, &text.user),
        (Field::Session, &text.session),
        (Field::Model, &text.model),
        (Field::Provider, &text.provider),
        (Field::Route, &text.route),
        (Field::Method, &text.method),
        (Field::Host, &text.host),
        (Field::Path, &text.path),
    ];
    let mut matches = Match::default();
    for (field, condition) in fields {
        let Some(condition) = condition else {
            continue;
        };
        if let Some(pattern) = pattern(condition, &at.key(field.name()), faults) {
            matches.fields.push((field, pattern));
        }
    }
    for (header, condition) in &text.headers {
        let at = at.key("headers").key(header);
        let name = super::header_name(header, &at, faults);
        if matches.headers.iter().any(|(other, _)| *other == name) {
            faults.add(&at, "is written twice in different cases; remove one");
        }
        if let Some(pattern) = pattern(condition, &at, faults) {
            matches.headers.push((name, pattern));
        }
    }
    matches.headers.sort_by(|one, other| one.0.cmp(&other.0));
    matches.source = networks(
        text.source_address.as_ref(),
        &at.key("source_address"),
        faults,
    );
    let destination = at.key("destination_address");
    matches.destination = networks(text.destination_address.as_ref(), &destination, faults);
    let cel = text.cel.as_deref();
    matches.cel = cel.and_then(|cel| super::cel(cel, Purpose::Condition, &at.key("cel"), faults));
    matches
}

fn pattern(text: &TextMatch, at: &At<'_>, faults: &mut Faults<'_>) -> Option<TextPattern> {
    match text {
        TextMatch::Exact(exact) => one_of(vec![exact.clone()], at, faults),
        TextMatch::OneOf(texts) => one_of(texts.clone(), at, faults),
        TextMatch::Pattern(by) => {
            let written = [
                ("exact", by.exact.is_some()),
                ("prefix", by.prefix.is_some()),
                ("glob", by.glob.is_some()),
                ("regex", by.regex.is_some()),
            ];
            if !super::exactly_one(&written, at, faults) {
                return None;
            }
            if let Some(exact) = &by.exact {
                return one_of(vec![exact.clone()], &at.key("exact"), faults);
            }
            if let Some(prefix) = &by.prefix {
                refuse_empty(prefix, &at.key("prefix"), faults);
                return Some(TextPattern::Prefix(prefix.clone()));
            }
            if let Some(glob) = &by.glob {
                refuse_empty(glob, &at.key("glob"), faults);
                return Some(TextPattern::Glob(glob.clone()));
            }
            match regex(by.regex.as_deref()?) {
                Ok(regex) => Some(TextPattern::Regex(regex)),
                Err(problem) => {
                    faults.add(&at.key("regex"), problem);
                    None
                }
            }
        }
    }
}

fn one_of(texts: Vec<String>, at: &At<'_>, faults: &mut Faults<'_>) -> Option<TextPattern> {
    if texts.is_empty() {
        faults.add(
            at,
            "is an empty list, which nothing fits; write at least one text",
        );
        return None;
    }
    texts.iter().for_each(|text| refuse_empty(text, at, faults));
    Some(TextPattern::one_of(texts))
}

fn refuse_empty(text: &str, at: &At<'_>, faults: &mut Faults<'_>) {
    if text.is_empty() {
        faults.add(
            at,
            "holds an empty text, which no request carries; fill it or remove it",
        );
    }
}

fn networks(text: Option<&AddressMatch>, at: &At<'_>, faults: &mut Faults<'_>) -> Vec<Network> {
    let texts = match text {
        None => return Vec::new(),
        Some(AddressMatch::One(text)) => std::slice::from_ref(text),
        Some(AddressMatch::OneOf(texts)) => texts,
    };
    if texts.is_empty() {
        faults.add(
            at,
            "is an empty list, which nothing fits; write at least one network",
        );
    }
    let mut networks = Vec::with_capacity(texts.len());
    for text in texts {
        match Network::parse(text) {
            Some(network) => networks.push(network),
            None => {
                let problem = format!(
                    "is {text:?}, which is no address and no network; write, say, 10.0.0.0/8"
                );
                faults.add(at, problem);
            }
        }
    }
    networks.sort();
    networks.dedup();
    networks
}
