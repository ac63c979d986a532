//! From characters to the words of an expression.
//!
//! Invariant: each token knows where it begins, counted in characters from 1. Deliberately absent:
//! what this language leaves out of CEL (bytes, floating point, unsigned numbers, raw and triple-quoted
//! texts), each refused by name.

use std::iter::Peekable;
use std::str::Chars;

/// What is wrong with an expression: at which character, from 1, and the rest of a sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CelFault {
    /// The character, from 1.
    pub at: usize,
    /// What is wrong there and how to mend it.
    pub problem: String,
}

impl CelFault {
    pub(super) fn new(at: usize, problem: impl Into<String>) -> Self {
        let problem = problem.into();
        Self { at, problem }
    }
}

/// A word of an expression.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Word {
    Name(String),
    Whole(i64),
    Text(String),
    /// An operator or a bracket.
    Sign(&'static str),
    End,
}

/// A word and where it begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) at: usize,
    pub(super) word: Word,
}

/// The signs, longer ones before those that they begin with.
const SIGNS: [&str; 24] = [
    "&&", "||", "==", "!=", "<=", ">=", "<", ">", "+", "-", "*", "/", "%", "!", "?", ":", "(", ")",
    "[", "]", "{", "}", ".", ",",
];

/// Reads all words; the last one is [`Word::End`].
pub(super) fn words(text: &str) -> Result<Vec<Token>, CelFault> {
    let mut lexer = Lexer {
        rest: text.chars().peekable(),
        at: 1,
    };
    let mut tokens = Vec::new();
    loop {
        let token = lexer.token()?;
        let is_end = token.word == Word::End;
        tokens.push(token);
        if is_end {
            return Ok(tokens);
        }
    }
}

struct Lexer<'t> {
    rest: Peekable<Chars<'t>>,
    at: usize,
}

impl Lexer<'_> {
    fn next(&mut self) -> Option<char> {
        let next = self.rest.next();
        if next.is_some() {
            self.at = self.at.saturating_add(1);
        }
        next
    }

    fn take_while(&mut self, fits: impl Fn(char) -> bool) -> String {
        let mut taken = String::new();
        while let Some(c) = self.rest.peek().copied().filter(|c| fits(*c)) {
            taken.push(c);
            self.next();
        }
        taken
    }

    fn token(&mut self) -> Result<Token, CelFault> {
        self.take_while(char::is_whitespace);
        let at = self.at;
        let word = match self.rest.peek().copied() {
            None => Word::End,
            Some('"' | '\'') => self.text()?,
            Some(c) if c.is_ascii_digit() => self.number()?,
            Some(c) if c.is_ascii_alphabetic() || c == '_' => {
                let name = self.take_while(|c| c.is_ascii_alphanumeric() || c == '_');
                if matches!(self.rest.peek(), Some('"' | '\'')) {
                    let problem = "raw texts and bytes are no part of this; write a plain text";
                    return Err(CelFault::new(at, problem));
                }
                Word::Name(name)
            }
            Some(_) => self.sign()?,
        };
        Ok(Token { at, word })
    }

    fn sign(&mut self) -> Result<Word, CelFault> {
        let two: String = self.rest.clone().take(2).collect();
        let sign = SIGNS.into_iter().find(|sign| two.starts_with(sign));
        let Some(sign) = sign else {
            let c = two.chars().next().unwrap_or_default();
            let cure = match c {
                '=' => "; write == to compare",
                '&' => "; write &&",
                '|' => "; write ||",
                _ => "",
            };
            return Err(CelFault::new(self.at, format!("{c:?} means nothing{cure}")));
        };
        for _ in sign.chars() {
            self.next();
        }
        Ok(Word::Sign(sign))
    }

    fn number(&mut self) -> Result<Word, CelFault> {
        let at = self.at;
        let digits = self.take_while(|c| c.is_ascii_alphanumeric());
        let has_fraction = self.rest.peek() == Some(&'.')
            && self.rest.clone().nth(1).is_some_and(|c| c.is_ascii_digit());
        let hex = digits.strip_prefix("0x");
        let is_float = hex.is_none() && digits.contains(['e', 'E']);
        if has_fraction || is_float {
            let problem = "numbers are whole here: no fraction and no exponent";
            return Err(CelFault::new(at, problem));
        }
        if digits.ends_with(['u', 'U']) {
            let problem = "unsigned numbers are no part of this; leave the `u` out";
            return Err(CelFault::new(at, problem));
        }
        let number = match hex {
            Some(hex) => i64::from_str_radix(hex, 16),
            None => digits.parse(),
        };
        number.map(Word::Whole).map_err(|_malformed| {
            CelFault::new(at, format!("{digits} is no whole number of 64 bits"))
        })
    }

    fn text(&mut self) -> Result<Word, CelFault> {
        let at = self.at;
        let quote = self.next().unwrap_or_default();
        let mut text = String::new();
        loop {
            match self.next() {
                None | Some('\n') => {
                    return Err(CelFault::new(
                        at,
                        format!("this text has no closing {quote}"),
                    ));
                }
                Some('\\') => text.push(self.escaped()?),
                Some(c) if c == quote => break,
                Some(c) => text.push(c),
            }
        }
        if text.is_empty() && self.rest.peek() == Some(&quote) {
            let problem = "triple quotes are no part of this; write single ones";
            return Err(CelFault::new(at, problem));
        }
        Ok(Word::Text(text))
    }

    fn escaped(&mut self) -> Result<char, CelFault> {
        let at = self.at;
        let escaped = match self.next() {
            Some('n') => '\n',
            Some('r') => '\r',
            Some('t') => '\t',
            Some(c @ ('\\' | '"' | '\'' | '`' | '?')) => c,
            Some('x') => self.code(at, 2)?,
            Some('u') => self.code(at, 4)?,
            _ => {
                let problem = "this escape means nothing; write \\\\ for a backslash";
                return Err(CelFault::new(at, problem));
            }
        };
        Ok(escaped)
    }

    fn code(&mut self, at: usize, digits: usize) -> Result<char, CelFault> {
        let mut code = 0_u32;
        for _ in 0..digits {
            let digit = self.next().and_then(|c| c.to_digit(16));
            let digit = digit.ok_or_else(|| {
                CelFault::new(at, format!("this escape needs {digits} hexadecimal digits"))
            })?;
            code = code.wrapping_mul(16).wrapping_add(digit);
        }
        char::from_u32(code).ok_or_else(|| CelFault::new(at, "this escape is no character"))
    }
}
