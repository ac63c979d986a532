//! Rows in the binary format of `COPY … FROM STDIN (FORMAT binary)`.
//!
//! Format: <https://www.postgresql.org/docs/current/sql-copy.html#id-1.9.55.9.4.6>. Invariant: each
//! row holds exactly as many fields as it announces. Deliberately absent: which columns a table has;
//! the batch's statements say so.

use domain::time::UnixMs;
use sqlx::PgConnection;
use sqlx::postgres::PgCopyIn;

use crate::error::StoreError;

/// Signature, flags and the length of an empty extension.
const HEADER: &[u8; 19] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";

/// 2000-01-01T00:00:00Z, where Postgres's timestamps begin, in ms since 1970.
const POSTGRES_EPOCH_MS: i64 = 946_684_800_000;

/// How much is handed to the socket at once: bounds what driver and server hold beside our buffer.
const CHUNK_BYTES: usize = 256 * 1024;

/// Copies the rows that `write_next` writes, one at a call, until it says `false`; they are sent as they are
/// written, so that few are held at a time. Nothing is sent where there are none.
///
/// # Errors
///
/// As [`Rows::send`].
pub(crate) async fn copy_each(
    connection: &mut PgConnection,
    statement: &'static str,
    write_next: &mut (dyn FnMut(&mut Rows) -> bool + Send),
) -> Result<(), CopyError> {
    let mut rows = Rows::with_capacity(1, CHUNK_BYTES);
    if !write_next(&mut rows) {
        return Ok(());
    }
    let mut copy = connection.copy_in_raw(statement).await?;
    while write_next(&mut rows) {
        if rows.bytes.len() >= CHUNK_BYTES {
            copy.send(rows.bytes.as_slice()).await?;
            rows.bytes.clear();
        }
    }
    rows.finish(copy, statement).await
}

/// Collects rows of one `COPY`.
pub(crate) struct Rows {
    bytes: Vec<u8>,
    count: u64,
    is_too_large: bool,
}

impl Rows {
    /// Starts with room for so many rows of about so many bytes.
    pub(crate) fn with_capacity(rows: usize, row_bytes: usize) -> Self {
        let room = rows
            .saturating_mul(row_bytes)
            .saturating_add(HEADER.len() + 2);
        let mut bytes = Vec::with_capacity(room);
        bytes.extend_from_slice(HEADER);
        Self {
            bytes,
            count: 0,
            is_too_large: false,
        }
    }

    /// Begins a row of so many fields, which the caller adds next.
    pub(crate) fn row(&mut self, fields: i16) -> &mut Self {
        self.count += 1;
        self.bytes.extend_from_slice(&fields.to_be_bytes());
        self
    }

    /// Says whether no row was added.
    pub(crate) const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Adds a `smallint`.
    pub(crate) fn int2(&mut self, value: i16) -> &mut Self {
        self.field(2, &value.to_be_bytes())
    }

    /// Adds a number of rows as `integer`; one beyond `i32::MAX` has [`Self::send`] fail.
    pub(crate) fn length(&mut self, value: usize) -> &mut Self {
        let value = i32::try_from(value).unwrap_or_else(|_| {
            self.is_too_large = true;
            i32::MAX
        });
        self.int4(value)
    }

    /// Adds an index as `integer`; one beyond `i32::MAX` has [`Self::send`] fail.
    pub(crate) fn index(&mut self, value: u32) -> &mut Self {
        let value = i32::try_from(value).unwrap_or_else(|_| {
            self.is_too_large = true;
            i32::MAX
        });
        self.int4(value)
    }

    /// Adds an `integer`.
    pub(crate) fn int4(&mut self, value: i32) -> &mut Self {
        self.field(4, &value.to_be_bytes())
    }

    /// Adds a `bigint`.
    pub(crate) fn int8(&mut self, value: i64) -> &mut Self {
        self.field(8, &value.to_be_bytes())
    }

    /// Adds a count as `bigint`; one beyond `i64::MAX` has [`Self::send`] fail.
    pub(crate) fn count(&mut self, value: u64) -> &mut Self {
        let value = i64::try_from(value).unwrap_or_else(|_| {
            self.is_too_large = true;
            i64::MAX
        });
        self.int8(value)
    }

    /// Adds a `uuid`.
    pub(crate) fn uuid(&mut self, value: [u8; 16]) -> &mut Self {
        self.field(16, &value)
    }

    /// Adds a `timestamptz`: µs since 2000.
    pub(crate) fn timestamp(&mut self, value: UnixMs) -> &mut Self {
        // Years 1970 to 9999: far from the ends of 64 bits.
        self.int8((value.get() - POSTGRES_EPOCH_MS) * 1000)
    }

    /// Adds a `text`.
    pub(crate) fn text(&mut self, value: &str) -> &mut Self {
        self.bytea(value.as_bytes())
    }

    /// Adds a `bytea`.
    pub(crate) fn bytea(&mut self, value: &[u8]) -> &mut Self {
        let length = i32::try_from(value.len()).unwrap_or_else(|_| {
            self.is_too_large = true;
            i32::MAX
        });
        self.field(length, value)
    }

    /// Adds a null.
    pub(crate) fn null(&mut self) -> &mut Self {
        self.field(-1, &[])
    }

    /// Adds a `numeric` with 18 decimal places from a count of 10⁻¹⁸.
    pub(crate) fn numeric(&mut self, units: i128) -> &mut Self {
        let numeric = Numeric::of_units(units);
        let digits = numeric.digits();
        self.bytes
            .extend_from_slice(&(8 + 2 * i32::from(numeric.count)).to_be_bytes());
        self.bytes.extend_from_slice(&numeric.count.to_be_bytes());
        self.bytes.extend_from_slice(&numeric.weight.to_be_bytes());
        self.bytes.extend_from_slice(&numeric.sign.to_be_bytes());
        self.bytes.extend_from_slice(&NUMERIC_SCALE.to_be_bytes());
        self.bytes.extend_from_slice(digits.as_flattened());
        self
    }

    fn field(&mut self, length: i32, value: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(&length.to_be_bytes());
        self.bytes.extend_from_slice(value);
        self
    }

    /// Sends the rows by a `COPY` statement; the driver takes such a statement as text only.
    ///
    /// # Errors
    ///
    /// Postgres's refusal, for example a unique violation; then the transaction (or the savepoint)
    /// is broken. [`StoreError::Corrupt`] where another number of rows arrived than was sent.
    pub(crate) async fn send(
        mut self,
        connection: &mut PgConnection,
        statement: &'static str,
    ) -> Result<(), CopyError> {
        let mut copy = connection.copy_in_raw(statement).await?;
        for chunk in self.bytes.chunks(CHUNK_BYTES) {
            copy.send(chunk).await?;
        }
        self.bytes.clear();
        self.finish(copy, statement).await
    }

    /// Sends the rest, and the end.
    async fn finish(
        mut self,
        mut copy: PgCopyIn<&mut PgConnection>,
        statement: &'static str,
    ) -> Result<(), CopyError> {
        if self.is_too_large {
            let what = format!("a value of `{statement}` does not fit into its column");
            // Whatever Postgres says to that, the transaction is broken.
            drop(copy.abort(what.as_str()).await);
            return Err(CopyError::Store(StoreError::Corrupt(what)));
        }
        self.bytes.extend_from_slice(&(-1_i16).to_be_bytes());
        copy.send(self.bytes.as_slice()).await?;
        let arrived = copy.finish().await?;
        if arrived != self.count {
            let what = format!("`{statement}` took {arrived} rows of {}", self.count);
            return Err(CopyError::Store(StoreError::Corrupt(what)));
        }
        Ok(())
    }
}

/// Why a `COPY` failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CopyError {
    /// Some row's key is there already.
    #[error("a key exists already")]
    Exists,
    /// Anything else.
    #[error(transparent)]
    Store(StoreError),
}

impl From<sqlx::Error> for CopyError {
    fn from(error: sqlx::Error) -> Self {
        let is_unique = error
            .as_database_error()
            .is_some_and(|error| error.is_unique_violation());
        if is_unique {
            Self::Exists
        } else {
            Self::Store(error.into())
        }
    }
}

impl CopyError {
    /// Takes a clash of keys where none can be as what it is: rows that should not be there.
    pub(crate) fn into_store_error(self, table: &str) -> StoreError {
        match self {
            Self::Exists => {
                StoreError::Corrupt(format!("{table} already holds rows of a new part"))
            }
            Self::Store(error) => error,
        }
    }
}

/// Decimal places of `numeric(38, 18)`.
const NUMERIC_SCALE: i16 = 18;
const POSITIVE: u16 = 0x0000;
const NEGATIVE: u16 = 0x4000;
const WHOLE: u128 = 1_000_000_000_000_000_000;
const SIXTEEN_DIGITS: u128 = 10_000_000_000_000_000;

/// A `numeric` as Postgres stores it: digits in base 10 000, big-endian, without outer zeros.
struct Numeric {
    /// Five groups before the point, five after it.
    groups: [[u8; 2]; 10],
    /// How many groups come before the first that counts.
    skipped: usize,
    /// How many groups count.
    count: i16,
    /// The power of 10 000 of the first that counts.
    weight: i16,
    sign: u16,
}

impl Numeric {
    /// Splits units of 10⁻¹⁸.
    ///
    /// | units | groups | weight |
    /// | --- | --- | --- |
    /// | 0 | none | 0 |
    /// | 10¹⁸ | 1 | 0 |
    /// | 1 | 100 | -5 |
    /// | 10²² | 1 | 1 |
    fn of_units(units: i128) -> Self {
        let magnitude = units.unsigned_abs();
        let whole = magnitude / WHOLE;
        // Eighteen digits: sixteen in four groups, and two that begin the fifth.
        let fraction = low64(magnitude % WHOLE);
        let mut groups = [[0; 2]; 10];
        groups[0] = group(low64(whole / SIXTEEN_DIGITS));
        four_groups(low64(whole % SIXTEEN_DIGITS), &mut groups, 1);
        four_groups(fraction / 100, &mut groups, 5);
        groups[9] = group(fraction % 100 * 100);
        let (mut skipped, mut count, mut weight) = (0, 10, 4);
        while skipped < 10 && groups[skipped] == [0; 2] {
            (skipped, count, weight) = (skipped + 1, count - 1, weight - 1);
        }
        if skipped == 10 {
            return Self {
                groups,
                skipped,
                count: 0,
                weight: 0,
                sign: POSITIVE,
            };
        }
        for group in groups.iter().rev() {
            if *group != [0; 2] {
                break;
            }
            count -= 1;
        }
        let sign = if units < 0 { NEGATIVE } else { POSITIVE };
        Self {
            groups,
            skipped,
            count,
            weight,
            sign,
        }
    }

    fn digits(&self) -> &[[u8; 2]] {
        let end = self.skipped + usize::from(self.count.unsigned_abs());
        self.groups.get(self.skipped..end).unwrap_or(&[])
    }
}

/// Writes sixteen digits as four groups.
fn four_groups(sixteen_digits: u64, groups: &mut [[u8; 2]; 10], at: usize) {
    let mut rest = sixteen_digits;
    for place in (at..at + 4).rev() {
        groups[place] = group(rest % 10_000);
        rest /= 10_000;
    }
}

/// Returns the two lower bytes, which hold any value below 10 000.
const fn group(value: u64) -> [u8; 2] {
    let [.., high, low] = value.to_be_bytes();
    [high, low]
}

/// Narrows what a division left below 2⁶⁴.
fn low64(value: u128) -> u64 {
    debug_assert!(
        value <= u128::from(u64::MAX),
        "a remainder of at most 18 digits"
    );
    u64::try_from(value).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::Numeric;

    #[test]
    fn units_split_into_groups_as_postgres_stores_them() {
        let all = [9999, 9999, 9999, 9999, 9999, 9999, 9999, 9999, 9999, 9900];
        let cases: &[(i128, &[u16], i16)] = &[
            (0, &[], 0),
            (1, &[100], -5),
            (100, &[1], -4),
            (1_000_000_000_000_000_000, &[1], 0),
            (1_500_000_000_000_000_000, &[1, 5000], 0),
            (10_i128.pow(22), &[1], 1),
            (10_i128.pow(22) + 1, &[1, 0, 0, 0, 0, 0, 100], 1),
            (10_i128.pow(38) - 1, &all, 4),
        ];
        for (units, groups, weight) in cases {
            for units in [*units, -*units] {
                let found = Numeric::of_units(units);
                let digits: Vec<u16> = found
                    .digits()
                    .iter()
                    .map(|group| u16::from_be_bytes(*group))
                    .collect();
                assert_eq!(digits, *groups, "groups of {units}");
                assert_eq!(found.weight, *weight, "weight of {units}");
                let sign = if units < 0 { 0x4000 } else { 0 };
                assert_eq!(found.sign, sign, "sign of {units}");
            }
        }
    }
}
