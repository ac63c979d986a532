//! How a process ends: its exit code and, where it failed, its one last sentence.
//!
//! Invariant: every failure of a process ends as one [`Failure`], so as one line and one code.
//! Deliberately absent: chains of causes; whoever makes a [`Failure`] says what matters of them.

use std::fmt;
use std::process::ExitCode;

/// The exit codes of the executable; scripts rely on them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Exit {
    /// 0: done.
    Ok,
    /// 1: something nobody foresaw.
    Unexpected,
    /// 2: the command line is wrong.
    Usage,
    /// 3: the configuration is wrong, or something must be set up first.
    Configuration,
    /// 4: a database, a broker or the like does not answer.
    Dependency,
    /// 5: the data differs, stopped or was refused; a person must look.
    Data,
}

impl Exit {
    /// Returns the number that the shell sees.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Unexpected => 1,
            Self::Usage => 2,
            Self::Configuration => 3,
            Self::Dependency => 4,
            Self::Data => 5,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// Why a process ends: an exit code and one sentence that names the thing, the place and the cure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    exit: Exit,
    sentence: String,
}

impl Failure {
    /// Makes a failure; line breaks in the text become spaces, since it is shown as one line.
    #[must_use]
    pub fn new(exit: Exit, sentence: impl AsRef<str>) -> Self {
        Self {
            exit,
            sentence: one_line(sentence.as_ref()),
        }
    }

    /// Makes the failure of something that nobody foresaw.
    #[must_use]
    pub fn unexpected(sentence: impl AsRef<str>) -> Self {
        Self::new(Exit::Unexpected, sentence)
    }

    /// Returns how the process is to exit.
    #[must_use]
    pub const fn exit(&self) -> Exit {
        self.exit
    }

    /// Returns the sentence: one line, without a line break.
    #[must_use]
    pub fn sentence(&self) -> &str {
        &self.sentence
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.sentence)
    }
}

impl std::error::Error for Failure {}

/// Joins lines to one, with single spaces, and drops control characters that a terminal would obey.
#[must_use]
pub fn one_line(text: &str) -> String {
    let words = text.split(|c: char| c.is_whitespace() || c.is_control());
    words
        .filter(|word| !word.is_empty())
        .collect::<Vec<_>>()
        .join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sentence_is_one_line_whatever_it_was_made_of() {
        let failure = Failure::new(Exit::Data, "first\n  second\t\u{1b}[31mred\r\n");
        assert_eq!(
            failure.sentence(),
            "first second [31mred",
            "line breaks and escapes are gone"
        );
    }

    #[test]
    fn each_exit_has_the_documented_code() {
        let exits = [
            Exit::Ok,
            Exit::Unexpected,
            Exit::Usage,
            Exit::Configuration,
            Exit::Dependency,
            Exit::Data,
        ];
        for (code, exit) in (0_u8..).zip(exits) {
            assert_eq!(exit.code(), code, "{exit:?}");
        }
    }
}
