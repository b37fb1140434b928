//! Memory that clients make the server hold: request bodies and responses.
//!
//! Only bytes in memory count, not announced ones. When there is no room, the address that holds
//! most loses one of its bodies or responses.
//!
//! A response is admitted before its head is sent, with room for its first bytes. After that it is
//! never cut off because room is short. It may exceed the room, but it makes no more bytes until
//! there is room again. A response is evicted only if its client takes nothing for a while.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::clients::{Address, Client, End};

/// Smaller pieces are not counted, because each connection takes more than that by itself.
const COUNTED_BYTES_MIN: usize = 4_096;
/// The size of the pieces in which bytes are sent.
const PIECE_BYTES: usize = 64 << 10;
/// The longest pause before a response that waits for room looks for clients to evict.
const EVICTION_PAUSE: Duration = Duration::from_millis(200);

/// Memory for a bounded number of bytes.
#[derive(Debug)]
pub(crate) struct Room {
    bytes_max: usize,
    rule: Rule,
    /// Changes under the lock of `holders`.
    held: AtomicUsize,
    holders: Mutex<Holders>,
    /// Notifies when the room is no longer exceeded.
    no_longer_exceeded: Notify,
}

/// Which reservation is evicted.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Rule {
    /// Of the heaviest address, the newest that has at least this many bytes; otherwise its newest.
    NewestLarge(usize),
    /// Of the clients that have taken nothing for this time although something waits for them: of
    /// the heaviest of their addresses, the one that has taken nothing for the longest time.
    Stalled(Duration),
}

#[derive(Debug, Default)]
struct Holders {
    next: u64,
    each: BTreeMap<u64, Holder>,
}

#[derive(Debug)]
struct Holder {
    address: Address,
    bytes: usize,
    /// What a response keeps when all of its bytes are sent.
    kept: usize,
    /// Bytes of a response that its client has not taken.
    unsent: usize,
    /// When the client last took a piece, or the first piece was made for it.
    moved_at: Instant,
    /// How the holder learns that it is evicted. `None` if it can no longer be evicted.
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

/// Memory for a response. It is freed when this and all pieces are dropped.
#[derive(Debug)]
pub(crate) struct ResponseRoom(Arc<Reservation>);

/// What a response keeps while it lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keeps {
    /// Nothing: an event stream is idle most of the time.
    Nothing,
    /// Room for as many bytes as its first ones have, and one more piece. So it needs no more room
    /// for the bytes that follow.
    First,
}

#[derive(Debug)]
pub(crate) struct RoomFullError;

impl Room {
    pub(crate) fn new(bytes_max: usize, rule: Rule) -> Self {
        Self {
            bytes_max,
            rule,
            held: AtomicUsize::default(),
            holders: Mutex::default(),
            no_longer_exceeded: Notify::new(),
        }
    }

    fn enter(self: &Arc<Self>, address: Address, notify: Arc<Notify>, way: Way) -> Reservation {
        let mut holders = self.holders.lock();
        holders.next += 1;
        let number = holders.next;
        let holder = Holder {
            address,
            bytes: 0,
            kept: 0,
            unsent: 0,
            moved_at: Instant::now(),
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

    /// Admits a response. Returns the pieces of its first bytes, which count until they are sent.
    /// Eviction ends the connection. A response that is larger than all of the room is admitted
    /// when there is no other.
    ///
    /// # Errors
    /// When the first bytes do not fit.
    pub(crate) fn respond(
        self: &Arc<Self>,
        address: Address,
        end: &Arc<End>,
        first: Bytes,
        keeps: Keeps,
    ) -> Result<(ResponseRoom, VecDeque<Bytes>), RoomFullError> {
        let reservation = self.enter(address, Arc::default(), Way::End(Arc::clone(end)));
        let response = ResponseRoom(Arc::new(reservation));
        if keeps == Keeps::First {
            let kept = (first.len() / PIECE_BYTES + 1) * PIECE_BYTES;
            response.0.change(|holder| holder.kept = kept)?;
        }
        response.count(&first)?;
        let pieces = response.split(first);
        Ok((response, pieces))
    }

    fn is_exceeded(&self) -> bool {
        self.held.load(Ordering::Acquire) > self.bytes_max
    }

    /// Counts the bytes of a holder anew.
    fn set(&self, holder: &mut Holder, bytes: usize) {
        let held = self.held.load(Ordering::Acquire);
        self.held
            .store(held - holder.bytes + bytes, Ordering::Release);
        holder.bytes = bytes;
        if held > self.bytes_max && !self.is_exceeded() {
            self.no_longer_exceeded.notify_waiters();
        }
    }

    /// Evicts until the room is not exceeded, or nothing can be evicted.
    fn evict(&self, holders: &mut Holders) {
        while self.is_exceeded()
            && let Some(number) = holders.choose(self.rule)
        {
            self.give_way(holders, number);
        }
    }

    /// Evicts a reservation. Its bytes no longer count, although its task takes a moment to free
    /// them.
    fn give_way(&self, holders: &mut Holders, number: u64) {
        let Some(holder) = holders.each.get_mut(&number) else {
            return;
        };
        holder.has_given_way = true;
        self.set(holder, 0);
        match holder.way.take() {
            Some(Way::Notify(notify)) => notify.notify_one(),
            Some(Way::End(end)) => end.ask(),
            None => {}
        }
    }

    /// Resolves when the room is not exceeded. Evicts clients that take nothing.
    async fn not_exceeded(&self) {
        while self.is_exceeded() {
            let no_longer_exceeded = self.no_longer_exceeded.notified();
            self.evict(&mut self.holders.lock());
            if !self.is_exceeded() {
                return;
            }
            // The pause may end first.
            let _ = tokio::time::timeout(EVICTION_PAUSE, no_longer_exceeded).await;
        }
    }
}

impl ResponseRoom {
    /// Splits bytes into pieces, each of which counts until it is sent. They may exceed the room.
    pub(crate) fn pieces(&self, bytes: Bytes) -> VecDeque<Bytes> {
        // The response has begun, so that these bytes are sent in any case.
        let _ = self.count(&bytes);
        self.split(bytes)
    }

    /// Counts bytes that have to be sent.
    fn count(&self, bytes: &[u8]) -> Result<(), RoomFullError> {
        if bytes.len() <= COUNTED_BYTES_MIN {
            return Ok(());
        }
        self.0.change(|holder| {
            if holder.unsent == 0 {
                holder.moved_at = Instant::now();
            }
            holder.unsent += bytes.len();
        })
    }

    /// Splits bytes that were counted.
    fn split(&self, bytes: Bytes) -> VecDeque<Bytes> {
        /// Bytes with their reservation.
        struct Counted {
            bytes: Bytes,
            reservation: Arc<Reservation>,
        }
        impl AsRef<[u8]> for Counted {
            fn as_ref(&self) -> &[u8] {
                &self.bytes
            }
        }
        impl Drop for Counted {
            fn drop(&mut self) {
                self.reservation.sent(self.bytes.len());
            }
        }
        if bytes.len() <= COUNTED_BYTES_MIN {
            let is_any = !bytes.is_empty();
            return is_any.then_some(bytes).into_iter().collect();
        }
        let counted = |bytes| {
            let reservation = Arc::clone(&self.0);
            Bytes::from_owner(Counted { bytes, reservation })
        };
        if bytes.len() <= PIECE_BYTES {
            return VecDeque::from([counted(bytes)]);
        }
        // Copies can be freed one by one.
        let pieces = bytes.chunks(PIECE_BYTES).map(Bytes::copy_from_slice);
        pieces.map(counted).collect()
    }

    /// Resolves when more bytes may be made: the room is not exceeded and, if the response keeps
    /// room, all of its bytes are sent.
    pub(crate) async fn has_room(&self) {
        let Self(reservation) = self;
        while reservation.awaits_client() {
            reservation.notify.notified().await;
        }
        reservation.room.not_exceeded().await;
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
            Some(holder) if !holder.has_given_way => room.set(holder, holder.bytes + bytes),
            _ => return Err(RoomFullError),
        }
        while room.is_exceeded() {
            let giving_way = holders.choose(room.rule).unwrap_or(self.number);
            room.give_way(&mut holders, giving_way);
            if giving_way == self.number {
                return Err(RoomFullError);
            }
        }
        Ok(())
    }

    /// Changes what the holder of a response keeps or has to send, and counts it.
    ///
    /// # Errors
    /// When the room is exceeded. The change stays in effect.
    fn change(&self, change: impl FnOnce(&mut Holder)) -> Result<(), RoomFullError> {
        let room = &self.room;
        let mut holders = room.holders.lock();
        if let Some(holder) = holders.each.get_mut(&self.number) {
            change(holder);
            if !holder.has_given_way {
                let bytes = holder.kept.max(holder.unsent);
                room.set(holder, bytes.min(room.bytes_max));
            }
        }
        room.evict(&mut holders);
        if room.is_exceeded() {
            return Err(RoomFullError);
        }
        Ok(())
    }

    /// Frees bytes that the client has taken, or never will.
    fn sent(&self, bytes: usize) {
        // Others may exceed the room.
        let _ = self.change(|holder| {
            assert!(holder.unsent >= bytes, "a piece is sent once");
            holder.unsent -= bytes;
            holder.moved_at = Instant::now();
            if holder.unsent == 0 {
                self.notify.notify_one();
            }
        });
    }

    /// Returns whether the response keeps room, and its client has not taken all of its bytes.
    fn awaits_client(&self) -> bool {
        let holders = self.room.holders.lock();
        let holder = holders.each.get(&self.number);
        holder.is_some_and(|holder| holder.kept > 0 && holder.unsent > 0)
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
        if let Some(mut holder) = holders.each.remove(&self.number) {
            self.room.set(&mut holder, 0);
        }
    }
}

impl Holders {
    fn choose(&self, rule: Rule) -> Option<u64> {
        let could = || {
            self.each.iter().filter(move |(_, holder)| {
                let is_stalled = match rule {
                    Rule::NewestLarge(_) => true,
                    Rule::Stalled(grace) => holder.unsent > 0 && holder.moved_at.elapsed() >= grace,
                };
                holder.way.is_some() && holder.bytes > 0 && is_stalled
            })
        };
        let mut by_address = BTreeMap::<Address, usize>::new();
        for (_, holder) in could() {
            *by_address.entry(holder.address).or_default() += holder.bytes;
        }
        let heaviest = by_address.into_iter().max_by_key(|(_, bytes)| *bytes)?.0;
        let of_heaviest = could().filter(|(_, holder)| holder.address == heaviest);
        let chosen = match rule {
            Rule::NewestLarge(large) => {
                of_heaviest.max_by_key(|(number, holder)| (holder.bytes >= large, **number))
            }
            Rule::Stalled(_) => {
                of_heaviest.min_by_key(|(number, holder)| (holder.moved_at, **number))
            }
        };
        chosen.map(|(number, _)| *number)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const GRACE: Duration = Duration::from_secs(1);
    const MEBIBYTE: usize = 1 << 20;

    fn room(mebibytes: usize) -> Arc<Room> {
        Arc::new(Room::new(mebibytes * MEBIBYTE, Rule::Stalled(GRACE)))
    }

    /// A response of a client, as the connection has it.
    struct Response {
        room: ResponseRoom,
        pieces: VecDeque<Bytes>,
        end: Arc<End>,
    }

    fn begin(room: &Arc<Room>, host: u8, bytes: usize, keeps: Keeps) -> Option<Response> {
        let address = Address::of(Ipv4Addr::new(127, 0, 0, host).into());
        let end = Arc::new(End::default());
        let (room, pieces) = room
            .respond(address, &end, vec![b'x'; bytes].into(), keeps)
            .ok()?;
        Some(Response { room, pieces, end })
    }

    async fn is_ended(response: &Response) -> bool {
        let asked = tokio::time::timeout(Duration::ZERO, response.end.asked());
        asked.await.is_ok()
    }

    fn held(room: &Room) -> usize {
        let counted = room
            .holders
            .lock()
            .each
            .values()
            .map(|each| each.bytes)
            .sum();
        assert_eq!(room.held.load(Ordering::Acquire), counted);
        counted
    }

    #[tokio::test(start_paused = true)]
    async fn a_response_without_room_is_refused_and_leaves_nothing() {
        let room = room(2);
        let first = begin(&room, 1, MEBIBYTE, Keeps::First).unwrap();
        for keeps in [Keeps::First, Keeps::Nothing] {
            assert!(begin(&room, 2, MEBIBYTE, keeps).is_none());
        }
        assert_eq!(held(&room), MEBIBYTE + PIECE_BYTES);
        drop(first);
        assert_eq!(held(&room), 0);
        assert!(begin(&room, 2, MEBIBYTE, Keeps::First).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_response_larger_than_all_of_the_room_is_admitted_alone() {
        let room = room(1);
        let large = begin(&room, 1, 16 * MEBIBYTE, Keeps::Nothing).unwrap();
        assert_eq!(held(&room), MEBIBYTE);
        assert!(begin(&room, 2, PIECE_BYTES, Keeps::Nothing).is_none());
        drop(large);
        assert_eq!(held(&room), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn small_answers_need_no_room() {
        let room = room(1);
        let mut large = begin(&room, 1, MEBIBYTE, Keeps::Nothing).unwrap();
        large
            .pieces
            .extend(large.room.pieces(vec![b'x'; MEBIBYTE].into()));
        for bytes in [0, COUNTED_BYTES_MIN] {
            assert!(begin(&room, 2, bytes, Keeps::Nothing).is_some());
        }
        assert!(begin(&room, 2, COUNTED_BYTES_MIN + 1, Keeps::Nothing).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn pieces_are_freed_as_they_are_sent_and_what_is_kept_stays() {
        let room = room(8);
        let mut plain = begin(&room, 1, MEBIBYTE, Keeps::Nothing).unwrap();
        let mut long = begin(&room, 1, MEBIBYTE, Keeps::First).unwrap();
        assert_eq!(plain.pieces.len(), MEBIBYTE / PIECE_BYTES);
        let kept = MEBIBYTE + PIECE_BYTES;
        assert_eq!(held(&room), MEBIBYTE + kept);
        plain.pieces.pop_front();
        long.pieces.pop_front();
        assert_eq!(held(&room), MEBIBYTE - PIECE_BYTES + kept);
        plain.pieces.clear();
        long.pieces.clear();
        assert_eq!(held(&room), kept);
        long.pieces = long.room.pieces(vec![b'x'; kept].into());
        assert_eq!(held(&room), kept);
        drop(long.room);
        assert_eq!(held(&room), kept);
        drop(long.pieces);
        assert_eq!(held(&room), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn more_bytes_are_made_when_those_before_are_sent() {
        let room = room(8);
        let mut long = begin(&room, 1, MEBIBYTE, Keeps::First).unwrap();
        let waiting = tokio::time::timeout(GRACE * 100, long.room.has_room());
        assert!(waiting.await.is_err());
        long.pieces.clear();
        long.room.has_room().await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_reads_is_never_evicted_and_one_that_does_not_is() {
        let room = room(2);
        let mut reads = begin(&room, 1, MEBIBYTE, Keeps::Nothing).unwrap();
        let stalled = begin(&room, 2, MEBIBYTE, Keeps::Nothing).unwrap();
        for _ in 0..8 {
            tokio::time::advance(GRACE * 9 / 10).await;
            reads.pieces.pop_front();
        }
        // The address of the client that reads holds most, and that changes nothing.
        let more = begin(&room, 1, MEBIBYTE, Keeps::Nothing).unwrap();
        assert!(is_ended(&stalled).await);
        assert!(!is_ended(&reads).await && !is_ended(&more).await);
        assert!(begin(&room, 3, MEBIBYTE, Keeps::Nothing).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn of_the_clients_that_do_not_read_the_address_that_holds_most_loses() {
        let room = room(3);
        let first = begin(&room, 1, MEBIBYTE, Keeps::Nothing).unwrap();
        let heavy = [2, 2].map(|host| begin(&room, host, MEBIBYTE, Keeps::Nothing).unwrap());
        tokio::time::advance(GRACE).await;
        begin(&room, 3, MEBIBYTE, Keeps::Nothing).unwrap();
        assert!(is_ended(&heavy[0]).await);
        assert!(!is_ended(&heavy[1]).await && !is_ended(&first).await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_response_that_waits_for_the_server_is_not_evicted() {
        let room = room(1);
        let mut long = begin(&room, 1, MEBIBYTE / 2, Keeps::First).unwrap();
        long.pieces.clear();
        tokio::time::advance(GRACE * 10).await;
        assert!(begin(&room, 2, MEBIBYTE / 2, Keeps::Nothing).is_none());
        assert!(!is_ended(&long).await);
    }

    #[tokio::test(start_paused = true)]
    async fn no_response_makes_more_bytes_while_the_room_is_exceeded() {
        let room = room(2);
        let mut grows = begin(&room, 1, PIECE_BYTES, Keeps::First).unwrap();
        let mut waits = begin(&room, 2, PIECE_BYTES, Keeps::First).unwrap();
        (grows.pieces, waits.pieces) = <_>::default();
        grows.pieces = grows.room.pieces(vec![b'x'; 16 * MEBIBYTE].into());
        assert!(
            tokio::time::timeout(GRACE / 2, waits.room.has_room())
                .await
                .is_err()
        );
        assert!(begin(&room, 3, PIECE_BYTES, Keeps::Nothing).is_none());
        grows.pieces.clear();
        waits.room.has_room().await;
        assert!(!is_ended(&grows).await);
    }

    #[tokio::test(start_paused = true)]
    async fn those_that_wait_evict_a_client_that_does_not_read() {
        let room = room(2);
        let mut grows = begin(&room, 1, PIECE_BYTES, Keeps::First).unwrap();
        let mut other = begin(&room, 2, PIECE_BYTES, Keeps::First).unwrap();
        other.pieces.clear();
        let events = begin(&room, 2, 0, Keeps::Nothing).unwrap();
        grows.pieces = grows.room.pieces(vec![b'x'; 16 * MEBIBYTE].into());
        let begun = Instant::now();
        events.room.has_room().await;
        assert!((GRACE..=GRACE + EVICTION_PAUSE).contains(&begun.elapsed()));
        assert!(is_ended(&grows).await && !is_ended(&other).await);
    }

    /// Reads that fill all of the room, each with pages of varying size, all come to their end.
    #[tokio::test(start_paused = true)]
    async fn all_reads_that_have_begun_come_to_their_end() {
        let room = room(4);
        let mut reads = tokio::task::JoinSet::new();
        for number in 0..20_usize {
            let Some(mut read) = begin(&room, 1, MEBIBYTE / 2, Keeps::First) else {
                continue;
            };
            reads.spawn(async move {
                for page in 0..20 {
                    while read.pieces.pop_front().is_some() {
                        tokio::time::sleep(GRACE / 2).await;
                    }
                    read.room.has_room().await;
                    let bytes = ((number * 7 + page * 5) % 23 + 1) * (MEBIBYTE / 8);
                    read.pieces = read.room.pieces(vec![b'x'; bytes].into());
                }
                assert!(!is_ended(&read).await);
            });
        }
        assert!(reads.len() >= 7);
        while let Some(read) = reads.join_next().await {
            read.unwrap();
        }
        assert_eq!(held(&room), 0);
    }
}
