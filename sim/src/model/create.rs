//! Creation: PUT (protocol 5.1).

use std::rc::Rc;

use super::content::{empty, extend};
use super::faults::{claim, essence, is_closed, time};
use super::state::Incarnation;
use super::{Model, TurnFacts, Verdict, ensure};
use crate::request::{Request, Response};

impl Model {
    pub(super) fn created(
        &mut self,
        request: &Request,
        response: &Response,
        facts: &TurnFacts,
    ) -> Verdict {
        let content_type = request
            .header("Content-Type")
            .filter(|text| !text.trim().is_empty());
        let content_type = content_type
            .unwrap_or("application/octet-stream")
            .to_owned();
        let mut content = empty(&content_type);
        let claim = claim(request);
        let mut refusals = Vec::new();
        if !request.body.is_empty() && extend(&mut content, &request.body).is_none() {
            refusals.push(400);
        }
        if claim.as_ref().is_some_and(|claim| claim.seq != 0) {
            refusals.push(409);
        }
        // Without a stream no tag can match.
        if request.header("If-Match").is_some() {
            refusals.push(412);
        }
        if !refusals.is_empty() {
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
        let producers = claim.iter().filter(|_| !content.is_empty());
        let producers = producers
            .map(|claim| (claim.id.clone(), (claim.epoch, claim.seq)))
            .collect();
        let produced_at = claim
            .iter()
            .map(|claim| (claim.id.clone(), facts.now))
            .collect();
        let incarnation = Incarnation {
            id: self.incarnations,
            ttl: request
                .header("Stream-TTL")
                .and_then(|text| text.parse().ok()),
            expires: request
                .header("Stream-Expires-At")
                .and_then(|text| Some((time(text)?, text.to_owned()))),
            used: (facts.now, facts.now),
            forgot: false,
            closed,
            closed_by: claim.filter(|_| closed),
            content: Rc::new(content),
            segments: Rc::default(),
            producers: Rc::new(producers),
            named: None,
            produced_at: Rc::new(produced_at),
            stream_seq: None,
            content_type,
        };
        Rc::make_mut(&mut self.state.history).push((facts.now, incarnation.content_type.clone()));
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
        let requested = request
            .header("Content-Type")
            .filter(|text| !text.trim().is_empty());
        let ttl = request
            .header("Stream-TTL")
            .and_then(|text| text.parse().ok());
        let expires = request.header("Stream-Expires-At").and_then(time);
        let same = essence(requested.unwrap_or("application/octet-stream"))
            == essence(&incarnation.content_type)
            && ttl == incarnation.ttl
            && expires == incarnation.expires.as_ref().map(|(at, _)| *at)
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
