//! Judges appends and reads, and the content that is durable.

use machine::{Answer, MemoryRows};

use super::{Span, status_of};
use crate::forks::coverage::Situation;
use crate::forks::model::{Expiry, START};
use crate::forks::read::Reading;
use crate::forks::request::Posted;
use crate::forks::world::World;
use crate::oracles::Oracle;
use crate::workload::timestamp;

impl World<'_, '_> {
    pub(super) fn judge_append(
        &mut self,
        name: &str,
        posted: &Posted,
        answer: &Answer,
        span: Span,
    ) {
        let state = self.model.state(name);
        let status = answer.status;
        let Some(present) = self.model.present_mut(name).filter(|it| !it.hidden) else {
            return self.expect(name, "POST", status, &[status_of(state, 204)]);
        };
        let is_inherited = |id: u64, model: &crate::forks::model::Model| {
            let fork = model.present(name).and_then(|present| present.fork);
            fork.is_some_and(|fork| model.incarnations[fork.source].producers.contains_key(&id))
        };
        present.used.1 = present.used.1.max(span.at);
        if present.closed {
            let expected = if posted.body.is_empty() { 204 } else { 409 };
            return self.expect(name, "POST to a closed stream", status, &[expected]);
        }
        let content = present.format.content(&posted.body).unwrap_or_default();
        let is_other = posted.format != present.format && !posted.body.is_empty();
        let last = posted
            .producer
            .map(|(id, _, _)| present.producers.get(&id).copied());
        let expected = match (is_other, posted.producer, last.flatten()) {
            (true, _, _) => 409,
            (_, Some((_, _, seq)), Some((_, last))) if seq <= last => 204,
            (_, Some((_, _, seq)), Some((_, last))) if seq > last + 1 => 409,
            (_, Some((_, _, seq)), None) if seq > 0 => 409,
            _ => {
                let last = present.stream_seq;
                let is_behind = posted.stream_seq.is_some_and(|seq| last >= Some(seq));
                match (is_behind, posted.producer) {
                    (true, _) => 409,
                    (false, Some(_)) => 200,
                    (false, None) => 204,
                }
            }
        };
        // A producer that is not known has a gap, or has to begin with 0.
        let is_gap =
            matches!((posted.producer, last.flatten()), (Some((_, _, seq)), None) if seq > 0);
        let allowed = if is_gap {
            vec![expected, 400]
        } else {
            vec![expected]
        };
        let is_duplicate = expected == 204 && posted.producer.is_some();
        let is_done = allowed.contains(&status) && matches!(status, 200 | 204) && !is_duplicate;
        if is_done {
            present.used.0 = present.used.0.max(span.at);
            present.content.extend(content);
            let length = present.content.len() as u64;
            if present.ends.last().is_none_or(|last| *last < length) && length > 0 {
                present.ends.push(length);
            }
            present.closed |= posted.close;
            if let Some((id, epoch, seq)) = posted.producer {
                present.producers.insert(id, (epoch, seq));
            }
            present.stream_seq = posted.stream_seq.or(present.stream_seq);
        }
        if is_done
            && posted
                .producer
                .is_some_and(|(id, _, seq)| seq == 0 && is_inherited(id, &self.model))
        {
            self.cover(Situation::ProducerAgain);
        }
        self.expect(name, "POST", status, &allowed);
        if is_done {
            self.learn_tail(name, answer);
        }
    }

    pub(super) fn judge_read(
        &mut self,
        call: u64,
        name: &str,
        from: Option<&str>,
        answer: &Answer,
        span: Span,
    ) {
        let index = self.model.present.get(name).copied();
        let (Some(index), Some(present)) = (index, self.model.present_mut(name)) else {
            return;
        };
        present.used = (present.used.0.max(span.at), present.used.1.max(span.at));
        let length = present.content.len() as u64;
        let start = from.map_or(Some(0), |from| present.anchor(from));
        let start = start.filter(|start| *start <= length);
        let is_closed = present.closed;
        self.readings
            .insert(call, Reading::new(index, start, length));
        if answer.header("Stream-Closed").is_some() != is_closed {
            let expected = format!("{name} closed: {is_closed}");
            return self.fail(Oracle::ForkAnswers, expected, "the other");
        }
        self.learn_tail(name, answer);
        self.whole_body(call, answer);
    }

    pub(super) fn judge_head(&mut self, name: &str, answer: &Answer) {
        let Some(present) = self.model.present(name) else {
            return;
        };
        let ttl = match present.expiry {
            Expiry::Ttl(seconds) => Some(seconds.to_string()),
            Expiry::Never | Expiry::At(_) => None,
        };
        let at = match present.expiry {
            Expiry::At(at) => Some(timestamp(at)),
            Expiry::Never | Expiry::Ttl(_) => None,
        };
        let closed = present.closed.then(|| "true".to_owned());
        let expected = [
            (
                "Content-Type",
                Some(present.format.content_type().to_owned()),
            ),
            ("Stream-TTL", ttl),
            ("Stream-Expires-At", at),
            ("Stream-Closed", closed),
        ];
        for (header, expected) in expected {
            let actual = answer.header(header);
            if actual != expected.as_deref() {
                let expected = format!("{name} {header}: {expected:?}");
                return self.fail(Oracle::ForkAnswers, expected, format!("{actual:?}"));
            }
        }
        self.learn_tail(name, answer);
    }

    /// Checks that an answer names the tail.
    pub(super) fn learn_tail(&mut self, name: &str, answer: &Answer) {
        let Some(index) = self.model.present.get(name).copied() else {
            return;
        };
        let length = self.model.incarnations[index].content.len() as u64;
        let token = answer.header("Stream-Next-Offset").unwrap_or_default();
        self.learn(index, token, length);
    }

    fn learn(&mut self, index: usize, token: &str, place: u64) {
        let learned = if token == START && place == 0 {
            Ok(())
        } else {
            self.model.learn(index, token, place)
        };
        if let Err(reason) = learned {
            self.fail(Oracle::ForkOffsets, "an offset of one place", reason);
        }
    }

    /// Checks what is durable of a stream against the model.
    pub(in crate::forks) fn check_content(&mut self, name: &str, disk: &MemoryRows) {
        let Some(index) = self.model.present.get(name).copied() else {
            if disk.head().is_some() {
                self.fail(Oracle::ForksFreed, format!("no stream {name}"), "one");
            }
            return;
        };
        let present = &self.model.incarnations[index];
        let head = disk
            .head()
            .filter(|head| head.incarnation == present.machine);
        let Some(head) = head else {
            return self.fail(Oracle::ForkContent, format!("the stream {name}"), "another");
        };
        if head.lineage.deleted_at.is_some() != present.hidden {
            let expected = format!("{name} deleted: {}", present.hidden);
            return self.fail(Oracle::ForkContent, expected, "the other");
        }
        if present.hidden {
            return;
        }
        let seen = match self.see(name, disk) {
            Ok(seen) => seen,
            Err(reason) => {
                return self.fail(Oracle::ForkContent, format!("all of {name}"), reason);
            }
        };
        let format = present.format.content_type();
        if seen.units != present.content
            || seen.is_closed != present.closed
            || seen.content_type != format
        {
            let show = |units: &[Vec<u8>]| String::from_utf8_lossy(&units.join(&b' ')).into_owned();
            let expected = format!(
                "{name}: {} closed: {} {format}",
                show(&present.content),
                present.closed
            );
            let actual = format!(
                "{} closed: {} {}",
                show(&seen.units),
                seen.is_closed,
                seen.content_type
            );
            return self.fail(Oracle::ForkContent, expected, actual);
        }
        for (token, place) in seen.tokens {
            self.learn(index, &token, place);
        }
    }
}
