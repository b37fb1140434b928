//! The state of a world of subscriptions, in a form that people can read.

use super::object::Object;
use super::world::World;
use crate::trace::Section;
use crate::world::state::{line, list, of_rows};

impl World<'_, '_> {
    /// Returns the state: each object, and what the reference model says of subscriptions.
    pub(super) fn state(&self) -> Vec<Section> {
        let objects = self.objects.iter();
        let mut state: Vec<_> = objects
            .map(|(name, object)| of_object(name, object))
            .collect();
        for ((id, incarnation), follower) in &self.model.followers {
            let mut text = String::new();
            line(&mut text, "asked for", format!("{:?}", follower.asked));
            line(&mut text, "since event", format!("{:?}", follower.since));
            line(&mut text, "deleted", follower.is_deleted);
            let named = follower.named.iter();
            list(&mut text, "named", named.map(|named| format!("{named:?}")));
            let offered = follower.offered.iter();
            let offered = offered.map(|((name, _), ranges)| format!("{name}: {ranges:?}"));
            list(&mut text, "offered", offered);
            state.push(Section {
                lane: String::new(),
                title: format!("reference model of {id} {incarnation}"),
                text,
            });
        }
        state
    }
}

fn of_object(name: &str, object: &Object) -> Section {
    let mut text = String::new();
    let place = if object.machine.is_some() {
        "in memory"
    } else {
        "ended"
    };
    line(
        &mut text,
        "instance",
        format!("{}, {place}", object.instance),
    );
    line(&mut text, "turns that are not durable", object.turns.len());
    of_rows(&mut text, &object.rows);
    Section {
        lane: name.to_owned(),
        title: name.to_owned(),
        text,
    }
}
