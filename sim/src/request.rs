//! Requests and responses as clients write and read them.

use std::borrow::Cow;

use bytes::Bytes;

/// One HTTP request on a stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    pub method: &'static str,
    pub query: Vec<(&'static str, String)>,
    pub headers: Vec<(&'static str, String)>,
    pub body: Bytes,
}

impl Request {
    #[must_use]
    pub fn new(method: &'static str) -> Self {
        Self {
            method,
            ..Self::default()
        }
    }

    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(each, _)| each.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    /// Returns the values of a query parameter, which may be given more than once.
    pub fn parameters(&self, name: &str) -> impl Iterator<Item = &str> {
        self.query
            .iter()
            .filter(move |(each, _)| *each == name)
            .map(|(_, value)| value.as_str())
    }

    #[must_use]
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters(name).next()
    }

    /// Returns the client's cursor, if it sent a valid one.
    #[must_use]
    pub fn cursor(&self) -> Option<u64> {
        self.parameter("cursor").and_then(|text| text.parse().ok())
    }

    /// Returns the same request for another offset.
    #[must_use]
    pub fn from_offset(&self, offset: &str) -> Self {
        let mut request = self.clone();
        request.headers.retain(|(name, _)| *name != "Last-Event-ID");
        for (name, value) in &mut request.query {
            if *name == "offset" {
                offset.clone_into(value);
            }
        }
        request
    }

    #[must_use]
    pub fn url(&self, base: &str) -> String {
        let mut url = String::with_capacity(base.len() + 80);
        url.push_str(base);
        for (index, (name, value)) in self.query.iter().enumerate() {
            url.push(if index == 0 { '?' } else { '&' });
            url.push_str(name);
            url.push('=');
            url.push_str(value);
        }
        url
    }

    /// Returns one line for the trace.
    #[must_use]
    pub fn line(&self) -> String {
        let mut line = self.url(self.method);
        for (name, value) in &self.headers {
            line.push_str(&format!(" {name}={value}"));
        }
        if !self.body.is_empty() {
            line.push_str(&format!(" {}", excerpt(&self.body)));
        }
        line
    }
}

/// One HTTP response.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Response {
    pub status: u16,
    pub headers: Vec<(Cow<'static, str>, String)>,
    pub body: Bytes,
}

impl Response {
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(each, _)| each.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    /// Returns the cursor, if there is a valid one.
    #[must_use]
    pub fn cursor(&self) -> Option<u64> {
        self.header("Stream-Cursor")
            .and_then(|text| text.parse().ok())
    }

    #[must_use]
    pub fn is_true(&self, name: &str) -> bool {
        self.header(name) == Some("true")
    }

    /// Returns one line for the trace.
    #[must_use]
    pub fn line(&self) -> String {
        let mut line = self.status.to_string();
        for (name, value) in &self.headers {
            if name.starts_with("Stream-") || name.starts_with("Producer-") || name == "ETag" {
                line.push_str(&format!(" {name}={value}"));
            }
        }
        if !self.body.is_empty() {
            line.push_str(&format!(" {}", excerpt(&self.body)));
        }
        line
    }
}

/// Returns the beginning of a body on one line.
#[must_use]
pub fn excerpt(bytes: &[u8]) -> String {
    let shown = &bytes[..bytes.len().min(48)];
    let more = if shown.len() < bytes.len() {
        format!("… ({} bytes)", bytes.len())
    } else {
        String::new()
    };
    format!("\"{}\"{more}", shown.escape_ascii())
}
