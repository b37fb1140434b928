//! The parts of the platform that the `worker` crate does not bind, or binds without `catch`.
//! Without `catch`, a JavaScript exception would unwind through the Rust frames and leave the
//! request unanswered.

use js_sys::{Array, Promise};
use wasm_bindgen::prelude::*;

#[wasm_bindgen]
extern "C" {
    /// The context of a Durable Object.
    pub(crate) type ObjectContext;

    #[wasm_bindgen(method, getter)]
    pub(crate) fn storage(this: &ObjectContext) -> ObjectStorage;

    #[wasm_bindgen(method, catch, js_name = acceptWebSocket)]
    pub(crate) fn accept_web_socket(
        this: &ObjectContext,
        socket: &JsValue,
        tags: &Array,
    ) -> Result<(), JsValue>;

    #[wasm_bindgen(method, catch, js_name = getWebSockets)]
    pub(crate) fn web_sockets(this: &ObjectContext, tag: &str) -> Result<Array, JsValue>;

    #[wasm_bindgen(method, catch, js_name = getTags)]
    pub(crate) fn tags(this: &ObjectContext, socket: &JsValue) -> Result<Array, JsValue>;

    #[cfg(feature = "test-routes")]
    #[wasm_bindgen(method, catch)]
    pub(crate) fn abort(this: &ObjectContext, reason: &str) -> Result<(), JsValue>;

    pub(crate) type ObjectStorage;

    #[wasm_bindgen(method, getter)]
    pub(crate) fn sql(this: &ObjectStorage) -> Sql;

    #[wasm_bindgen(method, catch, js_name = transactionSync)]
    pub(crate) fn transaction_sync(
        this: &ObjectStorage,
        transaction: &mut dyn FnMut() -> Result<JsValue, JsValue>,
    ) -> Result<JsValue, JsValue>;

    #[wasm_bindgen(method, catch, js_name = setAlarm)]
    pub(crate) fn set_alarm(this: &ObjectStorage, at: f64) -> Result<Promise, JsValue>;

    #[wasm_bindgen(method, catch, js_name = deleteAlarm)]
    pub(crate) fn delete_alarm(this: &ObjectStorage) -> Result<Promise, JsValue>;

    pub(crate) type Sql;

    #[wasm_bindgen(method, catch, variadic)]
    pub(crate) fn exec(this: &Sql, statement: &JsValue, values: &Array) -> Result<Cursor, JsValue>;

    #[cfg(feature = "test-routes")]
    #[wasm_bindgen(method, getter, catch, js_name = databaseSize)]
    pub(crate) fn database_size(this: &Sql) -> Result<f64, JsValue>;

    pub(crate) type Cursor;

    /// Returns the rows as arrays. The caller must read them at once.
    #[wasm_bindgen(method, catch)]
    pub(crate) fn raw(this: &Cursor) -> Result<js_sys::Iterator, JsValue>;

    #[cfg(feature = "test-routes")]
    #[wasm_bindgen(method, getter, catch, js_name = rowsRead)]
    pub(crate) fn rows_read(this: &Cursor) -> Result<f64, JsValue>;

    #[cfg(feature = "test-routes")]
    #[wasm_bindgen(method, getter, catch, js_name = rowsWritten)]
    pub(crate) fn rows_written(this: &Cursor) -> Result<f64, JsValue>;

    /// The two ends of a WebSocket.
    pub(crate) type WebSocketPair;

    #[wasm_bindgen(constructor, catch, js_class = "WebSocketPair")]
    pub(crate) fn new() -> Result<WebSocketPair, JsValue>;

    #[wasm_bindgen(method, indexing_getter)]
    pub(crate) fn end(this: &WebSocketPair, index: u32) -> Socket;

    #[derive(Clone)]
    pub(crate) type Socket;

    #[wasm_bindgen(method, catch)]
    pub(crate) fn send(this: &Socket, message: &js_sys::Uint8Array) -> Result<(), JsValue>;

    #[wasm_bindgen(method, catch)]
    pub(crate) fn close(this: &Socket, code: u16, reason: &str) -> Result<(), JsValue>;

    /// What a call asks of the entry (`Asked` of `js/entry.mjs`).
    pub(crate) type Asked;

    /// Asks to report the end of a commit with `commitsEnded`.
    #[wasm_bindgen(method)]
    pub(crate) fn commit(this: &Asked);

    /// Asks to run an effect once the turn is durable.
    #[wasm_bindgen(method)]
    pub(crate) fn effect(this: &Asked, effect: &JsValue);

    /// Asks to write data points once the turn is durable. `waits` says whether it has written
    /// anything.
    #[wasm_bindgen(method)]
    pub(crate) fn points(this: &Asked, points: &str, waits: bool);

    /// The namespace of the streams' objects.
    pub(crate) type Namespace;

    #[wasm_bindgen(method, catch, js_name = getByName)]
    pub(crate) fn by_name(this: &Namespace, name: &str) -> Result<Stub, JsValue>;

    pub(crate) type Stub;

    #[wasm_bindgen(method, catch)]
    pub(crate) fn fetch(this: &Stub, request: &web_sys::Request) -> Result<Promise, JsValue>;

    #[wasm_bindgen(js_namespace = crypto, js_name = getRandomValues, catch)]
    fn fill_with_random_values(array: &js_sys::Uint8Array) -> Result<JsValue, JsValue>;

    #[wasm_bindgen(js_namespace = console, js_name = error)]
    pub(crate) fn log_error(what: &str, error: &JsValue);
}

/// Returns 64 random bits.
pub(crate) fn instance_seed() -> Result<u64, JsValue> {
    random().map(u64::from_le_bytes)
}

/// Returns random bytes that nobody can guess.
///
/// # Panics
/// When the platform has none.
pub(crate) fn entropy() -> [u8; 32] {
    random().expect("the platform has random bytes")
}

fn random<const COUNT: usize>() -> Result<[u8; COUNT], JsValue> {
    let array = js_sys::Uint8Array::new_with_length(COUNT as u32);
    fill_with_random_values(&array)?;
    let mut bytes = [0; COUNT];
    array.copy_to(&mut bytes);
    Ok(bytes)
}
