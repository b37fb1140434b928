//! Metadata (protocol 5.5): the properties of a stream without its content. Does not count as use.

use super::{StepError, Stream};
use crate::Answer;
use crate::rows::Expiry;
use crate::wire::header;

impl Stream {
    pub(super) fn metadata(&mut self) -> Result<Answer, StepError> {
        let (state, _) = self.state()?;
        let head = &state.row;
        let answer = Answer::uncached(200)
            .with(header::CONTENT_TYPE, head.content_type.clone())
            .with(header::ETAG, state.entity_tag())
            .at(state.tail())
            .closed(state.is_closed());
        Ok(match &head.expiry {
            Expiry::Never => answer,
            Expiry::Sliding { seconds } => answer.with(header::STREAM_TTL, seconds.to_string()),
            Expiry::At { text, .. } => answer.with(header::STREAM_EXPIRES_AT, text.clone()),
        })
    }
}
