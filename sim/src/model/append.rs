//! Appends and closing: POST (protocol 5.2 and 5.3).

use std::rc::Rc;

use super::content::extend;
use super::faults::{claim, essence, is_closed};
use super::state::Claim;
use super::{Model, TurnFacts, Verdict, ensure};
use crate::request::{Request, Response};

impl Model {
    pub(super) fn appended(
        &mut self,
        request: &Request,
        response: &Response,
        facts: &TurnFacts,
    ) -> Verdict {
        let Some(incarnation) = &mut self.state.incarnation else {
            return Ok(());
        };
        let claim = claim(request);
        let closes = is_closed(request);
        if incarnation.closed {
            incarnation.maybe_used_at(facts.now);
            let repeated = claim.is_some() && claim == incarnation.closed_by;
            let only_closes = closes && request.body.is_empty() && claim.is_none();
            let closes_again = only_closes && !incarnation.ends_elsewhere(request);
            if closes_again {
                if response.status == 412 {
                    return self.failed(request, response);
                }
                self.meets(request, response)?;
            }
            let status = if repeated || closes_again { 204 } else { 409 };
            ensure(
                response.status == status,
                || format!("{status}: the stream is closed"),
                response,
            )?;
            if repeated {
                echoes(claim.as_ref(), response)?;
            }
            return self.at_tail(response);
        }
        // The protocol sets no order among these refusals.
        let mut allowed = Vec::new();
        let requested = request.header("Content-Type").unwrap_or_default();
        let mismatched =
            !request.body.is_empty() && essence(requested) != essence(&incarnation.content_type);
        if mismatched {
            allowed.push(409);
        }
        let mut content = Rc::clone(&incarnation.content);
        if !request.body.is_empty() {
            // An empty array appends nothing (9.1.3).
            let added = extend(Rc::make_mut(&mut content), &request.body);
            if added.is_none_or(|added| added == 0) && !mismatched {
                allowed.push(400);
            }
        }
        let mut duplicate = None;
        if let Some(claim) = &claim {
            match incarnation.producers.get(&claim.id) {
                None if claim.seq == 0 => {}
                None => allowed.push(409),
                Some((epoch, _)) if claim.epoch < *epoch => allowed.push(403),
                Some((epoch, _)) if claim.epoch > *epoch && claim.seq == 0 => {}
                Some((epoch, _)) if claim.epoch > *epoch => allowed.push(400),
                Some((_, seq)) if claim.seq <= *seq => duplicate = Some(*seq),
                Some((_, seq)) if claim.seq > *seq + 1 => allowed.push(409),
                Some(_) => {}
            }
            if response.status == 403 {
                let current = incarnation
                    .producers
                    .get(&claim.id)
                    .map(|(epoch, _)| epoch.to_string());
                let epoch = response.header("Producer-Epoch");
                ensure(
                    epoch == current.as_deref(),
                    || format!("Producer-Epoch: {current:?}"),
                    response,
                )?;
            }
        }
        // A retry carries its old Stream-Seq and still succeeds.
        let regressed = match (request.header("Stream-Seq"), &incarnation.stream_seq) {
            (Some(next), Some(last)) => next.as_bytes() <= last.as_bytes(),
            _ => false,
        };
        // So does a retry that expects the tail or state from before its append.
        let elsewhere = incarnation.ends_elsewhere(request);
        let says_tail = !allowed.contains(&409) && duplicate.is_none();
        if duplicate.is_none() {
            if regressed || elsewhere {
                allowed.push(409);
            }
            match incarnation.fails(request) {
                Some(true) => allowed.push(412),
                None if response.status == 412 => allowed.push(412),
                _ => {}
            }
        }
        if let Some(seq) = duplicate {
            if response.status == 204 {
                incarnation.use_at(facts.now);
                let last = claim.map(|claim| Claim { seq, ..claim });
                echoes(last.as_ref(), response)?;
                return self.at_tail(response);
            }
            allowed.push(204);
        }
        if !allowed.is_empty() {
            incarnation.maybe_used_at(facts.now);
            ensure(
                allowed.contains(&response.status),
                || format!("an answer of {allowed:?}"),
                response,
            )?;
            return match response.status {
                412 => self.failed(request, response),
                409 if says_tail => self.at_tail(response),
                _ => Ok(()),
            };
        }
        incarnation.use_at(facts.now);
        let new_data = claim.is_some() && !request.body.is_empty();
        let status = if new_data { 200 } else { 204 };
        ensure(response.status == status, || status.to_string(), response)?;
        echoes(claim.as_ref(), response)?;
        incarnation.content = content;
        incarnation.note_end();
        if !request.body.is_empty() {
            if let Some(claim) = &claim {
                Rc::make_mut(&mut incarnation.producers)
                    .insert(claim.id.clone(), (claim.epoch, claim.seq));
                Rc::make_mut(&mut incarnation.produced_at).insert(claim.id.clone(), facts.now);
            }
            if let Some(seq) = request.header("Stream-Seq") {
                incarnation.stream_seq = Some(seq.to_owned());
            }
        }
        if closes {
            incarnation.closed = true;
            incarnation.closed_by = claim;
        }
        self.seal(facts)?;
        self.at_tail(response)
    }
}

fn echoes(claim: Option<&Claim>, response: &Response) -> Verdict {
    let Some(claim) = claim else { return Ok(()) };
    let echoed = (
        response.header("Producer-Epoch"),
        response.header("Producer-Seq"),
    );
    let (epoch, seq) = (claim.epoch.to_string(), claim.seq.to_string());
    ensure(
        echoed == (Some(&epoch), Some(&seq)),
        || format!("Producer-Epoch: {epoch}, Producer-Seq: {seq}"),
        response,
    )
}
