//! Expressions in CEL, compiled when a policy is loaded: a part of the language without loops.
//!
//! Invariant: an expression that compiles has types that fit, ends after at most as many steps as it
//! has parts, and allocates nothing unless it joins or converts texts. Numbers are whole, 64 bits,
//! checked. Deliberately absent: comprehensions, maps, floating point, time: nothing whose cost or
//! exactness a request could sway.
//!
//! The interpreter at hand (`cel` 0.15) took 0.3 to 1.3 ms to compile such an expression, 0.2 to 0.5 µs
//! and up to three allocations to run it, and 22 µs for a context; a decision has half a microsecond for
//! all its limits. It serves as the oracle in the tests of this module.

mod check;
mod eval;
mod lex;
mod parse;

#[cfg(test)]
mod tests;

use std::borrow::Cow;

use regex::Regex;

pub(super) use self::check::regex;
pub use self::eval::CelError;
pub use self::lex::CelFault;

use crate::hash::Canonical;
use crate::limit::MeterSelector;
use crate::meter::Quantities;
use crate::request::{Field, Request};

/// The longest expression, in bytes.
pub const CEL_BYTES_MAX: usize = 4096;

/// What an expression is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Whether a request matches: true or false.
    Condition,
    /// What a limit counts separately by: a text, a whole number or a truth.
    Key,
    /// How much a limit counts: a whole number, also of usage.
    Amount,
}

/// The type of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Type {
    Truth,
    Whole,
    Text,
}

impl Type {
    const fn name(self) -> &'static str {
        match self {
            Self::Truth => "true or false",
            Self::Whole => "a whole number",
            Self::Text => "a text",
        }
    }
}

/// What an expression gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value<'v> {
    /// True or false.
    Truth(bool),
    /// A whole number.
    Whole(i64),
    /// A text.
    Text(Cow<'v, str>),
}

/// A compiled expression.
#[derive(Debug, Clone)]
pub struct Cel {
    root: Expr,
    purpose: Purpose,
    text: String,
}

/// A request's address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Address {
    Source,
    Destination,
}

/// An operator on two values of one type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operator {
    Equal,
    Unequal,
    Less,
    AtMost,
    Greater,
    AtLeast,
    Add,
    Subtract,
    Multiply,
    Divide,
    Remainder,
}

impl Operator {
    const fn sign(self) -> &'static str {
        match self {
            Self::Equal => "==",
            Self::Unequal => "!=",
            Self::Less => "<",
            Self::AtMost => "<=",
            Self::Greater => ">",
            Self::AtLeast => ">=",
            Self::Add => "+",
            Self::Subtract => "-",
            Self::Multiply => "*",
            Self::Divide => "/",
            Self::Remainder => "%",
        }
    }
}

/// A question about a text and another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Question {
    StartsWith,
    EndsWith,
    Contains,
}

/// A node whose types fit.
#[derive(Debug, Clone)]
enum Expr {
    Truth(bool),
    Whole(i64),
    Text(String),
    Field(Field),
    Address(Address),
    Header(String),
    HasHeader(String),
    Usage(MeterSelector),
    Not(Box<Self>),
    Negate(Box<Self>),
    And(Box<Self>, Box<Self>),
    Or(Box<Self>, Box<Self>),
    Binary(Operator, Box<Self>, Box<Self>),
    Choice(Box<[Self; 3]>),
    In(Box<Self>, Vec<Self>),
    Ask(Question, Box<Self>, Box<Self>),
    Matches(Box<Self>, Regex),
    Size(Box<Self>),
    ToWhole(Box<Self>),
    ToText(Box<Self>),
}

impl Cel {
    /// Compiles an expression for a purpose.
    ///
    /// # Errors
    ///
    /// The first [`CelFault`]; its author mends the expression.
    pub fn compile(text: &str, purpose: Purpose) -> Result<Self, CelFault> {
        if text.len() > CEL_BYTES_MAX {
            let problem = format!(
                "the expression has {} bytes, more than {CEL_BYTES_MAX}; shorten it",
                text.len()
            );
            return Err(CelFault::new(1, problem));
        }
        let tree = parse::parse(&lex::words(text)?)?;
        let (root, found) = check::check(&tree, purpose)?;
        let fits = match purpose {
            Purpose::Condition => found == Type::Truth,
            Purpose::Key => true,
            Purpose::Amount => found == Type::Whole,
        };
        if !fits {
            let wanted = match purpose {
                Purpose::Condition | Purpose::Key => Type::Truth,
                Purpose::Amount => Type::Whole,
            };
            let problem = format!(
                "the expression gives {} but must give {}",
                found.name(),
                wanted.name()
            );
            return Err(CelFault::new(1, problem));
        }
        Ok(Self {
            root,
            purpose,
            text: text.to_owned(),
        })
    }

    /// Returns the expression as it was written.
    #[must_use]
    pub fn as_text(&self) -> &str {
        &self.text
    }

    /// Returns the name of something that the expression reads and usage events do not carry.
    #[must_use]
    pub fn reads_unlogged(&self) -> Option<&'static str> {
        self.root.find(&mut |expr| {
            if let Expr::Field(field) = expr {
                return (!field.is_logged()).then_some(field.name());
            }
            if let Expr::Address(address) = expr {
                return Some(match address {
                    Address::Source => "source_address",
                    Address::Destination => "destination_address",
                });
            }
            matches!(expr, Expr::Header(_) | Expr::HasHeader(_)).then_some("headers")
        })
    }

    /// Says whether the expression reads what a request used.
    #[must_use]
    pub fn reads_usage(&self) -> bool {
        let is_usage = |expr: &Expr| matches!(expr, Expr::Usage(_)).then_some("usage");
        self.root.find(&mut { is_usage }).is_some()
    }

    /// Says whether the condition holds; one that fails does not.
    #[must_use]
    pub fn holds(&self, request: &Request<'_>) -> bool {
        matches!(self.root.eval(request, None), Ok(Value::Truth(true)))
    }

    /// Returns the value for a request.
    ///
    /// # Errors
    ///
    /// Each case of [`CelError`]; a key that fails is missing.
    pub fn value<'v>(&'v self, request: &Request<'v>) -> Result<Value<'v>, CelError> {
        self.root.eval(request, None)
    }

    /// Returns how much to count for a request and what it used or is estimated to use.
    ///
    /// # Errors
    ///
    /// Each case of [`CelError`], and [`CelError::Negative`]; the caller counts nothing and says why.
    pub fn amount(&self, request: &Request<'_>, used: &Quantities) -> Result<u64, CelError> {
        match self.root.eval(request, Some(used))? {
            Value::Whole(amount) => u64::try_from(amount).map_err(|_below| CelError::Negative),
            Value::Truth(_) | Value::Text(_) => Err(CelError::Type),
        }
    }

    /// Adds the expression to a counter's identity: what it means, not how it is spaced.
    pub fn identify(&self, canonical: &mut Canonical) {
        canonical.text("cel/1");
        self.root.identify(canonical);
    }

    /// Returns what it is for.
    #[must_use]
    pub const fn purpose(&self) -> Purpose {
        self.purpose
    }
}

impl PartialEq for Cel {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text && self.purpose == other.purpose
    }
}

impl Eq for Cel {}

impl Expr {
    /// Visits this node and all below, until one answers.
    fn find(&self, visit: &mut impl FnMut(&Self) -> Option<&'static str>) -> Option<&'static str> {
        visit(self).or_else(|| match self {
            Self::Truth(_)
            | Self::Whole(_)
            | Self::Text(_)
            | Self::Field(_)
            | Self::Address(_)
            | Self::Header(_)
            | Self::HasHeader(_)
            | Self::Usage(_) => None,
            Self::Not(one)
            | Self::Negate(one)
            | Self::Matches(one, _)
            | Self::Size(one)
            | Self::ToWhole(one)
            | Self::ToText(one) => one.find(visit),
            Self::And(one, other)
            | Self::Or(one, other)
            | Self::Binary(_, one, other)
            | Self::Ask(_, one, other) => one.find(visit).or_else(|| other.find(visit)),
            Self::Choice(parts) => parts.iter().find_map(|part| part.find(visit)),
            Self::In(one, others) => {
                let found = one.find(visit);
                found.or_else(|| others.iter().find_map(|other| other.find(visit)))
            }
        })
    }

    fn identify(&self, to: &mut Canonical) {
        match self {
            Self::Truth(truth) => to.text("truth").present(*truth),
            Self::Whole(number) => to.text("whole").signed(*number),
            Self::Text(text) => to.text("text").text(text),
            Self::Field(field) => to.text("field").text(field.name()),
            Self::Address(Address::Source) => to.text("source"),
            Self::Address(Address::Destination) => to.text("destination"),
            Self::Header(name) => to.text("header").text(name),
            Self::HasHeader(name) => to.text("has").text(name),
            Self::Usage(meter) => to.text("usage").text(meter.name()),
            Self::Not(one) => one.identify_in(to.text("not")),
            Self::Negate(one) => one.identify_in(to.text("negate")),
            Self::And(one, other) => other.identify_in(one.identify_in(to.text("and"))),
            Self::Or(one, other) => other.identify_in(one.identify_in(to.text("or"))),
            Self::Binary(operator, one, other) => {
                other.identify_in(one.identify_in(to.text("binary").text(operator.sign())))
            }
            Self::Choice(parts) => parts
                .iter()
                .fold(to.text("choice"), |to, part| part.identify_in(to)),
            Self::In(one, others) => {
                let count = u64::try_from(others.len()).unwrap_or(u64::MAX);
                let to = one.identify_in(to.text("in").unsigned(count));
                others.iter().fold(to, |to, other| other.identify_in(to))
            }
            Self::Ask(question, one, other) => {
                let name = match question {
                    Question::StartsWith => "starts",
                    Question::EndsWith => "ends",
                    Question::Contains => "contains",
                };
                other.identify_in(one.identify_in(to.text(name)))
            }
            Self::Matches(one, regex) => one.identify_in(to.text("matches").text(regex.as_str())),
            Self::Size(one) => one.identify_in(to.text("size")),
            Self::ToWhole(one) => one.identify_in(to.text("int")),
            Self::ToText(one) => one.identify_in(to.text("string")),
        };
    }

    fn identify_in<'c>(&self, to: &'c mut Canonical) -> &'c mut Canonical {
        self.identify(to);
        to
    }
}
