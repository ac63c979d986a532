//! RFC 3339, read by hand.

/// Reads an instant as ms since 1970; `None` where the text is none, or outside 1970 to 9999.
#[must_use]
pub fn parse(text: &str) -> Option<i64> {
    let bytes = text.as_bytes();
    let shape = |place: usize, wanted: &[u8]| bytes.get(place).is_some_and(|b| wanted.contains(b));
    let is_shaped = shape(4, b"-") && shape(7, b"-") && shape(10, b"Tt ") && shape(13, b":");
    if !is_shaped || !shape(16, b":") {
        return None;
    }
    let (year, month, day) = (
        digits(text, 0, 4)?,
        digits(text, 5, 7)?,
        digits(text, 8, 10)?,
    );
    let (hour, minute, second) = (
        digits(text, 11, 13)?,
        digits(text, 14, 16)?,
        digits(text, 17, 19)?,
    );
    if !(1..=12).contains(&month) || day < 1 || day > days_of(year, month) {
        return None;
    }
    // A leap second is the last second of its minute once more.
    if hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let rest = text.get(19..)?;
    let zone_at = rest.find(['Z', 'z', '+', '-'])?;
    let millis = fraction(rest.get(..zone_at)?)?;
    let offset = zone(rest.get(zone_at..)?)?;
    let seconds = ((days(year, month, day) * 24 + hour) * 60 + minute) * 60 + second.min(59);
    let at = (seconds - offset * 60) * 1000 + millis + if second == 60 { 1000 } else { 0 };
    (0..253_402_300_800_000).contains(&at).then_some(at)
}

/// Writes an instant as Envoy does: UTC, with milliseconds.
#[must_use]
pub fn format(at: i64) -> String {
    let (mut day, within) = (at.div_euclid(86_400_000), at.rem_euclid(86_400_000));
    let (mut year, mut month) = (1970, 1);
    while day >= year_days(year) {
        day -= year_days(year);
        year += 1;
    }
    while day >= days_of(year, month) {
        day -= days_of(year, month);
        month += 1;
    }
    let (hour, minute) = (within / 3_600_000, within / 60_000 % 60);
    let (second, milli) = (within / 1000 % 60, within % 1000);
    format!(
        "{year:04}-{month:02}-{:02}T{hour:02}:{minute:02}:{second:02}.{milli:03}Z",
        day + 1
    )
}

fn digits(text: &str, from: usize, to: usize) -> Option<i64> {
    let part = text.get(from..to)?;
    part.bytes()
        .all(|byte| byte.is_ascii_digit())
        .then(|| part.parse().ok())?
}

fn fraction(text: &str) -> Option<i64> {
    if text.is_empty() {
        return Some(0);
    }
    let part = text.strip_prefix('.')?;
    if part.is_empty() || !part.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    format!("{part}000").get(..3)?.parse().ok()
}

fn zone(text: &str) -> Option<i64> {
    if matches!(text, "Z" | "z") {
        return Some(0);
    }
    let (hours, minutes) = (digits(text, 1, 3)?, digits(text, 4, 6)?);
    if text.len() != 6 || text.get(3..4) != Some(":") || hours > 23 || minutes > 59 {
        return None;
    }
    let offset = hours * 60 + minutes;
    Some(if text.starts_with('-') {
        -offset
    } else {
        offset
    })
}

fn is_leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

fn year_days(year: i64) -> i64 {
    if is_leap(year) { 366 } else { 365 }
}

fn days_of(year: i64, month: i64) -> i64 {
    match month {
        2 => 28 + i64::from(is_leap(year)),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

fn days(year: i64, month: i64, day: i64) -> i64 {
    let before = year - 1;
    let leaps = before.div_euclid(4) - before.div_euclid(100) + before.div_euclid(400);
    let months: i64 = (1..month).map(|each| days_of(year, each)).sum();
    // 719 162 days lie between the first day of year 1 and 1970.
    before * 365 + leaps - 719_162 + months + day - 1
}
