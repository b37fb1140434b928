//! The streams of a subscription: how they are linked, and what they say.

use std::collections::BTreeSet;

use super::{Link, LinkingAnswer, Stage, Subscription};
use crate::control::{Step, answered, call_of, control_request, json_answer, link_request};
use crate::outbox::{self, TaskKind};
use crate::router::name;
use crate::rows::Incarnation;
use crate::storage::StorageError;
use crate::wire::control::{
    DirectoryCall, Interest, Interested, LinkAnswer, LinkCall, Listed, Notify, NotifyAnswer,
    Presence, is_directory,
};
use crate::wire::session::{FollowAnswer, SessionCall};
use crate::{Answer, CallId, CallOutcome, EffectId, Offset, Refusal};

const READABLE: &str = "a task is done once its answer can be read";
const STREAM_IS_FULL: &str = "a stream has as many subscriptions as it may have";
const DIRECTORY_IS_FULL: &str = "the directory has as many subscriptions as it may have";

/// Returns whether a task is done: its receiver has answered, and the answer can be read.
pub(crate) fn is_done(task: &TaskKind, outcome: &CallOutcome) -> bool {
    let is_accepted = matches!(
        outcome,
        CallOutcome::Answered {
            status: 200..=299,
            ..
        }
    );
    let TaskKind::Call { to, request, .. } = task else {
        return is_accepted;
    };
    let is_readable = if is_directory(to) {
        match call_of(request).expect("it was written by this code") {
            DirectoryCall::Add { .. } => answered::<Listed>(outcome).is_some(),
            DirectoryCall::Register { .. } => answered::<Interested>(outcome).is_some(),
            DirectoryCall::Forget { .. } | DirectoryCall::Remove { .. } => true,
            DirectoryCall::Subscriptions { .. } => unreachable!("no task asks for it"),
        }
    } else {
        match call_of(request) {
            Some(SessionCall::Follow { .. }) => answered::<FollowAnswer>(outcome).is_some(),
            Some(SessionCall::Unfollow { .. }) => true,
            Some(_) => unreachable!("no task asks for it"),
            None => {
                call_of::<LinkCall>(request).is_none() || answered::<LinkAnswer>(outcome).is_some()
            }
        }
    };
    is_accepted && is_readable
}

impl Subscription {
    /// Handles what a stream says.
    pub(crate) fn notified(
        &mut self,
        step: &mut Step<'_>,
        id: CallId,
        notify: Notify,
    ) -> Result<(), StorageError> {
        let answer = match self.note(step, &notify)? {
            Some(answer) => json_answer(200, &answer),
            None => Answer::unavailable(step.limits),
        };
        step.answer(id, answer);
        Ok(())
    }

    /// Returns the answer to a notification; `None` if the stream has to send it again later.
    fn note(
        &mut self,
        step: &mut Step<'_>,
        notify: &Notify,
    ) -> Result<Option<NotifyAnswer>, StorageError> {
        const UNLINK: NotifyAnswer = NotifyAnswer {
            hold: false,
            unlink: true,
        };
        let Some(head) = self.live() else {
            return Ok(Some(UNLINK));
        };
        if head.incarnation != notify.subscription {
            return Ok(Some(UNLINK));
        }
        let is_busy = head.wake.is_some();
        let stream = &notify.stream;
        if !self.links.contains_key(stream) {
            let links_max = step.limits.subscription_links_max;
            let Some(present) = notify.present else {
                return Ok(Some(UNLINK));
            };
            if !self.matches(step, stream) {
                return Ok(Some(UNLINK));
            }
            if self.links.len() as u64 >= links_max {
                self.note_error("the subscription has as many streams as it may have");
                return Ok(Some(UNLINK));
            }
            // The stream was created after the subscription, or the directory did not know it.
            let known = notify
                .known
                .filter(|known| known.incarnation == present.incarnation);
            self.insert_link(
                stream,
                Link {
                    is_explicit: false,
                    is_by_pattern: true,
                    is_linking: false,
                    incarnation: Some(present.incarnation),
                    acked: known.and_then(|known| known.offset),
                    tail: Some(present.tail),
                    is_held: false,
                    is_asked: false,
                },
            );
            // A call can be so late that it is about a former stream.
            self.ask_by_task(step, stream)?;
            return Ok(Some(NotifyAnswer::default()));
        }
        let link = self.links.get(stream).expect("the link was found");
        if link.is_linking {
            // It is not known whether this notification is newer than the answer to the link.
            return Ok(None);
        }
        let is_asked = self.is_asked(stream);
        // The answer to a question may be older than this notification, and would end the hold.
        let hold = is_busy && !is_asked && link.is_pending() && notify.present.is_some();
        let is_known = link.incarnation == notify.present.map(|present| present.incarnation)
            && link.tail == notify.present.map(|present| present.tail);
        if is_known && (link.is_held || !hold) {
            return Ok(Some(NotifyAnswer {
                hold,
                unlink: false,
            }));
        }
        let present = notify.present.map(|present| present.incarnation);
        if link.incarnation != present {
            // A notification can be late, and be about a former stream. The answer to a question
            // cannot.
            if is_asked {
                return Ok(None);
            }
            self.ask_again(step, stream)?;
            return Ok(Some(NotifyAnswer {
                hold: true,
                unlink: false,
            }));
        }
        if !self.observe(stream, notify.present) {
            return Ok(Some(UNLINK));
        }
        let link = self.link_mut(stream).expect("the link is still there");
        // The stream holds if an earlier answer has asked for it.
        link.is_held |= hold;
        Ok(Some(NotifyAnswer {
            hold,
            unlink: false,
        }))
    }

    /// Notes that a question to a stream begins. If two are under way at the same time, it is not
    /// known which answer is newer.
    pub(super) fn note_question(&mut self, stream: &str) {
        if self.is_asked(stream) {
            self.contested.insert(stream.to_owned());
        }
    }

    /// Returns whether a question to the stream is not answered yet.
    fn is_asked(&self, stream: &str) -> bool {
        let by_task = self.links.get(stream).is_some_and(|link| link.is_asked);
        by_task || self.asks.values().any(|asked| asked == stream)
    }

    /// Marks a stream as held, and asks it.
    fn ask_again(&mut self, step: &mut Step<'_>, stream: &str) -> Result<(), StorageError> {
        let link = self.link_mut(stream).expect("the link is there");
        link.is_held = true;
        self.ask_by_task(step, stream)
    }

    /// Asks a stream until it has answered.
    fn ask_by_task(&mut self, step: &mut Step<'_>, stream: &str) -> Result<(), StorageError> {
        self.note_question(stream);
        let call = self.ask_call();
        step.task(stream.to_owned(), link_request(&call))?;
        let link = self.link_mut(stream).expect("the link is there");
        assert!(!link.is_asked, "one task at a time asks a stream");
        link.is_asked = true;
        Ok(())
    }

    /// Returns whether the pattern of the subscription includes a stream.
    pub(super) fn matches(&self, step: &Step<'_>, stream: &str) -> bool {
        let Some(head) = self.live() else {
            return false;
        };
        let is_own = head.wake_stream() == Some(stream);
        !is_own
            && !name::is_internal(stream)
            && head
                .glob(step.limits)
                .is_some_and(|glob| glob.matches(stream))
    }

    /// Notes how a stream is now. Returns false if the link has gone with it.
    fn observe(&mut self, stream: &str, present: Option<Presence>) -> bool {
        let link = self.link_mut(stream).expect("the stream is linked");
        match present {
            Some(present) if link.incarnation == Some(present.incarnation) => {
                link.tail = link.tail.max(Some(present.tail));
            }
            Some(present) => {
                // Offsets of another incarnation mean nothing here (protocol 6.4 is silent).
                if link.incarnation.is_some() {
                    link.acked = Some(Offset::START);
                }
                link.incarnation = Some(present.incarnation);
                link.tail = Some(present.tail);
            }
            None if link.is_explicit => {
                link.incarnation = None;
                link.acked = Some(Offset::START);
                link.tail = None;
            }
            None => {
                self.remove_link(stream);
                return false;
            }
        }
        true
    }

    /// Links a stream, if it is not linked, and notes why.
    pub(super) fn link(
        &mut self,
        step: &mut Step<'_>,
        stream: &str,
        by_pattern: bool,
    ) -> Result<(), StorageError> {
        if let Some(link) = self.links.get(stream) {
            let is_noted = if by_pattern {
                link.is_by_pattern
            } else {
                link.is_explicit
            };
            if is_noted {
                return Ok(());
            }
            let link = self.link_mut(stream).expect("the link was found");
            link.is_by_pattern |= by_pattern;
            link.is_explicit |= !by_pattern;
            return if by_pattern {
                Ok(())
            } else {
                self.ask_for_link(step, stream, by_pattern)
            };
        }
        let link = Link {
            is_explicit: !by_pattern,
            is_by_pattern: by_pattern,
            is_linking: true,
            incarnation: None,
            acked: Some(Offset::START),
            tail: None,
            is_held: false,
            is_asked: false,
        };
        self.insert_link(stream, link);
        self.ask_for_link(step, stream, by_pattern)
    }

    /// Asks a stream to notify this subscription.
    fn ask_for_link(
        &self,
        step: &mut Step<'_>,
        stream: &str,
        by_pattern: bool,
    ) -> Result<(), StorageError> {
        let is_matched = by_pattern || self.matches(step, stream);
        let head = self
            .live()
            .expect("a subscription that links streams is there");
        let call = LinkCall::Link {
            stream: stream.to_owned(),
            subscription: head.name.clone(),
            incarnation: head.incarnation,
            // A stream that is named may be one that the directory has not found yet.
            pattern_since: is_matched.then_some(head.created_at),
            is_named: !by_pattern,
        };
        step.task(stream.to_owned(), link_request(&call))?;
        Ok(())
    }

    /// Unlinks a stream, perhaps only if it does not exist.
    pub(super) fn unlink(
        &mut self,
        step: &mut Step<'_>,
        stream: &str,
        if_absent: bool,
    ) -> Result<(), StorageError> {
        self.remove_link(stream);
        let head = self
            .live()
            .expect("a subscription that unlinks streams is there");
        let call = LinkCall::Unlink {
            subscription: head.name.clone(),
            incarnation: head.incarnation,
            if_absent,
        };
        step.task(stream.to_owned(), link_request(&call))?;
        Ok(())
    }

    /// Asks the streams that hold, because no wake is in flight any more.
    pub(super) fn ask_held(&mut self, step: &mut Step<'_>) -> Result<(), StorageError> {
        let held = self.links.iter().filter(|(_, link)| link.is_held);
        let held = held.map(|(stream, _)| stream.clone());
        let due: Vec<_> = held.filter(|stream| !self.is_asked(stream)).collect();
        for stream in due {
            self.ask_by_task(step, &stream)?;
        }
        Ok(())
    }

    pub(super) fn ask_call(&self) -> LinkCall {
        let head = self.live().expect("a subscription that asks is there");
        LinkCall::Ask {
            subscription: head.name.clone(),
            incarnation: head.incarnation,
        }
    }

    /// Returns the entry of the directory.
    pub(super) fn interest(&self) -> Interest {
        let head = self
            .live()
            .expect("a subscription in the directory is there");
        Interest {
            subscription: head.name.clone(),
            incarnation: head.incarnation,
            since: head.created_at,
            predecessors: head.predecessors,
            pattern: head.canonical_pattern(),
            except: head.wake_stream().map(str::to_owned),
        }
    }

    /// Handles the end of a call that this instance has made without a task. Returns whether it is
    /// one.
    pub(crate) fn call_finished(
        &mut self,
        step: &mut Step<'_>,
        effect: EffectId,
        outcome: &CallOutcome,
    ) -> Result<bool, StorageError> {
        if self.key_finished(step, effect, outcome)
            || self.attempt_finished(step, effect, outcome)?
        {
            return Ok(true);
        }
        let Some(stream) = self.asks.remove(&effect) else {
            return Ok(false);
        };
        let answer = answered(outcome);
        if let Some(answer) = &answer {
            self.asked(step, &stream, answer, false)?;
        }
        let is_known = answer.is_some_and(|answer| self.is_known(&stream, answer.present));
        for round in &mut self.rounds {
            if round.asks.remove(&effect) {
                round.asked.has_failed |= !is_known;
            }
        }
        let done = self.rounds.extract_if(.., |round| round.asks.is_empty());
        for round in done.collect::<Vec<_>>() {
            self.end_round(step, round)?;
        }
        Ok(true)
    }

    /// Returns whether the link of a stream belongs to the stream that has answered. It may not,
    /// if the link is not made yet, or if it is not known which of two answers is newer.
    fn is_known(&self, stream: &str, present: Option<Presence>) -> bool {
        let present = present.map(|present| present.incarnation);
        let link = self.links.get(stream);
        link.is_none_or(|link| !link.is_linking && link.incarnation == present)
    }

    /// Handles the answer of a stream that was asked. It does not hold any more.
    fn asked(
        &mut self,
        step: &mut Step<'_>,
        stream: &str,
        &LinkAnswer { known, present, .. }: &LinkAnswer,
        is_task: bool,
    ) -> Result<(), StorageError> {
        // A stream that is linked says where the cursor begins when it answers that.
        let link = self.links.get(stream).filter(|link| !link.is_linking);
        let Some(link) = link.filter(|_| self.live().is_some()) else {
            return Ok(());
        };
        let is_other = link.incarnation != present.map(|present| present.incarnation);
        if is_task {
            let link = self.link_mut(stream).expect("the link was found");
            link.is_asked = false;
        }
        let is_last = !self.is_asked(stream);
        let is_contested = self.contested.contains(stream);
        if is_last {
            self.contested.remove(stream);
        }
        if is_other && is_contested {
            // Two questions overlapped, so that only the answer to another one says which stream
            // exists.
            return if is_last {
                self.ask_again(step, stream)
            } else {
                Ok(())
            };
        }
        if !self.observe(stream, present) {
            return self.unlink(step, stream, true);
        }
        let link = self.link_mut(stream).expect("the link is still there");
        link.is_held = false;
        let is_by_pattern = !link.is_explicit;
        if known.is_none() && present.is_some() {
            // The link was removed with a former stream. The directory does not make a new one if
            // this stream ends first, so the subscription asks for it.
            return self.ask_for_link(step, stream, is_by_pattern);
        }
        Ok(())
    }

    /// Handles the success of a task. `is_last` says whether its receiver has no later one.
    pub(crate) fn task_finished(
        &mut self,
        step: &mut Step<'_>,
        to: &str,
        request: &outbox::Request,
        outcome: &CallOutcome,
        is_last: bool,
    ) -> Result<(), StorageError> {
        if is_directory(to) {
            let call = call_of(request).expect("it was written by this code");
            return self.directory_answered(step, to, call, outcome);
        }
        let Some(call) = call_of::<LinkCall>(request) else {
            self.wake_event_written(is_last);
            return Ok(());
        };
        let is_own = |incarnation: Incarnation| {
            self.live()
                .is_some_and(|head| head.incarnation == incarnation)
        };
        match call {
            // With a later task, the answer may be the one to a link that has been removed.
            LinkCall::Link { incarnation, .. } if is_own(incarnation) && is_last => {
                self.linked(step, to, answered(outcome).expect(READABLE))
            }
            LinkCall::Ask { incarnation, .. } if is_own(incarnation) => {
                self.asked(step, to, &answered(outcome).expect(READABLE), true)
            }
            LinkCall::Link { .. } | LinkCall::Ask { .. } | LinkCall::Unlink { .. } => Ok(()),
        }
    }

    fn linked(
        &mut self,
        step: &mut Step<'_>,
        stream: &str,
        answer: LinkAnswer,
    ) -> Result<(), StorageError> {
        let Some(link) = self.link_mut(stream) else {
            return Ok(());
        };
        if !answer.refused && !link.is_linking {
            // The subscription has linked it a second time. A stream that was deleted and created
            // again meanwhile believes that the subscription knows its answer.
            let present = answer.present.map(|present| present.incarnation);
            return if link.incarnation == present {
                Ok(())
            } else {
                self.ask_by_task(step, stream)
            };
        }
        link.is_linking = false;
        if answer.refused {
            self.remove_link(stream);
            self.note_error(STREAM_IS_FULL);
            for call in &mut self.linking_calls {
                let is_of = |added: &BTreeSet<String>| added.contains(stream);
                call.is_refused |=
                    matches!(&call.answer, LinkingAnswer::Added(added) if is_of(added));
            }
            return Ok(());
        }
        if let Some(known) = answer.known
            && link.incarnation.is_none()
        {
            link.incarnation = Some(known.incarnation);
            link.acked = known.offset;
        }
        if !self.observe(stream, answer.present) {
            return self.unlink(step, stream, true);
        }
        Ok(())
    }

    fn directory_answered(
        &mut self,
        step: &mut Step<'_>,
        to: &str,
        call: DirectoryCall,
        outcome: &CallOutcome,
    ) -> Result<(), StorageError> {
        let DirectoryCall::Add { subscription, .. } = call else {
            return Ok(());
        };
        let is_own = |head: &&super::Head| head.incarnation == subscription.incarnation;
        if self.live().filter(is_own).is_none() {
            return Ok(());
        }
        let listed: Listed = answered(outcome).expect(READABLE);
        if listed.is_refused {
            for call in core::mem::take(&mut self.linking_calls) {
                step.refuse(call.id, &Refusal::TooManySubscriptions(DIRECTORY_IS_FULL));
            }
            self.delete(step)?;
            return Ok(());
        }
        for stream in &listed.streams {
            if self.links.len() as u64 >= step.limits.subscription_links_max {
                self.note_error("the subscription has as many streams as it may have");
                break;
            }
            self.link(step, stream, true)?;
        }
        let shard = to.rsplit('/').next().and_then(|shard| shard.parse().ok());
        let shard = shard.expect("the name of a directory ends in its number");
        match listed.next {
            Some(stream) => {
                let call = DirectoryCall::Add {
                    subscription,
                    after: Some(stream),
                };
                step.task(to.to_owned(), control_request(&call))?;
                Ok(())
            }
            None => {
                let head = self.live_mut().expect("the subscription is there");
                if let Stage::Creating { shards } = &mut head.stage {
                    shards.remove(&shard);
                }
                Ok(())
            }
        }
    }

    /// Answers the calls that have waited until all streams are linked.
    pub(super) fn finish_linking(&mut self, step: &mut Step<'_>) {
        let Some(head) = self.live() else {
            for call in core::mem::take(&mut self.linking_calls) {
                step.refuse(call.id, &Refusal::SubscriptionNotFound);
            }
            return;
        };
        let is_listed = match &head.stage {
            Stage::Creating { shards } => shards.is_empty(),
            Stage::Ready | Stage::Deleted { .. } => true,
        };
        let is_new = head.stage != Stage::Ready;
        let has_key = head.webhook().is_none() || head.kid.is_some();
        if !is_listed || self.is_linking() || is_new && !has_key {
            return;
        }
        if is_new {
            self.live_mut().expect("the subscription is there").stage = Stage::Ready;
        }
        for call in core::mem::take(&mut self.linking_calls) {
            let answer = match call.answer {
                LinkingAnswer::Added(_) if call.is_refused => {
                    step.refuse(call.id, &Refusal::TooManySubscriptions(STREAM_IS_FULL));
                    continue;
                }
                LinkingAnswer::Described(status) => json_answer(status, &self.description()),
                LinkingAnswer::Added(_) => Answer::uncached(204),
            };
            step.answer(call.id, answer);
        }
    }

    pub(super) fn note_error(&mut self, error: &str) {
        if let Some(head) = self.live_mut() {
            head.retry.error = Some(error.to_owned());
        }
    }
}
