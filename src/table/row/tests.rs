//! One test per trap. All records are invented.

use chrono::TimeZone;
use serde_json::{Value, json};

use super::*;
use crate::table::CLOUD_INTEGRATED;

const ARRIVAL: &str = "2026-03-04T05:06:07.089Z";

fn write(line: &[u8]) -> Result<(Vec<u8>, Row), RejectReason> {
    let arrival =
        Utc.with_ymd_and_hms(2026, 3, 4, 5, 6, 7).unwrap() + chrono::Duration::milliseconds(89);
    let mut out = b"before".to_vec();
    let result = CLOUD_INTEGRATED.write_row(line, EventId::of(line), arrival, &mut out);
    assert_eq!(&out[..6], b"before");
    match result {
        Ok(row) => Ok((out.split_off(6), row)),
        Err(reason) => {
            assert_eq!(out.len(), 6, "a rejected line leaves nothing behind");
            Err(reason)
        }
    }
}

fn text(line: &str) -> String {
    String::from_utf8(write(line.as_bytes()).unwrap().0).unwrap()
}

/// The row without the three columns that every row has.
fn given(line: &str) -> Value {
    let mut row: Value = serde_json::from_str(&text(line)).unwrap();
    for column in ["TimeGenerated", "EventTime", "EventId"] {
        row.as_object_mut().unwrap().remove(column);
    }
    row
}

fn rejected(line: impl AsRef<[u8]>) -> RejectReason {
    write(line.as_ref()).unwrap_err()
}

fn oversize(line: &str) -> Vec<&'static str> {
    let (row, said) = write(line.as_bytes()).unwrap();
    assert!(serde_json::from_slice::<Value>(&row).unwrap().is_object());
    said.oversize
}

/// `depth` arrays, one in the other.
fn nested(depth: usize) -> String {
    "[".repeat(depth) + &"]".repeat(depth)
}

#[test]
fn an_entities_event() {
    let line = r#"{"_offset":17,"_partition":3,"accountId":"CX1","aggregateId":"a_1731000000","attachments":["plan.pdf"],"direction":"INBOUND","historicalMail":false,"messageId":"<m1@example.com>","policiesApplied":[{"action":"BLOCK","mode":"ACTIVE","name":null}],"processingId":"p_1731000000","recipients":["u@example.com"],"senderEnvelope":"","senderHeader":"s@example.net","senderIp":"2001:db8::1","source":"OFFICE_365_MAIL","subject":"Hello","subtype":"MALWARE","tags":["MALWARE"],"threatState":"BLOCKED","threatType":"MALWARE","timestamp":1731000000123,"type":"entities"}"#;
    let (row, said) = write(line.as_bytes()).unwrap();
    let id = EventId::of(line.as_bytes());
    let expected = format!(
        r#"{{"sourceOffset":17,"sourcePartition":3,"accountId":"CX1","aggregateId":"a_1731000000","attachments":["plan.pdf"],"direction":"INBOUND","historicalMail":false,"messageId":"<m1@example.com>","policiesApplied":[{{"action":"BLOCK","mode":"ACTIVE","name":null}}],"processingId":"p_1731000000","recipients":["u@example.com"],"senderEnvelope":"","senderHeader":"s@example.net","senderIp":"2001:db8::1","source":"OFFICE_365_MAIL","subject":"Hello","subtype":"MALWARE","tags":["MALWARE"],"threatState":"BLOCKED","threatType":"MALWARE","timestamp":1731000000123,"type_":"entities","TimeGenerated":"2024-11-07T17:20:00.123Z","EventTime":"2024-11-07T17:20:00.123Z","EventId":"{id}"}}"#
    );
    assert_eq!(String::from_utf8(row).unwrap(), expected);
    assert_eq!(said, Row { event_time_ms: Some(1_731_000_000_123), oversize: vec![] });
}

#[test]
fn mailflow_and_urlclick_fields_have_their_columns() {
    let event = json!({
        "type": "mailflow",
        "authResults": [{"type": "SPF", "result": "pass", "aligned": null}],
        "action": "BLOCK",
        "originalUrl": "https://example.com/a",
        "redirectUrl": "https://example.net/b",
        "sourceIp": "192.0.2.1",
    });
    let mut row = given(&event.to_string());
    let kind = row["type_"].take();
    row["type"] = kind;
    row.as_object_mut().unwrap().remove("type_");
    assert_eq!(row, event);
}

#[test]
fn an_empty_event_is_a_row() {
    let id = EventId::of(b"{}");
    assert_eq!(text("{}"), format!(r#"{{"TimeGenerated":"{ARRIVAL}","EventId":"{id}"}}"#));
}

#[test]
fn space_around_the_event_and_within_is_fine() {
    assert_eq!(
        given(" \t{ \"subject\" : \"a\" , \"tags\" : [ \"b\" ] } \r"),
        json!({"subject": "a", "tags": ["b"]})
    );
}

#[test]
fn fields_that_are_copied_together_are_only_those_of_the_row() {
    let columns = |line: &str| {
        let row = text(line);
        row[..row.find(r#","TimeGenerated""#).unwrap()].to_owned()
    };
    for (line, expected) in [
        (r#"{"subject":"a","source":"b","tags":[1]}"#, r#"{"subject":"a","source":"b","tags":[1]"#),
        (r#"{"subject":"a","tags":null,"source":"b"}"#, r#"{"subject":"a","source":"b""#),
        (r#"{"tags":null,"subject":"a","new":1}"#, r#"{"subject":"a""#),
        (r#"{"subject":"a","source":1,"action":"b"}"#, r#"{"subject":"a","action":"b""#),
        (
            r#"{"subject":"a","type":"c","source":"b"}"#,
            r#"{"subject":"a","type_":"c","source":"b""#,
        ),
        (
            r#"{"subject":"a" ,"source" :"b", "tags":[ 1]}"#,
            r#"{"subject":"a","source":"b","tags":[ 1]"#,
        ),
        (r#"{"sub\u006aect":"a","source":"b"}"#, r#"{"subject":"a","source":"b""#),
    ] {
        assert_eq!(columns(line), expected, "{line}");
    }
}

#[test]
fn unicode_line_separators_in_a_subject_stay() {
    for separator in ["\u{2028}", "\u{2029}", "\u{85}"] {
        let subject = format!("a{separator}b");
        assert_eq!(given(&format!(r#"{{"subject":"{subject}"}}"#)), json!({"subject": subject}));
    }
}

#[test]
fn values_keep_their_digits_and_escapes() {
    let row = text(
        r#"{"subject":"\u00e9\/\ud83d\ude00","x":1.10,"y":12345678901234567890123,"z":1E400}"#,
    );
    assert!(row.contains(r#""subject":"\u00e9\/\ud83d\ude00""#), "{row}");
    let rest = r#""AdditionalFields":{"x":1.10,"y":12345678901234567890123,"z":1E400}}"#;
    assert!(row.ends_with(rest), "{row}");
}

#[test]
fn null_is_an_empty_column() {
    assert_eq!(given(r#"{"tags":null,"subtype":null,"timestamp":null,"_offset":null}"#), json!({}));
}

#[test]
fn null_in_an_unknown_field_is_kept() {
    assert_eq!(given(r#"{"new":null}"#), json!({"AdditionalFields": {"new": null}}));
}

#[test]
fn a_scalar_or_an_object_in_a_list_column_is_fine() {
    for event in [
        json!({"recipients": "u@example.com"}),
        json!({"recipients": [{"value": "u@example.com"}]}),
        json!({"tags": "SPAM", "attachments": 1, "policiesApplied": {}}),
    ] {
        assert_eq!(given(&event.to_string()), event);
    }
}

#[test]
fn a_field_of_another_type_is_an_additional_field() {
    for (field, value) in [
        ("historicalMail", json!("false")),
        ("historicalMail", json!(0)),
        ("subject", json!(5)),
        ("subject", json!(["a"])),
        ("subject", json!({"a": 1})),
        ("subject", json!(true)),
        ("_offset", json!("17")),
        ("_partition", json!([1])),
        ("type", json!(1)),
    ] {
        let line = json!({field: value}).to_string();
        assert_eq!(given(&line), json!({"AdditionalFields": {field: value}}), "{line}");
    }
}

#[test]
fn only_an_integer_of_64_bits_is_a_long() {
    for fits in ["0", "-1", "9223372036854775807", "-9223372036854775808"] {
        assert!(
            text(&format!(r#"{{"_offset":{fits}}}"#))
                .starts_with(&format!(r#"{{"sourceOffset":{fits},"#))
        );
    }
    for other in ["1.0", "1e3", "9223372036854775808", "-9223372036854775809", "\"1\""] {
        let row = text(&format!(r#"{{"_offset":{other}}}"#));
        assert!(row.ends_with(&format!(r#""AdditionalFields":{{"_offset":{other}}}}}"#)), "{row}");
    }
}

#[test]
fn unknown_fields_and_types_of_event_are_kept_whole() {
    let nested = json!({"a": [{"b": {"c": [1, "x", null]}}, {"b": 2}], "d": ""});
    let event = json!({"type": "brandnew", "verdict": nested, "score": 0.5});
    assert_eq!(
        given(&event.to_string()),
        json!({"type_": "brandnew", "AdditionalFields": {"verdict": nested, "score": 0.5}})
    );
}

#[test]
fn a_field_named_like_a_column_of_ours_clobbers_nothing() {
    for name in
        ["TimeGenerated", "EventTime", "EventId", "type_", "sourceOffset", "AdditionalFields", ""]
    {
        let line = json!({name: "x", "type": "entities"}).to_string();
        let expected = json!({"type_": "entities", "AdditionalFields": {name: "x"}});
        assert_eq!(given(&line), expected);
        let ours = format!(r#"{{"type_":"entities","TimeGenerated":"{ARRIVAL}","EventId":"#);
        assert!(text(&line).starts_with(&ours));
    }
}

#[test]
fn an_escaped_key_is_the_known_field() {
    assert_eq!(given(r#"{"sub\u006aect":"a"}"#), json!({"subject": "a"}));
    assert_eq!(given(r#"{"\u0074ype":"a"}"#), json!({"type_": "a"}));
    assert_eq!(given(r#"{"n\u0065w":1}"#), json!({"AdditionalFields": {"new": 1}}));
}

#[test]
fn a_usable_timestamp_is_an_integer_of_milliseconds_from_2000_to_2099() {
    for (timestamp, iso) in [
        (946_684_800_000_i64, "2000-01-01T00:00:00.000Z"),
        (1_709_164_800_001, "2024-02-29T00:00:00.001Z"),
        (4_102_444_799_999, "2099-12-31T23:59:59.999Z"),
    ] {
        let line = format!(r#"{{"timestamp":{timestamp}}}"#);
        let row: Value = serde_json::from_str(&text(&line)).unwrap();
        assert_eq!(row["TimeGenerated"], iso);
        assert_eq!(row["EventTime"], iso);
        assert_eq!(row["timestamp"], timestamp);
        assert_eq!(write(line.as_bytes()).unwrap().1.event_time_ms, Some(timestamp));
    }
}

#[test]
fn an_unusable_timestamp_is_kept_and_nothing_is_guessed() {
    const SECONDS: &str = "1731000000";
    for timestamp in ["0", "-1", SECONDS, "946684799999", "4102444800000", "9223372036854775807"] {
        let line = format!(r#"{{"timestamp":{timestamp}}}"#);
        let row: Value = serde_json::from_str(&text(&line)).unwrap();
        assert_eq!(row["TimeGenerated"], ARRIVAL);
        assert_eq!(row.get("EventTime"), None);
        assert_eq!(row["timestamp"].to_string(), timestamp);
        assert_eq!(write(line.as_bytes()).unwrap().1.event_time_ms, None);
    }
    for timestamp in ["1731000000123.0", "1.731000000123e12", "\"1731000000123\"", "[]"] {
        let row = text(&format!(r#"{{"timestamp":{timestamp}}}"#));
        assert!(row.starts_with(&format!(r#"{{"TimeGenerated":"{ARRIVAL}","EventId""#)), "{row}");
        assert!(
            row.ends_with(&format!(r#""AdditionalFields":{{"timestamp":{timestamp}}}}}"#)),
            "{row}"
        );
    }
}

#[test]
fn what_is_not_json_is_refused() {
    for line in [
        "",
        " ",
        "{",
        "}",
        "{}x",
        "{} {}",
        "{\"a\":}",
        "{\"a\":1,}",
        "{a:1}",
        "{'a':1}",
        "nul",
        "{\"a\":NaN}",
        "{\"a\":01}",
        "{\"a\":\"\u{1}\"}",
        "{\"a\":\"\\x\"}",
        "{\"a\":\"\\u12\"}",
        "[1",
        "\u{feff}{}",
        "{\"a\\ud800\":}",
        "{\"\\ud800\":1",
        "{\"a\":1 \"b\":2}",
        "{\"a\" 1}",
    ] {
        assert_eq!(rejected(line), RejectReason::NotJson, "{line}");
    }
}

#[test]
fn what_is_not_an_object_is_refused() {
    for line in ["[]", "[{}]", "null", "true", "1", "\"{}\"", " \"\\ud800\" "] {
        assert_eq!(rejected(line), RejectReason::NotObject, "{line}");
    }
}

#[test]
fn invalid_utf8_is_refused_wherever_it_stands() {
    for line in [
        &b"{\"a\":\"\xff\"}"[..],
        b"{\"\xc3\":1}",
        b"{} \x80",
        b"{\"a\":\"\xed\xa0\x80\"}",
        b"\xff",
    ] {
        assert_eq!(rejected(line), RejectReason::InvalidUtf8);
    }
}

#[test]
fn a_lone_surrogate_is_refused_wherever_it_stands() {
    for line in [
        r#"{"subject":"\ud800"}"#,
        r#"{"subject":"\uDFFF"}"#,
        r#"{"subject":"\ude00\ud83d"}"#,
        r#"{"subject":"\ud83d\ud83d\ude00"}"#,
        r#"{"subject":"\ud83d\n\ude00"}"#,
        r#"{"subject":"\ud83dx"}"#,
        r#"{"subject":"\\\ud83d"}"#,
        r#"{"a":["\ud83d","\ude00"]}"#,
        r#"{"new":{"a":[1,"\uD9aB"]}}"#,
        r#"{"\ud800":1}"#,
        r#"{"tags":[{"\udc00":1}]}"#,
    ] {
        assert_eq!(rejected(line), RejectReason::LoneSurrogate, "{line}");
    }
}

#[test]
fn a_whole_pair_and_an_escaped_backslash_are_no_lone_surrogate() {
    for (line, subject) in [
        (r#"{"subject":"\ud83d\uDE00"}"#, "😀"),
        (r#"{"subject":"\\ud800"}"#, "\\ud800"),
        (r#"{"subject":"\"\\\\ud800\ue000"}"#, "\"\\\\ud800\u{e000}"),
    ] {
        assert_eq!(given(line), json!({"subject": subject}));
    }
}

#[test]
fn a_duplicate_key_is_refused_at_every_level() {
    for line in [
        r#"{"subject":"a","subject":"a"}"#,
        r#"{"subject":"a","sub\u006aect":"b"}"#,
        r#"{"subject":"a","subject":null}"#,
        r#"{"subject":1,"subject":"a"}"#,
        r#"{"subject":null,"subject":null}"#,
        r#"{"new":1,"x":2,"new":1}"#,
        r#"{"new":1,"x":2,"n\u0065w":3}"#,
        r#"{"new":{"a":1,"a":2}}"#,
        r#"{"new":{"a":{"b":1},"\u0061":2}}"#,
        r#"{"tags":[0,{"b":{"c":[],"d":"}","c":[]}}]}"#,
        r#"{"":1,"":2}"#,
    ] {
        assert_eq!(rejected(line), RejectReason::DuplicateKey, "{line}");
    }
}

#[test]
fn the_same_key_in_different_objects_is_no_duplicate() {
    for line in [
        r#"{"policiesApplied":[{"name":"a"},{"name":"a"}]}"#,
        r#"{"a":{"a":{"a":[{"a":1}]}}}"#,
        r#"{"a":{"b":{"c":1},"c":{"b":1}},"c":["a","a",":","a"]}"#,
        r#"{"a":{"b":"c","c":"b","d":"c"}}"#,
    ] {
        assert!(write(line.as_bytes()).is_ok(), "{line}");
    }
}

#[test]
fn very_many_keys_are_compared_in_reasonable_time() {
    let keys: Vec<_> = (0..100_000).map(|n| format!(r#""key{n}":0"#)).collect();
    let object = keys.join(",");
    assert!(write(format!("{{{object}}}").as_bytes()).is_ok());
    assert!(write(format!(r#"{{"a":{{{object}}}}}"#).as_bytes()).is_ok());
    assert_eq!(rejected(format!(r#"{{{object},"key0":0}}"#)), RejectReason::DuplicateKey);
    assert_eq!(rejected(format!(r#"{{"a":{{{object},"key0":0}}}}"#)), RejectReason::DuplicateKey);
}

#[test]
fn depth_128_is_accepted_and_129_refused() {
    for field in ["new", "tags", "subject"] {
        assert!(write(format!(r#"{{"{field}":{}}}"#, nested(127)).as_bytes()).is_ok());
        let deep = format!(r#"{{"{field}":{}}}"#, nested(128));
        assert_eq!(rejected(deep), RejectReason::TooDeep);
    }
    let wide = format!(r#"{{"new":[{0},{0}]}}"#, nested(126));
    assert!(write(wide.as_bytes()).is_ok(), "depth is not the number of brackets");
    assert!(write(format!(r#"{{"new":["{}"]}}"#, "[".repeat(500)).as_bytes()).is_ok());
}

#[test]
fn hostile_depth_does_not_overflow_the_stack() {
    assert_eq!(rejected(format!(r#"{{"a":{}}}"#, nested(100_000))), RejectReason::TooDeep);
    assert_eq!(rejected(nested(100_000)), RejectReason::NotObject);
    assert_eq!(rejected("[".repeat(100_000)), RejectReason::NotJson);
    let objects = r#"{"a":"#.repeat(100_000) + "1" + &"}".repeat(100_000);
    assert_eq!(rejected(objects), RejectReason::TooDeep);
}

#[test]
fn a_string_is_oversize_over_65536_bytes_unescaped() {
    let plain = |n| format!(r#"{{"subject":"{}"}}"#, "a".repeat(n));
    assert_eq!(oversize(&plain(65_536)), [""; 0]);
    assert_eq!(oversize(&plain(65_537)), ["subject"]);
    let wide = |n| format!(r#"{{"subject":"{}"}}"#, "é".repeat(n));
    assert_eq!(oversize(&wide(32_768)), [""; 0]);
    assert_eq!(oversize(&wide(32_769)), ["subject"]);
    // One byte, two bytes and four bytes once unescaped.
    for (escape, count) in [(r"\n", 65_536), (r"\u00e9", 32_768), (r"\ud83d\ude00", 16_384)] {
        let escaped = |n| format!(r#"{{"subject":"{}"}}"#, escape.repeat(n));
        assert_eq!(oversize(&escaped(count)), [""; 0], "{escape}");
        assert_eq!(oversize(&escaped(count + 1)), ["subject"], "{escape}");
    }
}

#[test]
fn a_dynamic_is_oversize_over_65536_bytes_of_json() {
    let tags = |n: usize| format!(r#"{{"tags":["{}"]}}"#, "a".repeat(n - 4));
    assert_eq!(oversize(&tags(65_536)), [""; 0]);
    assert_eq!(oversize(&tags(65_537)), ["tags"]);
    let rest = |n: usize| format!(r#"{{"a":1,"new":"{}"}}"#, "a".repeat(n - 16));
    assert_eq!(oversize(&rest(65_536)), [""; 0]);
    assert_eq!(oversize(&rest(65_537)), ["AdditionalFields"]);
}

#[test]
fn every_oversize_column_is_named_and_the_row_is_whole() {
    let long = "a".repeat(65_537);
    let event = json!({"subject": long, "tags": [long], "source": "x", "new": long});
    let (row, said) = write(event.to_string().as_bytes()).unwrap();
    assert_eq!(said.oversize, ["subject", "tags", "AdditionalFields"]);
    let row: Value = serde_json::from_slice(&row).unwrap();
    assert_eq!(row["subject"], long);
    assert_eq!(row["AdditionalFields"]["new"], long);
}

#[test]
fn the_names_of_reasons_are_stable() {
    let reasons = [
        RejectReason::NotJson,
        RejectReason::NotObject,
        RejectReason::InvalidUtf8,
        RejectReason::LoneSurrogate,
        RejectReason::DuplicateKey,
        RejectReason::TooDeep,
    ];
    assert_eq!(
        reasons.map(RejectReason::as_str),
        ["not-json", "not-object", "invalid-utf8", "lone-surrogate", "duplicate-key", "too-deep",]
    );
}
