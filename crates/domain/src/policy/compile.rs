//! All policies together, compiled into a matcher.
//!
//! Invariant: for every request it yields what asking each policy in turn would, in the order of the
//! policies, and allocates nothing for it. Policies that name their applications or models are found by
//! those; the others are asked one by one. Immutable: a change is another set, swapped whole.

use std::collections::HashMap;

use foldhash::quality::RandomState;

use crate::hash::{Canonical, Hash128};
use crate::request::{Field, Request};

use super::error::PolicyError;
use super::key::{Keyed, key_of, values_of};
use super::model::{Attachment, CountedFrom, Limit, LimitId, Match, Policy};
use super::pattern::TextPattern;

/// The most limits of a set, attachments counted: a bound for memory, far above any real set.
const LIMITS_MAX: usize = 100_000;

/// One limit at one attachment.
#[derive(Debug, Clone)]
pub struct CompiledLimit {
    pub(super) id: LimitId,
    policy: usize,
    attachment: usize,
    pub(super) limit: usize,
    /// Whether it counts by the same keys as the limit before it in its policy.
    pub(super) has_keys_of_before: bool,
}

/// One policy at one attachment: matched as one.
#[derive(Debug)]
pub(super) struct Rule {
    policy: usize,
    attachment: usize,
    /// The first of its limits in the set, and the first after them.
    pub(super) limits: (usize, usize),
    /// Made of the names of policy and attachment, so it stays when other things of them change.
    pub(super) name: Hash128,
}

/// A set of policies, ready to match.
#[derive(Debug, Default)]
pub struct CompiledSet {
    pub(super) policies: Vec<Policy>,
    rules: Vec<Rule>,
    pub(super) limits: Vec<CompiledLimit>,
    by_app: Index,
    by_model: Index,
    others: Vec<usize>,
}

/// Rules by a text that they name, ascending for each text.
type Index = HashMap<String, Vec<usize>, RandomState>;

/// Compiles policies into a set.
///
/// # Errors
///
/// Names that two policies share, each at its second place, or too many limits; the set in force stays.
pub fn compile(policies: Vec<Policy>) -> Result<CompiledSet, Vec<PolicyError>> {
    let errors = refuse_twins(&policies);
    if !errors.is_empty() {
        return Err(errors);
    }
    let mut set = CompiledSet::default();
    for (policy, number) in policies.iter().zip(0..) {
        for (attachment, place) in policy.attachments.iter().zip(0..) {
            let first = set.limits.len();
            let mut before: Option<&Limit> = None;
            for (limit, index) in policy.limits.iter().zip(0..) {
                let before = before.replace(limit);
                set.limits.push(CompiledLimit {
                    id: policy.limit_id(attachment, limit),
                    policy: number,
                    attachment: place,
                    limit: index,
                    has_keys_of_before: before.is_some_and(|before| before.per == limit.per),
                });
            }
            if set.limits.len() > LIMITS_MAX {
                let problem = format!("makes more than {LIMITS_MAX} limits; write fewer");
                return Err(vec![at_name(policy, problem)]);
            }
            set.index(policy, attachment);
            set.rules.push(Rule {
                policy: number,
                attachment: place,
                limits: (first, set.limits.len()),
                name: Canonical::new("rule/1")
                    .text(&policy.name)
                    .text(&attachment.name)
                    .finish128(),
            });
        }
    }
    set.policies = policies;
    Ok(set)
}

fn refuse_twins(policies: &[Policy]) -> Vec<PolicyError> {
    let mut named: HashMap<&str, &Policy> = HashMap::with_capacity(policies.len());
    let mut errors = Vec::new();
    for policy in policies {
        if let Some(first) = named.get(policy.name.as_str()) {
            let problem = format!(
                "is {:?}, as is the policy at {}:{}; rename one",
                policy.name, first.place.file, first.place.line
            );
            errors.push(at_name(policy, problem));
        } else {
            named.insert(&policy.name, policy);
        }
    }
    errors
}

fn at_name(policy: &Policy, problem: String) -> PolicyError {
    PolicyError {
        file: policy.place.file.clone(),
        line: policy.place.line,
        column: policy.place.column,
        path: "name".to_owned(),
        problem,
    }
}

impl CompiledSet {
    /// Files the next rule under the texts that a request must have, if it names any.
    fn index(&mut self, policy: &Policy, attachment: &Attachment) {
        let rule = self.rules.len();
        let both = [&policy.matches, &attachment.matches];
        let named = |field| both.iter().find_map(|matches| texts_of(matches, field));
        let (index, texts) = match (named(Field::App), named(Field::Model)) {
            (Some(texts), _) => (&mut self.by_app, texts),
            (None, Some(texts)) => (&mut self.by_model, texts),
            (None, None) => {
                self.others.push(rule);
                return;
            }
        };
        for text in texts {
            match index.get_mut(text) {
                Some(rules) => rules.push(rule),
                None => {
                    index.insert(text.clone(), vec![rule]);
                }
            }
        }
    }

    /// Returns the limits that hold for a request, in the order of the policies.
    #[must_use]
    pub fn matching<'s, 'r>(&'s self, request: &'r Request<'r>) -> Matching<'s, 'r> {
        let of = |index: &'s Index, field| {
            let text = request.text(field);
            let rules = text.and_then(|text| index.get(text));
            rules.map_or(&[][..], Vec::as_slice)
        };
        Matching {
            set: self,
            request,
            candidates: [
                of(&self.by_app, Field::App),
                of(&self.by_model, Field::Model),
                &self.others,
            ],
            limits: (0, 0),
        }
    }

    /// Returns the policies in their order.
    #[must_use]
    pub fn policies(&self) -> &[Policy] {
        &self.policies
    }

    /// Returns all limits at all attachments with their identities; the place of each is its index in
    /// [`Applies`].
    pub fn limits(&self) -> impl Iterator<Item = (LimitId, &Policy, &Attachment, &Limit)> {
        self.limits.iter().filter_map(|compiled| {
            let (policy, attachment, limit) = self.parts(compiled)?;
            Some((compiled.id, policy, attachment, limit))
        })
    }

    /// Returns how many limits there are, attachments counted.
    #[must_use]
    pub const fn limits_count(&self) -> usize {
        self.limits.len()
    }

    /// Returns the limit at a place, as [`Applies::index`] names it.
    #[must_use]
    pub fn limit_at(&self, index: usize) -> Option<(LimitId, &Policy, &Attachment, &Limit)> {
        let compiled = self.limits.get(index)?;
        let (policy, attachment, limit) = self.parts(compiled)?;
        Some((compiled.id, policy, attachment, limit))
    }

    fn parts(&self, compiled: &CompiledLimit) -> Option<(&Policy, &Attachment, &Limit)> {
        let policy = self.policies.get(compiled.policy)?;
        let attachment = policy.attachments.get(compiled.attachment)?;
        let limit = policy.limits.get(compiled.limit)?;
        Some((policy, attachment, limit))
    }
}

/// Returns the texts of which a request's field must be one.
fn texts_of(matches: &Match, field: Field) -> Option<&[String]> {
    let (_, pattern) = matches.fields.iter().find(|(known, _)| *known == field)?;
    match pattern {
        TextPattern::OneOf(texts) => Some(texts),
        TextPattern::Prefix(_) | TextPattern::Glob(_) | TextPattern::Regex(_) => None,
    }
}

/// A limit that holds for a request.
#[derive(Debug, Clone, Copy)]
pub struct Applies<'s> {
    /// The policy.
    pub policy: &'s Policy,
    /// Where it is attached.
    pub attachment: &'s Attachment,
    /// The limit.
    pub limit: &'s Limit,
    /// Its identity at this attachment.
    pub id: LimitId,
    /// Its place among all limits of the set, from 0: as [`CompiledSet::limits`] lists them.
    pub index: usize,
    /// By which counter it counts, or that it refuses.
    pub keyed: Keyed<'s>,
}

impl Applies<'_> {
    /// Returns names and values of its keys for a request, to explain a decision; `None` for what is
    /// missing.
    #[must_use]
    pub fn values(&self, request: &Request<'_>) -> Vec<(String, Option<String>)> {
        values_of(self.limit, request)
    }
}

/// Yields the limits that hold for a request; those that skip it are left out.
#[derive(Debug)]
pub struct Matching<'s, 'r> {
    set: &'s CompiledSet,
    request: &'r Request<'r>,
    candidates: [&'s [usize]; 3],
    limits: (usize, usize),
}

impl<'s> Matching<'s, '_> {
    /// Keeps those that are counted from one side.
    pub fn counted_from(self, from: CountedFrom) -> impl Iterator<Item = Applies<'s>> {
        self.filter(move |applies| applies.limit.from == from)
    }

    /// Returns the next rule that holds, with its policy.
    pub(super) fn next_that_fits(&mut self) -> Option<(&'s Rule, &'s Policy)> {
        loop {
            let rule = self.next_rule()?;
            if self.fits(rule) {
                return Some((rule, self.set.policies.get(rule.policy)?));
            }
        }
    }

    /// Takes the candidate that comes first in the set; a rule is filed in one place only.
    fn next_rule(&mut self) -> Option<&'s Rule> {
        let heads = self.candidates.iter().filter_map(|rules| rules.first());
        let first = heads.min().copied()?;
        for rules in &mut self.candidates {
            if let [head, rest @ ..] = rules
                && *head == first
            {
                *rules = rest;
            }
        }
        self.set.rules.get(first)
    }

    fn fits(&self, rule: &Rule) -> bool {
        let policy = self.set.policies.get(rule.policy);
        policy.is_some_and(|policy| {
            let attachment = policy.attachments.get(rule.attachment);
            policy.matches.fits(self.request)
                && attachment.is_some_and(|attachment| attachment.matches.fits(self.request))
        })
    }
}

impl<'s> Iterator for Matching<'s, '_> {
    type Item = Applies<'s>;

    fn next(&mut self) -> Option<Applies<'s>> {
        loop {
            let (index, end) = self.limits;
            if index >= end {
                let (rule, _) = self.next_that_fits()?;
                self.limits = rule.limits;
                continue;
            }
            self.limits = (index.saturating_add(1), end);
            let compiled = self.set.limits.get(index)?;
            let (policy, attachment, limit) = self.set.parts(compiled)?;
            let keyed = key_of(compiled.id, limit, self.request);
            if keyed == Keyed::Skipped {
                continue;
            }
            return Some(Applies {
                policy,
                attachment,
                limit,
                id: compiled.id,
                index,
                keyed,
            });
        }
    }
}
