//! Writes the JSON of answers. A serializer for each of them would take more code in the Worker.

use core::fmt::{Display, Write as _};

use crate::wire::header;
use crate::{Answer, Body};

/// An object whose members are written one after the other.
pub(crate) struct Object(String);

impl Object {
    pub(crate) fn new() -> Self {
        Self("{".to_owned())
    }

    /// Adds a member whose value is JSON already.
    pub(crate) fn json(mut self, name: &str, value: &dyn Display) -> Self {
        let comma = if self.0.len() > 1 { "," } else { "" };
        write!(self.0, "{comma}\"{name}\":{value}").expect("a text takes more text");
        self
    }

    pub(crate) fn number(self, name: &str, value: u64) -> Self {
        self.json(name, &value)
    }

    pub(crate) fn flag(self, name: &str, value: bool) -> Self {
        self.json(name, &value)
    }

    pub(crate) fn text(self, name: &str, value: &str) -> Self {
        self.json(name, &quoted(value))
    }

    pub(crate) fn number_or_null(self, name: &str, value: Option<u64>) -> Self {
        match value {
            Some(value) => self.number(name, value),
            None => self.json(name, &"null"),
        }
    }

    pub(crate) fn text_or_null(self, name: &str, value: Option<&str>) -> Self {
        match value {
            Some(value) => self.text(name, value),
            None => self.json(name, &"null"),
        }
    }

    /// Adds an array.
    pub(crate) fn array(self, name: &str, items: impl IntoIterator<Item = Self>) -> Self {
        let items: Vec<_> = items.into_iter().map(Self::finish).collect();
        self.json(name, &format_args!("[{}]", items.join(",")))
    }

    pub(crate) fn finish(mut self) -> String {
        self.0.push('}');
        self.0
    }

    /// Returns the answer with this body.
    pub(crate) fn answer(self) -> Answer {
        Answer::uncached(200)
            .with(header::CONTENT_TYPE, "application/json")
            .body(Body::Bytes(self.finish().into_bytes()))
    }
}

pub(crate) fn quoted(text: &str) -> String {
    serde_json::to_string(text).expect("a text always becomes JSON")
}
