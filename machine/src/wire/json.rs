//! JSON mode (protocol 9.1): a body is cut into messages, and each message keeps its bytes.

use serde_json::value::RawValue;

use crate::Refusal;

const INVALID: Refusal = Refusal::Malformed("the body is not valid JSON");

/// The messages of a body: the elements of its outermost array, or the one value that it is (protocol 9.1.2).
///
/// # Errors
/// When the body is not valid JSON (protocol 9.1.4).
pub(crate) fn messages(body: &[u8]) -> Result<Vec<&str>, Refusal> {
    let first = body.iter().find(|byte| !byte.is_ascii_whitespace());
    if first == Some(&b'[') {
        let elements: Vec<&RawValue> = serde_json::from_slice(body).map_err(|_| INVALID)?;
        Ok(elements.into_iter().map(RawValue::get).collect())
    } else {
        let value: &RawValue = serde_json::from_slice(body).map_err(|_| INVALID)?;
        Ok(vec![value.get()])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_level_is_flattened() {
        assert_eq!(messages(b" [[1,2], [3,4]]"), Ok(vec!["[1,2]", "[3,4]"]));
        assert_eq!(messages(b"[[[1,2,3]]]"), Ok(vec!["[[1,2,3]]"]));
        assert_eq!(messages(b"[]"), Ok(vec![]));
        assert_eq!(messages(b"\n{\"a\":[1]}\n"), Ok(vec!["{\"a\":[1]}"]));
    }

    #[test]
    fn bytes_are_kept_as_sent() {
        let body = r#"[12345678901234567890, 1.0, {"b":1,"a":2},{"k":1,"k":2}, "\u0041 \ud800", 1E+2 , { "x" : [ 1 ,2 ] }]"#;
        let expected = vec![
            "12345678901234567890",
            "1.0",
            r#"{"b":1,"a":2}"#,
            r#"{"k":1,"k":2}"#,
            r#""\u0041 \ud800""#,
            "1E+2",
            r#"{ "x" : [ 1 ,2 ] }"#,
        ];
        assert_eq!(messages(body.as_bytes()), Ok(expected));
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
        assert_eq!(messages(deep.as_bytes()).map(|messages| messages.len()), Ok(1));
        let object = "{\"a\":".repeat(100_000) + "1" + &"}".repeat(100_000);
        assert_eq!(messages(object.as_bytes()).map(|messages| messages.len()), Ok(1));
    }
}
