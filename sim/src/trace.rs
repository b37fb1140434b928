//! What a run leaves for people: a line for each thing that happened, and the state at its end.

use core::fmt;

use serde::{Serialize, Serializer};

/// A thing that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Line {
    pub simulated_ms: u64,
    /// The number of the event in which it happened.
    pub event: u64,
    /// Where it happened, such as `client 2`. A timeline has a lane for each.
    pub lane: String,
    pub text: String,
    #[serde(flatten)]
    pub mark: Mark,
}

/// What a line means to a timeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "mark", content = "span", rename_all = "lowercase")]
pub enum Mark {
    Point,
    /// Something begins that takes time.
    Begins(Span),
    /// It ends, in the same lane.
    Ends(Span),
    /// It ends because it was lost.
    Loses(Span),
    /// The instance of this lane ends, with all that is under way in it.
    Breaks,
    /// A fault fires.
    Fault,
    /// An oracle fails.
    Failure,
}

/// The name of something that takes time, unique in its lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    kind: &'static str,
    number: u64,
}

impl Span {
    #[must_use]
    pub const fn new(kind: &'static str, number: u64) -> Self {
        Self { kind, number }
    }
}

impl fmt::Display for Span {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} {}", self.kind, self.number)
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl fmt::Display for Line {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            simulated_ms,
            event,
            lane,
            text,
            ..
        } = self;
        let (seconds, millis) = (simulated_ms / 1_000, simulated_ms % 1_000);
        write!(
            formatter,
            "{seconds:>6}.{millis:03} e{event:<5} {lane:<10} {text}"
        )
    }
}

/// The state of one part of the world, in a form that people can read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Section {
    /// The lane that it belongs to. Empty if it belongs to no lane.
    pub lane: String,
    pub title: String,
    /// Lines, indented where something is part of something else.
    pub text: String,
}

impl fmt::Display for Section {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(formatter, "{}", self.title)?;
        for line in self.text.lines() {
            writeln!(formatter, "  {line}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_names_its_span_for_the_timeline() {
        let line = Line {
            simulated_ms: 1_002,
            event: 3,
            lane: "client 0".to_owned(),
            text: "c1 GET".to_owned(),
            mark: Mark::Begins(Span::new("c", 1)),
        };
        assert_eq!(line.to_string(), "     1.002 e3     client 0   c1 GET");
        assert_eq!(
            serde_json::to_string(&line).unwrap(),
            r#"{"simulated_ms":1002,"event":3,"lane":"client 0","text":"c1 GET","mark":"begins","span":"c 1"}"#
        );
    }
}
