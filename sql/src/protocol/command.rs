//! Command packets and the parameters of prepared statements.

use bytes::Bytes;
use cairn_types::time::{TimeKind, TimeParts};
use cairn_types::{Datum, Decimal, Duration, Time};

use super::ProtocolError;
use super::constants::com;
use super::wire::Cursor;

/// One request of a client.
#[derive(Clone, Debug)]
pub enum Command {
    /// End of the connection.
    Quit,
    /// Use a database.
    InitDb(String),
    /// Statements as text, in the client's character set.
    Query(Bytes),
    /// Columns of a table (deprecated in MySQL, sent by old clients).
    FieldList {
        /// Which table.
        table: String,
    },
    /// `COM_REFRESH`, `COM_DEBUG`: accepted without effect.
    NoEffect,
    /// One line about the server.
    Statistics,
    /// `SHOW PROCESSLIST`.
    ProcessInfo,
    /// `KILL`.
    ProcessKill(u32),
    /// Are you there?
    Ping,
    /// Log in again; the payload after the command byte.
    ChangeUser(Bytes),
    /// Prepare a statement.
    StmtPrepare(Bytes),
    /// Run a prepared statement; parameters are decoded once their types are known.
    StmtExecute {
        /// Which.
        statement_id: u32,
        /// Cursor wishes.
        flags: u8,
        /// Null bitmap, types and values.
        payload: Bytes,
    },
    /// A piece of a long parameter.
    StmtSendLongData {
        /// Which statement.
        statement_id: u32,
        /// Which parameter.
        parameter: u16,
        /// The piece.
        data: Bytes,
    },
    /// Forget a prepared statement.
    StmtClose(u32),
    /// Drop its long data.
    StmtReset(u32),
    /// Rows of a cursor.
    StmtFetch {
        /// Which statement.
        statement_id: u32,
        /// Rows at most.
        rows: u32,
    },
    /// 0: multi statements on, 1: off.
    SetOption(u16),
    /// A fresh session on the same connection.
    ResetConnection,
    /// A command this server does not know.
    Unknown(u8),
}

impl Command {
    /// Parses a payload that began with sequence 0.
    pub fn parse(payload: Bytes) -> Result<Self, ProtocolError> {
        let mut cursor = Cursor::new(&payload);
        let code = cursor.u8()?;
        let rest = || payload.slice(1..);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ok(match code {
            com::QUIT => Command::Quit,
            com::INIT_DB => Command::InitDb(text(cursor.rest())),
            com::QUERY => Command::Query(rest()),
            com::FIELD_LIST => Command::FieldList { table: text(cursor.null_terminated()?) },
            com::REFRESH | com::DEBUG => Command::NoEffect,
            com::STATISTICS => Command::Statistics,
            com::PROCESS_INFO => Command::ProcessInfo,
            com::PROCESS_KILL => Command::ProcessKill(cursor.u32()?),
            com::PING => Command::Ping,
            com::CHANGE_USER => Command::ChangeUser(rest()),
            com::STMT_PREPARE => Command::StmtPrepare(rest()),
            com::STMT_EXECUTE => {
                let statement_id = cursor.u32()?;
                let flags = cursor.u8()?;
                cursor.u32()?; // iteration count, always 1
                Command::StmtExecute {
                    statement_id,
                    flags,
                    payload: payload.slice(payload.len() - cursor.remaining()..),
                }
            }
            com::STMT_SEND_LONG_DATA => Command::StmtSendLongData {
                statement_id: cursor.u32()?,
                parameter: cursor.u16()?,
                data: payload.slice(payload.len() - cursor.remaining()..),
            },
            com::STMT_CLOSE => Command::StmtClose(cursor.u32()?),
            com::STMT_RESET => Command::StmtReset(cursor.u32()?),
            com::STMT_FETCH => {
                Command::StmtFetch { statement_id: cursor.u32()?, rows: cursor.u32()? }
            }
            com::SET_OPTION => Command::SetOption(cursor.u16()?),
            com::RESET_CONNECTION => Command::ResetConnection,
            other => Command::Unknown(other),
        })
    }
}

/// A parameter's type as the client declared it: protocol type byte and unsigned flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParameterType {
    /// `MYSQL_TYPE_…`.
    pub code: u8,
    /// The value is unsigned.
    pub unsigned: bool,
}

/// Decodes the parameters of `COM_STMT_EXECUTE`. `types` are those of the last execution
/// and are replaced when the packet brings new ones; `long_data[i]` stands for a value
/// sent ahead in pieces.
pub fn decode_parameters(
    payload: &[u8],
    count: usize,
    types: &mut Vec<ParameterType>,
    long_data: &[Option<Vec<u8>>],
) -> Result<Vec<Datum>, ProtocolError> {
    if count == 0 {
        return Ok(Vec::new());
    }
    let mut cursor = Cursor::new(payload);
    let null_bitmap = cursor.take(count.div_ceil(8))?;
    if cursor.u8()? == 1 {
        let mut new_types = Vec::with_capacity(count);
        for _ in 0..count {
            let code = cursor.u8()?;
            let unsigned = cursor.u8()? & 0x80 != 0;
            new_types.push(ParameterType { code, unsigned });
        }
        *types = new_types;
    }
    if types.len() != count {
        return Err(ProtocolError::Malformed("parameters without types"));
    }
    let mut values = Vec::with_capacity(count);
    for (at, parameter_type) in types.iter().enumerate() {
        if let Some(Some(data)) = long_data.get(at) {
            values.push(Datum::Bytes(data.clone()));
        } else if null_bitmap[at / 8] >> (at % 8) & 1 == 1 {
            values.push(Datum::Null);
        } else {
            values.push(decode_parameter(&mut cursor, *parameter_type)?);
        }
    }
    Ok(values)
}

/// Protocol type bytes.
mod type_byte {
    pub const DECIMAL: u8 = 0x00;
    pub const TINY: u8 = 0x01;
    pub const SHORT: u8 = 0x02;
    pub const LONG: u8 = 0x03;
    pub const FLOAT: u8 = 0x04;
    pub const DOUBLE: u8 = 0x05;
    pub const NULL: u8 = 0x06;
    pub const TIMESTAMP: u8 = 0x07;
    pub const LONGLONG: u8 = 0x08;
    pub const INT24: u8 = 0x09;
    pub const DATE: u8 = 0x0a;
    pub const TIME: u8 = 0x0b;
    pub const DATETIME: u8 = 0x0c;
    pub const YEAR: u8 = 0x0d;
    pub const NEWDECIMAL: u8 = 0xf6;
}

fn decode_parameter(cursor: &mut Cursor<'_>, ty: ParameterType) -> Result<Datum, ProtocolError> {
    let integer = |signed: i64, unsigned: u64| {
        if ty.unsigned { Datum::UInt(unsigned) } else { Datum::Int(signed) }
    };
    Ok(match ty.code {
        type_byte::NULL => Datum::Null,
        type_byte::TINY => {
            let byte = cursor.u8()?;
            integer(i64::from(byte as i8), u64::from(byte))
        }
        type_byte::SHORT | type_byte::YEAR => {
            let value = cursor.u16()?;
            integer(i64::from(value as i16), u64::from(value))
        }
        type_byte::LONG | type_byte::INT24 => {
            let value = cursor.u32()?;
            integer(i64::from(value as i32), u64::from(value))
        }
        type_byte::LONGLONG => {
            let value = cursor.u64()?;
            integer(value as i64, value)
        }
        type_byte::FLOAT => Datum::Float(f32::from_bits(cursor.u32()?)),
        type_byte::DOUBLE => Datum::Double(f64::from_bits(cursor.u64()?)),
        type_byte::DECIMAL | type_byte::NEWDECIMAL => {
            let bytes = cursor.lenenc_bytes()?;
            let decimal =
                std::str::from_utf8(bytes).ok().and_then(|text| text.parse::<Decimal>().ok());
            Datum::Decimal(decimal.ok_or(ProtocolError::Malformed("not a decimal number"))?)
        }
        type_byte::DATE | type_byte::DATETIME | type_byte::TIMESTAMP => {
            decode_datetime(cursor, ty.code)?
        }
        type_byte::TIME => decode_time(cursor)?,
        _ => Datum::Bytes(cursor.lenenc_bytes()?.to_vec()),
    })
}

fn decode_datetime(cursor: &mut Cursor<'_>, code: u8) -> Result<Datum, ProtocolError> {
    let length = cursor.u8()?;
    if !matches!(length, 0 | 4 | 7 | 11) {
        return Err(ProtocolError::Malformed("length of a date must be 0, 4, 7 or 11"));
    }
    let mut parts = TimeParts::default();
    if length >= 4 {
        (parts.year, parts.month, parts.day) = (cursor.u16()?, cursor.u8()?, cursor.u8()?);
    }
    if length >= 7 {
        (parts.hour, parts.minute, parts.second) = (cursor.u8()?, cursor.u8()?, cursor.u8()?);
    }
    if length == 11 {
        parts.microsecond = cursor.u32()?;
    }
    let date_only = code == type_byte::DATE && length <= 4;
    let (kind, fsp) = if date_only { (TimeKind::Date, 0) } else { (TimeKind::DateTime, 6) };
    let time = Time::from_parts(parts, kind, fsp);
    time.map(Datum::Time).map_err(|_| ProtocolError::Malformed("date out of range"))
}

fn decode_time(cursor: &mut Cursor<'_>) -> Result<Datum, ProtocolError> {
    const MICROS_PER_SECOND: i64 = 1_000_000;
    let length = cursor.u8()?;
    if !matches!(length, 0 | 8 | 12) {
        return Err(ProtocolError::Malformed("length of a time must be 0, 8 or 12"));
    }
    let mut micros = 0;
    if length > 0 {
        let negative = cursor.u8()? == 1;
        let days = i64::from(cursor.u32()?);
        let (hours, minutes, seconds) =
            (i64::from(cursor.u8()?), i64::from(cursor.u8()?), i64::from(cursor.u8()?));
        micros = (((days * 24 + hours) * 60 + minutes) * 60 + seconds) * MICROS_PER_SECOND;
        if length == 12 {
            micros += i64::from(cursor.u32()?);
        }
        if negative {
            micros = -micros;
        }
    }
    Duration::from_micros(micros, 6)
        .map(Datum::Duration)
        .map_err(|_| ProtocolError::Malformed("time out of range"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn parameters_of_every_width() {
        let mut types = Vec::new();
        let payload = [
            0b10, 1, 0x03, 0, 0x03, 0, 0xfd, 0, 0x08, 0x80, 7, 0, 0, 0, 2, b'h', b'i', 1, 0, 0, 0,
            0, 0, 0, 0,
        ];
        let values = decode_parameters(&payload, 4, &mut types, &[]).expect("a correct packet");
        assert_eq!(
            values,
            [Datum::Int(7), Datum::Null, Datum::Bytes(b"hi".to_vec()), Datum::UInt(1)]
        );
        // The next execution leaves the types out.
        let payload = [0b1110, 0, 9, 0, 0, 0];
        let values = decode_parameters(&payload, 4, &mut types, &[]).expect("types are remembered");
        assert_eq!(values, [Datum::Int(9), Datum::Null, Datum::Null, Datum::Null]);
    }

    #[test]
    fn a_first_execution_without_types_is_refused() {
        assert!(decode_parameters(&[0, 0, 9, 0, 0, 0], 1, &mut Vec::new(), &[]).is_err());
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64), count in 0_usize..20) {
            let _ = Command::parse(Bytes::from(bytes.clone()));
            let _ = decode_parameters(&bytes, count, &mut Vec::new(), &[]);
        }
    }
}
