//! The state of a world, in a form that people can read.

use core::fmt::{Debug, Write as _};

use machine::{MemoryRows, Stream};

use super::World;
use super::object::Object;
use crate::ids::ObjectId;
use crate::model::{Content, Model};
use crate::request::excerpt;
use crate::settings::BEGINNING;
use crate::trace::Section;

/// How many of the last rows and messages are shown.
const LAST_SHOWN: usize = 12;

impl World<'_, '_> {
    /// Returns the state: each object, the reference model of its name, and the cold tier.
    #[must_use]
    pub fn state(&self) -> Vec<Section> {
        let objects = self.objects.named();
        let mut state: Vec<_> = objects
            .flat_map(|(at, object)| [self.of_object(at, object), self.of_model(at, object)])
            .collect();
        state.push(cold_tier(
            self.cold
                .objects()
                .iter()
                .map(|(key, bytes)| (key, bytes.len())),
        ));
        state
    }

    pub(super) fn of_object(&self, at: ObjectId, object: &Object) -> Section {
        let platform = &object.platform;
        let mut text = String::new();
        let instance = match platform.present() {
            Some(number) => format!("{number}, in memory"),
            None => "none in memory".to_owned(),
        };
        line(&mut text, "instance", instance);
        line(&mut text, "turns", object.turns);
        line(
            &mut text,
            "commits on their way",
            platform.commits_pending(),
        );
        line(&mut text, "connections", platform.connections.len());
        line(
            &mut text,
            "alarm",
            optional(platform.alarm.stored.map(seconds)),
        );
        if let Some(stream) = &platform.instance {
            timers(&mut text, stream);
        }
        of_rows(&mut text, &platform.storage.rows);
        Section {
            lane: format!("object {at}"),
            title: format!("object {at}: {}", object.name),
            text,
        }
    }

    fn of_model(&self, at: ObjectId, object: &Object) -> Section {
        Section {
            lane: format!("object {at}"),
            title: format!("reference model of {}", object.name),
            text: of_model(&self.models[at]),
        }
    }
}

/// Returns the section of the cold tier.
pub(crate) fn cold_tier<'a>(objects: impl Iterator<Item = (&'a String, usize)>) -> Section {
    let mut text = String::new();
    for (key, bytes) in objects {
        line(&mut text, key, format!("{bytes} bytes"));
    }
    if text.is_empty() {
        text.push_str("no objects\n");
    }
    Section {
        lane: "cold tier".to_owned(),
        title: "cold tier".to_owned(),
        text,
    }
}

/// Adds what a stream has stored.
pub(crate) fn of_rows(text: &mut String, rows: &MemoryRows) {
    match rows.head() {
        None => line(text, "stream", "none"),
        Some(head) => pretty(text, "stream", head),
    }
    list(
        text,
        "sealed segments",
        rows.segments().map(|it| format!("{it:?}")),
    );
    let hot: Vec<_> = rows.rows().collect();
    let shown = hot.iter().skip(hot.len().saturating_sub(LAST_SHOWN));
    let shown = shown.map(|row| {
        let content = excerpt(&row.frames.make());
        let (key, units) = (row.key.stored(), row.units);
        format!("{key}: {units} units {content} {:?}", row.ends)
    });
    list(
        text,
        &format!("rows of the open segment ({})", hot.len()),
        shown,
    );
    list(text, "producers of sealed segments", rows.producers());
    list(text, "outbox", rows.tasks().map(|task| format!("{task:?}")));
    list(
        text,
        "inherited segments",
        rows.manifest().map(|it| format!("{it:?}")),
    );
    list(
        text,
        "control",
        rows.control().map(|(key, body)| format!("{key}: {body}")),
    );
    list(text, "pins", rows.pins().map(|pin| format!("{pin:?}")));
}

fn timers(text: &mut String, stream: &Stream) {
    let timers = stream.timers();
    let timers = timers.map(|timer| format!("{} at {}", timer.reason, seconds(timer.at.0)));
    list(text, "timers", timers);
    let reason = stream.alarm_reason().map(|reason| reason.to_string());
    line(text, "alarm is for", optional(reason));
    line(text, "producers in memory", stream.producers_in_memory());
}

fn of_model(model: &Model) -> String {
    let mut text = String::new();
    line(&mut text, "incarnations so far", model.incarnations());
    let Some(it) = &model.state.incarnation else {
        line(&mut text, "stream", "none");
        return text;
    };
    line(&mut text, "incarnation", it.id);
    line(&mut text, "content type", &it.content_type);
    line(&mut text, "closed", it.closed);
    let ends = it.ends(&model.bounds);
    let ends = ends.map(|(least, most)| {
        let (least, most) = (seconds(least), seconds(most));
        format!("between {least} and {most}")
    });
    line(&mut text, "may expire", optional(ends));
    line(&mut text, "Stream-Seq", optional(it.stream_seq()));
    let sealed = it.segments.sealed();
    let segments = (0..sealed).filter_map(|number| it.segments.end(number));
    list(&mut text, "ends of sealed segments", segments);
    let producers = it.producers().iter();
    let producers = producers.map(|(id, (epoch, seq))| format!("{id}: epoch {epoch}, seq {seq}"));
    list(&mut text, "producers", producers);
    match &*it.content {
        Content::Messages(messages) => {
            let count = messages.len();
            let skipped = count.saturating_sub(LAST_SHOWN);
            let shown = messages.iter().enumerate().skip(skipped);
            let shown = shown.map(|(at, message)| format!("{at}: {}", excerpt(message)));
            list(&mut text, &format!("messages ({count})"), shown);
        }
        Content::Run { bytes, ends, .. } => {
            let count = ends.len();
            let skipped = count.saturating_sub(LAST_SHOWN);
            let before = skipped.checked_sub(1).map_or(0, |before| ends[before]);
            let starts = core::iter::once(before).chain(ends[skipped..].iter().copied());
            let shown = starts.zip(&ends[skipped..]).map(|(start, end)| {
                let (from, to) = (start as usize, *end as usize);
                format!("{start}..{end}: {}", excerpt(&bytes[from..to]))
            });
            let title = format!("appends ({count}, {} bytes)", bytes.len());
            list(&mut text, &title, shown);
        }
    }
    text
}

/// Adds a name and a value.
pub(crate) fn line(text: &mut String, name: &str, value: impl core::fmt::Display) {
    writeln!(text, "{name}: {value}").expect("a text takes everything");
}

/// Adds a name and the fields of a value below it.
pub(crate) fn pretty(text: &mut String, name: &str, value: &impl Debug) {
    line(text, name, "");
    let shown = format!("{value:#?}");
    // The first and the last line are the name of the type and its brace.
    let mut fields = shown.lines().skip(1).collect::<Vec<_>>();
    fields.pop();
    for field in compact(fields) {
        writeln!(text, "{field}").expect("a text takes everything");
    }
}

/// Puts each value with one unnamed field, such as `Some(Millis(7))`, on one line.
fn compact(fields: Vec<&str>) -> Vec<String> {
    let mut lines = Vec::<String>::new();
    for field in fields {
        lines.push(field.to_owned());
        while let [.., outer, inner, end] = lines.as_slice()
            && outer.ends_with('(')
            && !inner.ends_with(['(', '{', '['])
            && matches!(end.trim(), ")," | ")")
        {
            let joined = format!(
                "{outer}{}{}",
                inner.trim().trim_end_matches(','),
                end.trim()
            );
            lines.truncate(lines.len() - 3);
            lines.push(joined);
        }
    }
    lines
}

/// Adds a name and the elements of a list below it; nothing if there are none.
pub(crate) fn list(
    text: &mut String,
    name: &str,
    elements: impl IntoIterator<Item = impl core::fmt::Display>,
) {
    let mut is_first = true;
    for element in elements {
        if core::mem::take(&mut is_first) {
            line(text, name, "");
        }
        writeln!(text, "    {element}").expect("a text takes everything");
    }
}

fn optional(value: Option<impl core::fmt::Display>) -> String {
    value.map_or_else(|| "none".to_owned(), |value| value.to_string())
}

/// Returns a time as the trace shows it. Some times lie before the beginning.
fn seconds(ms: u64) -> String {
    match ms.checked_sub(BEGINNING) {
        Some(since) => format!("{}.{:03}", since / 1_000, since % 1_000),
        None => format!("{} ms before the beginning", BEGINNING - ms),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_with_one_field_take_one_line() {
        #[derive(Debug)]
        struct Outer {
            _at: Option<Inner>,
            _ends: Vec<Inner>,
        }
        #[derive(Debug)]
        struct Inner(#[expect(dead_code, reason = "it is shown")] u64);

        let value = Outer {
            _at: Some(Inner(7)),
            _ends: vec![Inner(8)],
        };
        let mut text = String::new();
        pretty(&mut text, "outer", &value);
        let expected =
            "outer: \n    _at: Some(Inner(7)),\n    _ends: [\n        Inner(8),\n    ],\n";
        assert_eq!(text, expected);
    }
}
