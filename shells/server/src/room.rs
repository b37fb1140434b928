//! Memory that clients make the server hold: request bodies and responses.
//!
//! Only bytes in memory count, not announced ones. When there is no room, the address that holds
//! most loses one of its bodies or responses.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::clients::{Address, Client, End};

/// Memory for a bounded number of bytes.
#[derive(Debug)]
pub(crate) struct Room {
    bytes_max: usize,
    rule: Rule,
    holders: Mutex<Holders>,
}

/// Which reservation of the heaviest address is evicted.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Rule {
    /// The newest that has at least this many bytes. If there is none, the newest.
    NewestLarge(usize),
    /// The oldest, if it is at least this old.
    Oldest(Duration),
}

#[derive(Debug, Default)]
struct Holders {
    held: usize,
    next: u64,
    each: BTreeMap<u64, Holder>,
}

#[derive(Debug)]
struct Holder {
    address: Address,
    bytes: usize,
    since: Instant,
    /// How the holder learns that it is evicted. `None` if it cannot be evicted any more.
    way: Option<Way>,
    has_given_way: bool,
}

#[derive(Clone, Debug)]
enum Way {
    Notify(Arc<Notify>),
    End(Arc<End>),
}

/// Reserved memory. Dropping this frees it.
#[derive(Debug)]
pub(crate) struct Reservation {
    room: Arc<Room>,
    number: u64,
    notify: Arc<Notify>,
}

#[derive(Debug)]
pub(crate) struct RoomFullError;

impl Room {
    pub(crate) fn new(bytes_max: usize, rule: Rule) -> Self {
        Self {
            bytes_max,
            rule,
            holders: Mutex::default(),
        }
    }

    fn enter(self: &Arc<Self>, address: Address, notify: Arc<Notify>, way: Way) -> Reservation {
        let mut holders = self.holders.lock();
        holders.next += 1;
        let number = holders.next;
        let holder = Holder {
            address,
            bytes: 0,
            since: Instant::now(),
            way: Some(way),
            has_given_way: false,
        };
        holders.each.insert(number, holder);
        drop(holders);
        Reservation {
            room: Arc::clone(self),
            number,
            notify,
        }
    }

    /// Reserves memory for something that grows, and that is notified when it is evicted.
    pub(crate) fn growing(self: &Arc<Self>, client: &Client) -> Reservation {
        let notify = Arc::new(Notify::new());
        self.enter(client.address, Arc::clone(&notify), Way::Notify(notify))
    }

    /// Counts bytes until the last of them is sent. Eviction ends the connection.
    ///
    /// # Errors
    /// When they do not fit.
    pub(crate) fn count(
        self: &Arc<Self>,
        client: &Client,
        bytes: Bytes,
    ) -> Result<Bytes, RoomFullError> {
        /// Bytes with their reservation.
        struct Counted {
            bytes: Bytes,
            _taken: Reservation,
        }
        impl AsRef<[u8]> for Counted {
            fn as_ref(&self) -> &[u8] {
                &self.bytes
            }
        }
        let end = Arc::clone(&client.end);
        let taken = self.enter(client.address, Arc::default(), Way::End(end));
        // A single piece that is larger than all of the room is allowed.
        taken.more(bytes.len().min(self.bytes_max))?;
        Ok(Bytes::from_owner(Counted {
            bytes,
            _taken: taken,
        }))
    }
}

impl Reservation {
    /// Reserves more bytes.
    ///
    /// # Errors
    /// When there is no room, or this reservation was evicted.
    pub(crate) fn more(&self, bytes: usize) -> Result<(), RoomFullError> {
        let room = &self.room;
        let mut holders = room.holders.lock();
        match holders.each.get_mut(&self.number) {
            Some(holder) if !holder.has_given_way => holder.bytes += bytes,
            _ => return Err(RoomFullError),
        }
        holders.held += bytes;
        while holders.held > room.bytes_max {
            let giving_way = holders.choose(room.rule).unwrap_or(self.number);
            holders.give_way(giving_way);
            if giving_way == self.number {
                return Err(RoomFullError);
            }
        }
        Ok(())
    }

    /// Protects the reservation from eviction.
    pub(crate) fn settle(&self) {
        if let Some(holder) = self.room.holders.lock().each.get_mut(&self.number) {
            holder.way = None;
        }
    }

    /// Resolves when the reservation is evicted.
    pub(crate) async fn gives_way(&self) {
        self.notify.notified().await;
    }

    pub(crate) fn bytes(&self) -> usize {
        let holders = self.room.holders.lock();
        holders
            .each
            .get(&self.number)
            .map_or(0, |holder| holder.bytes)
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut holders = self.room.holders.lock();
        if let Some(holder) = holders.each.remove(&self.number) {
            holders.held -= holder.bytes;
        }
    }
}

impl Holders {
    fn choose(&self, rule: Rule) -> Option<u64> {
        let could = || {
            self.each
                .iter()
                .filter(|(_, holder)| holder.way.is_some() && holder.bytes > 0)
        };
        let mut by_address = BTreeMap::<Address, usize>::new();
        for (_, holder) in could() {
            *by_address.entry(holder.address).or_default() += holder.bytes;
        }
        let heaviest = by_address.into_iter().max_by_key(|(_, bytes)| *bytes)?.0;
        let mut of_heaviest = could().filter(|(_, holder)| holder.address == heaviest);
        match rule {
            Rule::NewestLarge(large) => of_heaviest
                .max_by_key(|(number, holder)| (holder.bytes >= large, **number))
                .map(|(number, _)| *number),
            Rule::Oldest(grace) => of_heaviest
                .next()
                .filter(|(_, holder)| holder.since.elapsed() >= grace)
                .map(|(number, _)| *number),
        }
    }

    /// Evicts a reservation. Its bytes no longer count, although its task takes a moment to free
    /// them.
    fn give_way(&mut self, number: u64) {
        let Some(holder) = self.each.get_mut(&number) else {
            return;
        };
        holder.has_given_way = true;
        self.held -= std::mem::take(&mut holder.bytes);
        match holder.way.take() {
            Some(Way::Notify(notify)) => notify.notify_one(),
            Some(Way::End(end)) => end.ask(),
            None => {}
        }
    }
}
