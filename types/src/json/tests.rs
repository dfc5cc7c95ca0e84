//! Documents against what MySQL's manual shows.

use proptest::prelude::*;

use super::*;
use crate::TypeError;

fn json(text: &str) -> Json {
    Json::parse_text(text.as_bytes()).unwrap()
}

fn path(text: &str) -> JsonPath {
    JsonPath::parse(text).unwrap()
}

#[test]
fn prints_as_mysql() {
    for (text, expected) in [
        ("{\"key1\":\"value1\",\"k\":\"v\"}", "{\"k\": \"v\", \"key1\": \"value1\"}"),
        ("[1,2.5,1e20,-0.0,true,null]", "[1, 2.5, 1e20, -0.0, true, null]"),
        ("{\"a\":1,\"a\":2}", "{\"a\": 2}"),
        ("\"a\\n\\u0001\\\"\\\\é\"", "\"a\\n\\u0001\\\"\\\\é\""),
        ("18446744073709551615", "18446744073709551615"),
        ("18446744073709551616", "1.8446744073709552e19"),
        ("1.0", "1.0"),
        ("[]", "[]"),
        ("{}", "{}"),
        (" {\"bb\": 1, \"a\": 2, \"ab\": 3} ", "{\"a\": 2, \"ab\": 3, \"bb\": 1}"),
    ] {
        assert_eq!(json(text).to_string(), expected, "{text}");
    }
    assert_eq!(
        json("{\"a\":[1,{}]}").as_ref().to_pretty(),
        "{\n  \"a\": [\n    1,\n    {}\n  ]\n}"
    );
    assert_eq!(json("[1,[2,[3]]]").as_ref().depth(), 4);
    assert_eq!(json("[1]").as_ref().type_name(), "ARRAY");
    assert_eq!(quote("a\"b"), "\"a\\\"b\"");
    assert_eq!(unquote("\"\\t\\u0032\"").unwrap(), "\t2");
    assert_eq!(unquote("abc").unwrap(), "abc");
}

#[test]
fn refuses_bad_text() {
    for text in ["", "{", "[1,]", "{\"a\" 1}", "nul", "1 2", "'a'", "{a:1}", "\"\\x\""] {
        let error = Json::parse_text(text.as_bytes()).unwrap_err();
        assert!(matches!(error, TypeError::InvalidJson { .. }), "{text}: {error}");
    }
    let nested = |depth: usize| format!("{}1{}", "[".repeat(depth), "]".repeat(depth));
    assert!(Json::parse_text(nested(99).as_bytes()).is_ok());
    assert_eq!(Json::parse_text(nested(100).as_bytes()).unwrap_err(), TypeError::JsonTooDeep);
    assert_eq!(Json::parse_text(nested(5000).as_bytes()).unwrap_err(), TypeError::JsonTooDeep);
}

#[test]
fn paths() {
    let document = json("{\"a\": {\"b\": 1}, \"c\": [10, 20, [30, 40]], \"d e\": {\"b\": 2}}");
    let extract = |text: &str| match document.as_ref().extract(&[path(text)]) {
        Some(found) => found.to_string(),
        None => "NULL".to_owned(),
    };
    assert_eq!(extract("$.a.b"), "1");
    assert_eq!(extract("$.c[1]"), "20");
    assert_eq!(extract("$.c[last]"), "[30, 40]");
    assert_eq!(extract("$.c[last - 2]"), "10");
    assert_eq!(extract("$.c[0 to 1]"), "[10, 20]");
    assert_eq!(extract("$.c[*]"), "[10, 20, [30, 40]]");
    assert_eq!(extract("$**.b"), "[1, 2]");
    assert_eq!(extract("$.\"d e\".b"), "2");
    assert_eq!(extract("$.a[0].b"), "1");
    assert_eq!(extract("$.x"), "NULL");
    assert_eq!(extract("$[*]"), "NULL");
    assert_eq!(extract("$.c[9]"), "NULL");
    for bad in ["", "a", "$.", "$[", "$[a]", "$**", "$..a", "$.a.", "$[1 to", "$[2 to 1]", "$ x"] {
        assert!(JsonPath::parse(bad).is_err(), "{bad}");
    }
    assert_eq!(
        path(" $ .a [ 1 ] . \"b c\" [last-1]**.d").to_string(),
        "$.a[1].\"b c\"[last-1]**.d"
    );
}

#[test]
fn modifications() {
    let modify = |document: &str, at: &str, how: Modify, value: &str| {
        let document = json(document);
        let value = json(value);
        document.as_ref().modify(&path(at), how, value.as_ref()).unwrap().to_string()
    };
    let base = "{\"a\": 1, \"b\": [2, 3]}";
    assert_eq!(modify(base, "$.a", Modify::Set, "10"), "{\"a\": 10, \"b\": [2, 3]}");
    assert_eq!(
        modify(base, "$.c", Modify::Set, "\"x\""),
        "{\"a\": 1, \"b\": [2, 3], \"c\": \"x\"}"
    );
    assert_eq!(modify(base, "$.a", Modify::Insert, "10"), "{\"a\": 1, \"b\": [2, 3]}");
    assert_eq!(modify(base, "$.c", Modify::Replace, "10"), "{\"a\": 1, \"b\": [2, 3]}");
    assert_eq!(modify(base, "$.b[5]", Modify::Set, "9"), "{\"a\": 1, \"b\": [2, 3, 9]}");
    assert_eq!(modify(base, "$.a[1]", Modify::Set, "9"), "{\"a\": [1, 9], \"b\": [2, 3]}");
    assert_eq!(modify(base, "$.b", Modify::ArrayAppend, "9"), "{\"a\": 1, \"b\": [2, 3, 9]}");
    assert_eq!(modify(base, "$.a", Modify::ArrayAppend, "9"), "{\"a\": [1, 9], \"b\": [2, 3]}");
    assert_eq!(modify(base, "$.b[0]", Modify::ArrayInsert, "9"), "{\"a\": 1, \"b\": [9, 2, 3]}");
    assert_eq!(modify(base, "$.b[99]", Modify::ArrayInsert, "9"), "{\"a\": 1, \"b\": [2, 3, 9]}");
    let document = json("[\"a\", [\"b\", \"c\"], \"d\"]");
    assert_eq!(document.as_ref().remove(&path("$[1]")).unwrap().to_string(), "[\"a\", \"d\"]");
    assert_eq!(document.as_ref().remove(&path("$")), Err(TypeError::JsonVacuousPath));
    assert_eq!(document.as_ref().remove(&path("$[*]")), Err(TypeError::JsonPathWildcard));
}

#[test]
fn merging() {
    let (a, b) = (json("{\"a\": 1, \"b\": 2}"), json("{\"a\": 3, \"c\": 4}"));
    let preserved = merge_preserve(a.as_ref(), b.as_ref()).unwrap();
    assert_eq!(preserved.to_string(), "{\"a\": [1, 3], \"b\": 2, \"c\": 4}");
    let patched = merge_patch(a.as_ref(), json("{\"a\": null, \"d\": {\"e\": null}}").as_ref());
    assert_eq!(patched.unwrap().to_string(), "{\"b\": 2, \"d\": {}}");
    let arrays = merge_preserve(json("[1]").as_ref(), json("2").as_ref()).unwrap();
    assert_eq!(arrays.to_string(), "[1, 2]");
}

#[test]
fn comparisons_and_containment() {
    let ascending = [
        "null", "1", "1.5", "2", "\"a\"", "\"b\"", "{}", "[]", "[1]", "[1, 0]", "[2]", "false",
        "true",
    ];
    for pair in ascending.windows(2) {
        let (a, b) = (json(pair[0]), json(pair[1]));
        assert!(a.as_ref().compare(b.as_ref()).is_lt(), "{pair:?}");
        let (mut x, mut y) = (Vec::new(), Vec::new());
        a.as_ref().encode_key(&mut x);
        b.as_ref().encode_key(&mut y);
        assert!(x < y, "{pair:?}");
    }
    assert_eq!(json("1"), json("1.0"));
    let contains = |a: &str, b: &str| json(a).as_ref().contains(json(b).as_ref());
    assert!(contains("{\"a\": 1, \"b\": 2, \"c\": {\"d\": 4}}", "{\"c\": {\"d\": 4}}"));
    assert!(contains("[1, [2, 3]]", "[[3]]"));
    assert!(!contains("{\"a\": 1}", "1"));
    assert!(json("[1, 3]").as_ref().overlaps(json("[3, 5]").as_ref()));
    assert!(json("[1, \"a\"]").as_ref().has_member(json("\"a\"").as_ref()));
    let found =
        json("[\"abc\", {\"x y\": \"abc\"}]").as_ref().search(false, &mut |text| text == "abc");
    assert_eq!(found, ["$[0]", "$[1].\"x y\""]);
}

/// Any document of moderate size.
pub(crate) fn any_json() -> impl Strategy<Value = Json> {
    let leaf = prop_oneof![
        Just("null".to_owned()),
        any::<bool>().prop_map(|b| b.to_string()),
        any::<i64>().prop_map(|n| n.to_string()),
        (-1e9f64..1e9).prop_map(|n| format!("{n:e}")),
        "[a-zé\"\\\\]{0,5}".prop_map(|text| quote(&text)),
    ];
    let tree = leaf.prop_recursive(4, 32, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5)
                .prop_map(|elements| format!("[{}]", elements.join(","))),
            prop::collection::vec(("[a-c]{0,3}", inner), 0..5).prop_map(|members| {
                let members: Vec<String> =
                    members.iter().map(|(key, value)| format!("{}:{value}", quote(key))).collect();
                format!("{{{}}}", members.join(","))
            }),
        ]
    });
    tree.prop_map(|text| json(&text))
}

proptest! {
    #[test]
    fn text_and_binary_round_trip(document in any_json()) {
        prop_assert_eq!(&json(&document.to_string()), &document);
        prop_assert!(JsonRef::parse(document.as_bytes()).is_ok());
        let values: Vec<_> = document.as_ref().find(&path("$**[*]"));
        for value in values {
            prop_assert!(JsonRef::parse(value.as_bytes()).is_ok());
        }
    }

    #[test]
    fn keys_order_as_documents(a in any_json(), b in any_json()) {
        let (mut x, mut y) = (Vec::new(), Vec::new());
        a.as_ref().encode_key(&mut x);
        b.as_ref().encode_key(&mut y);
        prop_assert_eq!(x.cmp(&y), a.as_ref().compare(b.as_ref()));
    }

    #[test]
    fn damaged_documents_are_refused_or_read(document in any_json(), at: prop::sample::Index, byte: u8) {
        let mut bytes = document.into_bytes();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if let Ok(json) = JsonRef::parse(&bytes) {
            let _ = json.to_string();
        }
        // Even unchecked bytes only ever give nulls.
        let trusted = JsonRef::from_trusted(&bytes);
        let _ = (trusted.count(), trusted.element(0).map(JsonRef::kind), trusted.key_at(0));
    }

    #[test]
    fn parsers_take_any_bytes(bytes: Vec<u8>, text: String) {
        let _ = JsonRef::parse(&bytes);
        let _ = Json::parse_text(&bytes);
        let _ = JsonPath::parse(&text);
    }
}
