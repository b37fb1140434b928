//! Test operations, by which tests inspect and break an object: the request header `X-Test-Op`.
//! Behind the feature `test-routes`, which is never deployed.

use std::cell::Cell;
use std::collections::BTreeMap;

use machine::{Answer, Effect, Object};
use wasm_bindgen::JsValue;
use web_sys::Response;

use crate::head::Head;
use crate::object::StreamObject;
use crate::platform::instance_seed;
use crate::response;
use crate::storage::Counts;

#[derive(Default)]
pub(crate) struct State {
    panics: Cell<bool>,
    instance: Cell<u64>,
    last_turn: Cell<Counts>,
    calls_sent: Cell<u64>,
}

impl State {
    pub(crate) fn note_turn(&self, before: Counts, after: Counts) {
        self.last_turn.set(Counts {
            rows_read: after.rows_read - before.rows_read,
            rows_written: after.rows_written - before.rows_written,
            alarms_set: after.alarms_set - before.alarms_set,
        });
    }

    pub(crate) fn note_calls(&self, effects: &[Effect]) {
        let calls = effects
            .iter()
            .filter(|effect| matches!(effect, Effect::Call { .. }));
        self.calls_sent
            .set(self.calls_sent.get() + calls.count() as u64);
    }
}

impl StreamObject {
    pub(crate) fn test_route(&self, head: &Head<'_>) -> Result<Option<Response>, JsValue> {
        match head.header("X-Test-Op") {
            Some("panic") => {
                self.test.panics.set(true);
                Ok(None)
            }
            Some("reset") => {
                self.storage.abort("reset by a test")?;
                response::plain(&Answer::uncached(204)).map(Some)
            }
            Some("stats") => self.stats().map(Some),
            Some("execute") => {
                let statements = head.header("X-Test-Statements");
                self.storage.execute_all(statements.unwrap_or_default())?;
                response::plain(&Answer::uncached(204)).map(Some)
            }
            _ => Ok(None),
        }
    }

    pub(crate) fn before_commit(&self) {
        assert!(!self.test.panics.get(), "asked for by a test");
    }

    fn stats(&self) -> Result<Response, JsValue> {
        if self.test.instance.get() == 0 {
            self.test.instance.set(instance_seed()?);
        }
        let counts = self.storage.counts.get();
        let last = self.test.last_turn.get();
        let tables = self.storage.tables()?;
        let machine = self.machine.borrow();
        let timers = machine.iter().flat_map(Object::timers);
        let timers: BTreeMap<_, _> = timers
            .map(|timer| (timer.reason.to_string(), timer.at.0))
            .collect();
        let json = serde_json::json!({
            "instance": format!("{:016x}", self.test.instance.get()),
            "subscribers": self.storage.all_subscribers()?,
            "rows_written": counts.rows_written,
            "rows_read": counts.rows_read,
            "alarms_set": counts.alarms_set,
            "calls_sent": self.test.calls_sent.get(),
            "database_bytes": self.storage.database_bytes()?,
            "tables": tables,
            "timers": timers,
            "last_turn_rows_written": last.rows_written,
            "last_turn_rows_read": last.rows_read,
        });
        response::response(&Answer::uncached(200), Some(json.to_string().as_bytes()))
    }
}
