//! The bodies of writes.

use bytes::Bytes;

use super::Context;
use crate::choices::Choices;
use crate::model::Content;

/// Draws a body for this kind of stream, often with a marker by which it can be found again.
pub(super) fn body(
    choices: &mut Choices<'_>,
    context: &Context<'_>,
    content: &Content,
) -> (Bytes, Option<String>) {
    let size = if choices.percent(4) {
        choices.boundary(
            context
                .settings
                .limits
                .append_bytes_max
                .min(context.settings.body_bytes * 10),
        )
    } else {
        1 + choices.magnitude(context.settings.body_bytes)
    };
    let mut filler = Filler(choices.upto(255));
    let marker = format!("#{};", context.operation);
    let marked = choices.upto(4) > 0;
    match content {
        Content::Messages(_) => {
            let count = choices.magnitude(6);
            let mut messages: Vec<String> = (0..count)
                .map(|_| filler.json(size / (count + 1)))
                .collect();
            if marked {
                messages.push(format!("{{\"m\":\"{marker}\"}}"));
            }
            let body = match choices.upto(7) {
                0 if messages.len() == 1 => messages.remove(0),
                1 => format!("[{}]", messages.join(" , ")),
                2 => format!(" \n[{}]\t", messages.join(",\n")),
                3 => format!("[[{}]]", messages.join(",")),
                4 => format!("{{\"a\":[{}]}}", messages.join(",")),
                _ => format!("[{}]", messages.join(",")),
            };
            // The shortest messages there are, which nothing marks.
            if choices.fourth().percent(10) {
                let shortest = choices
                    .fourth()
                    .one_of(&["7", "[7]", "[7,8]", "[7,8,9]", "[7,\"\"]"]);
                return (shortest.into(), None);
            }
            (body.into(), Some(marker).filter(|_| marked))
        }
        Content::Run { text, .. } => {
            let mut body = if *text {
                filler.text(size)
            } else {
                filler.bytes(size)
            };
            // Parts of a character and of a line ending, which meet others at the seams of appends.
            if *text && choices.added().percent(30) {
                let ends: [&[u8]; 8] = [
                    b"",
                    b"\xf0",
                    b"\xf0\x9f",
                    b"\xf0\x9f\x98",
                    b"\xe2\x82",
                    b"\xc3",
                    b"\r",
                    b"\xff",
                ];
                let begins: [&[u8]; 8] = [
                    b"",
                    b"\x9f\x98\x80",
                    b"\x98\x80",
                    b"\x80",
                    b"\xac",
                    b"\xa9",
                    b"\n",
                    b"\x9f",
                ];
                let (begin, end) = (
                    choices.added().one_of(&begins),
                    choices.added().one_of(&ends),
                );
                if choices.added().percent(30) && !(begin.is_empty() && end.is_empty()) {
                    body.clear();
                }
                body.splice(..0, begin.iter().copied());
                body.extend_from_slice(end);
            }
            let fits = marked && body.len() > marker.len();
            if fits {
                let end = body.len() - marker.len();
                // Not inside a character.
                let end = (0..=end)
                    .rev()
                    .find(|at| body[*at] & 0xc0 != 0x80 || !*text)
                    .unwrap_or(0);
                body.truncate(end);
                body.extend_from_slice(marker.as_bytes());
            }
            (body.into(), Some(marker).filter(|_| fits))
        }
    }
}

/// Returns content that follows from one number, so that it costs one decision.
struct Filler(u64);

impl Filler {
    fn next(&mut self, below: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % below
    }

    fn bytes(&mut self, size: u64) -> Vec<u8> {
        // No '#', because markers begin with it.
        (0..size)
            .map(|_| self.next(256) as u8)
            .map(|byte| if byte == b'#' { 0 } else { byte })
            .collect()
    }

    fn text(&mut self, size: u64) -> Vec<u8> {
        let pieces = [
            "a", " ", "\n", "b", "é", "€", "😀", "\r", "\r\n", "data:", "c", "  ",
        ];
        let mut text = Vec::new();
        while (text.len() as u64) < size {
            let piece = pieces[usize::try_from(self.next(pieces.len() as u64)).unwrap_or(0)];
            if text.len() + piece.len() > usize::try_from(size).unwrap_or(usize::MAX) {
                text.push(b'z');
            } else {
                text.extend_from_slice(piece.as_bytes());
            }
        }
        text
    }

    fn json(&mut self, size: u64) -> String {
        match self.next(8) {
            0 => "1.0".to_owned(),
            1 => "12345678901234567890".to_owned(),
            2 => "[1, [2]]".to_owned(),
            3 => "[]".to_owned(),
            4 => "{\"b\" : null,\"a\":[true]}".to_owned(),
            5 => "\"\\u0041 \\\" ,]\"".to_owned(),
            _ => format!("\"{}\"", "x".repeat(usize::try_from(size).unwrap_or(0))),
        }
    }
}
