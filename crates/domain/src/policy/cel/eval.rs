//! Running an expression on a request.
//!
//! Invariant: the same request gives the same value; `&&` and `||` give a value where either side alone
//! decides it, though the other fails (CEL, "Logical Operators").

use std::borrow::Cow;

use super::{Address, Expr, Operator, Question, Value};
use crate::meter::Quantities;
use crate::request::Request;

/// Why an expression has no value for a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CelError {
    /// A header that is read is not there.
    #[error("a header that it reads is absent")]
    NoHeader,
    /// A number passes 64 bits.
    #[error("a number passes 64 bits")]
    Overflow,
    /// A division by zero.
    #[error("it divides by zero")]
    DivisionByZero,
    /// A text is no whole number.
    #[error("a text that it takes for a number is none")]
    NotANumber,
    /// An amount is below zero.
    #[error("the amount is below zero")]
    Negative,
    /// A value of another type: a defect of the compiler.
    #[error("its types do not fit")]
    Type,
}

impl Expr {
    pub(super) fn eval<'v>(
        &'v self,
        request: &Request<'v>,
        used: Option<&Quantities>,
    ) -> Result<Value<'v>, CelError> {
        Ok(match self {
            Self::Truth(truth) => Value::Truth(*truth),
            Self::Whole(number) => Value::Whole(*number),
            Self::Text(_)
            | Self::Field(_)
            | Self::Address(_)
            | Self::Header(_)
            | Self::ToText(_) => Value::Text(self.text(request, used)?),
            Self::HasHeader(name) => Value::Truth(request.header(name).is_some()),
            Self::Usage(_) | Self::Negate(_) | Self::Size(_) | Self::ToWhole(_) => {
                Value::Whole(self.whole(request, used)?)
            }
            Self::Not(_)
            | Self::And(..)
            | Self::Or(..)
            | Self::In(..)
            | Self::Ask(..)
            | Self::Matches(..) => Value::Truth(self.truth(request, used)?),
            Self::Choice(parts) => {
                let [condition, then, otherwise] = parts.as_ref();
                if condition.truth(request, used)? {
                    then.eval(request, used)?
                } else {
                    otherwise.eval(request, used)?
                }
            }
            Self::Binary(operator, left, right) => {
                let left = left.eval(request, used)?;
                let right = right.eval(request, used)?;
                binary(*operator, left, right)?
            }
        })
    }

    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "every other node is run by `eval`, and its type is then checked"
    )]
    fn truth(&self, request: &Request<'_>, used: Option<&Quantities>) -> Result<bool, CelError> {
        match self {
            Self::Not(one) => one.truth(request, used).map(|truth| !truth),
            Self::And(one, other) => match one.truth(request, used) {
                Ok(false) => Ok(false),
                Ok(true) => other.truth(request, used),
                Err(error) => match other.truth(request, used) {
                    Ok(false) => Ok(false),
                    Ok(true) | Err(_) => Err(error),
                },
            },
            Self::Or(one, other) => match one.truth(request, used) {
                Ok(true) => Ok(true),
                Ok(false) => other.truth(request, used),
                Err(error) => match other.truth(request, used) {
                    Ok(true) => Ok(true),
                    Ok(false) | Err(_) => Err(error),
                },
            },
            Self::In(one, others) => {
                let value = one.eval(request, used)?;
                // A list is a value: one that fails in an element fails, found or not.
                let mut is_in = false;
                for other in others {
                    is_in |= other.eval(request, used)? == value;
                }
                Ok(is_in)
            }
            Self::Ask(question, on, argument) => {
                let on = on.text(request, used)?;
                let argument = argument.text(request, used)?;
                Ok(match question {
                    Question::StartsWith => on.starts_with(&*argument),
                    Question::EndsWith => on.ends_with(&*argument),
                    Question::Contains => on.contains(&*argument),
                })
            }
            Self::Matches(on, regex) => Ok(regex.is_match(&on.text(request, used)?)),
            _ => match self.eval(request, used)? {
                Value::Truth(truth) => Ok(truth),
                Value::Whole(_) | Value::Text(_) => Err(CelError::Type),
            },
        }
    }

    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "every other node is run by `eval`, and its type is then checked"
    )]
    fn whole(&self, request: &Request<'_>, used: Option<&Quantities>) -> Result<i64, CelError> {
        match self {
            Self::Usage(meter) => {
                let used = used.ok_or(CelError::Type)?;
                let mut sum = 0_u64;
                for (part, quantity) in used.iter().filter(|(part, _)| meter.includes(*part)) {
                    debug_assert!(meter.includes(part), "{part} is no part");
                    sum = sum.checked_add(quantity).ok_or(CelError::Overflow)?;
                }
                i64::try_from(sum).map_err(|_beyond| CelError::Overflow)
            }
            Self::Negate(one) => {
                let number = one.whole(request, used)?;
                number.checked_neg().ok_or(CelError::Overflow)
            }
            Self::Size(of) => {
                let count = of.text(request, used)?.chars().count();
                i64::try_from(count).map_err(|_beyond| CelError::Overflow)
            }
            Self::ToWhole(of) => {
                let text = of.text(request, used)?;
                text.parse().map_err(|_malformed| CelError::NotANumber)
            }
            _ => match self.eval(request, used)? {
                Value::Whole(number) => Ok(number),
                Value::Truth(_) | Value::Text(_) => Err(CelError::Type),
            },
        }
    }

    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "every other node is run by `eval`, and its type is then checked"
    )]
    fn text<'v>(
        &'v self,
        request: &Request<'v>,
        used: Option<&Quantities>,
    ) -> Result<Cow<'v, str>, CelError> {
        Ok(match self {
            Self::Text(text) => Cow::Borrowed(text),
            Self::Field(field) => Cow::Borrowed(request.text(*field).unwrap_or_default()),
            Self::Address(which) => {
                let address = match which {
                    Address::Source => request.source,
                    Address::Destination => request.destination,
                };
                Cow::Owned(address.map_or_else(String::new, |address| address.to_string()))
            }
            Self::Header(name) => Cow::Borrowed(request.header(name).ok_or(CelError::NoHeader)?),
            Self::ToText(of) => Cow::Owned(match of.eval(request, used)? {
                Value::Truth(truth) => truth.to_string(),
                Value::Whole(number) => number.to_string(),
                Value::Text(text) => text.into_owned(),
            }),
            _ => match self.eval(request, used)? {
                Value::Text(text) => text,
                Value::Truth(_) | Value::Whole(_) => return Err(CelError::Type),
            },
        })
    }
}

fn binary<'v>(
    operator: Operator,
    left: Value<'v>,
    right: Value<'v>,
) -> Result<Value<'v>, CelError> {
    match (left, right) {
        (Value::Truth(left), Value::Truth(right)) => match operator {
            Operator::Equal => Ok(Value::Truth(left == right)),
            Operator::Unequal => Ok(Value::Truth(left != right)),
            Operator::Less
            | Operator::AtMost
            | Operator::Greater
            | Operator::AtLeast
            | Operator::Add
            | Operator::Subtract
            | Operator::Multiply
            | Operator::Divide
            | Operator::Remainder => Err(CelError::Type),
        },
        (Value::Whole(left), Value::Whole(right)) => on_numbers(operator, left, right),
        (Value::Text(left), Value::Text(right)) => {
            let joined = || Value::Text(Cow::Owned([&*left, &*right].concat()));
            if operator == Operator::Add {
                return Ok(joined());
            }
            compared(operator, &*left, &*right).map(Value::Truth)
        }
        (Value::Truth(_) | Value::Whole(_) | Value::Text(_), _) => Err(CelError::Type),
    }
}

fn compared<T: Ord + ?Sized>(operator: Operator, left: &T, right: &T) -> Result<bool, CelError> {
    match operator {
        Operator::Equal => Ok(left == right),
        Operator::Unequal => Ok(left != right),
        Operator::Less => Ok(left < right),
        Operator::AtMost => Ok(left <= right),
        Operator::Greater => Ok(left > right),
        Operator::AtLeast => Ok(left >= right),
        Operator::Add
        | Operator::Subtract
        | Operator::Multiply
        | Operator::Divide
        | Operator::Remainder => Err(CelError::Type),
    }
}

fn on_numbers<'v>(operator: Operator, left: i64, right: i64) -> Result<Value<'v>, CelError> {
    let number = match operator {
        Operator::Add => left.checked_add(right),
        Operator::Subtract => left.checked_sub(right),
        Operator::Multiply => left.checked_mul(right),
        Operator::Divide | Operator::Remainder if right == 0 => {
            return Err(CelError::DivisionByZero);
        }
        Operator::Divide => left.checked_div(right),
        Operator::Remainder => left.checked_rem(right),
        Operator::Equal
        | Operator::Unequal
        | Operator::Less
        | Operator::AtMost
        | Operator::Greater
        | Operator::AtLeast => {
            return compared(operator, &left, &right).map(Value::Truth);
        }
    };
    number.map(Value::Whole).ok_or(CelError::Overflow)
}
