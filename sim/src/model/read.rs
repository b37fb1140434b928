//! Reads: GET and HEAD (protocol 5.5 to 5.8).

use super::content::Content;
use super::{Mismatch, Model, TurnFacts, Verdict, ensure};
use crate::request::{Request, Response};
use crate::segments::{tag, token};

/// The bytes that the server adds to each stored append.
const FRAME_BYTES: usize = 4;

impl Model {
    /// Returns the body of a plain read that begins now at an offset and has all pages.
    #[must_use]
    pub fn promised(&self, offset: Option<&str>) -> Option<Vec<u8>> {
        let incarnation = self.state.incarnation.as_ref()?;
        let tail = incarnation.content.len();
        let start = match offset {
            None | Some("-1") => 0,
            Some(text) => incarnation
                .segments
                .position_requested(token(text)?)
                .min(tail),
        };
        let begin = if start == tail {
            tail
        } else {
            incarnation.content.begin(start)
        };
        incarnation.content.page(begin, tail)
    }

    /// Judges whether the next page of an incarnation's answer was sent.
    ///
    /// # Errors
    /// When it was sent after that incarnation had ended, or not sent although it still exists.
    pub fn continued(&mut self, id: u64, given: bool, facts: &TurnFacts) -> Verdict {
        self.settle_expiry(facts, false)?;
        let incarnation = self
            .state
            .incarnation
            .as_mut()
            .filter(|incarnation| incarnation.id == id);
        if given != incarnation.is_some() {
            return Err(Mismatch {
                expected: format!(
                    "the next page of incarnation {id}: {}",
                    incarnation.is_some()
                ),
                actual: given.to_string(),
            });
        }
        if let Some(incarnation) = incarnation {
            incarnation.use_at(facts.now);
        }
        self.turned(facts)
    }

    pub(super) fn described(&self, response: &Response) -> Verdict {
        let Some(incarnation) = &self.state.incarnation else {
            return Ok(());
        };
        ensure(
            response.status == 200 && response.body.is_empty(),
            || "200 without a body".to_owned(),
            response,
        )?;
        let ttl = incarnation.ttl.map(|seconds| seconds.to_string());
        ensure(
            response.header("Stream-TTL") == ttl.as_deref(),
            || format!("Stream-TTL: {ttl:?}"),
            response,
        )?;
        let expires = incarnation.expires.as_ref().map(|(_, text)| text.as_str());
        ensure(
            response.header("Stream-Expires-At") == expires,
            || format!("Stream-Expires-At: {expires:?}"),
            response,
        )?;
        let all = response.header("ETag").and_then(tag);
        let names_all = all.filter(|tag| {
            tag.start == (0, 0) && tag.closed == incarnation.closed && incarnation.is_at(tag.end)
        });
        ensure(
            names_all.is_some(),
            || "the entity tag of the whole stream".to_owned(),
            response,
        )?;
        self.at_tail(response)?;
        self.names_type(response)
    }

    pub(super) fn read(
        &mut self,
        request: &Request,
        response: &Response,
        facts: &TurnFacts,
    ) -> Verdict {
        let Some(incarnation) = &mut self.state.incarnation else {
            return Ok(());
        };
        incarnation.use_at(facts.now);
        let tail = incarnation.content.len();
        let live = request.parameter("live");
        let offset = request.parameter("offset");
        let start = incarnation.segments.begin(request, tail).unwrap_or(tail);
        let sent = |token| incarnation.segments.position_sent(token);
        if start == tail && live.is_some() && !incarnation.closed {
            let status = if live == Some("sse") { 200 } else { 204 };
            ensure(
                facts.kept && response.status == status,
                || "to be kept as a reader at the tail".to_owned(),
                response,
            )?;
            return if status == 204 {
                self.at_tail(response)
            } else {
                Ok(())
            };
        }
        ensure(!facts.kept, || "to be answered".to_owned(), response)?;
        if incarnation.closed && incarnation.segments.resumed(request, tail) == Some(tail) {
            ensure(
                response.status == 204 && response.is_true("Stream-Up-To-Date"),
                || "204, so that a browser does not connect again".to_owned(),
                response,
            )?;
            return self.at_tail(response);
        }
        if live == Some("sse") {
            let end = facts.page_end.and_then(sent).unwrap_or(u64::MAX);
            page_is_allowed(&incarnation.content, start, end, response)?;
            return ensure(response.status == 200, || "200".to_owned(), response);
        }
        if live == Some("long-poll") && start == tail {
            ensure(
                response.status == 204,
                || "204: the end of a closed stream".to_owned(),
                response,
            )?;
            ensure(
                response.is_true("Stream-Up-To-Date"),
                || "Stream-Up-To-Date".to_owned(),
                response,
            )?;
            return self.at_tail(response);
        }
        let end = response
            .header("Stream-Next-Offset")
            .and_then(token)
            .and_then(sent)
            .unwrap_or(u64::MAX);
        page_is_allowed(&incarnation.content, start, end, response)?;
        let whole = self.bounds.whole_reads && live.is_none();
        ensure(
            !whole || end == tail,
            || format!("everything up to {tail}"),
            response,
        )?;
        let reached = end == tail;
        ensure(
            response.is_true("Stream-Up-To-Date") == reached,
            || format!("Stream-Up-To-Date: {reached}"),
            response,
        )?;
        let eof = reached && incarnation.closed;
        ensure(
            response.is_true("Stream-Closed") == eof,
            || format!("Stream-Closed: {eof}"),
            response,
        )?;
        let tagged = offset != Some("now");
        ensure(
            response.header("ETag").is_some() == tagged,
            || format!("an ETag: {tagged}"),
            response,
        )?;
        let known = request.header("If-None-Match").unwrap_or_default();
        let tag = response.header("ETag").unwrap_or("none");
        let named = live.is_none()
            && known
                .split(", ")
                .any(|each| each == "*" || each.trim_start_matches("W/") == tag)
            && tagged;
        let status = if named { 304 } else { 200 };
        ensure(response.status == status, || status.to_string(), response)?;
        if live.is_some() && !eof {
            let (client, cursor) = (request.cursor(), response.cursor());
            let present = facts.now.saturating_sub(self.bounds.cursor_epoch_ms)
                / self.bounds.cursor_interval_ms;
            let ahead = cursor.is_some_and(|cursor| {
                cursor >= present && client.is_none_or(|client| cursor > client)
            });
            ensure(
                ahead,
                || format!("a cursor of {present} or more, and beyond {client:?}"),
                response,
            )?;
        }
        if status == 304 {
            return ensure(response.body.is_empty(), || "no body".to_owned(), response);
        }
        let begin = if start == tail {
            tail
        } else {
            incarnation.content.begin(start)
        };
        let page = incarnation.content.page(begin, end).unwrap_or_default();
        if whole && facts.has_rest {
            let begins = !response.body.is_empty() && page.starts_with(&response.body);
            let expected = || format!("the beginning of {}", crate::request::excerpt(&page));
            ensure(begins, expected, response)?;
            return self.names_type(response);
        }
        let expected = || format!("the body {}", crate::request::excerpt(&page));
        ensure(
            response.body == page || (page == b"[]" && response.body.is_empty() && start != tail),
            expected,
            response,
        )?;
        if let Content::Run { ends, bytes, .. } = &*incarnation.content
            && start != tail
            && !whole
        {
            // Only the last append, or row of appends, may exceed the size of a page.
            let last = incarnation.content.begin(end - 1);
            let framed = (bytes.len() + ends.len() * FRAME_BYTES) as u64;
            let limit = self.bounds.page_limit(framed) + self.bounds.folded_bytes;
            ensure(
                last - begin <= limit,
                || format!("at most {limit} bytes before the last append"),
                response,
            )?;
        }
        self.names_type(response)
    }
}

/// Judges that a page from `start` may end at `end`.
fn page_is_allowed(content: &Content, start: u64, end: u64, response: &Response) -> Verdict {
    let tail = content.len();
    let is_allowed = if start == tail {
        end == tail
    } else {
        start < end && end <= tail && content.is_end(end)
    };
    let expected = || format!("a page from {start} to at most {tail}");
    ensure(is_allowed, expected, response)
}
