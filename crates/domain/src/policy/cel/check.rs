//! Names and types: from the tree of what was written to nodes that can be run.
//!
//! Invariant: a node is built only of operands whose types fit, so running it never meets a wrong type.
//! Regular expressions are compiled here, bounded in size.

use regex::{Regex, RegexBuilder};

use super::lex::CelFault;
use super::parse::{Tree, TreeNode};
use super::{Address, Expr, Operator, Purpose, Question, Type};
use crate::limit::MeterSelector;
use crate::meter::Meter;
use crate::nearest::nearest;
use crate::request::Field;

/// The greatest size of a compiled regular expression, in bytes.
const REGEX_BYTES_MAX: usize = 1 << 18;

type Typed = (Expr, Type);

/// Compiles a pattern within bounds.
pub(in crate::policy) fn regex(pattern: &str) -> Result<Regex, String> {
    let built = RegexBuilder::new(pattern)
        .size_limit(REGEX_BYTES_MAX)
        .nest_limit(32)
        .build();
    built.map_err(|error| {
        if matches!(error, regex::Error::CompiledTooBig(_)) {
            "is too large a regular expression".to_owned()
        } else {
            let text = error.to_string();
            let last = text.lines().last().unwrap_or_default();
            let cause = last.strip_prefix("error: ").unwrap_or(last);
            format!("is no regular expression: {cause}")
        }
    })
}

/// Checks a whole expression.
pub(super) fn check(tree: &Tree, purpose: Purpose) -> Result<Typed, CelFault> {
    Checker { purpose }.check(tree)
}

#[derive(Debug, Clone, Copy)]
struct Checker {
    purpose: Purpose,
}

impl Checker {
    fn check(self, tree: &Tree) -> Result<Typed, CelFault> {
        match &tree.node {
            TreeNode::Whole(number) => Ok((Expr::Whole(*number), Type::Whole)),
            TreeNode::Text(text) => Ok((Expr::Text(text.clone()), Type::Text)),
            TreeNode::Name(name) => self.name(tree.at, name),
            TreeNode::List(_) => Err(CelFault::new(tree.at, "a list can only stand behind `in`")),
            TreeNode::Select(of, name) => {
                require_headers(tree.at, of)?;
                Ok((Expr::Header(name.to_ascii_lowercase()), Type::Text))
            }
            TreeNode::Index(of, index) => {
                require_headers(tree.at, of)?;
                let name = literal(index, "a header's name")?;
                Ok((Expr::Header(name.to_ascii_lowercase()), Type::Text))
            }
            TreeNode::Call(name, on, arguments) => {
                self.call(tree.at, name, on.as_deref(), arguments)
            }
            TreeNode::Unary(sign, operand) => {
                let wanted = if *sign == "!" {
                    Type::Truth
                } else {
                    Type::Whole
                };
                let operand = Box::new(self.of_type(operand, wanted)?);
                Ok(match wanted {
                    Type::Truth => (Expr::Not(operand), Type::Truth),
                    Type::Whole | Type::Text => (Expr::Negate(operand), Type::Whole),
                })
            }
            TreeNode::Binary(sign, left, right) => self.binary(tree.at, sign, left, right),
            TreeNode::Choice(parts) => {
                let [condition, then, otherwise] = parts.as_ref();
                let condition = self.of_type(condition, Type::Truth)?;
                let (then, found) = self.check(then)?;
                let otherwise = self.of_type(otherwise, found)?;
                Ok((Expr::Choice(Box::new([condition, then, otherwise])), found))
            }
        }
    }

    fn of_type(self, tree: &Tree, wanted: Type) -> Result<Expr, CelFault> {
        let (expr, found) = self.check(tree)?;
        if found == wanted {
            return Ok(expr);
        }
        let problem = format!("this is {} but must be {}", found.name(), wanted.name());
        Err(CelFault::new(tree.at, problem))
    }

    fn name(self, at: usize, name: &str) -> Result<Typed, CelFault> {
        let field = Field::ALL.into_iter().find(|field| field.name() == name);
        if let Some(field) = field {
            return Ok((Expr::Field(field), Type::Text));
        }
        let meter = MeterSelector::from_name(name).filter(|meter| *meter != MeterSelector::Cost);
        match (name, meter) {
            ("true", _) => Ok((Expr::Truth(true), Type::Truth)),
            ("false", _) => Ok((Expr::Truth(false), Type::Truth)),
            ("source_address", _) => Ok((Expr::Address(Address::Source), Type::Text)),
            ("destination_address", _) => Ok((Expr::Address(Address::Destination), Type::Text)),
            ("headers", _) => Err(CelFault::new(
                at,
                "headers are read one by one: write headers[\"x-name\"]",
            )),
            (_, Some(meter)) if self.purpose == Purpose::Amount => {
                Ok((Expr::Usage(meter), Type::Whole))
            }
            (_, Some(_)) => {
                let problem = format!("`{name}` is known only where a meter is computed");
                Err(CelFault::new(at, problem))
            }
            (_, None) => Err(CelFault::new(at, self.unknown(name))),
        }
    }

    fn unknown(self, name: &str) -> String {
        let fields = Field::ALL.iter().map(|field| field.name());
        let others = [
            "headers",
            "source_address",
            "destination_address",
            "true",
            "false",
        ];
        let meters = Meter::ALL.iter().map(|meter| meter.name());
        let sums = ["input_tokens", "output_tokens", "total_tokens"];
        let is_amount = self.purpose == Purpose::Amount;
        let usage = meters.chain(sums).filter(|_| is_amount);
        let near = nearest(name, fields.chain(others).chain(usage)).unwrap_or_default();
        format!("there is no `{name}`; the nearest is `{near}`")
    }

    fn binary(self, at: usize, sign: &str, left: &Tree, right: &Tree) -> Result<Typed, CelFault> {
        if sign == "in" {
            return self.is_in(left, right);
        }
        if sign == "&&" || sign == "||" {
            let left = Box::new(self.of_type(left, Type::Truth)?);
            let right = Box::new(self.of_type(right, Type::Truth)?);
            let expr = if sign == "&&" {
                Expr::And(left, right)
            } else {
                Expr::Or(left, right)
            };
            return Ok((expr, Type::Truth));
        }
        let (left, found) = self.check(left)?;
        let (operator, fits, gives) = match sign {
            "==" => (Operator::Equal, true, Type::Truth),
            "!=" => (Operator::Unequal, true, Type::Truth),
            "<" => (Operator::Less, found != Type::Truth, Type::Truth),
            "<=" => (Operator::AtMost, found != Type::Truth, Type::Truth),
            ">" => (Operator::Greater, found != Type::Truth, Type::Truth),
            ">=" => (Operator::AtLeast, found != Type::Truth, Type::Truth),
            "+" => (Operator::Add, found != Type::Truth, found),
            "-" => (Operator::Subtract, found == Type::Whole, found),
            "*" => (Operator::Multiply, found == Type::Whole, found),
            "/" => (Operator::Divide, found == Type::Whole, found),
            _ => (Operator::Remainder, found == Type::Whole, found),
        };
        if !fits {
            let problem = format!("`{sign}` does not work on {}", found.name());
            return Err(CelFault::new(at, problem));
        }
        let right = self.of_type(right, found)?;
        Ok((
            Expr::Binary(operator, Box::new(left), Box::new(right)),
            gives,
        ))
    }

    /// `"name" in headers`, or a value in a list of values.
    fn is_in(self, left: &Tree, right: &Tree) -> Result<Typed, CelFault> {
        if is_headers(right) {
            let name = literal(left, "a header's name")?;
            return Ok((Expr::HasHeader(name.to_ascii_lowercase()), Type::Truth));
        }
        let TreeNode::List(elements) = &right.node else {
            let problem = "behind `in` stands a list, such as [\"a\", \"b\"], or `headers`";
            return Err(CelFault::new(right.at, problem));
        };
        let (left, found) = self.check(left)?;
        let elements = elements.iter().map(|element| self.of_type(element, found));
        let elements = elements.collect::<Result<_, _>>()?;
        Ok((Expr::In(Box::new(left), elements), Type::Truth))
    }

    fn call(
        self,
        at: usize,
        name: &str,
        on: Option<&Tree>,
        arguments: &[Tree],
    ) -> Result<Typed, CelFault> {
        match (name, on, arguments) {
            ("startsWith", Some(on), [argument]) => self.ask(Question::StartsWith, on, argument),
            ("endsWith", Some(on), [argument]) => self.ask(Question::EndsWith, on, argument),
            ("contains", Some(on), [argument]) => self.ask(Question::Contains, on, argument),
            ("matches", Some(on), [pattern]) | ("matches", None, [on, pattern]) => {
                let on = self.of_type(on, Type::Text)?;
                let text = literal(pattern, "the regular expression")?;
                let regex = regex(text)
                    .map_err(|problem| CelFault::new(pattern.at, format!("this text {problem}")))?;
                Ok((Expr::Matches(Box::new(on), regex), Type::Truth))
            }
            ("size", None, [of]) | ("size", Some(of), []) => {
                let of = self.of_type(of, Type::Text)?;
                Ok((Expr::Size(Box::new(of)), Type::Whole))
            }
            ("int", None, [of]) => match self.check(of)? {
                (of, Type::Text) => Ok((Expr::ToWhole(Box::new(of)), Type::Whole)),
                (of, Type::Whole) => Ok((of, Type::Whole)),
                (_, Type::Truth) => Err(CelFault::new(of.at, "`int` does not take a truth")),
            },
            ("string", None, [of]) => match self.check(of)? {
                (of, Type::Text) => Ok((of, Type::Text)),
                (of, Type::Whole | Type::Truth) => Ok((Expr::ToText(Box::new(of)), Type::Text)),
            },
            ("has", None, [of]) => match self.check(of)? {
                (Expr::Header(name), _) => Ok((Expr::HasHeader(name), Type::Truth)),
                _ => Err(CelFault::new(
                    at,
                    "`has` asks for a header: has(headers.name)",
                )),
            },
            ("all" | "exists" | "exists_one" | "map" | "filter", ..) => Err(CelFault::new(
                at,
                format!("`{name}` is no part of this: an expression has no loops"),
            )),
            _ => Err(CelFault::new(at, unknown_function(name))),
        }
    }

    fn ask(self, question: Question, on: &Tree, argument: &Tree) -> Result<Typed, CelFault> {
        let on = Box::new(self.of_type(on, Type::Text)?);
        let argument = Box::new(self.of_type(argument, Type::Text)?);
        Ok((Expr::Ask(question, on, argument), Type::Truth))
    }
}

fn unknown_function(name: &str) -> String {
    let known = [
        "startsWith",
        "endsWith",
        "contains",
        "matches",
        "size",
        "int",
        "string",
        "has",
    ];
    if known.contains(&name) {
        return format!("`{name}` is called with another number of values");
    }
    let near = nearest(name, known).unwrap_or_default();
    format!("there is no function `{name}`; the nearest is `{near}`")
}

fn is_headers(tree: &Tree) -> bool {
    matches!(&tree.node, TreeNode::Name(name) if name == "headers")
}

fn require_headers(at: usize, tree: &Tree) -> Result<(), CelFault> {
    if is_headers(tree) {
        return Ok(());
    }
    let problem = "only `headers` has something in it: write headers[\"x-name\"]";
    Err(CelFault::new(at, problem))
}

fn literal<'t>(tree: &'t Tree, what: &str) -> Result<&'t str, CelFault> {
    if let TreeNode::Text(text) = &tree.node {
        return Ok(text);
    }
    let problem = format!("{what} must be written as a text in quotes");
    Err(CelFault::new(tree.at, problem))
}
