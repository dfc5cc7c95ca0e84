//! Dates and times against what MySQL prints.

use proptest::prelude::*;

use super::*;

fn dt(text: &str) -> Time {
    let parsed = Time::parse(text.as_bytes(), TimeKind::DateTime, 6, DateMode::default()).unwrap();
    assert!(!parsed.truncated, "{text}");
    let fsp = if parsed.time.microsecond() == 0 { 0 } else { 6 };
    parsed.time.with_fsp(fsp)
}

fn date(text: &str) -> Time {
    dt(text).with_kind(TimeKind::Date)
}

#[test]
fn texts_mysql_accepts() {
    for (text, expected) in [
        ("2024-1-5 1:2:3.5", "2024-01-05 01:02:03.500000"),
        ("2024-01-05", "2024-01-05 00:00:00"),
        ("20240105", "2024-01-05 00:00:00"),
        ("20240105102030", "2024-01-05 10:20:30"),
        ("20240105102030.25", "2024-01-05 10:20:30.250000"),
        ("240105", "2024-01-05 00:00:00"),
        ("240105102030", "2024-01-05 10:20:30"),
        ("24-01-05", "2024-01-05 00:00:00"),
        ("70-01-05", "1970-01-05 00:00:00"),
        ("2024/01/05 10:20:30", "2024-01-05 10:20:30"),
        ("2024-01-05T10:20:30", "2024-01-05 10:20:30"),
        ("2024-01-05 10:20", "2024-01-05 10:20:00"),
        ("2024@01@05 10^20^30", "2024-01-05 10:20:30"),
        ("20240105T102030", "2024-01-05 10:20:30"),
        ("0000-00-00", "0000-00-00 00:00:00"),
        ("2024-00-00", "2024-00-00 00:00:00"),
        ("9999-12-31 23:59:59", "9999-12-31 23:59:59"),
    ] {
        let parsed = Time::parse(text.as_bytes(), TimeKind::DateTime, 6, DateMode::default());
        let time = parsed.unwrap_or_else(|error| panic!("{text}: {error}")).time;
        let fsp = if time.microsecond() == 0 { 0 } else { 6 };
        assert_eq!(time.with_fsp(fsp).to_string(), expected, "{text}");
    }
}

#[test]
fn texts_mysql_refuses() {
    for text in [
        "",
        "abc",
        "2024-13-01",
        "2024-02-30",
        "2024-01-32",
        "2024-01-05 25:00:00",
        "2024-01-05 10:60:00",
        "2024",
        "10:20:30",
        "2024-01",
        "999999999",
    ] {
        let parsed = Time::parse(text.as_bytes(), TimeKind::DateTime, 0, DateMode::default());
        assert!(parsed.is_err(), "{text} gave {parsed:?}");
    }
    let strict = |text: &str| Time::parse(text.as_bytes(), TimeKind::Date, 0, DateMode::STRICT);
    assert!(strict("0000-00-00").is_err());
    assert!(strict("2024-00-01").is_err());
}

#[test]
fn rounding_and_offsets() {
    let parse = |text: &str, fsp| {
        Time::parse(text.as_bytes(), TimeKind::DateTime, fsp, DateMode::default()).unwrap()
    };
    assert_eq!(
        parse("2024-12-31 23:59:59.9999995", 6).time.to_string(),
        "2025-01-01 00:00:00.000000"
    );
    assert_eq!(parse("2024-01-05 10:20:30.4999999", 0).time.to_string(), "2024-01-05 10:20:30");
    assert_eq!(parse("2024-01-05 10:20:30.5", 0).time.to_string(), "2024-01-05 10:20:31");
    assert_eq!(parse("2024-01-05 10:20:30+08:00", 0).offset_seconds, Some(28_800));
    assert_eq!(parse("2024-01-05 10:20:30-05:30", 0).offset_seconds, Some(-19_800));
    assert!(parse("2024-01-05 10:20:30 x", 0).truncated);
}

#[test]
fn numbers() {
    let from = |number| Time::from_number(number, TimeKind::DateTime, 0, DateMode::default());
    assert_eq!(from(20_240_105).unwrap().to_string(), "2024-01-05 00:00:00");
    assert_eq!(from(240_105).unwrap().to_string(), "2024-01-05 00:00:00");
    assert_eq!(from(700_105).unwrap().to_string(), "1970-01-05 00:00:00");
    assert_eq!(from(20_240_105_102_030).unwrap().to_string(), "2024-01-05 10:20:30");
    assert_eq!(from(240_105_102_030).unwrap().to_string(), "2024-01-05 10:20:30");
    assert!(from(1).is_err());
    assert!(from(20_241_305).is_err());
    assert!(from(-1).is_err());
    assert_eq!(dt("2024-01-05 10:20:30").to_number(), 20_240_105_102_030);
    assert_eq!(dt("2024-01-05 10:20:30.5").to_decimal().to_string(), "20240105102030.500000");
}

#[test]
fn calendar() {
    assert_eq!(date("2007-10-07").to_days(), Some(733_321));
    assert_eq!(Time::from_days(730_669).unwrap().to_string(), "2000-07-03");
    assert_eq!(date("2008-02-03").weekday(), Some(6));
    assert_eq!(date("2007-11-06").weekday(), Some(1));
    assert_eq!(date("2007-02-03").day_of_year(), Some(34));
    assert_eq!(date("2004-02-05").last_day().unwrap().to_string(), "2004-02-29");
    let week = |text: &str, mode| date(text).week(WeekMode::from_number(mode)).unwrap();
    assert_eq!(week("2008-02-20", 0), (2008, 7));
    assert_eq!(week("2008-02-20", 1), (2008, 8));
    assert_eq!(week("2008-12-31", 1), (2008, 53));
    assert_eq!(week("2000-01-01", 0), (2000, 0));
    assert_eq!(week("2000-01-01", 2), (1999, 52));
    assert_eq!(week("1987-01-01", 0), (1987, 0));
    assert_eq!(week("2024-12-30", 3), (2025, 1));
}

#[test]
fn every_day_number_round_trips() {
    for days in (1..=3_652_424).step_by(97).chain([1, 366, 367, 3_652_424]) {
        let Some(date) = Time::from_days(days) else { panic!("day {days}") };
        assert_eq!(date.to_days(), Some(days), "{date}");
    }
    assert!(Time::from_days(3_652_425).is_none());
}

#[test]
fn intervals() {
    let add = |text: &str, interval: &str, unit: &str| {
        let unit = IntervalUnit::from_name(unit).unwrap();
        let time = if text.len() == 10 { date(text) } else { dt(text) };
        match time.add_interval(Interval::parse(interval.as_bytes(), unit), unit) {
            Ok(time) => time.to_string(),
            Err(_) => "NULL".to_owned(),
        }
    };
    assert_eq!(add("2018-05-01", "1", "day"), "2018-05-02");
    assert_eq!(add("2018-05-01", "-1", "year"), "2017-05-01");
    assert_eq!(add("2020-12-31 23:59:59", "1", "second"), "2021-01-01 00:00:00");
    assert_eq!(add("2100-12-31 23:59:59", "1:1", "minute_second"), "2101-01-01 00:01:00");
    assert_eq!(add("2025-01-01 00:00:00", "-1 1:1:1", "day_second"), "2024-12-30 22:58:59");
    assert_eq!(add("1900-01-01 00:00:00", "-1 10", "day_hour"), "1899-12-30 14:00:00");
    assert_eq!(
        add("1992-12-31 23:59:59.000002", "1.999999", "second_microsecond"),
        "1993-01-01 00:00:01.000001"
    );
    assert_eq!(add("2024-03-30", "1", "month"), "2024-04-30");
    assert_eq!(add("2024-01-31", "1", "month"), "2024-02-29");
    assert_eq!(add("2024-01-31", "1-1", "year_month"), "2025-02-28");
    assert_eq!(add("2018-05-01", "1", "hour"), "2018-05-01 01:00:00");
    assert_eq!(add("9999-12-31", "1", "day"), "NULL");
    assert_eq!(add("2024-01-31", "99999999999999999999", "day"), "NULL");
    let diff = |a: &str, b: &str, unit: &str| {
        dt(a).diff(dt(b), IntervalUnit::from_name(unit).unwrap()).unwrap()
    };
    assert_eq!(diff("2003-02-01", "2003-05-01", "month"), 3);
    assert_eq!(diff("2002-05-01", "2001-01-01", "year"), -1);
    assert_eq!(diff("2003-02-01", "2003-05-01 12:05:55", "minute"), 128_885);
    assert_eq!(dt("2019-07-02 01:02:03").extract(IntervalUnit::DayMinute), 20_102);
    assert_eq!(dt("2019-07-02").extract(IntervalUnit::YearMonth), 201_907);
}

#[test]
fn formats() {
    let format = |text: &str, format: &str| {
        String::from_utf8(dt(text).format(format.as_bytes()).unwrap()).unwrap()
    };
    assert_eq!(format("2009-10-04 22:23:00", "%W %M %Y"), "Sunday October 2009");
    assert_eq!(format("2007-10-04 22:23:00", "%H:%i:%s"), "22:23:00");
    assert_eq!(format("1900-10-04 22:23:00", "%D %y %a %d %m %b %j"), "4th 00 Thu 04 10 Oct 277");
    assert_eq!(
        format("1997-10-04 22:23:00", "%H %k %I %r %T %S %w"),
        "22 22 10 10:23:00 PM 22:23:00 00 6"
    );
    assert_eq!(format("1999-01-01", "%X %V"), "1998 52");
    assert_eq!(format("2006-06-30", "%d%%"), "30%");
    let time = Duration::from_hms(false, (100, 0, 0), 0, 0).unwrap();
    assert_eq!(format_duration(time, b"%H %k %h %I %l").unwrap(), b"100 100 04 04 4");
    let read = |text: &str, format: &str| match str_to_date(text.as_bytes(), format.as_bytes()) {
        Some(StrToDate::Time(time)) => time.to_string(),
        Some(StrToDate::Duration(time)) => time.to_string(),
        None => "NULL".to_owned(),
    };
    assert_eq!(read("01,5,2013", "%d,%m,%Y"), "2013-05-01");
    assert_eq!(read("May 1, 2013", "%M %d,%Y"), "2013-05-01");
    assert_eq!(read("a09:30:17", "a%h:%i:%s"), "09:30:17");
    assert_eq!(read("09:30:17 pm", "%h:%i:%s %p"), "21:30:17");
    assert_eq!(read("2013-02-30", "%Y-%m-%d"), "NULL");
    assert_eq!(read("2013-05-01 10:20:30.5", "%Y-%m-%d %H:%i:%s.%f"), "2013-05-01 10:20:30.500000");
    assert_eq!(read("abc", "%d"), "NULL");
}

#[test]
fn durations() {
    let parse = |text: &str| match Duration::parse(text.as_bytes(), 0) {
        Ok(parsed) => format!("{}{}", parsed.duration, if parsed.truncated { "!" } else { "" }),
        Err(_) => "error".to_owned(),
    };
    assert_eq!(parse("10:11:12"), "10:11:12");
    assert_eq!(parse("10:11"), "10:11:00");
    assert_eq!(parse("101112"), "10:11:12");
    assert_eq!(parse("1112"), "00:11:12");
    assert_eq!(parse("12"), "00:00:12");
    assert_eq!(parse("2 10:11:12"), "58:11:12");
    assert_eq!(parse("1 10"), "34:00:00");
    assert_eq!(parse("-1:00:00.6"), "-01:00:01");
    assert_eq!(parse("839:00:00"), "838:59:59!");
    assert_eq!(parse("10:99:00"), "error");
    assert_eq!(parse("abc"), "error");
    assert_eq!(parse("2024-01-05 10:20:30"), "10:20:30");
    let half = Duration::parse(b"00:00:00.4567", 3).unwrap().duration;
    assert_eq!(half.to_string(), "00:00:00.457");
    assert_eq!(Duration::from_number(101_112, 0).unwrap().duration.to_string(), "10:11:12");
    assert!(Duration::from_number(106_012, 0).is_none());
}

prop_compose! {
    /// Any valid date and time.
    pub(crate) fn any_time()(days in 366u32..3_652_424, micros in 0i64..MICROS_PER_DAY, fsp in 0u8..=6) -> Time {
        let total = i64::from(days) * MICROS_PER_DAY + micros;
        Time::from_total_micros(total, TimeKind::DateTime, fsp).unwrap().truncate_fsp(fsp)
    }
}

proptest! {
    #[test]
    fn text_round_trip(time in any_time()) {
        let text = time.to_string();
        let back = Time::parse(text.as_bytes(), TimeKind::DateTime, time.fsp(), DateMode::STRICT).unwrap();
        prop_assert_eq!(back.time, time);
        prop_assert!(!back.truncated);
    }

    #[test]
    fn packed_order_is_time_order(a in any_time(), b in any_time()) {
        prop_assert_eq!(a.cmp(&b), a.total_micros().cmp(&b.total_micros()));
        prop_assert_eq!(Time::from_packed(a.packed()).unwrap(), a);
    }

    #[test]
    fn parsers_take_any_bytes(text: Vec<u8>, format: Vec<u8>) {
        let _ = Time::parse(&text, TimeKind::DateTime, 6, DateMode::default());
        let _ = Duration::parse(&text, 6);
        let _ = str_to_date(&text, &format);
        for unit in [IntervalUnit::Day, IntervalUnit::DayMicrosecond, IntervalUnit::Second] {
            let _ = Interval::parse(&text, unit);
        }
    }

    #[test]
    fn parsers_take_likely_text(text in "[0-9]{0,9}[-:. T/]?[0-9]{0,4}[-:. ]?[0-9]{0,3}[-:. +]?[0-9:.]{0,9}") {
        let _ = Time::parse(text.as_bytes(), TimeKind::DateTime, 3, DateMode::default());
        let _ = Duration::parse(text.as_bytes(), 3);
    }

    #[test]
    fn zone_round_trip(time in any_time(), hours in -12i32..=13) {
        let zone = TimeZone::fixed(hours * 3600).unwrap();
        if let Some(local) = time.to_zone(&TimeZone::utc(), &zone) {
            prop_assert_eq!(local.to_zone(&zone, &TimeZone::utc()), Some(time));
        }
    }
}
