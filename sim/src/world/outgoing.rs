//! What leaves an object: answers, effects, broadcasts, and the rendering of bodies.

use bytes::Bytes;
use machine::{Answer, Body, Broadcast, Class, CorruptionError, Effect, Plan};

use super::World;
use super::client::Received;
use super::cold::Cold;
use super::connection::Connection;
use super::object::{Attachment, Message, ObjectEffect, has_rest, plain, response};
use crate::coverage::Watermark;
use crate::ids::{CallId, ConnectionId, ObjectId};
use crate::oracles::{Oracle, Position};
use crate::platform::Outgoing;
use crate::request::Response;
use crate::storage::Store;

impl World<'_, '_> {
    pub(super) fn carry_out(&mut self, at: ObjectId, effect: Effect) {
        let position = Position::of(&self.models[at].state);
        match effect {
            Effect::Put(put) => self.hold_effect(at, ObjectEffect::Put(put)),
            Effect::Collect { effect, keys } => {
                self.hold_effect(at, ObjectEffect::Collect { effect, keys })
            }
            Effect::Call {
                effect,
                to,
                request,
            } => {
                let call = ObjectEffect::Call {
                    effect,
                    to,
                    request,
                };
                self.hold_effect(at, call);
            }
            Effect::Webhook { .. } => unreachable!("there are no subscriptions in this world"),
            Effect::Enqueue { .. } => unreachable!("there are no sessions in this world"),
            Effect::Index { effect, statements } => {
                self.hold_effect(at, ObjectEffect::Index { effect, statements })
            }
            Effect::Answer { call, answer } => {
                let call = CallId::from(call);
                match rendered(&self.objects[at].platform.storage, &self.cold, &answer) {
                    Ok(mut response) => {
                        let fetching = self.plan_fetching(at, call, position, &answer);
                        if has_rest(&answer) {
                            let asked = self.calls[call].request.parameter("offset");
                            let promised = self.models[at].promised(asked);
                            response.body = promised.unwrap_or_default().into();
                        }
                        let received = Received {
                            response,
                            position,
                            connection: None,
                            fetching,
                            sealed: None,
                        };
                        self.hold_answer(at, call, received);
                    }
                    Err(damaged) => {
                        self.engine.fail(
                            Oracle::Storage,
                            "what can be rendered".to_owned(),
                            damaged,
                        );
                    }
                }
            }
            Effect::Attach { call, subscriber } => {
                let call = CallId::from(call);
                let platform = &mut self.objects[at].platform;
                let number = self.connections.push(Connection {
                    object: at,
                    epoch: platform.epoch,
                    reader: None,
                    arrives_at: 0,
                    finished: false,
                });
                let attachment = Attachment {
                    class: subscriber.class,
                    incarnation: subscriber.incarnation,
                };
                platform.connections.push((number, attachment));
                let connections = platform.connections.len() as u64;
                self.engine.raise(Watermark::Connections, connections);
                let response = plain(&subscriber.answer);
                self.hold_answer(
                    at,
                    call,
                    Received {
                        response,
                        position,
                        connection: Some(number),
                        fetching: None,
                        sealed: None,
                    },
                );
            }
        }
    }

    pub(super) fn hold_effect(&mut self, at: ObjectId, effect: ObjectEffect) {
        let platform = &mut self.objects[at].platform;
        let instance = platform.instances;
        platform.hold(Outgoing::Effect { instance, effect }, true);
    }

    pub(super) fn hold_answer(&mut self, at: ObjectId, call: CallId, mut received: Received) {
        let incarnation = self.models[at].state.incarnation.as_ref();
        received.sealed = incarnation.map(|incarnation| incarnation.segments.sealed());
        self.engine.note(format_args!("object {at}"), || {
            format!("c{call} is answered {}", received.response.line())
        });
        self.note_answer(call, &received.response);
        let answer = Outgoing::Answer {
            call,
            answer: received,
        };
        self.objects[at]
            .platform
            .hold(answer, self.engine.settings.gated);
        self.release(at);
    }

    /// Sends one message to each connection of the incarnation.
    pub(super) fn broadcast(&mut self, at: ObjectId, broadcast: &Broadcast, before: Position) {
        let after = Position::of(&self.models[at].state);
        let position = if broadcast.end == Some(machine::StreamEnd::Deleted) {
            before
        } else {
            after
        };
        for class in [Class::Sse, Class::LongPoll] {
            let attached = self.objects[at].platform.connections.iter();
            let connections: Vec<ConnectionId> = attached
                .filter(|(connection, attachment)| {
                    attachment.class == class
                        && attachment.incarnation == broadcast.incarnation
                        && !self.connections[*connection].finished
                })
                .map(|(connection, _)| *connection)
                .collect();
            if connections.is_empty() {
                continue;
            }
            let message = match broadcast.message(class) {
                Ok(bytes) => Message {
                    bytes: bytes.into(),
                    position,
                },
                Err(damaged) => {
                    return self.engine.fail(
                        Oracle::Storage,
                        "frames that can be sent".to_owned(),
                        damaged.to_string(),
                    );
                }
            };
            for connection in connections {
                let gated = self.engine.settings.gated;
                let platform = &mut self.objects[at].platform;
                let message = message.clone();
                platform.hold(
                    Outgoing::Message {
                        connection,
                        message,
                    },
                    gated,
                );
                if broadcast.end.is_some() {
                    platform.hold(Outgoing::Close { connection }, gated);
                    self.connections[connection].finished = true;
                }
            }
        }
    }
}

pub(super) fn rendered(store: &Store, cold: &Cold, answer: &Answer) -> Result<Response, String> {
    match &answer.body {
        Body::Plan(plan) => Ok(response(answer, render(store, cold, plan)?)),
        Body::Bytes(_) | Body::Empty => Ok(plain(answer)),
    }
}

/// Returns the body of a plan, from what is stored now.
fn render(store: &Store, cold: &Cold, plan: &Plan) -> Result<Bytes, String> {
    let begun = plan.begin(|span| store.frames(span));
    let mut rendering = begun.map_err(|unreadable| unreadable.to_string())?;
    let mut body = Vec::new();
    let mut on = || {
        while let Some(fetch) = rendering.advance(&mut body)? {
            let bytes = cold.range(&fetch).ok_or_else(|| rendering.missing())?;
            rendering.push(bytes, &mut body)?;
            rendering.fetched()?;
        }
        Ok::<_, CorruptionError>(())
    };
    on().map_err(|damaged| damaged.to_string())?;
    Ok(body.into())
}
