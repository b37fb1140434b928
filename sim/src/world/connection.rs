//! The network between edges and objects: it delivers what leaves an object, and cuts connections.

use machine::Input;

use super::client::Received;
use super::object::Attachment;
use super::{Event, World};
use crate::coverage::{Fault, Situation};
use crate::ids::{CallId, ConnectionId, ObjectId, ReaderId};
use crate::oracles::Position;
use crate::platform::Outgoing;
use crate::request::Response;

/// A connection between an edge and an object.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) object: ObjectId,
    /// The epoch of the object when it accepted the connection.
    pub(super) epoch: u64,
    /// The reader at the other end, once the answer has arrived.
    pub(super) reader: Option<ReaderId>,
    /// Messages arrive in order, so nothing arrives before this.
    pub(super) arrives_at: u64,
    /// Whether the object has closed its end.
    pub(super) finished: bool,
}

impl World<'_, '_> {
    /// Sends what the gate releases.
    pub(super) fn release(&mut self, at: ObjectId) {
        while let Some(outgoing) = self.objects[at].platform.released() {
            match outgoing {
                Outgoing::Answer {
                    call,
                    answer: received,
                } => {
                    self.engine
                        .recorder
                        .digest
                        .number(u64::from(received.response.status));
                    self.engine.recorder.digest.bytes(&received.response.body);
                    self.note_tag(call, &received);
                    let delay = self.engine.network_delay();
                    if self.engine.fault(Fault::AnswerLost) {
                        self.engine.cover(Situation::AnswerLost);
                        self.engine.changed(Fault::AnswerLost);
                        self.engine
                            .note("network", || format!("c{call} loses its answer"));
                        if let Some(connection) = received.connection {
                            self.disconnect(connection);
                        }
                        self.engine.schedule(delay + 1_000, Event::Lost { call });
                    } else {
                        if let Some(connection) = received.connection {
                            self.connections[connection].arrives_at = self.engine.now() + delay;
                        }
                        if received.fetching.is_some() {
                            self.fetch(call, received);
                            continue;
                        }
                        self.engine.schedule(delay, Event::Reply { call, received });
                    }
                }
                Outgoing::Message {
                    connection,
                    message,
                } => {
                    self.engine.recorder.digest.bytes(&message.bytes);
                    if self.engine.fault(Fault::ConnectionCut) {
                        self.engine.cover(Situation::ConnectionCut);
                        self.engine.changed(Fault::ConnectionCut);
                        self.disconnect(connection);
                        self.close_connection(connection);
                    } else {
                        let when = self.arrival(connection);
                        self.engine.schedule_at(
                            when,
                            Event::Message {
                                connection,
                                message,
                            },
                        );
                    }
                }
                Outgoing::Effect { instance, effect } => self.begin_effect(at, instance, effect),
                Outgoing::Close { connection } => {
                    self.close_connection(connection);
                    self.disconnect(connection);
                }
            }
        }
    }

    /// Sends a whole answer to its client.
    pub(super) fn schedule_reply(&mut self, call: CallId, response: Response, position: Position) {
        let received = Received {
            response,
            position,
            connection: None,
            fetching: None,
            sealed: None,
        };
        let delay = self.engine.network_delay();
        self.engine.schedule(delay, Event::Reply { call, received });
    }

    /// Returns when something that is sent now arrives at the other end.
    fn arrival(&mut self, connection: ConnectionId) -> u64 {
        let delay = self.engine.network_delay();
        let connection = &mut self.connections[connection];
        // Strictly after the previous one, because events of one time may be reordered.
        connection.arrives_at = (connection.arrives_at + 1).max(self.engine.now() + delay);
        connection.arrives_at
    }

    /// Lets the reader's side learn that a connection is closed.
    fn close_connection(&mut self, connection: ConnectionId) {
        let when = self.arrival(connection);
        self.engine
            .schedule_at(when, Event::ConnectionClosed { connection });
    }

    /// Lets the object learn, after some time, that a connection is closed.
    pub(super) fn disconnect(&mut self, connection: ConnectionId) {
        let late = self.engine.fault(Fault::GoneLate);
        let delay = if late {
            self.engine.choices.upto(60_000)
        } else {
            self.engine.network_delay()
        };
        if late && delay > self.engine.settings.delays.network {
            self.engine.changed(Fault::GoneLate);
        }
        self.engine
            .schedule(delay, Event::ConnectionGone { connection });
    }

    pub(super) fn connection_gone(&mut self, connection: ConnectionId) {
        let Connection {
            object: at, epoch, ..
        } = self.connections[connection];
        let platform = &self.objects[at].platform;
        let attached = platform
            .connections
            .iter()
            .find(|(each, _)| *each == connection);
        let Some((_, Attachment { incarnation, .. })) =
            attached.filter(|_| platform.epoch == epoch)
        else {
            return;
        };
        let incarnation = *incarnation;
        self.engine.note(format_args!("object {at}"), || {
            format!("connection {connection} is gone")
        });
        self.turn(at, Input::SubscriberLeft { incarnation });
        // The platform counts the connection until the turn has ended.
        self.objects[at]
            .platform
            .connections
            .retain(|(each, _)| *each != connection);
    }

    pub(super) fn cut_connections(&mut self, at: ObjectId) {
        for (connection, _) in core::mem::take(&mut self.objects[at].platform.connections) {
            self.close_connection(connection);
        }
    }
}
