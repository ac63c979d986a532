//! What the demo says: lines of text, and on a terminal a table that is drawn again in place.
//!
//! Invariant: where the output is not a terminal, no control sequence is written. Deliberately
//! absent: where the figures come from.

use std::io::{self, IsTerminal as _, Write as _};
use std::time::Duration;

use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, Table};
use reports::cost::shown;

use super::gateway::Refusal;
use super::ledger::{App, Look};

/// The most applications shown, so that the table fits a small terminal.
const APPS_MAX: usize = 10;

/// How often a line is written where nothing can be drawn again.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// One moment of the demo.
pub(super) struct Moment {
    /// Since the traffic began.
    pub(super) elapsed: Duration,
    /// Messages that Kafka has acknowledged.
    pub(super) sent: u64,
    /// Messages that are folded, in a second of the near past.
    pub(super) pace: u64,
    /// The ledger.
    pub(super) look: Look,
    /// What the gateway refused: how often, and why.
    pub(super) refusals: Vec<(u64, Refusal)>,
}

/// Standard output.
pub(super) struct Screen {
    terminal: bool,
    drawn: usize,
    last_line: Option<Duration>,
}

impl Screen {
    /// Finds out what standard output is.
    pub(super) fn new() -> Self {
        Self {
            terminal: io::stdout().is_terminal(),
            drawn: 0,
            last_line: None,
        }
    }

    /// Writes a line; a reader that has gone away does not stop the demo.
    pub(super) fn say(&mut self, line: &str) {
        self.drawn = 0;
        let mut out = io::stdout().lock();
        writeln!(out, "{line}")
            .and_then(|()| out.flush())
            .unwrap_or_default();
    }

    /// Shows a moment: in place of the last one on a terminal, else as a line now and then.
    pub(super) fn show(&mut self, moment: &Moment) {
        if self.terminal {
            self.draw(&table(moment));
        } else if self
            .last_line
            .is_none_or(|last| moment.elapsed >= last + LINE_EVERY)
        {
            self.last_line = Some(moment.elapsed);
            self.say(&totals(moment));
        }
    }

    fn draw(&mut self, text: &str) {
        let mut out = String::new();
        if self.drawn > 0 {
            // Up to where the last table began.
            out.push_str(&format!("\u{1b}[{}A", self.drawn));
        }
        let lines = text.lines().count();
        for line in text.lines() {
            out.push_str(line);
            // What the last table had to the right of this.
            out.push_str("\u{1b}[K\n");
        }
        // What the last table had below.
        out.push_str("\u{1b}[J");
        let mut terminal = io::stdout().lock();
        terminal
            .write_all(out.as_bytes())
            .and_then(|()| terminal.flush())
            .unwrap_or_default();
        self.drawn = lines;
    }
}

fn totals(moment: &Moment) -> String {
    let look = &moment.look;
    format!(
        "{}  {} messages on Kafka, {} requests in the ledger ({}/s), {} duplicates, {} rejected, \
         {} unpriced, cost {}{}",
        clock(moment.elapsed),
        grouped(moment.sent.into()),
        grouped(look.accepted.into()),
        grouped(moment.pace.into()),
        grouped(look.duplicates.into()),
        grouped(look.rejected.into()),
        grouped(look.unpriced),
        shown(look.cost),
        moment
            .refusals
            .iter()
            .map(|(count, refusal)| format!("; refused {}: {refusal}", grouped((*count).into())))
            .collect::<String>(),
    )
}

/// Returns the limits that refused something.
fn refused(refusals: &[(u64, Refusal)]) -> Table {
    let mut table = Table::new();
    table.load_style(NOTHING).set_header([
        "limit",
        "of",
        "used",
        "may be",
        "refused (429)",
        "until",
    ]);
    for (count, refusal) in refusals {
        table.add_row([
            format!("{}/{}", refusal.policy, refusal.limit),
            refusal.of_whom(),
            refusal.used.clone().unwrap_or_default(),
            refusal.limit_value.clone().unwrap_or_default(),
            grouped((*count).into()),
            refusal.reset.clone().unwrap_or_default(),
        ]);
    }
    for column in table.column_iter_mut().skip(2).take(3) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

fn table(moment: &Moment) -> String {
    let look = &moment.look;
    let mut heads = Table::new();
    heads.load_style(NOTHING).set_header([
        "time",
        "on Kafka",
        "in the ledger",
        "per second",
        "duplicates",
        "rejected",
        "unpriced",
    ]);
    heads.add_row([
        clock(moment.elapsed),
        grouped(moment.sent.into()),
        grouped(look.accepted.into()),
        grouped(moment.pace.into()),
        grouped(look.duplicates.into()),
        grouped(look.rejected.into()),
        grouped(look.unpriced),
    ]);
    let mut apps = Table::new();
    apps.load_style(NOTHING)
        .set_header(["app", "requests", "tokens", "cost (USD)"]);
    for app in look.apps.iter().take(APPS_MAX) {
        apps.add_row(cells(app));
    }
    let more = look.apps.len().saturating_sub(APPS_MAX);
    if more > 0 {
        apps.add_row([
            format!("{more} more"),
            String::new(),
            String::new(),
            String::new(),
        ]);
    }
    let sums = (
        look.apps.iter().map(|app| app.requests).sum(),
        look.apps.iter().map(|app| app.tokens).sum(),
    );
    let all = "all".to_owned();
    apps.add_row([all, grouped(sums.0), grouped(sums.1), shown(look.cost)]);
    for table in [&mut heads, &mut apps] {
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let limits = if moment.refusals.is_empty() {
        "No limit is used up yet.".to_owned()
    } else {
        refused(&moment.refusals).trim_fmt()
    };
    format!(
        "{}\n\n{}\n\n{limits}\n\n(Ctrl-C ends it all)",
        heads.trim_fmt(),
        apps.trim_fmt()
    )
}

fn cells(app: &App) -> [String; 4] {
    let name = app.name.clone();
    [
        name,
        grouped(app.requests),
        grouped(app.tokens),
        shown(app.cost),
    ]
}

/// Returns minutes and seconds.
fn clock(elapsed: Duration) -> String {
    let seconds = elapsed.as_secs();
    format!("{:02}:{:02}", seconds / 60, seconds % 60)
}

/// Returns a number with commas between its thousands.
fn grouped(number: u128) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_grouped_from_the_right() {
        let cases = [
            (0, "0"),
            (999, "999"),
            (1000, "1,000"),
            (1_234_567, "1,234,567"),
        ];
        for (number, expected) in cases {
            assert_eq!(grouped(number), expected, "{number}");
        }
    }
}
