//! Conditions on the state of a stream (RFC 9110, 13.1), and the entity tags that they name.

use super::{Model, Verdict, ensure};
use crate::request::{Request, Response};
use crate::segments::tag;

impl Model {
    /// Judges the entity tag of an answer. All tags of an incarnation name it alike.
    pub(super) fn name(&mut self, response: &Response) -> Verdict {
        let Some(text) = response.header("ETag") else {
            return Ok(());
        };
        let incarnation = self.state.incarnation.as_mut();
        let (Some(incarnation), Some(tag)) = (incarnation, tag(text)) else {
            return ensure(
                false,
                || "no entity tag, or one of ours".to_owned(),
                response,
            );
        };
        let (start, end) = (
            incarnation.segments.position_sent(tag.start),
            incarnation.segments.position_sent(tag.end),
        );
        let fits = start <= end && end.is_some_and(|end| end <= incarnation.content.len());
        let named = incarnation
            .named
            .get_or_insert_with(|| tag.incarnation.to_owned())
            .clone();
        ensure(
            fits && start.is_some() && named == tag.incarnation,
            || format!("a tag of {named}, within its content"),
            response,
        )
    }

    /// Judges that a request which was not refused with 412 meets its conditions.
    pub(super) fn meets(&self, request: &Request, response: &Response) -> Verdict {
        let fails = self
            .state
            .incarnation
            .as_ref()
            .and_then(|incarnation| incarnation.fails(request));
        ensure(fails != Some(true), || "412".to_owned(), response)
    }

    /// Judges that a request which was refused with 412 fails its conditions.
    pub(super) fn failed(&self, request: &Request, response: &Response) -> Verdict {
        let fails = self
            .state
            .incarnation
            .as_ref()
            .and_then(|incarnation| incarnation.fails(request));
        ensure(fails != Some(false), || "not 412".to_owned(), response)?;
        ensure(
            response.header("ETag").is_some(),
            || "the entity tag of the present state".to_owned(),
            response,
        )?;
        self.at_tail(response)
    }
}
