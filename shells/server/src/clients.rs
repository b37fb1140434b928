//! The connections, and which of them is closed when there is no room for another.
//!
//! A connection that waits for the head of a request can be closed without harm. When there is no
//! room for a new connection, one of the address with the most connections is closed: the one that
//! has waited longest. A client that sends its head without delay is never chosen.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::config::Bounds;
use crate::serve::Watch;

/// The part of an IPv6 address that names the host within its network.
const HOST_BITS: u32 = 64;

/// What counts as one client: an IPv4 address, or an IPv6 network of 64 bits, because one host can
/// use all of its addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Address(IpAddr);

impl Address {
    pub(crate) fn of(peer: IpAddr) -> Self {
        Self(match peer.to_canonical() {
            IpAddr::V6(address) => {
                let network = u128::from(address) >> HOST_BITS << HOST_BITS;
                IpAddr::V6(Ipv6Addr::from(network))
            }
            address @ IpAddr::V4(_) => address,
        })
    }
}

/// All connections.
#[derive(Debug)]
pub(crate) struct Clients {
    places: Mutex<Places>,
    connections_max: usize,
    refused_max: usize,
    readers_max: usize,
    /// The share of one address.
    connections_share: usize,
    readers_share: usize,
}

#[derive(Debug, Default)]
struct Places {
    /// The number of the last event. Numbers order events.
    next: u64,
    served: usize,
    readers: usize,
    addresses: BTreeMap<Address, Held>,
    /// Connections that are only answered that there is no room.
    refused: BTreeMap<u64, Arc<End>>,
}

/// The connections and readers of one address.
#[derive(Debug, Default)]
struct Held {
    connections: usize,
    readers: usize,
    /// Connections that wait for a head, the longest wait first.
    waiting: BTreeMap<u64, Arc<End>>,
}

/// Asks a connection to end.
#[derive(Debug, Default)]
pub(crate) struct End(Notify);

impl End {
    pub(crate) fn ask(&self) {
        self.0.notify_one();
    }

    /// Resolves when the connection should end.
    pub(crate) async fn asked(&self) {
        self.0.notified().await;
    }
}

/// One connection. Dropping it frees its place.
pub(crate) struct Client {
    clients: Arc<Clients>,
    pub(crate) address: Address,
    /// Whether the other end has an address of this machine itself.
    pub(crate) is_loopback: bool,
    /// The local address of the connection.
    pub(crate) local: SocketAddr,
    pub(crate) end: Arc<End>,
    watch: Arc<dyn Watch>,
    /// Whether the connection is only answered that there is no room.
    pub(crate) is_refused: bool,
    /// The event since which the connection waits for a head.
    waits_since: Mutex<Option<u64>>,
    number: u64,
}

/// While this exists, the connection has a request to answer.
pub(crate) struct Answering(Arc<Client>);

/// The place of a live reader. Dropping it frees the place.
pub(crate) struct Seat(Arc<Client>);

impl Clients {
    pub(crate) fn new(bounds: &Bounds) -> Self {
        let share = |max: usize| (max.saturating_mul(bounds.address_share_percent)).div_ceil(100);
        Self {
            places: Mutex::default(),
            connections_max: bounds.connections_max,
            refused_max: bounds.connections_refused_max.max(1),
            readers_max: bounds.readers_max,
            connections_share: share(bounds.connections_max),
            readers_share: share(bounds.readers_max),
        }
    }

    /// Admits a connection. Another may be closed to make room.
    pub(crate) fn admit(
        self: &Arc<Self>,
        peer: IpAddr,
        local: SocketAddr,
        watch: Arc<dyn Watch>,
    ) -> Arc<Client> {
        let address = Address::of(peer);
        let end = Arc::new(End::default());
        let mut places = self.places.lock();
        let number = places.event();
        let is_refused = !self.make_room(&mut places, address);
        if is_refused {
            if places.refused.len() >= self.refused_max
                && let Some((_, oldest)) = places.refused.pop_first()
            {
                oldest.ask();
            }
            places.refused.insert(number, Arc::clone(&end));
        } else {
            places.served += 1;
            let held = places.addresses.entry(address).or_default();
            held.connections += 1;
            held.waiting.insert(number, Arc::clone(&end));
        }
        drop(places);
        Arc::new(Client {
            clients: Arc::clone(self),
            address,
            is_loopback: peer.to_canonical().is_loopback(),
            local,
            end,
            watch,
            is_refused,
            waits_since: Mutex::new((!is_refused).then_some(number)),
            number,
        })
    }

    /// Makes room for one more connection of the address. Returns whether there is room.
    fn make_room(&self, places: &mut Places, address: Address) -> bool {
        let own = places
            .addresses
            .get(&address)
            .map_or(0, |held| held.connections);
        if own >= self.connections_share {
            places.end_longest_waiting(address)
        } else if places.served >= self.connections_max {
            let most = places
                .addresses
                .iter()
                .filter(|(_, held)| !held.waiting.is_empty())
                .max_by_key(|(_, held)| held.connections)
                .map(|(most, _)| *most);
            most.is_some_and(|most| places.end_longest_waiting(most))
        } else {
            true
        }
    }
}

impl Places {
    const fn event(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn end_longest_waiting(&mut self, address: Address) -> bool {
        let Some(held) = self.addresses.get_mut(&address) else {
            return false;
        };
        let Some((_, end)) = held.waiting.pop_first() else {
            return false;
        };
        // The connection no longer counts, although its task takes a moment to end.
        held.connections -= 1;
        self.served -= 1;
        end.ask();
        self.forget_if_idle(address);
        true
    }

    fn forget_if_idle(&mut self, address: Address) {
        let is_idle = |held: &Held| held.connections == 0 && held.readers == 0;
        if self.addresses.get(&address).is_some_and(is_idle) {
            self.addresses.remove(&address);
        }
    }
}

impl Client {
    /// Records that a head has arrived. Returns `None` if the connection was chosen to end.
    pub(crate) fn begin(self: &Arc<Self>) -> Option<Answering> {
        if !self.is_refused {
            let since = self.waits_since.lock().take()?;
            let mut places = self.clients.places.lock();
            let held = places.addresses.get_mut(&self.address)?;
            held.waiting.remove(&since)?;
        }
        Some(Answering(Arc::clone(self)))
    }

    /// Takes a place for a live reader, if one is free.
    pub(crate) fn take_seat(self: &Arc<Self>) -> Option<Seat> {
        let mut places = self.clients.places.lock();
        if places.readers >= self.clients.readers_max {
            return None;
        }
        let held = places.addresses.entry(self.address).or_default();
        if held.readers >= self.clients.readers_share {
            return None;
        }
        held.readers += 1;
        places.readers += 1;
        Some(Seat(Arc::clone(self)))
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        let client = &self.0;
        if !client.is_refused {
            let mut since = client.waits_since.lock();
            let mut places = client.clients.places.lock();
            let now = places.event();
            if let Some(held) = places.addresses.get_mut(&client.address) {
                held.waiting.insert(now, Arc::clone(&client.end));
                *since = Some(now);
            }
        }
    }
}

impl Seat {
    /// Resolves when the client has closed its sending side.
    pub(crate) async fn half_closed(&self) {
        self.0.watch.half_closed().await;
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let Self(client) = self;
        let mut places = client.clients.places.lock();
        places.readers -= 1;
        if let Some(held) = places.addresses.get_mut(&client.address) {
            held.readers -= 1;
        }
        places.forget_if_idle(client.address);
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let mut places = self.clients.places.lock();
        if self.is_refused {
            places.refused.remove(&self.number);
            return;
        }
        // A connection that was closed to make room no longer counts.
        let counts = match *self.waits_since.get_mut() {
            Some(since) => places
                .addresses
                .get_mut(&self.address)
                .is_some_and(|held| held.waiting.remove(&since).is_some()),
            None => false,
        };
        if counts {
            places.served -= 1;
            if let Some(held) = places.addresses.get_mut(&self.address) {
                held.connections -= 1;
            }
            places.forget_if_idle(self.address);
        }
    }
}
