//! The admin page, whose files are in the program if it was built with them.

use bytes::Bytes;
use machine::router::page::{self, Page};
use machine::{Answer, Body};

use crate::http::{Admitted, Outgoing};

include!(concat!(env!("OUT_DIR"), "/page.rs"));

/// The command that builds a server with the page.
const BUILD: &str = "cargo xtask build --shell server";

/// Answers a request whose path is one of the page's.
pub(crate) fn answer(method: &str, path: &str) -> Option<Outgoing<Admitted>> {
    let file = match page::page(method, path)? {
        Page::File(file) => file,
        Page::Answered(answer) => return Some(whole(&answer)),
    };
    let Some((_, content)) = FILES.iter().find(|(path, _)| *path == file.path) else {
        return Some(whole(&file.missing(method, BUILD)));
    };
    let headers = file.headers().into_iter();
    Some(Outgoing::small(200, headers, Bytes::from_static(content)))
}

fn whole(answer: &Answer) -> Outgoing<Admitted> {
    let body = match &answer.body {
        Body::Bytes(bytes) => Bytes::from(bytes.clone()),
        Body::Empty | Body::Plan(_) => Bytes::new(),
    };
    Outgoing::small(answer.status, answer.headers(), body)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(path: &str) -> Option<u16> {
        answer("GET", path).map(|outgoing| outgoing.status())
    }

    #[test]
    fn the_page_is_served_if_it_was_built() {
        let expected = if FILES.is_empty() { 404 } else { 200 };
        assert_eq!(status("/admin"), Some(expected));
        for (path, _) in FILES {
            assert_eq!(status(&format!("/admin/{path}")), Some(200), "{path}");
        }
        assert_eq!(status("/admin/assets/none.js"), Some(404));
        assert_eq!(status("/admin/api/health"), None);
        assert_eq!(status("/health"), None);
    }
}
