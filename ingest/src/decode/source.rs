//! What a source's configuration says of every line: whose usage it is, and what tells a repeat from
//! another line.
//!
//! Invariant: dimensions are checked ids; two lines have one identity only where tenant, source,
//! request id, millisecond and bytes (or the configured fields' values) are the same. Deliberately
//! absent: the names that a format gives to its fields, and what a line used.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::Arc;

use domain::event::{Dimensions, Identity, IdentityKey, IdentitySecret, LogIdentity};
use domain::hash::{Canonical, Hash128};
use domain::ids::{AppId, IdError, ModelId, ProviderId, RouteId, SessionId, TenantId, UserId};
use domain::price::PriceBook;
use domain::reject::{Reason, Rejection};
use domain::time::UnixMs;
use parking_lot::Mutex;

use super::object::{FieldId, FieldSet, Object};
use super::scan::Value;
use crate::source_config::{Dedupe, SourceConfig};

/// The settings of one source that hold for each of its lines.
#[derive(Debug)]
pub(super) struct Source {
    tenant_field: Option<FieldId>,
    /// The configured field; where none is, those of the format, the first that is present counts.
    app: Vec<FieldId>,
    user: Option<FieldId>,
    session: Option<FieldId>,
    /// The fields that stand for the line in its identity; none: all of its bytes.
    identity: Vec<FieldId>,
    dedupe: Dedupe,
    identity_key: IdentityKey,
    tenant: String,
    providers: HashMap<String, String>,
    routes: HashMap<String, String>,
    book: Arc<PriceBook>,
    recent_providers: RecentProviders,
}

/// Which part of a logged name is the provider, of names that came lately: a source has a handful, and
/// to find it in the book takes a look-up for each segment. A memory of a pure function: what it says
/// depends on the name alone.
#[derive(Debug, Default)]
struct RecentProviders {
    known: Mutex<Vec<(String, Range<usize>)>>,
}

impl RecentProviders {
    /// The most names that are remembered.
    const MAX: usize = 16;

    /// Returns what `of` finds within a logged name, which is a slice of it.
    fn find<'l>(&self, logged: &'l str, of: impl Fn(&'l str) -> &'l str) -> &'l str {
        let Some(mut known) = self.known.try_lock() else {
            return of(logged);
        };
        if let Some((_, place)) = known.iter().find(|(name, _)| name == logged) {
            return logged.get(place.clone()).unwrap_or(logged);
        }
        let provider = of(logged);
        let before = logged.rfind(provider).unwrap_or(0);
        if known.len() >= Self::MAX {
            known.clear();
        }
        known.push((logged.to_owned(), before..before + provider.len()));
        provider
    }
}

/// Where a format has the dimensions that the source's configuration does not name.
#[derive(Debug, Clone, Copy)]
pub(super) struct LineFields {
    /// The model that was asked for.
    pub(super) model: FieldId,
    /// Who answered.
    pub(super) provider: FieldId,
    /// The gateway's route.
    pub(super) route: FieldId,
}

impl Source {
    /// Takes the settings of a source; `apps` are the format's own fields of the application, for
    /// sources that configure none.
    pub(super) fn new(
        config: &SourceConfig,
        (book, secret): (Arc<PriceBook>, IdentitySecret),
        apps: &[&str],
        fields: &mut FieldSet,
    ) -> Self {
        let mut named = |name: &Option<String>| name.as_ref().map(|name| fields.add(name));
        let tenant_field = named(&config.tenant_field);
        let app = named(&config.app);
        let user = named(&config.user);
        let session = named(&config.session);
        let app = match app {
            Some(app) => vec![app],
            None => apps.iter().map(|name| fields.add(name)).collect(),
        };
        let identity = config.identity.iter();
        let identity = identity.map(|field| fields.add(field)).collect();
        let owned = |names: &BTreeMap<String, String>| names.clone().into_iter().collect();
        Self {
            tenant_field,
            app,
            user,
            session,
            identity,
            dedupe: config.dedupe,
            identity_key: IdentityKey::of_source(secret, config.name()),
            tenant: config.tenant.clone(),
            providers: owned(&config.providers),
            routes: owned(&config.routes),
            book,
            recent_providers: RecentProviders::default(),
        }
    }

    /// Reads whose usage a line is; `model` is what the line says was asked for.
    ///
    /// # Errors
    ///
    /// `wrong_type` or `bad_id`, with the field.
    pub(super) fn dimensions<'a>(
        &'a self,
        line: &Object<'a, '_>,
        fields: LineFields,
        model: Cow<'a, str>,
    ) -> Result<Dimensions<'a>, Rejection> {
        let optional = |field: Option<FieldId>| match field {
            Some(field) => Ok(line.text(field)?.map(|text| (field, text))),
            None => Ok(None),
        };
        let tenant = match optional(self.tenant_field)? {
            Some((field, text)) => checked(line, field, text, TenantId::new)?,
            None => checked(
                line,
                fields.model,
                Cow::Borrowed(self.tenant.as_str()),
                TenantId::new,
            )?,
        };
        let app = self.app(line)?;
        let user = optional(self.user)?
            .map(|(field, text)| checked(line, field, text, UserId::new))
            .transpose()?;
        let session = optional(self.session)?
            .map(|(field, text)| checked(line, field, text, SessionId::new))
            .transpose()?;
        let route = line
            .text(fields.route)?
            .map(|logged| checked(line, fields.route, self.route(logged), RouteId::new))
            .transpose()?;
        let provider = line
            .text(fields.provider)?
            .map(|logged| {
                checked(
                    line,
                    fields.provider,
                    self.provider(logged),
                    ProviderId::new,
                )
            })
            .transpose()?;
        let model = checked(line, fields.model, model, ModelId::new)?;
        Ok(Dimensions {
            tenant,
            app,
            user,
            session,
            route,
            provider,
            model,
        })
    }

    fn app<'a>(&self, line: &Object<'a, '_>) -> Result<AppId<'a>, Rejection> {
        for field in &self.app {
            if let Some(text) = line.text(*field)? {
                return checked(line, *field, text, AppId::new);
            }
        }
        Ok(AppId::unattributed())
    }

    /// Names the route: as configured, else as logged.
    pub(super) fn route<'a>(&'a self, logged: Cow<'a, str>) -> Cow<'a, str> {
        mapped(&self.routes, &logged).unwrap_or(logged)
    }

    /// Names the provider: as configured, else the last `/`-segment that the price book knows, else
    /// the whole logged name, which is the gateway's path to a backend.
    pub(super) fn provider<'a>(&'a self, logged: Cow<'a, str>) -> Cow<'a, str> {
        if let Some(configured) = mapped(&self.providers, &logged) {
            return configured;
        }
        match logged {
            // A name too long for an id is rejected whatever its segments are.
            long if long.len() > domain::ids::ID_BYTES_MAX => long,
            Cow::Borrowed(logged) => {
                let provider = self
                    .recent_providers
                    .find(logged, |logged| self.book.provider_of(logged));
                Cow::Borrowed(provider)
            }
            Cow::Owned(logged) => match self.book.provider_of(&logged) {
                known if known.len() < logged.len() => Cow::Owned(known.to_owned()),
                _ => Cow::Owned(logged),
            },
        }
    }

    /// Returns by what a repeat of a line is known; `None` where the source counts repeats.
    ///
    /// # Errors
    ///
    /// What `request_id` rejects, and `missing_field` where none of the configured identity fields is
    /// there.
    pub(super) fn identity<'a>(
        &self,
        line: &Object<'_, '_>,
        bytes: &[u8],
        start: UnixMs,
        tenant: &TenantId<'_>,
        request_id: impl FnOnce() -> Result<Cow<'a, str>, Rejection>,
    ) -> Result<Option<Identity>, Rejection> {
        if self.dedupe == Dedupe::Off {
            return Ok(None);
        }
        let request_id = request_id()?;
        let digest;
        let content = match self.identity.as_slice() {
            [] => bytes,
            fields => {
                digest = digest_of(fields, line)?.to_bytes();
                &digest
            }
        };
        let parts = LogIdentity {
            tenant: tenant.as_str(),
            request_id: &request_id,
            start,
            content,
        };
        Ok(Some(Identity::of_log_line(&self.identity_key, &parts)))
    }
}

/// Hashes the configured fields' values. A line with none of them is rejected: all such lines of a
/// millisecond would count as one.
fn digest_of(fields: &[FieldId], line: &Object<'_, '_>) -> Result<Hash128, Rejection> {
    let mut canonical = Canonical::new("identity-fields/1");
    let mut first_absent = None;
    let mut is_any_present = false;
    for field in fields {
        let value = line.value(*field);
        canonical.present(value.is_some());
        match value {
            None | Some(Value::Null) => {
                first_absent = first_absent.or(Some(*field));
                continue;
            }
            Some(Value::Text(text)) => {
                canonical.text(&text.decode());
            }
            Some(Value::Number(raw) | Value::Object(raw) | Value::Array(raw)) => {
                canonical.text(raw);
            }
            Some(Value::Bool(is_true)) => {
                canonical.present(is_true);
            }
        }
        is_any_present = true;
    }
    match first_absent {
        Some(field) if !is_any_present => {
            let detail = "is absent, as are all identity fields".to_owned();
            Err(line.reject(Reason::MissingField, field, detail))
        }
        Some(_) | None => Ok(canonical.finish128()),
    }
}

/// Reads a field as an id; `None` where it is absent.
pub(super) fn id<'a, T>(
    line: &Object<'a, '_>,
    field: FieldId,
    make: impl FnOnce(Cow<'a, str>) -> Result<T, IdError>,
) -> Result<Option<T>, Rejection> {
    line.text(field)?
        .map(|text| checked(line, field, text, make))
        .transpose()
}

/// Makes an id of a field's text.
pub(super) fn checked<'a, T>(
    line: &Object<'_, '_>,
    field: FieldId,
    text: Cow<'a, str>,
    make: impl FnOnce(Cow<'a, str>) -> Result<T, IdError>,
) -> Result<T, Rejection> {
    make(text).map_err(|error| line.reject(Reason::BadId, field, error.to_string()))
}

fn mapped<'m>(names: &'m HashMap<String, String>, logged: &str) -> Option<Cow<'m, str>> {
    if names.is_empty() {
        return None;
    }
    names.get(logged).map(|ours| Cow::Borrowed(ours.as_str()))
}
