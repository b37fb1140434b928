//! The network between edges and objects: what becomes of what leaves an object, and of the lines
//! between them.

use machine::Input;

use super::object::Attachment;
use super::{Event, World};
use crate::ids::{LineId, ObjectId, ReaderId};
use crate::marks::{Fault, Mark};
use crate::platform::Outgoing;

/// A line between an edge and an object.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) object: ObjectId,
    /// Of the object, when it took the line.
    pub(super) epoch: u64,
    /// Who holds the other end, once it has got there.
    pub(super) reader: Option<ReaderId>,
    /// Nothing arrives before what was sent before it.
    pub(super) arrives_at: u64,
    /// Whether the object has closed its end.
    pub(super) finished: bool,
}

impl World<'_, '_> {
    /// Sends what the gate holds no longer.
    pub(super) fn release(&mut self, at: ObjectId) {
        while let Some(outgoing) = self.objects[at].platform.released() {
            match outgoing {
                Outgoing::Answer {
                    call,
                    answer: received,
                } => {
                    self.course
                        .digest
                        .number(u64::from(received.response.status));
                    self.course.digest.bytes(&received.response.body);
                    self.note_tag(call, &received);
                    let delay = self.course.network_delay();
                    if self.course.fault(Fault::AnswerLost) {
                        self.course.hit(Mark::AnswerLost);
                        self.course.changed(Fault::AnswerLost);
                        self.course
                            .note("network", || format!("c{call} loses its answer"));
                        if let Some(line) = received.line {
                            self.disconnect(line);
                        }
                        self.course.schedule(delay + 1_000, Event::Lost { call });
                    } else {
                        if let Some(line) = received.line {
                            self.lines[line].arrives_at = self.course.now + delay;
                        }
                        if received.fetching.is_some() {
                            self.fetch(call, received);
                            continue;
                        }
                        self.course.schedule(delay, Event::Reply { call, received });
                    }
                }
                Outgoing::Message { line, message } => {
                    self.course.digest.bytes(&message.bytes);
                    if self.course.fault(Fault::LineCut) {
                        self.course.hit(Mark::LineCut);
                        self.course.changed(Fault::LineCut);
                        self.disconnect(line);
                        self.close_line(line);
                    } else {
                        let when = self.arrival(line);
                        self.course
                            .schedule_at(when, Event::Message { line, message });
                    }
                }
                Outgoing::Effect { instance, effect } => self.begin_effect(at, instance, effect),
                Outgoing::Close { line } => {
                    self.close_line(line);
                    self.disconnect(line);
                }
            }
        }
    }

    /// When what is sent over a line now gets to the other end.
    fn arrival(&mut self, line: LineId) -> u64 {
        let delay = self.course.network_delay();
        let line = &mut self.lines[line];
        // Strictly after what went before, whatever is reordered.
        line.arrives_at = (line.arrives_at + 1).max(self.course.now + delay);
        line.arrives_at
    }

    /// The reader's side of a line learns that it is closed.
    fn close_line(&mut self, line: LineId) {
        let when = self.arrival(line);
        self.course.schedule_at(when, Event::LineClosed { line });
    }

    /// The object learns that a line is closed, some time.
    pub(super) fn disconnect(&mut self, line: LineId) {
        let late = self.course.fault(Fault::GoneLate);
        let delay = if late {
            self.course.choices.upto(60_000)
        } else {
            self.course.network_delay()
        };
        if late && delay > self.course.settings.delays.network {
            self.course.changed(Fault::GoneLate);
        }
        self.course.schedule(delay, Event::LineGone { line });
    }

    pub(super) fn line_gone(&mut self, line: LineId) {
        let Line {
            object: at, epoch, ..
        } = self.lines[line];
        let platform = &self.objects[at].platform;
        let attached = platform.lines.iter().find(|(each, _)| *each == line);
        let Some((_, Attachment { incarnation, .. })) =
            attached.filter(|_| platform.epoch == epoch)
        else {
            return;
        };
        let incarnation = *incarnation;
        self.course
            .note("object", || format!("line {line} is gone"));
        self.turn(at, Input::SubscriberLeft { incarnation }, None);
        // The platform counts it until then.
        self.objects[at]
            .platform
            .lines
            .retain(|(each, _)| *each != line);
    }

    pub(super) fn cut_lines(&mut self, at: ObjectId) {
        for (line, _) in core::mem::take(&mut self.objects[at].platform.lines) {
            self.close_line(line);
        }
    }
}
