//! The smallest shell: one stream in memory, where each turn is durable at once.
//!
//! `cargo run -p machine --features memory --example minimal_shell` creates a stream, appends two
//! messages and reads them.
#![allow(clippy::print_stdout, reason = "prints the answers")]

use std::sync::Arc;

use machine::wire::request::{self, Parsed, RequestHead};
use machine::{
    AlarmChange, Answer, Body, CallId, Context, Effect, Input, Limits, MemoryRows, Millis, Refusal,
    StorageError, Stream,
};

/// A stream and what a shell keeps for it.
struct Shell {
    rows: MemoryRows,
    alarm: Option<Millis>,
    stream: Stream,
    limits: Arc<Limits>,
}

impl Shell {
    /// Carries out one request, and returns its status, its offset and its body.
    fn request(&mut self, method: &str, query: &str, body: &'static str) -> String {
        let header = |name: &str| {
            let is_type = name.eq_ignore_ascii_case("Content-Type");
            (is_type && !body.is_empty()).then(|| "application/json".to_owned())
        };
        let head = RequestHead {
            method,
            origin: "http://localhost",
            target: &format!("/v1/stream/log{query}"),
            header: &header,
        };
        let call = request::parse(head, &self.limits).and_then(|parsed| match parsed {
            Parsed::Whole(call) => Ok(call),
            Parsed::AwaitsBody(awaits) => awaits.with_body(body.into()),
        });
        let input = call.map(|call| Input::Call {
            id: CallId(0),
            call,
        });
        let answer = input.map_or_else(refused, |input| self.turn(input).expect("rows are whole"));
        let body = match &answer.body {
            Body::Empty => Vec::new(),
            Body::Bytes(bytes) => bytes.clone(),
            Body::Plan(plan) => {
                let writer = plan.begin(|span| self.rows.frames(span));
                let (mut writer, mut page) = (writer.expect("rows are whole"), Vec::new());
                let cold = writer.advance(&mut page).expect("rows are whole");
                assert!(cold.is_none(), "nothing is in the cold tier");
                page
            }
        };
        let offset = answer.header("Stream-Next-Offset").unwrap_or("-");
        let body = String::from_utf8_lossy(&body);
        format!("{} {offset} {body}", answer.status)
    }

    /// Takes one step and makes it durable. Only then its answer leaves.
    fn turn(&mut self, input: Input) -> Result<Answer, StorageError> {
        let context = Context {
            now: Millis(1_800_000_000_000),
            storage: &self.rows,
            subscribers: &|_incarnation| Ok(0),
            entropy: &|| [0; 32],
        };
        let turn = self.stream.step(&context, input)?;
        for write in &turn.writes {
            self.rows.apply(write).map_err(StorageError)?;
        }
        match turn.alarm {
            AlarmChange::Keep => {}
            AlarmChange::Set(at) => self.alarm = Some(at),
            AlarmChange::Clear => self.alarm = None,
        }
        let Some(Effect::Answer { answer, .. }) = turn.after_commit.into_iter().next() else {
            unreachable!("each call is answered, and there is no live read")
        };
        Ok(answer)
    }
}

fn refused(refusal: Refusal) -> Answer {
    Answer::refusal(&refusal)
}

/// Runs the stream, and returns the answers.
pub(crate) fn run() -> [String; 5] {
    let (limits, now) = (Arc::new(Limits::DEFAULT), Millis(1_800_000_000_000));
    let rows = MemoryRows::default();
    let stream = Stream::load(now, &rows, &limits, 7).expect("no rows are whole rows");
    let alarm = None;
    let mut shell = Shell {
        rows,
        alarm,
        stream,
        limits,
    };
    [
        shell.request("PUT", "", r#"[]"#),
        shell.request("POST", "", r#"{"n":1}"#),
        shell.request("POST", "", r#"{"n":2}"#),
        shell.request("GET", "?offset=-1", ""),
        shell.request("GET", "?offset=7", ""),
    ]
}

fn main() {
    for answer in run() {
        println!("{answer}");
    }
}
