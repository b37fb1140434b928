//! Conditions on the state of a stream (RFC 9110, 13.1), and the entity tags that they name.

use super::{Model, Verdict, ensure};
use crate::request::{Request, Response};
use crate::segments::tag;

impl Model {
    /// Judges the entity tag of an answer. All tags of a life name it alike.
    pub(super) fn name(&mut self, response: &Response) -> Verdict {
        let Some(text) = response.header("ETag") else {
            return Ok(());
        };
        let life = self.state.life.as_mut();
        let (Some(life), Some(tag)) = (life, tag(text)) else {
            return ensure(
                false,
                || "no entity tag, or one of ours".to_owned(),
                response,
            );
        };
        let (start, end) = (
            life.segments.position_sent(tag.start),
            life.segments.position_sent(tag.end),
        );
        let fits = start <= end && end.is_some_and(|end| end <= life.content.len());
        let named = life
            .named
            .get_or_insert_with(|| tag.life.to_owned())
            .clone();
        ensure(
            fits && start.is_some() && named == tag.life,
            || format!("a tag of {named}, within its content"),
            response,
        )
    }

    /// Judges that a request which was not refused with 412 meets its conditions.
    pub(super) fn meets(&self, request: &Request, response: &Response) -> Verdict {
        let fails = self
            .state
            .life
            .as_ref()
            .and_then(|life| life.fails(request));
        ensure(fails != Some(true), || "412".to_owned(), response)
    }

    /// Judges that a request which was refused with 412 fails its conditions.
    pub(super) fn failed(&self, request: &Request, response: &Response) -> Verdict {
        let fails = self
            .state
            .life
            .as_ref()
            .and_then(|life| life.fails(request));
        ensure(fails != Some(false), || "not 412".to_owned(), response)?;
        ensure(
            response.header("ETag").is_some(),
            || "the entity tag of the present state".to_owned(),
            response,
        )?;
        self.at_tail(response)
    }
}
