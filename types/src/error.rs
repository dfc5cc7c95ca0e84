//! Errors as a MySQL client sees them, and the conversion errors of this crate.
//!
//! Every crate has its own error enum; each is mapped once, at the SQL edge, to
//! a [`MysqlError`]. [`TypeError`] is this crate's: it carries what the MySQL
//! message needs. Column names and row numbers are known only to the statement
//! that assigns the value, so [`TypeError::for_column`] adds them.

use crate::errno;

/// An error (or the body of a warning) in MySQL's terms.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("ERROR {code} ({sqlstate}): {message}")]
pub struct MysqlError {
    /// MySQL error number.
    pub code: u16,
    /// Five characters of SQLSTATE.
    pub sqlstate: &'static str,
    /// Message text, ready for the client.
    pub message: String,
}

impl MysqlError {
    /// An error with a text of one's own; the SQLSTATE follows from the number.
    pub fn new(code: u16, message: impl Into<String>) -> MysqlError {
        MysqlError { code, sqlstate: errno::sqlstate(code), message: message.into() }
    }

    /// An error with MySQL's own text, its `{}` filled from `args` in order.
    pub fn with_args(code: u16, args: &[&dyn std::fmt::Display]) -> MysqlError {
        let template = errno::template(code).unwrap_or("{}");
        MysqlError::new(code, fill(template, args))
    }

    /// Any failure that has no number of its own (1105).
    pub fn unknown(message: impl Into<String>) -> MysqlError {
        MysqlError::new(errno::ER_UNKNOWN_ERROR, message)
    }

    /// 1235: a feature Cairn does not have (yet).
    pub fn not_supported(what: impl std::fmt::Display) -> MysqlError {
        MysqlError::with_args(errno::ER_NOT_SUPPORTED_YET, &[&what])
    }
}

fn fill(template: &str, args: &[&dyn std::fmt::Display]) -> String {
    use std::fmt::Write;
    let mut out = String::with_capacity(template.len() + 16 * args.len());
    let mut args = args.iter();
    let mut rest = template;
    while let Some(at) = rest.find("{}") {
        out.push_str(&rest[..at]);
        if let Some(arg) = args.next() {
            write!(out, "{arg}").expect("writing to a String does not fail");
        }
        rest = &rest[at + 2..];
    }
    out.push_str(rest);
    out
}

/// Level of a diagnostic in SHOW WARNINGS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum WarningLevel {
    /// `Note`.
    Note,
    /// `Warning`.
    Warning,
    /// `Error`.
    Error,
}

impl WarningLevel {
    /// The word SHOW WARNINGS prints.
    pub fn as_str(self) -> &'static str {
        match self {
            WarningLevel::Note => "Note",
            WarningLevel::Warning => "Warning",
            WarningLevel::Error => "Error",
        }
    }
}

/// One line of SHOW WARNINGS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// Severity.
    pub level: WarningLevel,
    /// MySQL error number.
    pub code: u16,
    /// Text.
    pub message: String,
}

impl Warning {
    /// A diagnostic of level `Warning`.
    #[expect(clippy::self_named_constructors, reason = "the level has the name of the type")]
    pub fn warning(error: MysqlError) -> Warning {
        Warning { level: WarningLevel::Warning, code: error.code, message: error.message }
    }

    /// A diagnostic of level `Note`.
    pub fn note(error: MysqlError) -> Warning {
        Warning { level: WarningLevel::Note, code: error.code, message: error.message }
    }
}

/// What can go wrong when values are converted, parsed, computed or decoded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TypeError {
    /// The result of an operation does not fit its type (1690).
    #[error("{type_name} value is out of range in '{expr}'")]
    Overflow {
        /// `BIGINT`, `DOUBLE`, `DECIMAL`, …
        type_name: &'static str,
        /// The expression as MySQL prints it.
        expr: String,
    },
    /// A text has an unusable tail, or is no value of the type at all (1292).
    #[error("Truncated incorrect {type_name} value: '{value}'")]
    Truncated {
        /// `INTEGER`, `DOUBLE`, `DECIMAL`, `date`, …
        type_name: &'static str,
        /// The offending text.
        value: String,
    },
    /// A text is no value of the column's type (1366).
    #[error("Incorrect {type_name} value: '{value}'")]
    IncorrectValue {
        /// `integer`, `decimal`, `string`, …
        type_name: &'static str,
        /// The offending text.
        value: String,
    },
    /// A text is no date or time (1292).
    #[error("Incorrect {type_name} value: '{value}'")]
    InvalidDateTime {
        /// `date`, `datetime`, `time`, `timestamp`, `year`.
        type_name: &'static str,
        /// The offending text.
        value: String,
    },
    /// A string is longer than its column (1406).
    #[error("Data too long")]
    DataTooLong,
    /// A number lies outside its column's range (1264).
    #[error("Out of range value")]
    OutOfRange,
    /// Part of the value was lost: enum member unknown, digits cut (1265).
    #[error("Data truncated")]
    DataTruncated,
    /// NULL for a NOT NULL column (1048).
    #[error("Column cannot be null")]
    BadNull,
    /// Division by zero where the mode forbids it (1365).
    #[error("Division by 0")]
    DivisionByZero,
    /// Not a JSON document (3140).
    #[error("Invalid JSON text: \"{reason}\" at position {position}")]
    InvalidJson {
        /// What the parser disliked.
        reason: String,
        /// Byte offset in the text.
        position: usize,
    },
    /// JSON nested deeper than MySQL allows (3157).
    #[error("The JSON document exceeds the maximum depth.")]
    JsonTooDeep,
    /// Not a JSON path (3143).
    #[error("Invalid JSON path expression. The error is around character position {position}.")]
    InvalidJsonPath {
        /// Byte offset in the path.
        position: usize,
    },
    /// A wildcard where only one place may be meant (3149).
    #[error("wildcard in a JSON path that must name one place")]
    JsonPathWildcard,
    /// `$` where a member must be named (3153).
    #[error("The path expression '$' is not allowed in this context.")]
    JsonVacuousPath,
    /// Bytes that are no text of the character set (1300).
    #[error("Invalid {charset} character string: '{value}'")]
    InvalidCharacterString {
        /// Character set name.
        charset: &'static str,
        /// The offending bytes as MySQL prints them (`\xFF`).
        value: String,
    },
    /// Unknown time zone name or offset (1298).
    #[error("Unknown or incorrect time zone: '{0}'")]
    UnknownTimeZone(String),
    /// A date computation leaves the range 0000 to 9999 (1441).
    #[error("Datetime function: {0} field overflow")]
    DateTimeOverflow(&'static str),
    /// Stored bytes that cannot be what they claim to be.
    #[error("corrupted data: {0}")]
    Corrupted(&'static str),
    /// A conversion MySQL does not offer.
    #[error("cannot convert {from} to {to}")]
    Unsupported {
        /// Source.
        from: &'static str,
        /// Target.
        to: &'static str,
    },
}

impl TypeError {
    /// The error as a client sees it where no column is involved.
    pub fn to_mysql(&self) -> MysqlError {
        self.for_column("", 1)
    }

    /// The error as a client sees it when `column` of row `row` (from 1) is
    /// assigned.
    pub fn for_column(&self, column: &str, row: u64) -> MysqlError {
        use errno::*;
        let plain = |code| MysqlError::new(code, self.to_string());
        let at = |code| MysqlError::with_args(code, &[&column, &row]);
        let with_place = |code| {
            if column.is_empty() {
                return plain(code);
            }
            MysqlError::new(code, format!("{self} for column '{column}' at row {row}"))
        };
        match self {
            TypeError::Overflow { .. } => plain(ER_DATA_OUT_OF_RANGE),
            TypeError::Truncated { .. } => plain(ER_TRUNCATED_WRONG_VALUE),
            TypeError::IncorrectValue { .. } => with_place(ER_TRUNCATED_WRONG_VALUE_FOR_FIELD),
            TypeError::InvalidDateTime { .. } => with_place(ER_TRUNCATED_WRONG_VALUE),
            TypeError::DataTooLong => at(ER_DATA_TOO_LONG),
            TypeError::OutOfRange => at(ER_WARN_DATA_OUT_OF_RANGE),
            TypeError::DataTruncated => at(WARN_DATA_TRUNCATED),
            TypeError::BadNull => MysqlError::with_args(ER_BAD_NULL_ERROR, &[&column]),
            TypeError::DivisionByZero => plain(ER_DIVISION_BY_ZERO),
            TypeError::InvalidJson { reason, position } => {
                MysqlError::with_args(ER_INVALID_JSON_TEXT, &[reason, position, &column])
            }
            TypeError::JsonTooDeep => plain(ER_JSON_DOCUMENT_TOO_DEEP),
            TypeError::InvalidJsonPath { .. } => plain(ER_INVALID_JSON_PATH),
            TypeError::JsonPathWildcard => {
                MysqlError::with_args(ER_INVALID_JSON_PATH_WILDCARD, &[])
            }
            TypeError::JsonVacuousPath => plain(ER_JSON_VACUOUS_PATH),
            TypeError::InvalidCharacterString { .. } => plain(ER_INVALID_CHARACTER_STRING),
            TypeError::UnknownTimeZone(_) => plain(ER_UNKNOWN_TIME_ZONE),
            TypeError::DateTimeOverflow(_) => plain(ER_DATETIME_FUNCTION_OVERFLOW),
            TypeError::Corrupted(_) | TypeError::Unsupported { .. } => plain(ER_UNKNOWN_ERROR),
        }
    }

    /// `DECIMAL value is out of range`, the expression filled in by the caller.
    pub fn overflow(type_name: &'static str) -> TypeError {
        TypeError::Overflow { type_name, expr: String::new() }
    }
}

impl From<TypeError> for MysqlError {
    fn from(error: TypeError) -> MysqlError {
        error.to_mysql()
    }
}

/// Result of this crate's conversions.
pub type Result<T, E = TypeError> = std::result::Result<T, E>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_read_as_mysql_prints_them() {
        let error = MysqlError::with_args(errno::ER_DUP_ENTRY, &[&"1", &"t.PRIMARY"]);
        assert_eq!(
            error.to_string(),
            "ERROR 1062 (23000): Duplicate entry '1' for key 't.PRIMARY'"
        );
        let error = TypeError::DataTooLong.for_column("a", 3);
        assert_eq!(error.message, "Data too long for column 'a' at row 3");
        assert_eq!(error.sqlstate, "22001");
        let error = TypeError::IncorrectValue { type_name: "integer", value: "x".into() };
        assert_eq!(
            error.for_column("a", 1).message,
            "Incorrect integer value: 'x' for column 'a' at row 1"
        );
    }
}
