//! JSON mode (protocol 9.1). A body is split into messages, and the bytes of each message are kept
//! as they are.

use core::fmt;

use serde::de::{Deserialize as _, Deserializer as _, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::Refusal;

const INVALID: Refusal = Refusal::Malformed("the body is not valid JSON");

/// Passes the messages of a body to `each` in order: the elements of its outermost array, or its
/// single value (protocol 9.1.2). Discard them if this fails.
///
/// # Errors
/// Fails when the body is not valid JSON (protocol 9.1.4).
pub(crate) fn messages(body: &[u8], each: impl FnMut(&str)) -> Result<(), Refusal> {
    let first = body.iter().find(|byte| !byte.is_ascii_whitespace());
    let mut json = serde_json::Deserializer::from_slice(body);
    let mut elements = Elements(each);
    let read = if first == Some(&b'[') {
        json.deserialize_seq(elements)
    } else {
        <&RawValue>::deserialize(&mut json).map(|value| (elements.0)(value.get()))
    };
    read.and_then(|()| json.end()).map_err(|_| INVALID)
}

struct Elements<F>(F);

impl<'de, F: FnMut(&str)> Visitor<'de> for Elements<F> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut elements: A) -> Result<(), A::Error> {
        while let Some(element) = elements.next_element::<&RawValue>()? {
            (self.0)(element.get());
        }
        Ok(())
    }
}

/// Returns the member of an object, as JSON; `None` if the text is no object or lacks the member. A
/// generic value of the library would take more code in the Worker.
pub(crate) fn member(object: &str, name: &str) -> Option<String> {
    let mut json = serde_json::Deserializer::from_slice(object.as_bytes());
    let found = json.deserialize_map(Member(name)).ok()?;
    json.end().ok()?;
    found
}

/// Returns the text of a JSON string; `None` if the JSON is anything else.
pub(crate) fn text(json: &str) -> Option<String> {
    serde_json::from_slice(json.as_bytes()).ok()
}

/// Returns the elements of a JSON array, as JSON; `None` if the JSON is anything else.
pub(crate) fn elements(json: &str) -> Option<Vec<String>> {
    let is_array = json.trim_ascii_start().starts_with('[');
    let mut elements = Vec::new();
    let mut each = |element: &str| elements.push(element.to_owned());
    let read = messages(json.as_bytes(), &mut each as &mut dyn FnMut(&str));
    (is_array && read.is_ok()).then_some(elements)
}

struct Member<'a>(&'a str);

impl<'de> Visitor<'de> for Member<'_> {
    type Value = Option<String>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object")
    }

    /// Of several members of that name, the last one counts (RFC 7519, section 4).
    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Self::Value, A::Error> {
        let mut found = None;
        while let Some((name, value)) = members.next_entry::<String, &RawValue>()? {
            if name == self.0 {
                found = Some(value.get().to_owned());
            }
        }
        Ok(found)
    }
}

/// Passes the messages of a part of an array to `each`. [`messages`] must have accepted the array.
/// The part begins with one message and ends with another.
pub(crate) fn messages_between_commas(part: &[u8], mut each: impl FnMut(&[u8])) {
    let mut rest = part;
    while !rest.is_empty() {
        let mut values = serde_json::Deserializer::from_slice(rest).into_iter::<&RawValue>();
        let message = values.next().and_then(Result::ok);
        each(message.expect("the array was read before").get().as_bytes());
        rest = &rest[values.byte_offset()..];
        let next = rest
            .iter()
            .position(|byte| !byte.is_ascii_whitespace() && *byte != b',');
        rest = next.map_or(&[], |at| &rest[at..]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the messages of a body, and checks that splitting them again changes nothing.
    fn messages(body: &[u8]) -> Result<Vec<String>, Refusal> {
        let mut messages = Vec::new();
        let mut text = 0..0;
        super::messages(body, |message| {
            let at = message.as_ptr().addr() - body.as_ptr().addr();
            text = if messages.is_empty() { at } else { text.start }..at + message.len();
            messages.push(message.to_owned());
        })?;
        let mut again = Vec::new();
        messages_between_commas(&body[text], |message| {
            again.push(String::from_utf8(message.to_vec()).unwrap());
        });
        assert_eq!(again, messages);
        Ok(messages)
    }

    #[test]
    fn one_level_is_flattened() {
        let strings = |list: &[&str]| {
            Ok(list
                .iter()
                .map(|text| (*text).to_owned())
                .collect::<Vec<_>>())
        };
        assert_eq!(messages(b" [[1,2], [3,4]]"), strings(&["[1,2]", "[3,4]"]));
        assert_eq!(messages(b"[[[1,2,3]]]"), strings(&["[[1,2,3]]"]));
        assert_eq!(messages(b"[]"), strings(&[]));
        assert_eq!(messages(b"\n{\"a\":[1]}\n"), strings(&["{\"a\":[1]}"]));
    }

    #[test]
    fn bytes_are_kept_as_sent() {
        let body = r#"[12345678901234567890, 1.0, {"b":1,"a":2},{"k":1,"k":2}, "\u0041 \ud800", 1E+2 , { "x" : [ 1 ,2 ] }]"#;
        let expected = [
            "12345678901234567890",
            "1.0",
            r#"{"b":1,"a":2}"#,
            r#"{"k":1,"k":2}"#,
            r#""\u0041 \ud800""#,
            "1E+2",
            r#"{ "x" : [ 1 ,2 ] }"#,
        ];
        assert_eq!(
            messages(body.as_bytes()),
            Ok(expected.map(str::to_owned).to_vec())
        );
    }

    #[test]
    fn what_is_not_json_is_refused() {
        for body in [
            "",
            " ",
            "{",
            "[1,]",
            "[1 2]",
            "nul",
            "01",
            "\"a",
            "{\"a\"}",
            "1 2",
            "[1]x",
            "NaN",
            "\u{feff}1",
            "\"\u{1}\"",
        ] {
            assert_eq!(messages(body.as_bytes()), Err(INVALID), "{body:?}");
        }
        assert_eq!(messages(b"\"\xff\""), Err(INVALID));
    }

    #[test]
    fn depth_costs_no_stack() {
        let deep = "[".repeat(100_000) + &"]".repeat(100_000);
        assert_eq!(
            messages(deep.as_bytes()).map(|messages| messages.len()),
            Ok(1)
        );
        let object = "{\"a\":".repeat(100_000) + "1" + &"}".repeat(100_000);
        assert_eq!(
            messages(object.as_bytes()).map(|messages| messages.len()),
            Ok(1)
        );
    }

    #[test]
    fn members_and_elements_are_found_as_they_are_written() {
        let object = r#"{ "a" : [1, "x", {"b":2}], "\u0062":"\u0041\"", "c":{"a":1}, "c":null }"#;
        let found = |name| member(object, name);
        assert_eq!(found("a").as_deref(), Some(r#"[1, "x", {"b":2}]"#));
        assert_eq!(
            found("b").and_then(|json| text(&json)).as_deref(),
            Some("A\"")
        );
        assert_eq!(found("c").as_deref(), Some("null"));
        assert_eq!(found("d"), None);
        let list = found("a").and_then(|json| elements(&json));
        assert_eq!(list.unwrap_or_default(), ["1", "\"x\"", "{\"b\":2}"]);
        for broken in [
            "",
            "[]",
            "1",
            "{",
            "{}x",
            r#"{"a":1"#,
            r#"{"a"}"#,
            r#"{"a":1,}"#,
        ] {
            assert_eq!(member(broken, "a"), None, "{broken}");
        }
        for other in ["", "1", "null", "[\"a\"]", "\"", "\"a\"b"] {
            assert_eq!(text(other), None, "{other}");
        }
        for other in ["", "1", "{}", "[", "[1,]", "[1]x"] {
            assert_eq!(elements(other), None, "{other}");
        }
    }
}
