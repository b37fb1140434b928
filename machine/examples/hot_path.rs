//! Runs the machine's hot path, so that its instructions can be counted:
//!
//! ```text
//! cargo build --release -p machine --features memory --example hot_path
//! valgrind --tool=callgrind --callgrind-out-file=/dev/null \
//!     target/release/examples/hot_path 10000 0
//! ```
//!
//! The arguments are the number of appends of 100 bytes, and the number of reads of 1,000 bytes
//! that follow. The difference between two runs is what the appends or the reads cost.

use std::sync::Arc;

use machine::wire::request::{self, Parsed, RequestHead};
use machine::{Body, CallId, Context, Effect, Input, Limits, MemoryRows, Millis, Offset, Stream};

const APPEND_BYTES: u64 = 100;
const READ_BYTES: u64 = 1_000;
const START: u64 = 1_800_000_000_000;

struct Shell {
    rows: MemoryRows,
    stream: Stream,
    limits: Arc<Limits>,
    now: Millis,
}

impl Shell {
    fn request(&mut self, method: &str, query: &str, body: &[u8]) -> Vec<u8> {
        self.now = self.now.plus(1);
        let header = |name: &str| {
            (name.eq_ignore_ascii_case("Content-Type")).then(|| "text/plain".to_owned())
        };
        let head = RequestHead {
            method,
            origin: "http://localhost",
            target: &format!("/v1/stream/log{query}"),
            header: &header,
        };
        let call = match request::parse(head, &self.limits).expect("the request is well-formed") {
            Parsed::Whole(call) => call,
            Parsed::AwaitsBody(awaits) => {
                let body = body.to_vec().into();
                awaits.with_body(body).expect("the body fits")
            }
        };
        let context = Context {
            now: self.now,
            storage: &self.rows,
            subscribers: &|_incarnation| Ok(0),
            entropy: &|| [0; 32],
        };
        let input = Input::Call {
            id: CallId(0),
            call,
        };
        let turn = self.stream.step(&context, input).expect("rows are whole");
        for write in &turn.writes {
            self.rows.apply(write).expect("the write fits the rows");
        }
        let Some(Effect::Answer { answer, .. }) = turn.after_commit.into_iter().next() else {
            unreachable!("each call is answered")
        };
        assert!(answer.status < 300, "no call is refused");
        let Body::Plan(plan) = &answer.body else {
            return Vec::new();
        };
        let writer = plan.begin(|span| self.rows.frames(span));
        let (mut writer, mut page) = (writer.expect("rows are whole"), Vec::new());
        let cold = writer.advance(&mut page).expect("rows are whole");
        assert!(cold.is_none(), "nothing is in the cold tier");
        page
    }
}

fn main() {
    let mut counts = std::env::args().skip(1).map(|count| count.parse());
    let mut count = || counts.next().and_then(Result::ok).unwrap_or(0_u64);
    let (appends, reads) = (count(), count());
    let mut limits = Limits::DEFAULT;
    limits.cold = true;
    limits.chunk_bytes_max = READ_BYTES;
    assert!(
        appends < limits.segment_messages_max,
        "no segment is sealed"
    );
    let rows = MemoryRows::default();
    let now = Millis(START);
    let limits = Arc::new(limits);
    let stream = Stream::load(now, &rows, &limits, 7).expect("no rows are whole rows");
    let mut shell = Shell {
        rows,
        stream,
        limits,
        now,
    };
    shell.request("PUT", "", &[]);
    for _ in 0..appends {
        shell.request("POST", "", &[b'a'; APPEND_BYTES as usize]);
    }
    let pages = (appends * APPEND_BYTES).saturating_sub(READ_BYTES) / APPEND_BYTES;
    for read in 0..reads {
        let offset = Offset::new(0, read % pages * APPEND_BYTES);
        let page = shell.request("GET", &format!("?offset={offset}"), &[]);
        assert!(!page.is_empty(), "there is something to read");
    }
}
