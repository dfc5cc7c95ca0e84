//! UUIDs, random bytes, and network addresses.

use std::net::{Ipv4Addr, Ipv6Addr};

use cairn_types::Datum;

use super::string_encode::{hex_of, unhex};
use crate::context::EvalContext;
use crate::error::{ExprError, Result};
use crate::eval::call::Call;
use crate::func::Func;

/// Ticks of 100 ns between 1582-10-15, where UUID time starts, and the epoch.
const UUID_EPOCH_TICKS: u64 = 0x01B2_1DD2_1381_4000;
/// Most bytes RANDOM_BYTES gives.
const RANDOM_BYTES_MAX: i64 = 1024;

pub(crate) fn eval(call: &Call<'_>, ctx: &mut EvalContext) -> Result<Datum> {
    match call.func {
        Func::Uuid => Ok(Datum::from(uuid(ctx))),
        Func::UuidShort => Ok(Datum::UInt(ctx.session.random() >> 1)),
        Func::RandomBytes => {
            let count = call.int(0, ctx)?;
            if !(1..=RANDOM_BYTES_MAX).contains(&count) {
                return Err(ExprError::out_of_range("length", "random_bytes"));
            }
            let mut out = Vec::with_capacity(count as usize + 8);
            while out.len() < count as usize {
                out.extend_from_slice(&ctx.session.random().to_le_bytes());
            }
            out.truncate(count as usize);
            Ok(Datum::Bytes(out))
        }
        Func::UuidToBin => {
            let bytes = parse_uuid(&call.bytes(0)).ok_or_else(|| wrong_uuid(call))?;
            let swap = call.len() > 1 && call.int(1, ctx)? != 0;
            Ok(Datum::Bytes(if swap { swapped(&bytes) } else { bytes }))
        }
        Func::BinToUuid => {
            let bytes = call.bytes(0);
            if bytes.len() != 16 {
                return Err(wrong_uuid(call));
            }
            let swap = call.len() > 1 && call.int(1, ctx)? != 0;
            let bytes = if swap { unswapped(&bytes) } else { bytes.into_owned() };
            Ok(Datum::from(format_uuid(&bytes)))
        }
        Func::IsUuid => {
            if call.is_null(0) {
                return Ok(Datum::Null);
            }
            Ok(Datum::bool(parse_uuid(&call.bytes(0)).is_some()))
        }
        _ => Ok(address(call, ctx)?),
    }
}

fn wrong_uuid(call: &Call<'_>) -> ExprError {
    let message =
        format!("Incorrect string value: '{}' for function {}", call.text(0), call.func.name());
    ExprError::Mysql(cairn_types::MysqlError::new(ER_WRONG_VALUE_FOR_TYPE, message))
}

const ER_WRONG_VALUE_FOR_TYPE: u16 = 1411;

/// A version 1 UUID of the clock, its node random.
fn uuid(ctx: &EvalContext) -> String {
    let micros = ctx.session.clock_micros().unwrap_or(ctx.now_micros).max(0) as u64;
    let random = ctx.session.random();
    // The random low bits keep UUIDs of one microsecond apart.
    let ticks = UUID_EPOCH_TICKS + micros * 10 + random % 10;
    let low = (ticks as u32).to_be_bytes();
    let middle = ((ticks >> 32) as u16).to_be_bytes();
    let high = (((ticks >> 48) as u16 & 0x0FFF) | 0x1000).to_be_bytes();
    let sequence = ((ctx.session.random() as u16 & 0x3FFF) | 0x8000).to_be_bytes();
    let mut node = random.to_be_bytes();
    // The multicast bit marks a node that is no network card.
    node[2] |= 1;
    let bytes = [&low[..], &middle, &high, &sequence, &node[2..]].concat();
    format_uuid(&bytes)
}

fn format_uuid(bytes: &[u8]) -> String {
    let hex = hex_of(bytes, false);
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

/// With or without dashes, with or without braces.
fn parse_uuid(text: &[u8]) -> Option<Vec<u8>> {
    let text = match text {
        [b'{', inner @ .., b'}'] if inner.len() == 36 => inner,
        other => other,
    };
    let digits: Vec<u8> = match text.len() {
        32 => text.to_vec(),
        36 if [8, 13, 18, 23].iter().all(|at| text[*at] == b'-') => {
            text.iter().copied().filter(|byte| *byte != b'-').collect()
        }
        _ => return None,
    };
    unhex(&digits).filter(|bytes| bytes.len() == 16)
}

/// Time-high first, so that new UUIDs sort behind old ones.
fn swapped(bytes: &[u8]) -> Vec<u8> {
    [&bytes[6..8], &bytes[4..6], &bytes[..4], &bytes[8..]].concat()
}

fn unswapped(bytes: &[u8]) -> Vec<u8> {
    [&bytes[4..8], &bytes[2..4], &bytes[..2], &bytes[8..]].concat()
}

fn address(call: &Call<'_>, ctx: &mut EvalContext) -> Result<Datum> {
    if call.is_null(0) {
        return Ok(Datum::Int(0));
    }
    Ok(match call.func {
        Func::InetAton => match inet_aton(&call.text(0)) {
            Some(number) => Datum::UInt(number),
            None => invalid(call, ctx),
        },
        Func::InetNtoa => match u32::try_from(call.bits(0, ctx)?) {
            Ok(number) => Datum::from(Ipv4Addr::from(number).to_string()),
            Err(_) => invalid(call, ctx),
        },
        Func::Inet6Aton => {
            let text = call.text(0);
            if let Ok(address) = text.parse::<Ipv4Addr>() {
                Datum::Bytes(address.octets().to_vec())
            } else if let Ok(address) = text.parse::<Ipv6Addr>() {
                Datum::Bytes(address.octets().to_vec())
            } else {
                invalid(call, ctx)
            }
        }
        Func::Inet6Ntoa => {
            let bytes = call.bytes(0);
            if let Ok(octets) = <[u8; 4]>::try_from(bytes.as_ref()) {
                Datum::from(Ipv4Addr::from(octets).to_string())
            } else if let Ok(octets) = <[u8; 16]>::try_from(bytes.as_ref()) {
                Datum::from(Ipv6Addr::from(octets).to_string())
            } else {
                invalid(call, ctx)
            }
        }
        Func::IsIpv4 => Datum::bool(call.text(0).parse::<Ipv4Addr>().is_ok()),
        _ => Datum::bool(call.text(0).parse::<Ipv6Addr>().is_ok()),
    })
}

fn invalid(call: &Call<'_>, ctx: &mut EvalContext) -> Datum {
    let message =
        format!("Incorrect string value: '{}' for function {}", call.text(0), call.func.name());
    ctx.warn(cairn_types::MysqlError::new(ER_WRONG_VALUE_FOR_TYPE, message));
    Datum::Null
}

/// `a.b.c.d`; with fewer parts the last fills the rest: `127.1` is `127.0.0.1`.
fn inet_aton(text: &str) -> Option<u64> {
    let parts: Vec<&str> = text.split('.').collect();
    if parts.len() > 4 {
        return None;
    }
    let mut number = 0u64;
    let octets: Option<Vec<u64>> =
        parts.iter().map(|part| part.parse::<u8>().ok().map(u64::from)).collect();
    let octets = octets?;
    let (last, first) = octets.split_last()?;
    for octet in first {
        number = number << 8 | octet;
    }
    Some(number << (8 * (4 - first.len())) | last)
}
