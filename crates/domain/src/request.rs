//! A request, as far as a decision looks at it: borrowed from whatever protocol carried it.
//!
//! Invariant: nothing is copied and nothing is trusted; who the caller is was settled at the edge. An
//! empty text is an absent one. Deliberately absent: what the request asks for (see
//! [`crate::limit::Used`]).

use core::net::IpAddr;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::hash::BuildHasher;

use crate::event::Dimensions;
use crate::ids::UNATTRIBUTED;
use crate::series::Series;

/// A text that a request may carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Field {
    /// The organisation.
    Tenant,
    /// The application.
    App,
    /// The user.
    User,
    /// The session.
    Session,
    /// The model that the client asked for.
    Model,
    /// The provider.
    Provider,
    /// The gateway's route.
    Route,
    /// The method of HTTP.
    Method,
    /// The host without its port.
    Host,
    /// The path without the query.
    Path,
}

impl Field {
    /// All fields, in order.
    pub const ALL: [Self; 10] = [
        Self::Tenant,
        Self::App,
        Self::User,
        Self::Session,
        Self::Model,
        Self::Provider,
        Self::Route,
        Self::Method,
        Self::Host,
        Self::Path,
    ];

    /// Returns the name used in policies and answers.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tenant => "tenant",
            Self::App => "app",
            Self::User => "user",
            Self::Session => "session",
            Self::Model => "model",
            Self::Provider => "provider",
            Self::Route => "route",
            Self::Method => "method",
            Self::Host => "host",
            Self::Path => "path",
        }
    }

    /// Says whether usage events carry it, so that limits may count it from the log.
    #[must_use]
    pub const fn is_logged(self) -> bool {
        !matches!(self, Self::Method | Self::Host | Self::Path)
    }
}

/// Headers by name, whatever a protocol keeps them in.
pub trait Headers: fmt::Debug + Sync {
    /// Returns the value of the header of this lower-case name; of a repeated one the first.
    fn header(&self, name: &str) -> Option<&str>;
}

impl<N, V, const COUNT: usize> Headers for [(N, V); COUNT]
where
    N: AsRef<str> + fmt::Debug + Sync,
    V: AsRef<str> + fmt::Debug + Sync,
{
    fn header(&self, name: &str) -> Option<&str> {
        first_of(self, name)
    }
}

impl<N, V> Headers for Vec<(N, V)>
where
    N: AsRef<str> + fmt::Debug + Sync,
    V: AsRef<str> + fmt::Debug + Sync,
{
    fn header(&self, name: &str) -> Option<&str> {
        first_of(self, name)
    }
}

fn first_of<'h>(headers: &'h [(impl AsRef<str>, impl AsRef<str>)], name: &str) -> Option<&'h str> {
    let named = headers.iter().find(|(known, _)| known.as_ref() == name);
    named.map(|(_, value)| value.as_ref())
}

impl<S: BuildHasher + Sync> Headers for HashMap<String, String, S> {
    fn header(&self, name: &str) -> Option<&str> {
        self.get(name).map(String::as_str)
    }
}

impl Headers for BTreeMap<String, String> {
    fn header(&self, name: &str) -> Option<&str> {
        self.get(name).map(String::as_str)
    }
}

/// A request to decide on; a candidate of it is a copy with another model or provider.
#[derive(Debug, Clone, Copy, Default)]
pub struct Request<'a> {
    /// The organisation; `default` where absent.
    pub tenant: Option<&'a str>,
    /// The application; `unattributed` counts as absent.
    pub app: Option<&'a str>,
    /// The user.
    pub user: Option<&'a str>,
    /// The session.
    pub session: Option<&'a str>,
    /// The model that the client asked for.
    pub model: Option<&'a str>,
    /// The provider.
    pub provider: Option<&'a str>,
    /// The gateway's route.
    pub route: Option<&'a str>,
    /// The method of HTTP.
    pub method: Option<&'a str>,
    /// The host without its port.
    pub host: Option<&'a str>,
    /// The path without the query.
    pub path: Option<&'a str>,
    /// The client's address.
    pub source: Option<IpAddr>,
    /// The address that was connected to.
    pub destination: Option<IpAddr>,
    /// The headers.
    pub headers: Option<&'a (dyn Headers + 'a)>,
}

impl<'a> Request<'a> {
    /// Takes what a usage event tells of its request.
    #[must_use]
    pub fn of_event(event: &'a Dimensions<'_>) -> Self {
        Self {
            tenant: Some(event.tenant.as_str()),
            app: Some(event.app.as_str()),
            user: event.user.as_ref().map(|id| id.as_str()),
            session: event.session.as_ref().map(|id| id.as_str()),
            model: Some(event.model.as_str()),
            provider: event.provider.as_ref().map(|id| id.as_str()),
            route: event.route.as_ref().map(|id| id.as_str()),
            ..Self::default()
        }
    }

    /// Takes what a series tells of its requests: the same as each of their events does.
    #[must_use]
    pub fn of_series(series: &'a Series) -> Self {
        Self {
            tenant: Some(&series.tenant),
            app: Some(&series.app),
            user: Some(&series.user),
            session: Some(&series.session),
            model: Some(&series.model),
            provider: Some(&series.provider),
            route: Some(&series.route),
            ..Self::default()
        }
    }

    /// Returns a field as conditions see it: the tenant and the application always have a name.
    #[must_use]
    pub fn text(&self, field: Field) -> Option<&'a str> {
        let otherwise = match field {
            Field::Tenant => Some("default"),
            Field::App => Some(UNATTRIBUTED),
            Field::User
            | Field::Session
            | Field::Model
            | Field::Provider
            | Field::Route
            | Field::Method
            | Field::Host
            | Field::Path => None,
        };
        self.written(field).or(otherwise)
    }

    /// Returns a field as keys see it: an application that nobody named is missing.
    #[must_use]
    pub fn key(&self, field: Field) -> Option<&'a str> {
        match field {
            Field::App => self.written(field).filter(|app| *app != UNATTRIBUTED),
            Field::Tenant
            | Field::User
            | Field::Session
            | Field::Model
            | Field::Provider
            | Field::Route
            | Field::Method
            | Field::Host
            | Field::Path => self.text(field),
        }
    }

    /// Returns the value of the header of this lower-case name.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&'a str> {
        self.headers.and_then(|headers| headers.header(name))
    }

    fn written(&self, field: Field) -> Option<&'a str> {
        let text = match field {
            Field::Tenant => self.tenant,
            Field::App => self.app,
            Field::User => self.user,
            Field::Session => self.session,
            Field::Model => self.model,
            Field::Provider => self.provider,
            Field::Route => self.route,
            Field::Method => self.method,
            Field::Host => self.host,
            Field::Path => self.path,
        };
        text.filter(|text| !text.is_empty())
    }
}
