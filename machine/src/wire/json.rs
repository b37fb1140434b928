//! JSON mode (protocol 9.1). A body is split into messages, and the bytes of each message are kept
//! as they are.

use core::fmt;

use serde::de::{Deserialize as _, Deserializer as _, SeqAccess, Visitor};
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
}
