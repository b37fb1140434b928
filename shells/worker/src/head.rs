//! The head of a request. It crosses into this code as one text, because a call for each header
//! would cost more than the headers.

use machine::router::{Settings, target};
use machine::wire::request::RequestHead;

/// The head of a request, as `headOf` of `js/entry.mjs` writes it: the method, the URL, and the
/// names and values of the headers, each followed by a NUL.
pub(crate) struct Head<'a> {
    pub(crate) method: &'a str,
    pub(crate) url: &'a str,
    headers: Vec<(&'a str, &'a str)>,
}

impl<'a> Head<'a> {
    pub(crate) fn new(text: &'a str) -> Self {
        let mut parts = text.split_terminator('\0');
        let mut next = || parts.next().expect("a head has a method and a URL");
        let (method, url) = (next(), next());
        let mut headers = Vec::new();
        while let Some(name) = parts.next() {
            headers.push((name, parts.next().expect("a header has a value")));
        }
        Self {
            method,
            url,
            headers,
        }
    }

    pub(crate) fn header(&self, name: &str) -> Option<&'a str> {
        let found = self
            .headers
            .iter()
            .find(|(each, _)| each.eq_ignore_ascii_case(name));
        found.map(|(_, value)| *value)
    }

    /// Passes the head of a request whose URL the router has checked to `then`.
    pub(crate) fn read<T>(
        &self,
        settings: &Settings,
        then: impl FnOnce(RequestHead<'_>) -> T,
    ) -> T {
        self.read_at(target::split(self.url), settings, then)
    }

    /// Does the same for a URL that is split into its origin and the target.
    pub(crate) fn read_at<T>(
        &self,
        (origin, target): (&str, &str),
        settings: &Settings,
        then: impl FnOnce(RequestHead<'_>) -> T,
    ) -> T {
        then(RequestHead {
            method: self.method,
            origin: settings.location_base(origin),
            target,
            header: &|name| self.header(name).map(str::to_owned),
        })
    }
}
