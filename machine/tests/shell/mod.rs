//! The smallest shell there is: rows in memory, one object, every turn durable at once.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use bytes::Bytes;
use machine::plan::Plan;
use machine::rows::{Head, HotRow, HotTable, Incarnation, RowKey, RowMark, Write, WriterMark};
use machine::wire::answer::Body;
use machine::wire::request::{self, Parsed};
use machine::{Answer, CallId, Gated, Input, Limits, Live, Millis, Rows, Stream, Turn, Unreadable};

#[derive(Default)]
pub(crate) struct Memory {
    head: RefCell<Option<Head>>,
    hot: RefCell<BTreeMap<(HotTable, RowKey), HotRow>>,
    pub(crate) attached: Cell<u64>,
}

impl Rows for Memory {
    fn head(&self) -> Result<Option<Head>, Unreadable> {
        Ok(self.head.borrow().clone())
    }

    fn at_or_before(&self, table: HotTable, key: RowKey) -> Result<Option<RowMark>, Unreadable> {
        let hot = self.hot.borrow();
        let row = hot
            .range((table, RowKey::from_stored(0))..=(table, key))
            .next_back();
        Ok(row.map(|(_, row)| RowMark {
            key: row.key,
            units: row.units,
            bytes_before: row.bytes_before,
            bytes: row.frames.len() as u64,
            at: row.at,
        }))
    }

    fn writers(&self, table: HotTable, each: &mut dyn FnMut(WriterMark)) -> Result<(), Unreadable> {
        for ((_, _), row) in self
            .hot
            .borrow()
            .range((table, RowKey::from_stored(0))..=(table, RowKey::LAST))
        {
            each(WriterMark {
                producer: row.producer.clone(),
                stream_seq: row.stream_seq.clone(),
            });
        }
        Ok(())
    }

    fn attached(&self, _: Incarnation) -> Result<u64, Unreadable> {
        Ok(self.attached.get())
    }
}

impl Memory {
    fn apply(&self, write: Write) {
        match write {
            Write::CreateTables { .. } => assert!(self.head.borrow().is_none(), "a stream is created once"),
            Write::InsertHead(head) => {
                assert!(self.head.replace(Some(head)).is_none(), "there is one head row")
            }
            Write::UpdateHead(head) => assert!(
                self.head.replace(Some(head)).is_some(),
                "there is a head row to update"
            ),
            Write::InsertHot { table, row } => {
                let before = self.hot.borrow_mut().insert((table, row.key), row);
                assert!(before.is_none(), "a key is used once");
            }
            Write::DropTables => {
                self.hot.borrow_mut().clear();
                self.head.replace(None);
            }
        }
    }

    fn frames(&self, plan: &Plan, limits: &Limits) -> Vec<u8> {
        let mut frames = Vec::new();
        for span in &plan.spans {
            let hot = self.hot.borrow();
            let rows: Vec<_> = hot
                .range((span.table, span.from)..=(span.table, span.to))
                .map(|(_, row)| row)
                .collect();
            let bytes: usize = rows.iter().map(|row| row.frames.len()).sum();
            assert!(
                bytes as u64 <= limits.row_bytes_max || rows.len() == 1,
                "a span is fetched as one value"
            );
            rows.iter().for_each(|row| frames.extend_from_slice(&row.frames));
        }
        frames
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.head.borrow().is_none() && self.hot.borrow().is_empty()
    }
}

/// An answer with its body made.
#[derive(Debug)]
pub(crate) struct Answered {
    pub(crate) answer: Answer,
    pub(crate) body: Vec<u8>,
    pub(crate) attached: bool,
}

impl Answered {
    pub(crate) fn status(&self) -> u16 {
        self.answer.status
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.answer.header(name).unwrap_or_default()
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

pub(crate) struct Shell {
    pub(crate) rows: Memory,
    pub(crate) limits: Limits,
    pub(crate) now: Millis,
    pub(crate) alarm: Option<Millis>,
    pub(crate) live: Option<Live>,
    /// Writes of the last turn.
    pub(crate) written: usize,
    stream: Option<Stream>,
    wakes: u64,
    /// Of the reader that was attached last.
    incarnation: Option<Incarnation>,
}

impl Shell {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            rows: Memory::default(),
            limits,
            now: Millis(1_800_000_000_000),
            alarm: None,
            live: None,
            written: 0,
            stream: None,
            wakes: 0,
            incarnation: None,
        }
    }

    pub(crate) fn sleep(&mut self) {
        self.stream = None;
    }

    pub(crate) fn input(&mut self, input: Input) -> Vec<Gated> {
        let mut stream = self.stream.take().unwrap_or_else(|| {
            self.wakes += 1;
            Stream::wake(self.now, &self.rows, &self.limits, self.wakes).expect("memory can be read")
        });
        let mut turn = Turn::default();
        stream
            .step(self.now, input, &self.rows, &mut turn)
            .expect("memory can be read");
        self.stream = Some(stream);
        self.written = turn.writes.len();
        turn.writes.into_iter().for_each(|write| self.rows.apply(write));
        if let Some(alarm) = turn.alarm {
            self.alarm = alarm;
        }
        self.live = turn.live;
        turn.gated
    }

    pub(crate) fn request(
        &mut self,
        method: &str,
        query: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Answered {
        let url = format!("http://host/v1/stream/s{query}");
        let header = |name: &str| {
            headers
                .iter()
                .find(|(each, _)| each.eq_ignore_ascii_case(name))
                .map(|(_, value)| (*value).to_owned())
        };
        let head = request::Head {
            method,
            url: &url,
            header: &header,
        };
        let call = match request::parse(head, &self.limits) {
            Ok(Parsed::Whole(call)) => Ok(call),
            Ok(Parsed::AwaitsBody(awaits)) => awaits.with_body(Bytes::copy_from_slice(body)),
            Err(refusal) => Err(refusal),
        };
        let call = match call {
            Ok(call) => call,
            Err(refusal) => {
                return Answered {
                    answer: Answer::refusal(&refusal),
                    body: Vec::new(),
                    attached: false,
                };
            }
        };
        let gated = self
            .input(Input::Call { id: CallId(0), call })
            .pop()
            .expect("a call is answered in its turn");
        match gated {
            Gated::Attach { line, .. } => {
                self.incarnation = Some(line.incarnation);
                Answered {
                    answer: line.answer,
                    body: Vec::new(),
                    attached: true,
                }
            }
            Gated::Answer { answer, .. } => {
                let body = match &answer.body {
                    Body::Empty => Vec::new(),
                    Body::Bytes(bytes) => bytes.clone(),
                    Body::Plan(plan) => plan
                        .render(self.rows.frames(plan, &self.limits))
                        .expect("the rows are whole"),
                };
                Answered {
                    answer,
                    body,
                    attached: false,
                }
            }
        }
    }

    pub(crate) fn put(&mut self, content_type: &str, headers: &[(&str, &str)]) -> Answered {
        let headers = [&[("Content-Type", content_type)], headers].concat();
        self.request("PUT", "", &headers, b"")
    }

    pub(crate) fn post(&mut self, content_type: &str, body: &[u8]) -> Answered {
        self.request("POST", "", &[("Content-Type", content_type)], body)
    }

    pub(crate) fn get(&mut self, query: &str) -> Answered {
        self.request("GET", query, &[], b"")
    }

    /// The reader that was attached last leaves.
    pub(crate) fn leave(&mut self) {
        let incarnation = self.incarnation.take().expect("a reader was attached");
        assert!(self.input(Input::Gone { incarnation }).is_empty());
    }

    /// Fires the alarm at its time.
    pub(crate) fn fire(&mut self) {
        let at = self.alarm.take().expect("an alarm is set");
        self.now = self.now.max(at);
        let gated = self.input(Input::Alarm);
        assert!(gated.is_empty());
    }
}
