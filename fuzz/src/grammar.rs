//! A recognizer of JSON, from RFC 8259 alone. It shares nothing with the machine and does not
//! recurse.

/// Returns the spans of the messages in a body (protocol 9.1.2): the elements of the outermost
/// array, or the one value. Returns `None` if the body is not JSON.
pub(crate) fn messages(body: &[u8]) -> Option<Vec<&[u8]>> {
    std::str::from_utf8(body).ok()?;
    let mut scanner = Scanner { body, at: 0 };
    scanner.space();
    let mut messages = Vec::new();
    if scanner.next_is(b'[') {
        scanner.space();
        if !scanner.next_is(b']') {
            loop {
                scanner.space();
                messages.push(scanner.value()?);
                scanner.space();
                if !scanner.next_is(b',') {
                    break;
                }
            }
            scanner.expect(b']')?;
        }
    } else {
        messages.push(scanner.value()?);
    }
    scanner.space();
    (scanner.at == body.len()).then_some(messages)
}

struct Scanner<'a> {
    body: &'a [u8],
    at: usize,
}

impl<'a> Scanner<'a> {
    fn peek(&self) -> Option<u8> {
        self.body.get(self.at).copied()
    }

    fn next_is(&mut self, byte: u8) -> bool {
        let is = self.peek() == Some(byte);
        self.at += usize::from(is);
        is
    }

    fn expect(&mut self, byte: u8) -> Option<()> {
        self.next_is(byte).then_some(())
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    /// Skips one value with everything in it, without the space around it.
    fn value(&mut self) -> Option<&'a [u8]> {
        let begin = self.at;
        let mut open = Vec::new();
        loop {
            match self.peek()? {
                b'[' => {
                    self.at += 1;
                    self.space();
                    if !self.next_is(b']') {
                        open.push(b']');
                        continue;
                    }
                }
                b'{' => {
                    self.at += 1;
                    self.space();
                    if !self.next_is(b'}') {
                        open.push(b'}');
                        self.name()?;
                        continue;
                    }
                }
                b'"' => self.string()?,
                b't' => self.word(b"true")?,
                b'f' => self.word(b"false")?,
                b'n' => self.word(b"null")?,
                _ => self.number()?,
            }
            // A value has ended, and perhaps also values that contain it.
            loop {
                let Some(close) = open.last().copied() else {
                    return Some(&self.body[begin..self.at]);
                };
                self.space();
                if self.next_is(b',') {
                    self.space();
                    if close == b'}' {
                        self.name()?;
                    }
                    break;
                }
                self.expect(close)?;
                open.pop();
            }
        }
    }

    /// Skips the name of a member, its colon, and the space around both.
    fn name(&mut self) -> Option<()> {
        self.string()?;
        self.space();
        self.expect(b':')?;
        self.space();
        Some(())
    }

    fn word(&mut self, word: &[u8]) -> Option<()> {
        self.body[self.at..]
            .starts_with(word)
            .then(|| self.at += word.len())
    }

    fn string(&mut self) -> Option<()> {
        self.expect(b'"')?;
        loop {
            let byte = self.peek()?;
            self.at += 1;
            match byte {
                b'"' => return Some(()),
                b'\\' => {
                    let escape = self.peek()?;
                    self.at += 1;
                    match escape {
                        b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => {}
                        b'u' => {
                            let digits = self.body.get(self.at..self.at + 4)?;
                            digits.iter().all(u8::is_ascii_hexdigit).then_some(())?;
                            self.at += 4;
                        }
                        _ => return None,
                    }
                }
                0..=0x1f => return None,
                _ => {}
            }
        }
    }

    fn number(&mut self) -> Option<()> {
        self.next_is(b'-');
        if !self.next_is(b'0') {
            self.digits()?;
        }
        if self.next_is(b'.') {
            self.digits()?;
        }
        if self.next_is(b'e') || self.next_is(b'E') {
            let _ = self.next_is(b'+') || self.next_is(b'-');
            self.digits()?;
        }
        Some(())
    }

    fn digits(&mut self) -> Option<()> {
        let begin = self.at;
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
        (self.at > begin).then_some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_are_cut_at_the_outermost_commas() {
        let body = br#" [ {"a":[1,2],"b":{}} ,"x,]", -0.5e+3,[],[[ ]] ] "#;
        let expected: Vec<&[u8]> = vec![
            br#"{"a":[1,2],"b":{}}"#,
            b"\"x,]\"",
            b"-0.5e+3",
            b"[]",
            b"[[ ]]",
        ];
        assert_eq!(messages(body), Some(expected));
        assert_eq!(messages(b"\tnull\r\n"), Some(vec![&b"null"[..]]));
        assert_eq!(messages(b"[ ]"), Some(vec![]));
    }

    #[test]
    fn what_is_not_json_is_none() {
        let bodies: [&[u8]; 16] = [
            b"",
            b"[",
            b"[1,]",
            b"[,1]",
            b"{\"a\":1,}",
            b"{1:2}",
            b"01",
            b"1.",
            b".5",
            b"+1",
            b"1e",
            b"\"\n\"",
            b"\"\\x\"",
            b"\"\\u12\"",
            b"1 2",
            b"[1}",
        ];
        for body in bodies {
            assert_eq!(messages(body), None, "{}", String::from_utf8_lossy(body));
        }
    }
}
