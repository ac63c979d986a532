//! Rust source as tidy sees it: text, code without comments and literals, and what is test code.
//!
//! Invariant: all views of a file have the same lines. Deliberately absent: a parser; the scanner
//! knows comments, literals and braces, which is all that the rules need.

use std::path::{Path, PathBuf};

/// One file.
pub(crate) struct Source {
    /// Relative to the workspace.
    pub(crate) path: PathBuf,
    /// As it is.
    pub(crate) text: String,
    /// With comments and the contents of literals blanked; empty where it is no Rust.
    pub(crate) code: String,
    /// The string literals of the code, each with its line, from 1.
    pub(crate) literals: Vec<(usize, String)>,
}

impl Source {
    /// Reads a file's text.
    pub(crate) fn new(path: PathBuf, text: String) -> Self {
        let mut scanner = Scanner::default();
        if path.extension().is_some_and(|extension| extension == "rs") {
            scanner.scan(&text);
        }
        Self {
            path,
            text,
            code: scanner.code,
            literals: scanner.literals,
        }
    }

    /// Tells whether it is Rust.
    pub(crate) fn is_rust(&self) -> bool {
        self.path
            .extension()
            .is_some_and(|extension| extension == "rs")
    }

    /// Tells whether it holds nothing but tests: a file of the `tests` package, or beside its subject.
    pub(crate) fn is_test(&self) -> bool {
        let stem = self.path.file_stem().map(|stem| stem.to_string_lossy());
        let named = stem.is_some_and(|stem| stem == "tests" || stem.ends_with("_tests"));
        named
            || self
                .path
                .components()
                .any(|part| part.as_os_str() == "tests")
    }

    /// Tells whether it lies in this folder of the workspace.
    pub(crate) fn is_in(&self, folder: &str) -> bool {
        self.path.starts_with(Path::new(folder))
    }

    /// Returns the lines of the code, each with its number from 1, without `#[cfg(test)]` modules.
    pub(crate) fn product_lines(&self) -> Vec<(usize, &str)> {
        let mut kept = Vec::new();
        let mut lines = self.code.lines().zip(1..).peekable();
        while let Some((line, number)) = lines.next() {
            if line.trim() != "#[cfg(test)]" {
                kept.push((number, line));
                continue;
            }
            let mut depth = 0_i64;
            for (line, _) in lines.by_ref() {
                depth += balance(line);
                if depth <= 0 && (line.contains('}') || line.contains(';')) {
                    break;
                }
            }
        }
        kept
    }

    /// Returns the product's functions with a body: name, line, and how many lines of its body hold code.
    pub(crate) fn functions(&self) -> Vec<(String, usize, usize)> {
        let lines: Vec<&str> = self.code.lines().collect();
        let starts = self
            .product_lines()
            .into_iter()
            .filter_map(|(number, line)| {
                let name = function_name(line)?;
                Some((name, number, body_lines(lines.get(number - 1..)?)?))
            });
        starts.collect()
    }
}

/// Returns how many more braces open than close.
fn balance(line: &str) -> i64 {
    line.chars()
        .map(|c| i64::from(c == '{') - i64::from(c == '}'))
        .sum()
}

/// Returns the name of the function whose signature begins on this line.
fn function_name(line: &str) -> Option<String> {
    let (before, after) = line.split_once("fn ")?;
    let modifiers = ["pub", "const", "async", "extern", "unsafe", "default"];
    let is_signature = before.split_whitespace().all(|word| {
        modifiers.contains(&word.split('(').next().unwrap_or(word)) || word.ends_with(')')
    });
    let name: String = after
        .chars()
        .take_while(|c| c.is_alphanumeric() || *c == '_')
        .collect();
    (is_signature && !name.is_empty()).then_some(name)
}

/// Counts the lines with code between a body's braces, as clippy does; `None` without a body.
fn body_lines(lines: &[&str]) -> Option<usize> {
    let (mut depth, mut opened, mut counted) = (0_i64, false, 0);
    for line in lines {
        counted += usize::from(opened && !line.trim().is_empty());
        let opens = line.find('{');
        if !opened
            && line
                .find(';')
                .is_some_and(|at| opens.is_none_or(|open| at < open))
        {
            // An array type in the signature holds a semicolon too, but inside brackets.
            let ends = line.trim_end().ends_with(';');
            if ends {
                return None;
            }
        }
        opened |= opens.is_some();
        depth += balance(line);
        if opened && depth <= 0 {
            // The line of the closing brace was counted, unless the body opened on it.
            return Some(counted.saturating_sub(1));
        }
    }
    None
}

/// Blanks comments and literals.
#[derive(Default)]
struct Scanner {
    code: String,
    literals: Vec<(usize, String)>,
}

impl Scanner {
    fn scan(&mut self, text: &str) {
        let mut rest = text;
        while let Some(c) = rest.chars().next() {
            let taken = if rest.starts_with("//") {
                rest.find('\n').unwrap_or(rest.len())
            } else if rest.starts_with("/*") {
                block_comment(rest)
            } else if let Some((open, end)) = raw_string(rest) {
                self.literal(rest, open, end)
            } else if c == '"' {
                let end = quoted(rest);
                self.literal(rest, 1, end)
            } else if let Some(length) = character(rest) {
                length
            } else {
                let ahead = identifier(rest).max(c.len_utf8());
                self.code.extend(rest.get(..ahead));
                rest = rest.get(ahead..).unwrap_or_default();
                continue;
            };
            let (blank, after) = rest.split_at(taken);
            self.code
                .extend(blank.chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
            rest = after;
        }
    }

    /// Notes a literal and returns its length.
    fn literal(&mut self, rest: &str, open: usize, end: usize) -> usize {
        let line = self.code.matches('\n').count() + 1;
        let inner = rest.get(open..end).unwrap_or_default();
        let inner = inner.trim_end_matches('#');
        let inner = inner.strip_suffix('"').unwrap_or(inner);
        self.literals.push((line, inner.to_owned()));
        end
    }
}

/// Returns the length of the word at the front, so that `br` in `abr"` is no prefix.
fn identifier(rest: &str) -> usize {
    let word = rest
        .char_indices()
        .find(|(_, c)| !(c.is_alphanumeric() || *c == '_'));
    word.map_or(rest.len(), |(at, _)| at)
}

fn block_comment(rest: &str) -> usize {
    let (mut depth, mut at) = (0_usize, 0_usize);
    while let Some(tail) = rest.get(at..) {
        if tail.starts_with("/*") {
            depth += 1;
            at += 2;
        } else if tail.starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            let Some(c) = tail.chars().next() else { break };
            at += c.len_utf8();
        }
    }
    rest.len()
}

/// Returns where the contents of a raw string at the front begin, and the whole literal's length.
fn raw_string(rest: &str) -> Option<(usize, usize)> {
    let after = rest.strip_prefix("br").or_else(|| rest.strip_prefix('r'))?;
    let hashes = after.len() - after.trim_start_matches('#').len();
    let body = after.get(hashes..)?.strip_prefix('"')?;
    let open = rest.len() - body.len();
    let close = format!("\"{}", "#".repeat(hashes));
    let end = body
        .find(&close)
        .map_or(rest.len(), |at| open + at + close.len());
    Some((open, end))
}

/// Returns the length of the string literal at the front.
fn quoted(rest: &str) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

/// Returns the length of the character literal at the front; `None` for a lifetime.
fn character(rest: &str) -> Option<usize> {
    let body = rest.strip_prefix('\'')?;
    let mut chars = body.char_indices();
    let (_, first) = chars.next()?;
    if first == '\\' {
        return body.get(2..)?.find('\'').map(|at| at + 4);
    }
    let (at, second) = chars.next()?;
    (second == '\'').then_some(at + 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(text: &str) -> Source {
        Source::new(PathBuf::from("x.rs"), text.to_owned())
    }

    #[test]
    fn comments_and_literals_are_no_code() {
        let cases = [
            ("a // b\nc", "a     \nc"),
            ("/* a /* b */ c */d", "                 d"),
            ("x(\"{ \\\" }\")", "x(        )"),
            ("r#\"a \" b\"# c", "           c"),
            ("'a' 'b: &'static", "    'b: &'static"),
            ("'\\'' x", "     x"),
            ("bar\"a\"", "bar   "),
        ];
        for (text, expected) in cases {
            assert_eq!(source(text).code, expected, "{text}");
        }
    }

    #[test]
    fn functions_are_measured_without_comments() {
        let text = "pub(crate) async fn one(\n    a: [u8; 2],\n) -> u8 {\n    // why\n\n    1\n}\n\
                    trait T {\n    fn two(&self);\n}\nfn three() {}\n";
        let expected = [("one".to_owned(), 1, 1), ("three".to_owned(), 11, 0)];
        assert_eq!(source(text).functions(), expected, "`two` has no body");
    }

    #[test]
    fn test_modules_are_not_the_product() {
        let text = "fn a() {}\n#[cfg(test)]\nmod tests {\n    fn b() {}\n}\nfn c() {}\n";
        let source = source(text);
        let lines: Vec<_> = source
            .product_lines()
            .into_iter()
            .map(|(number, _)| number)
            .collect();
        assert_eq!(lines, [1, 6], "lines outside the module");
    }

    #[test]
    fn literals_know_their_lines() {
        let source = source("a(\n\"one\", r#\"two\"#)");
        let expected = [(2, "one".to_owned()), (2, "two".to_owned())];
        assert_eq!(source.literals, expected, "both on the second line");
    }
}
