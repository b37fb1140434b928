//! The `Cache-Control` of answers (protocol 10.1).

use super::{Bounds, Verdict, ensure};
use crate::request::{Request, Response};

impl Bounds {
    /// Judges the `Cache-Control` of an answer: caches keep only what can never become wrong.
    ///
    /// # Errors
    /// When it is another one.
    pub fn keeps_in_caches(&self, request: &Request, response: &Response) -> Verdict {
        if !self.judges_cache_control {
            return Ok(());
        }
        let live = request.parameter("live");
        let is_read = request.method == "GET" && matches!(response.status, 200 | 304);
        let expected = match live {
            _ if !is_read => "no-store".to_owned(),
            Some("sse") => "no-cache, no-store, no-transform".to_owned(),
            Some(_) if self.whole_reads => "no-store".to_owned(),
            // The URL has the offset and the cursor.
            Some(_) => format!("public, max-age={}", self.long_poll_max_age_s),
            None if request.parameter("offset") == Some("now") => "no-store".to_owned(),
            None if response.is_true("Stream-Up-To-Date") => "private, no-cache".to_owned(),
            // A page before the tail never changes.
            None => {
                let scope = if self.whole_reads {
                    "private"
                } else {
                    "public"
                };
                let (age, stale) = (self.page_max_age_s, self.page_stale_s);
                format!("{scope}, max-age={age}, stale-while-revalidate={stale}")
            }
        };
        ensure(
            response.header("Cache-Control") == Some(&expected),
            || format!("Cache-Control: {expected}"),
            response,
        )
    }
}
