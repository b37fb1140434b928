//! Readers of event streams: what they have received, and what they lack.

use std::rc::Rc;

use sim::ids::{Id as _, ObjectId};
use sim::model::{Content, Mismatch};
use sim::oracles::{Delivery, Follower, units};
use sim::request::Response;

use super::answers::mismatch;
use super::{Attempt, Judge, Name, Notable};

/// A reader of an event stream, in one of the incarnations that it may read.
#[derive(Debug)]
pub(crate) struct Reading {
    follower: Follower,
    /// The last version that it can have been sent.
    version: usize,
}

/// The content of a batch of events.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Progress {
    pub(crate) data: bool,
    pub(crate) pushed: bool,
    pub(crate) closed: bool,
}

impl Judge {
    /// Begins readings of an event stream, one for each incarnation that it may be of.
    ///
    /// # Errors
    ///
    /// When there was no stream at any time since it was asked for.
    pub(crate) fn follows(
        &mut self,
        attempt: usize,
        response: &Response,
    ) -> Result<Vec<Reading>, Mismatch> {
        let Attempt { name, from, .. } = self.attempts[attempt];
        let request = Rc::clone(&self.attempts[attempt].request);
        let base64 = response.header("Stream-SSE-Data-Encoding") == Some("base64");
        let mut readings: Vec<Reading> = Vec::new();
        for (at, version) in self.names[name].versions.iter().enumerate().skip(from) {
            let Some(incarnation) = &version.state.incarnation else {
                continue;
            };
            let binary = matches!(*incarnation.content, Content::Run { text: false, .. });
            let tail = incarnation.content.len();
            let asked = incarnation.segments.begin(&request, tail);
            let position = asked.map(|asked| incarnation.content.begin(asked));
            let known = |reading: &Reading| {
                reading.follower.incarnation == incarnation.id
                    && reading.follower.position == position
            };
            if binary != base64 || readings.iter().any(known) {
                continue;
            }
            let mut follower = Follower::new(position, incarnation.id, base64);
            follower.cursor = request
                .parameter("cursor")
                .and_then(|text| text.parse::<u64>().ok())
                .map(|cursor| cursor + 1);
            readings.push(Reading {
                follower,
                version: at,
            });
        }
        let named = response.header("Content-Type") == Some("text/event-stream");
        if readings.is_empty() || !named {
            return Err(mismatch("an event stream of what there is", response));
        }
        if response.header("Cache-Control").is_none() {
            return Err(mismatch("a Cache-Control", response));
        }
        Ok(readings)
    }

    /// Takes bytes of an event stream, and keeps the readings that they fit.
    ///
    /// # Errors
    ///
    /// When they fit none.
    pub(crate) fn read(
        &mut self,
        attempt: usize,
        readings: &mut Vec<Reading>,
        bytes: &[u8],
    ) -> Result<Progress, Mismatch> {
        let name = self.attempts[attempt].name;
        let Name {
            model, versions, ..
        } = &self.names[name];
        let mut progress = Progress::default();
        let mut nearest = None;
        let mut seen = Vec::new();
        readings.retain_mut(|reading| {
            let incarnation = reading.follower.incarnation;
            let (content, segments) = (model.content(incarnation), model.segments(incarnation));
            let done = reading.follower.receive(bytes, content, segments);
            let verdict = done.and_then(|deliveries| {
                for delivery in deliveries {
                    let Delivery {
                        from, next, closed, ..
                    } = delivery;
                    let fits = (reading.version..versions.len()).find(|at| {
                        let of = versions[*at]
                            .state
                            .incarnation
                            .as_ref()
                            .filter(|it| it.id == incarnation);
                        of.is_some_and(|it| {
                            let at_tail = next == it.content.len();
                            delivery.up_to_date == at_tail && closed == (at_tail && it.closed)
                        })
                    });
                    let Some(fits) = fits else {
                        return Err(Mismatch {
                            expected: format!(
                                "what incarnation {incarnation} was since version {}",
                                reading.version
                            ),
                            actual: format!("{delivery:?}"),
                        });
                    };
                    progress.pushed |= reading.version < fits && next > from;
                    reading.version = fits;
                    progress.data |= next > from;
                    progress.closed |= closed;
                    seen.push((incarnation, from, next));
                }
                Ok(())
            });
            match verdict {
                Ok(()) => true,
                Err(mismatch) => {
                    nearest = Some(mismatch);
                    false
                }
            }
        });
        if let Some(mismatch) = nearest.filter(|_| readings.is_empty()) {
            return Err(mismatch);
        }
        for (incarnation, from, next) in seen {
            if readings
                .iter()
                .any(|reading| reading.follower.incarnation == incarnation)
            {
                let content = self.names[name].model.content(incarnation);
                let page = content.page(from, next).unwrap_or_default();
                if let Some(units) = units(content, &page) {
                    self.law
                        .observe(ObjectId::new(name), incarnation, from, &units)?;
                    self.notable.push(Notable::Shown {
                        name,
                        incarnation,
                        from,
                        to: next,
                        live: true,
                    });
                }
            }
        }
        Ok(progress)
    }

    /// Returns where a reader resumes: offset, cursor, and whether it has come to the end.
    pub(crate) fn position(
        &self,
        attempt: usize,
        readings: &[Reading],
    ) -> Option<(String, Option<u64>, bool)> {
        let name = self.attempts[attempt].name;
        let reading = readings.first()?;
        let follower = &reading.follower;
        let segments = self.names[name].model.segments(follower.incarnation);
        let offset = segments.spell(follower.position?, true);
        Some((offset, follower.cursor, follower.finished))
    }

    /// Returns the time since which a reader of the present stream lacks something.
    pub(crate) fn behind_since(&self, attempt: usize, readings: &[Reading]) -> Option<u64> {
        let name = self.attempts[attempt].name;
        let present = self.incarnation(name)?.id;
        let since = |reading: &Reading| {
            let follower = &reading.follower;
            let position = follower
                .position
                .filter(|_| follower.incarnation == present)?;
            let mut later = self.names[name].versions[reading.version..].iter();
            let missed = later.find(|version| {
                let incarnation = version
                    .state
                    .incarnation
                    .as_ref()
                    .filter(|incarnation| incarnation.id == present);
                incarnation.is_some_and(|incarnation| {
                    incarnation.content.len() > position
                        || (incarnation.closed && !follower.finished)
                })
            });
            missed.map(|version| version.at)
        };
        let each: Option<Vec<_>> = readings.iter().map(since).collect();
        each?.into_iter().max()
    }

    /// Returns whether a reader's stream has ended, even if another exists now.
    pub(crate) fn is_gone(&self, attempt: usize, readings: &[Reading]) -> bool {
        let name = self.attempts[attempt].name;
        let present = self.incarnation(name).map(|incarnation| incarnation.id);
        readings
            .iter()
            .any(|reading| present != Some(reading.follower.incarnation))
    }

    /// Returns what a reader still lacks of its stream.
    pub(crate) fn lacks(&self, name: usize, readings: &[Reading]) -> Option<String> {
        let incarnation = self.incarnation(name)?;
        let reading = readings
            .iter()
            .find(|reading| reading.follower.incarnation == incarnation.id)?;
        let tail = incarnation.content.len();
        match reading.follower.position {
            Some(position)
                if position == tail && (reading.follower.finished || !incarnation.closed) =>
            {
                None
            }
            position => Some(format!(
                "is at {position:?} of {tail}, closed {}",
                incarnation.closed
            )),
        }
    }
}
