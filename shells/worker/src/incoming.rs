//! The body of a request while it arrives.

use std::cell::Cell;
use std::rc::Rc;

use bytes::Bytes;
use js_sys::Uint8Array;
use machine::router::Settings;
use machine::wire::request::AwaitsBody;
use machine::{Answer, Call, Limits};
use wasm_bindgen::prelude::*;

thread_local! {
    /// Bytes that all bodies of this isolate hold in memory, with the heads that wait for one.
    static HELD: Cell<u64> = const { Cell::new(0) };
}

/// The part of a request's body that has arrived. It grows in the memory of this code, piece by
/// piece. If the platform handed over a whole body, memory would hold it twice.
#[wasm_bindgen]
pub struct Incoming {
    awaits: Option<AwaitsBody>,
    bytes: Vec<u8>,
    room: Room,
    state: State,
    settings: Rc<Settings>,
}

/// A share of what the bodies of this isolate may take, in bytes.
#[derive(Default)]
pub(crate) struct Room(u64);

impl Room {
    /// Takes room for the head of a request that waits for its body. Bodies find less room then.
    pub(crate) fn of_head(bytes: u64) -> Self {
        HELD.set(HELD.get() + bytes);
        Self(bytes)
    }

    /// Takes room for a whole body, if there is some.
    pub(crate) fn take(bytes: u64, limits: &Limits) -> Option<Self> {
        let held = HELD.get();
        limits.takes_body(held, bytes).then(|| {
            HELD.set(held + bytes);
            Self(bytes)
        })
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        HELD.set(HELD.get() - self.0);
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Wanted,
    TooLarge,
    NoRoom,
}

/// How many bytes are added to the buffer of a body without an announced length when it is full.
const STEP: u64 = 1 << 20;

impl Incoming {
    /// Makes room for a body of the announced length, which the machine has accepted.
    pub(crate) fn new(awaits: AwaitsBody, announced: Option<u64>, settings: Rc<Settings>) -> Self {
        let mut incoming = Self {
            awaits: Some(awaits),
            bytes: Vec::new(),
            room: Room::default(),
            state: State::Wanted,
            settings,
        };
        incoming.reserve(announced.unwrap_or_default());
        incoming
    }

    /// Returns the call with its body, and the room of that body, or the answer that refuses it.
    pub(crate) fn call(&mut self) -> Result<(Call, Room), Answer> {
        let awaits = self.awaits.take().expect("a body is asked for once");
        let bytes = core::mem::take(&mut self.bytes);
        let room = core::mem::take(&mut self.room);
        match self.state {
            State::Wanted => awaits
                .with_body(Bytes::from(bytes))
                .map(|call| (call, room))
                .map_err(|refusal| Answer::refusal(&refusal)),
            State::TooLarge => Err(Answer::refusal(&awaits.bound.too_large())),
            State::NoRoom => Err(Answer::unavailable(&self.settings.limits)),
        }
    }

    fn reserve(&mut self, bytes: u64) {
        if bytes <= self.room.0 {
            return;
        }
        let others = HELD.get() - self.room.0;
        if !self.settings.limits.takes_body(others, bytes) {
            return self.refuse(State::NoRoom);
        }
        self.bytes
            .reserve_exact(usize::try_from(bytes).unwrap_or(usize::MAX) - self.bytes.len());
        HELD.set(others + bytes);
        self.room.0 = bytes;
    }

    fn refuse(&mut self, state: State) {
        self.state = state;
        self.bytes = Vec::new();
        self.room = Room::default();
    }
}

#[wasm_bindgen]
impl Incoming {
    /// Returns whether more of the body is wanted.
    #[wasm_bindgen(js_name = isWanted)]
    #[must_use]
    pub fn is_wanted(&self) -> bool {
        self.state == State::Wanted
    }

    /// Frees it.
    pub fn release(self) {}

    /// Accepts the next piece.
    pub fn take(&mut self, piece: &Uint8Array) {
        let at = self.bytes.len();
        let end = at as u64 + u64::from(piece.length());
        if !self.is_wanted() {
            return;
        }
        if self
            .awaits
            .as_ref()
            .is_none_or(|awaits| end > awaits.bound.bytes_max)
        {
            return self.refuse(State::TooLarge);
        }
        if end > self.room.0 {
            self.reserve(end.next_multiple_of(STEP));
        }
        if self.is_wanted() {
            self.bytes.resize(at + piece.length() as usize, 0);
            piece.copy_to(&mut self.bytes[at..]);
        }
    }
}
