//! The stored rows of one object: implements the machine's storage port, and executes its writes.

use std::cell::RefCell;
use std::collections::VecDeque;

use bytes::Bytes;
use js_sys::{Array, ArrayBuffer, Uint8Array};
use machine::outbox::{Queue, Task};
use machine::rows::{
    ControlRow, HotTable, Incarnation, Layout, ManifestRow, MinuteOfRows, Pin, ProducerStamp,
    ProducerState, RowAppends, RowKey, RowMeta, SealedSegment, StreamRow, Sums, WriterColumns,
};
use machine::sql::{self, Columns, Value};
use machine::{AlarmChange, Class, Millis, Span, StorageError, Turn, Write};
use wasm_bindgen::{JsCast, JsValue};

use crate::platform::{Cursor, ObjectContext, ObjectStorage, Socket, Sql};

pub(crate) struct Storage {
    context: ObjectContext,
    storage: ObjectStorage,
    sql: Sql,
    /// The buffer in which the payload of a row is handed to JavaScript. A copy for each row would
    /// occupy memory until it is garbage collected.
    payload: RefCell<Option<Uint8Array>>,
    statements: RefCell<VecDeque<(String, JsValue)>>,
    #[cfg(feature = "test-routes")]
    pub(crate) counts: std::cell::Cell<Counts>,
}

/// How many texts of statements an object keeps in JavaScript.
const STATEMENTS_KEPT: usize = 8;

/// Payloads of at least this many bytes share the buffer.
const PAYLOAD_BYTES_SHARED: usize = 256 << 10;

/// Rows as the platform counts them.
#[cfg(feature = "test-routes")]
#[derive(Clone, Copy, Default)]
pub(crate) struct Counts {
    pub(crate) rows_read: f64,
    pub(crate) rows_written: f64,
    /// Billed as rows, too.
    pub(crate) alarms_set: f64,
}

impl Storage {
    pub(crate) fn new(context: ObjectContext) -> Self {
        let storage = context.storage();
        Self {
            sql: storage.sql(),
            storage,
            context,
            payload: RefCell::default(),
            statements: RefCell::default(),
            #[cfg(feature = "test-routes")]
            counts: std::cell::Cell::default(),
        }
    }

    /// Applies the writes and the alarm of a turn in one transaction. `before_commit` runs last in
    /// it.
    pub(crate) fn apply(&self, turn: &Turn, before_commit: impl Fn()) -> Result<(), JsValue> {
        if turn.needs_transaction() {
            self.transact(|| self.write(turn, &before_commit))
        } else {
            self.write(turn, &before_commit)
        }
    }

    /// Upgrades older rows to the present layout, before the turn that loads the instance. No event
    /// comes in between, so both become durable together.
    pub(crate) fn upgrade(&self, write: &Write) -> Result<(), JsValue> {
        self.transact(|| self.write_one(write))
    }

    fn transact(&self, write: impl Fn() -> Result<(), JsValue>) -> Result<(), JsValue> {
        self.storage
            .transaction_sync(&mut || write().map(|()| JsValue::UNDEFINED))?;
        Ok(())
    }

    fn write(&self, turn: &Turn, before_commit: &impl Fn()) -> Result<(), JsValue> {
        for write in &turn.writes {
            self.write_one(write)?;
        }
        match turn.alarm {
            // The promise is not awaited. If it fails, the output gate resets the object.
            AlarmChange::Set(at) => {
                drop(self.storage.set_alarm(at.0 as f64)?);
                #[cfg(feature = "test-routes")]
                self.count_alarm();
            }
            AlarmChange::Clear => drop(self.storage.delete_alarm()?),
            AlarmChange::Keep => {}
        }
        before_commit();
        Ok(())
    }

    fn write_one(&self, write: &Write) -> Result<(), JsValue> {
        sql::statements(write, |statement, values| {
            self.count(&self.execute(statement, values)?)
        })
    }

    /// Returns the joined frames of the rows of a span.
    pub(crate) fn frames(&self, span: Span) -> Result<Vec<u8>, JsValue> {
        let mut frames = Vec::new();
        let keys = [
            Value::Integer(span.from.stored()),
            Value::Integer(span.to.stored()),
        ];
        self.query(&sql::frames(span.table), &keys, |row| {
            frames = Uint8Array::new(&row.get(0)).to_vec();
            Ok(())
        })?;
        Ok(frames)
    }

    /// Returns the WebSockets of this incarnation's subscribers.
    pub(crate) fn subscribers(
        &self,
        class: Class,
        incarnation: Incarnation,
    ) -> Result<Array, JsValue> {
        self.context.web_sockets(&tag(class, incarnation))
    }

    /// Counts the subscribers of this incarnation.
    pub(crate) fn attached(&self, incarnation: Incarnation) -> Result<u64, StorageError> {
        let mut attached = 0;
        for class in [Class::Sse, Class::LongPoll] {
            attached += u64::from(
                self.subscribers(class, incarnation)
                    .map_err(unreadable)?
                    .length(),
            );
        }
        Ok(attached)
    }

    /// Returns the incarnation that a subscriber reads.
    pub(crate) fn incarnation(&self, subscriber: &JsValue) -> Result<Option<Incarnation>, JsValue> {
        let tag = self
            .context
            .tags(subscriber)?
            .get(0)
            .as_string()
            .unwrap_or_default();
        Ok(tag
            .split_once(':')
            .and_then(|(_, incarnation)| Incarnation::from_text(incarnation)))
    }

    pub(crate) fn keep_subscriber(
        &self,
        subscriber: &Socket,
        class: Class,
        incarnation: Incarnation,
    ) -> Result<(), JsValue> {
        self.context
            .accept_web_socket(subscriber, &Array::of1(&tag(class, incarnation).into()))
    }

    /// Executes one statement, and hands over its rows.
    fn query(
        &self,
        statement: &str,
        values: &[Value<'_>],
        mut each: impl FnMut(&Array) -> Result<(), JsValue>,
    ) -> Result<(), JsValue> {
        let cursor = self.execute(statement, values)?;
        let rows = cursor.raw()?;
        loop {
            let next = rows.next()?;
            if next.done() {
                return self.count(&cursor);
            }
            each(next.value().unchecked_ref())?;
        }
    }

    fn execute(&self, statement: &str, values: &[Value<'_>]) -> Result<Cursor, JsValue> {
        let bound = Array::new();
        for value in values {
            bound.push(&match value {
                Value::Null => JsValue::NULL,
                // Below 2^53.
                Value::Integer(integer) => JsValue::from_f64(*integer as f64),
                Value::Text(text) => JsValue::from_str(text),
                Value::Blob(bytes) => self.payload(bytes).into(),
            });
        }
        self.sql.exec(&self.statement(statement), &bound)
    }

    /// Returns the text of a statement for JavaScript. The latest ones cross over once, because the
    /// same few statements come again and again.
    fn statement(&self, text: &str) -> JsValue {
        let mut statements = self.statements.borrow_mut();
        if let Some((_, crossed)) = statements.iter().find(|(known, _)| known == text) {
            return crossed.clone();
        }
        if statements.len() == STATEMENTS_KEPT {
            statements.pop_front();
        }
        let crossed = JsValue::from_str(text);
        statements.push_back((text.to_owned(), crossed.clone()));
        crossed
    }

    /// Returns a view of these bytes for JavaScript. Large payloads share one buffer. This is safe
    /// because the platform has read a value when its statement has been executed.
    fn payload(&self, bytes: &[u8]) -> Uint8Array {
        if bytes.len() < PAYLOAD_BYTES_SHARED {
            return Uint8Array::from(bytes);
        }
        let length = bytes.len() as u32;
        let mut shared = self.payload.borrow_mut();
        let buffer = match shared.take() {
            Some(buffer) if buffer.length() >= length => buffer,
            Some(_) | None => Uint8Array::new_with_length(length),
        };
        let payload = buffer.subarray(0, length);
        payload.copy_from(bytes);
        shared.replace(buffer);
        payload
    }

    #[cfg(not(feature = "test-routes"))]
    #[expect(
        clippy::unused_self,
        clippy::unnecessary_wraps,
        reason = "counts only where the tests ask for it"
    )]
    fn count(&self, _cursor: &Cursor) -> Result<(), JsValue> {
        Ok(())
    }

    #[cfg(feature = "test-routes")]
    fn count(&self, cursor: &Cursor) -> Result<(), JsValue> {
        let counts = self.counts.get();
        self.counts.set(Counts {
            rows_read: counts.rows_read + cursor.rows_read()?,
            rows_written: counts.rows_written + cursor.rows_written()?,
            ..counts
        });
        Ok(())
    }

    #[cfg(feature = "test-routes")]
    fn count_alarm(&self) {
        let mut counts = self.counts.get();
        counts.alarms_set += 1.0;
        self.counts.set(counts);
    }

    fn ask<T>(
        &self,
        statement: &str,
        values: &[Value<'_>],
        decode: impl Fn(&Row<'_>) -> Result<T, StorageError>,
    ) -> Result<Option<T>, StorageError> {
        let mut answer = None;
        self.query(statement, values, |row| {
            answer = Some(decode(&Row(row)));
            Ok(())
        })
        .map_err(unreadable)?;
        answer.transpose()
    }
}

impl Storage {
    fn ask_for_list<T>(
        &self,
        statement: &str,
        values: &[Value<'_>],
        decode: impl Fn(&Row<'_>) -> Result<T, StorageError>,
    ) -> Result<Vec<T>, StorageError> {
        let mut list = Vec::new();
        self.ask_all(statement, values, decode, &mut |each| list.push(each))?;
        Ok(list)
    }

    fn ask_all<T>(
        &self,
        statement: &str,
        values: &[Value<'_>],
        decode: impl Fn(&Row<'_>) -> Result<T, StorageError>,
        each: &mut dyn FnMut(T),
    ) -> Result<(), StorageError> {
        let mut failed = None;
        let asked = self.query(statement, values, |row| {
            match decode(&Row(row)) {
                Ok(decoded) => each(decoded),
                Err(unreadable) => failed = Some(unreadable),
            }
            Ok(())
        });
        asked.map_err(unreadable)?;
        failed.map_or(Ok(()), Err)
    }
}

#[cfg(feature = "test-routes")]
impl Storage {
    pub(crate) fn abort(&self, reason: &str) -> Result<(), JsValue> {
        self.context.abort(reason)
    }

    /// Executes statements, separated by semicolons.
    pub(crate) fn execute_all(&self, statements: &str) -> Result<(), JsValue> {
        self.sql
            .exec(&JsValue::from_str(statements), &Array::new())
            .map(drop)
    }

    pub(crate) fn database_bytes(&self) -> Result<f64, JsValue> {
        self.sql.database_size()
    }

    pub(crate) fn tables(&self) -> Result<Vec<String>, JsValue> {
        let mut tables = Vec::new();
        let cursor = self.sql.exec(
            &"SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name".into(),
            &Array::new(),
        )?;
        for row in cursor.raw()? {
            tables.extend(row?.unchecked_ref::<Array>().get(0).as_string());
        }
        Ok(tables)
    }

    pub(crate) fn all_subscribers(&self) -> Result<u32, JsValue> {
        let get = js_sys::Reflect::get(&self.context, &"getWebSockets".into())?;
        Ok(get
            .unchecked_into::<js_sys::Function>()
            .call0(&self.context)?
            .unchecked_into::<Array>()
            .length())
    }
}

impl machine::Storage for Storage {
    fn layout(&self) -> Result<Layout, StorageError> {
        sql::layout(|statement, each| {
            let mut taken = Ok(());
            let asked = self.query(statement, &[], |row| {
                if taken.is_ok() {
                    taken = each(&Row(row));
                }
                Ok(())
            });
            asked.map_err(unreadable).and(taken)
        })
    }

    fn head(&self) -> Result<Option<StreamRow>, StorageError> {
        self.ask(sql::HEAD, &[], |row| sql::head(row))
    }

    fn at_or_before(&self, table: HotTable, key: RowKey) -> Result<Option<RowMeta>, StorageError> {
        self.ask(
            &sql::at_or_before(table),
            &[Value::Integer(key.stored())],
            |row| sql::row_mark(row),
        )
    }

    fn first_at_or_after_bytes(
        &self,
        table: HotTable,
        after: RowKey,
        bytes_before: u64,
    ) -> Result<Option<RowMeta>, StorageError> {
        let values = [after.stored(), bytes_before].map(Value::Integer);
        self.ask(&sql::first_at_or_after_bytes(table), &values, |row| {
            sql::row_mark(row)
        })
    }

    fn writers(
        &self,
        table: HotTable,
        each: &mut dyn FnMut(WriterColumns),
    ) -> Result<(), StorageError> {
        let statement = sql::writers(table);
        let mut each_of = |writers: Vec<WriterColumns>| writers.into_iter().for_each(&mut *each);
        self.ask_all(&statement, &[], |row| sql::writers_of(row), &mut each_of)
    }

    fn appends(
        &self,
        table: HotTable,
        from: RowKey,
        limit: u64,
    ) -> Result<Vec<RowAppends>, StorageError> {
        let values = [from.stored(), limit].map(Value::Integer);
        let mut appends = Vec::new();
        let mut each = |row| appends.push(row);
        let statement = sql::appends(table);
        self.ask_all(&statement, &values, |row| sql::appends_of(row), &mut each)?;
        Ok(appends)
    }

    fn producer(&self, id: &str) -> Result<Option<ProducerState>, StorageError> {
        self.ask(sql::PRODUCER, &[Value::Text(id)], |row| sql::producer(row))
    }

    fn segment(&self, number: u64) -> Result<Option<SealedSegment>, StorageError> {
        self.ask(sql::SEGMENT, &[Value::Integer(number)], |row| {
            sql::segment(row)
        })
    }

    fn retried_segments(&self, each: &mut dyn FnMut(u64, u64)) -> Result<(), StorageError> {
        self.ask_all(
            sql::RETRIED_SEGMENTS,
            &[],
            |row| sql::retried_segment(row),
            &mut |(number, attempts)| each(number, attempts),
        )
    }

    fn append_ends(&self, segment: u64) -> Result<Option<Bytes>, StorageError> {
        let ends = self.ask(sql::APPEND_ENDS, &[Value::Integer(segment)], |row| {
            row.blob(0)
        })?;
        Ok(ends.flatten().map(Bytes::from))
    }

    fn manifest(&self, segment: u64) -> Result<Option<ManifestRow>, StorageError> {
        self.ask(sql::MANIFEST, &[Value::Integer(segment)], |row| {
            sql::manifest(row)
        })
    }

    fn pin(&self, fork: Incarnation) -> Result<Option<Pin>, StorageError> {
        let fork = fork.to_string();
        self.ask(sql::PIN, &[Value::Text(&fork)], |row| sql::pin(row))
    }

    fn pins(&self) -> Result<u64, StorageError> {
        let count = self.ask(sql::PINS, &[], |row| row.integer(0))?;
        Ok(count.flatten().unwrap_or_default())
    }

    fn tasks(&self, queue: &Queue, id: u64, limit: u64) -> Result<Vec<Task>, StorageError> {
        let queue = queue.to_string();
        let values = [
            Value::Text(&queue),
            Value::Integer(id),
            Value::Integer(limit),
        ];
        self.ask_for_list(sql::TASKS, &values, |row| sql::task(row))
    }

    fn last_task(&self, queue: &Queue) -> Result<Option<Task>, StorageError> {
        let queue = queue.to_string();
        self.ask(sql::LAST_TASK, &[Value::Text(&queue)], |row| sql::task(row))
    }

    fn control(&self, from: &str, limit: u64) -> Result<Vec<ControlRow>, StorageError> {
        let values = [Value::Text(from), Value::Integer(limit)];
        self.ask_for_list(sql::CONTROL, &values, |row| sql::control(row))
    }

    fn sealed_segments(&self, from: u64, limit: u64) -> Result<Vec<SealedSegment>, StorageError> {
        let values = [Value::Integer(from), Value::Integer(limit)];
        self.ask_for_list(sql::SEALED_SEGMENTS, &values, |row| sql::segment(row))
    }

    fn sealed_producers(
        &self,
        after: &str,
        limit: u64,
    ) -> Result<Vec<(ProducerStamp, Millis)>, StorageError> {
        let values = [Value::Text(after), Value::Integer(limit)];
        self.ask_for_list(sql::SEALED_PRODUCERS, &values, |row| {
            sql::sealed_producer(row)
        })
    }

    fn sealed_sums(&self) -> Result<Sums, StorageError> {
        let sums = self.ask(sql::SEALED_SUMS, &[], |row| sql::sums(row))?;
        Ok(sums.expect("sums are one row"))
    }

    fn minutes(
        &self,
        table: HotTable,
        before: RowKey,
        since: Millis,
    ) -> Result<Vec<MinuteOfRows>, StorageError> {
        let values = [Value::Integer(before.stored()), Value::Integer(since.0)];
        self.ask_for_list(&sql::minutes(table), &values, |row| sql::minute(row))
    }
}

/// Returns the tag by which the platform finds a subscriber again. It never changes.
fn tag(class: Class, incarnation: Incarnation) -> String {
    let class = match class {
        Class::Sse => "sse",
        Class::LongPoll => "long-poll",
    };
    format!("{class}:{incarnation}")
}

fn unreadable(error: JsValue) -> StorageError {
    StorageError(format!("{error:?}"))
}

/// A row as the platform hands it over.
pub(crate) struct Row<'a>(pub(crate) &'a Array);

impl Columns for Row<'_> {
    fn integer(&self, column: usize) -> Result<Option<u64>, StorageError> {
        let value = self.0.get(column as u32);
        if value.is_null() {
            return Ok(None);
        }
        let number = value
            .as_f64()
            .filter(|number| *number >= 0.0 && number.fract() == 0.0);
        number
            .map(|number| Some(number as u64))
            .ok_or_else(|| wrong_type(column))
    }

    fn text(&self, column: usize) -> Result<Option<String>, StorageError> {
        let value = self.0.get(column as u32);
        if value.is_null() {
            return Ok(None);
        }
        value
            .as_string()
            .map(Some)
            .ok_or_else(|| wrong_type(column))
    }

    fn blob(&self, column: usize) -> Result<Option<Vec<u8>>, StorageError> {
        let value = self.0.get(column as u32);
        if value.is_null() {
            return Ok(None);
        }
        if value.is_instance_of::<ArrayBuffer>() {
            Ok(Some(Uint8Array::new(&value).to_vec()))
        } else {
            Err(wrong_type(column))
        }
    }
}

fn wrong_type(column: usize) -> StorageError {
    StorageError(format!("column {column} is of another type"))
}
