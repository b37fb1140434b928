//! The admin page: which of its files a request gets, and with which headers. The page itself is
//! public, because everything that it shows comes from the admin API and from streams.

use super::{path, refused};
use crate::wire::header;
use crate::{Answer, Body, Refusal};

const PREFIX: &str = "/admin";
/// The paths below this one belong to the admin API.
const API: &str = "api";
const ASSETS: &str = "assets/";
const INDEX: &str = "index.html";
const METHODS: &str = "GET, HEAD";

/// Only the page's own files run as scripts, and the page talks to its own server only. It makes no
/// markup from text, so that content of streams cannot become markup.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
    connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
    require-trusted-types-for 'script'; trusted-types 'none'";

/// A file of the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct File<'a> {
    /// The path of the file in the directory of the built page.
    pub path: &'a str,
}

/// The decision on a request whose path is one of the page's.
#[derive(Debug, PartialEq, Eq)]
pub enum Page<'a> {
    /// Answer with this file. If it does not exist, answer with [`File::missing`].
    File(File<'a>),
    /// Answer this.
    Answered(Answer),
}

/// Returns what a request gets if its path is one of the admin page's.
#[must_use]
pub fn page<'a>(method: &str, target: &'a str) -> Option<Page<'a>> {
    let rest = path(target).strip_prefix(PREFIX)?;
    let rest = match rest.strip_prefix('/') {
        Some(rest) => rest,
        None if rest.is_empty() => rest,
        None => return None,
    };
    if rest.split('/').next() == Some(API) {
        return None;
    }
    if !matches!(method, "GET" | "HEAD") {
        let refusal = Refusal::MethodNotAllowed { allow: METHODS };
        return Some(Page::Answered(refused(method, &refusal)));
    }
    // The page finds out itself which of its views a path names.
    let path = if is_asset(rest) { rest } else { INDEX };
    Some(Page::File(File { path }))
}

/// Returns whether this is the path of an asset. Their names are plain.
fn is_asset(path: &str) -> bool {
    path.strip_prefix(ASSETS).is_some_and(|name| {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.');
        !name.starts_with('.') && name.bytes().all(is_plain)
    })
}

impl File<'_> {
    /// Returns the headers of the answer with this file.
    #[must_use]
    pub fn headers(&self) -> [(&'static str, &'static str); 6] {
        // The name of an asset contains a hash of its content.
        let cache_control = if self.path == INDEX {
            "no-cache"
        } else {
            "public, max-age=31536000, immutable"
        };
        [
            (header::CONTENT_TYPE, self.content_type()),
            (header::CACHE_CONTROL, cache_control),
            ("Content-Security-Policy", POLICY),
            ("X-Content-Type-Options", "nosniff"),
            ("Referrer-Policy", "no-referrer"),
            ("Cross-Origin-Resource-Policy", "same-origin"),
        ]
    }

    fn content_type(&self) -> &'static str {
        match self.path.rsplit_once('.') {
            Some((_, "html")) => "text/html; charset=utf-8",
            Some((_, "js")) => "text/javascript; charset=utf-8",
            Some((_, "css")) => "text/css; charset=utf-8",
            Some((_, "svg")) => "image/svg+xml",
            Some(_) | None => "application/octet-stream",
        }
    }

    /// Returns the answer to a request for a file that does not exist. `build` is the command that
    /// builds the page into the program.
    #[must_use]
    pub fn missing(&self, method: &str, build: &str) -> Answer {
        if self.path != INDEX {
            return refused(method, &Refusal::PathNotFound);
        }
        let text = format!(
            "This server was built without its admin page.\n\n    {build}\n\nbuilds it with the \
             page, which needs Node.js 20.19 or newer. The admin API works without it.\n"
        );
        let answer = Answer::uncached(404)
            .with(header::CONTENT_TYPE, "text/plain; charset=utf-8")
            .body(Body::Bytes(text.into_bytes()));
        if method == "HEAD" {
            answer.without_body()
        } else {
            answer
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(target: &str) -> Option<&str> {
        match page("GET", target)? {
            Page::File(file) => Some(file.path),
            Page::Answered(answer) => panic!("{target} is answered {}", answer.status),
        }
    }

    #[test]
    fn every_path_of_the_page_gets_its_document() {
        for target in [
            "/admin",
            "/admin/",
            "/admin?x",
            "/admin/streams",
            "/admin/streams/a/b.js",
            "/admin/streams/..%2F",
            "/admin/streams/api/x?tab=segments",
            "/admin/assets/../index.html",
            "/admin/assets/.hidden",
            "/admin/assets/a%2Fb.js",
            "/admin/assets/a/b.js",
            "/admin/apis",
        ] {
            assert_eq!(file(target), Some(INDEX), "{target}");
        }
        assert_eq!(
            file("/admin/assets/main-A1.js?v"),
            Some("assets/main-A1.js")
        );
    }

    #[test]
    fn other_paths_are_none_of_the_page() {
        for target in [
            "/",
            "/administrator",
            "/admin/api",
            "/admin/api/streams",
            "/v1/stream/admin",
            "*",
        ] {
            assert_eq!(page("GET", target), None, "{target}");
            assert_eq!(page("POST", target), None, "{target}");
        }
    }

    #[test]
    fn the_page_is_only_read() {
        for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
            let Some(Page::Answered(answer)) = page(method, "/admin/streams") else {
                panic!("{method} is let through")
            };
            assert_eq!(
                (answer.status, answer.header(header::ALLOW)),
                (405, Some(METHODS))
            );
        }
    }

    #[test]
    fn only_files_with_a_hash_in_their_names_are_kept() {
        let header = |path, name| {
            let file = File { path };
            let headers = file.headers();
            headers.iter().find(|(each, _)| *each == name).unwrap().1
        };
        assert_eq!(header(INDEX, header::CACHE_CONTROL), "no-cache");
        let immutable = header("assets/main-A1.js", header::CACHE_CONTROL);
        assert!(immutable.contains("immutable"));
        assert_eq!(
            header("assets/main-A1.css", header::CONTENT_TYPE),
            "text/css; charset=utf-8"
        );
    }

    #[test]
    fn a_missing_page_names_the_command_that_builds_it() {
        let index = File { path: INDEX };
        let answer = index.missing("GET", "cargo xtask build");
        assert_eq!(answer.status, 404);
        let Body::Bytes(body) = &answer.body else {
            panic!("it has no text")
        };
        assert!(String::from_utf8_lossy(body).contains("cargo xtask build"));
        assert_eq!(index.missing("HEAD", "").body, Body::Empty);
        let asset = File {
            path: "assets/a.js",
        };
        assert_eq!(asset.missing("GET", "").status, 404);
    }
}
