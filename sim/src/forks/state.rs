//! The state of a world of forks, in a form that people can read.

use super::model::{Incarnation, Model};
use super::world::{Object, World};
use crate::request::excerpt;
use crate::trace::Section;
use crate::world::state::{cold_tier, line, list, of_rows, pretty};

impl World<'_, '_> {
    /// Returns the state: each object, the reference model of its name, and the cold tier.
    pub(super) fn state(&self) -> Vec<Section> {
        let mut state = Vec::new();
        for (name, object) in &self.objects {
            state.push(of_object(name, object));
            state.push(of_model(name, &self.model));
        }
        let objects = self.cold.iter();
        state.push(cold_tier(objects.map(|(key, bytes)| (key, bytes.len()))));
        state
    }
}

fn of_object(name: &str, object: &Object) -> Section {
    let mut text = String::new();
    let is_awake = object.stream.is_some();
    let place = if is_awake { "in memory" } else { "ended" };
    line(
        &mut text,
        "instance",
        format!("{}, {place}", object.instance),
    );
    line(&mut text, "turns that are not durable", object.turns.len());
    let calls = object.waits_for.iter().map(|effect| format!("{effect:?}"));
    list(&mut text, "waits for calls", calls);
    of_rows(&mut text, &object.rows);
    Section {
        lane: name.to_owned(),
        title: name.to_owned(),
        text,
    }
}

fn of_model(name: &str, model: &Model) -> Section {
    let mut text = String::new();
    match model.present(name) {
        None => line(&mut text, "stream", "none"),
        Some(present) => of_incarnation(&mut text, present),
    }
    Section {
        lane: name.to_owned(),
        title: format!("reference model of {name}"),
        text,
    }
}

fn of_incarnation(text: &mut String, present: &Incarnation) {
    line(text, "content type", present.format.content_type());
    line(text, "closed", present.closed);
    line(text, "hidden", present.hidden);
    line(text, "ended", present.ended);
    line(text, "expiry", format!("{:?}", present.expiry));
    line(text, "forks above it", present.depth);
    if let Some(fork) = &present.fork {
        pretty(text, "fork of", fork);
    }
    let producers = present.producers.iter();
    let producers = producers.map(|(id, (epoch, seq))| format!("{id}: epoch {epoch}, seq {seq}"));
    list(text, "producers", producers);
    line(text, "units", present.content.len());
    line(
        text,
        "content",
        excerpt(&present.format.body(&present.content)),
    );
    list(text, "ends of appends", [format!("{:?}", present.ends)]);
}
