//! Creation: PUT (protocol 5.1).

use std::rc::Rc;

use super::content::{empty, extend};
use super::faults::{claim, essence, is_closed};
use super::fork::{asked_expires, asked_ttl, named_type, source_of};
use super::state::{Created, Incarnation};
use super::{Model, TurnFacts, Verdict, ensure};
use crate::request::{Request, Response};

impl Model {
    pub(super) fn created(
        &mut self,
        request: &Request,
        response: &Response,
        facts: &TurnFacts,
    ) -> Verdict {
        let is_fork = source_of(request).is_some();
        let inherits = self.forking.inherits.clone().filter(|_| is_fork);
        let usual = inherits
            .as_ref()
            .map_or("application/octet-stream", |it| it.content_type.as_str());
        let content_type = named_type(request).unwrap_or(usual).to_owned();
        let inherited = inherits.as_ref().map(|it| Rc::clone(&it.content));
        let mut content = inherited.unwrap_or_else(|| Rc::new(empty(&content_type)));
        let claim = claim(request);
        let mut refusals = Vec::new();
        let is_known = !is_fork || inherits.is_some();
        if is_known
            && !request.body.is_empty()
            && extend(Rc::make_mut(&mut content), &request.body).is_none()
        {
            refusals.push(400);
        }
        if is_fork && inherits.is_none() {
            refusals.extend(&self.forking.refusals);
        }
        if claim.as_ref().is_some_and(|claim| claim.seq != 0) {
            refusals.push(409);
        }
        // Without a stream no tag can match.
        if request.header("If-Match").is_some() {
            refusals.push(412);
        }
        if !refusals.is_empty() || !is_known {
            return ensure(
                refusals.contains(&response.status),
                || format!("an answer of {refusals:?}"),
                response,
            );
        }
        let closed = is_closed(request);
        ensure(response.status == 201, || "201".to_owned(), response)?;
        ensure(
            response.header("Location").is_some(),
            || "a Location".to_owned(),
            response,
        )?;
        self.incarnations += 1;
        self.archive.push((Rc::new(empty("")), Rc::default()));
        let cut = inherits.as_ref().map_or(0, |it| it.fork.cut);
        let producers = claim.iter().filter(|_| content.len() > cut);
        let producers = producers
            .map(|claim| (claim.id.clone(), (claim.epoch, claim.seq)))
            .collect();
        let produced_at = claim
            .iter()
            .map(|claim| (claim.id.clone(), facts.now))
            .collect();
        let (mut ttl, mut expires) = (asked_ttl(request), asked_expires(request));
        if let Some(it) = inherits
            .as_ref()
            .filter(|_| (&ttl, &expires) == (&None, &None))
        {
            (ttl, expires) = (it.ttl, it.expires.clone());
        }
        let mut incarnation = Incarnation {
            id: self.incarnations,
            ttl,
            expires,
            used: (facts.now, facts.now),
            forgot: false,
            closed,
            closed_by: claim.filter(|_| closed),
            content,
            ends: inherits
                .as_ref()
                .map_or_else(Rc::default, |it| Rc::clone(&it.ends)),
            segments: inherits
                .as_ref()
                .map_or_else(Rc::default, |it| Rc::clone(&it.segments)),
            fork: inherits.map(|it| it.fork.clone()),
            producers: Rc::new(producers),
            named: None,
            produced_at: Rc::new(produced_at),
            stream_seq: None,
            content_type,
        };
        incarnation.note_end();
        Rc::make_mut(&mut self.state.history).push(Created {
            at: facts.now,
            content_type: incarnation.content_type.clone(),
            forked_from: incarnation.fork.as_ref().map(|fork| fork.source.clone()),
        });
        self.state.last_incarnation = incarnation.id;
        self.state.incarnation = Some(incarnation);
        self.seal(facts)?;
        self.at_tail(response)?;
        self.names_type(response)
    }

    pub(super) fn confirmed(
        &mut self,
        request: &Request,
        response: &Response,
        facts: &TurnFacts,
    ) -> Verdict {
        let Some(incarnation) = &mut self.state.incarnation else {
            return Ok(());
        };
        let expires = asked_expires(request).map(|(at, _)| at);
        let asked = (asked_ttl(request), expires);
        let (is_source, usual, own) = match &incarnation.fork {
            // What a fork inherits is not what its creation has asked for.
            Some(fork) => (
                fork.is_asked_for(request, &incarnation.segments),
                incarnation.content_type.as_str(),
                (fork.asked_ttl, fork.asked_expires),
            ),
            None => (
                source_of(request).is_none(),
                "application/octet-stream",
                (
                    incarnation.ttl,
                    incarnation.expires.as_ref().map(|(at, _)| *at),
                ),
            ),
        };
        let requested = named_type(request).unwrap_or(usual);
        let same = is_source
            && essence(requested) == essence(&incarnation.content_type)
            && asked == own
            && is_closed(request) == incarnation.closed;
        incarnation.maybe_used_at(facts.now);
        if response.status == 412 {
            return self.failed(request, response);
        }
        self.meets(request, response)?;
        if !same {
            return ensure(
                response.status == 409,
                || "409: it exists otherwise".to_owned(),
                response,
            );
        }
        ensure(
            response.status == 200,
            || "200: it exists".to_owned(),
            response,
        )?;
        self.at_tail(response)?;
        self.names_type(response)
    }
}
