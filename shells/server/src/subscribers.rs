//! The live readers that are attached to a stream, and what is sent to them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use machine::live_reader::{self, MessageHead};
use machine::rows::Incarnation;
use machine::{Broadcast, Class, Subscriber};
use tokio::sync::mpsc;

use crate::streams::Streams;

/// The subscribers of one stream, by their number.
#[derive(Debug, Default)]
pub(crate) struct Subscribers(BTreeMap<u64, SubscriberSender>);

impl Subscribers {
    /// Attaches a subscriber, and returns the reader's end.
    pub(crate) fn attach(
        &mut self,
        streams: &Arc<Streams>,
        name: &Arc<str>,
        subscriber: &Subscriber,
    ) -> Attachment {
        let number = streams.subscriber();
        let (sender, receiver) = mpsc::unbounded_channel();
        let held = Arc::new(AtomicUsize::new(0));
        self.0.insert(
            number,
            SubscriberSender {
                class: subscriber.class,
                incarnation: subscriber.incarnation,
                messages: sender,
                held: Arc::clone(&held),
                held_bytes_max: usize::try_from(subscriber.head.held_bytes_max)
                    .unwrap_or(usize::MAX),
            },
        );
        Attachment {
            messages: receiver,
            held,
            subscriber: number,
            incarnation: subscriber.incarnation,
            name: Arc::clone(name),
            streams: Arc::clone(streams),
        }
    }

    /// Sends what a turn has added to every subscriber of the incarnation. A subscriber whose
    /// buffer is full is detached, as is every one when the stream has ended.
    pub(crate) fn broadcast(&mut self, name: &str, broadcast: &Broadcast) {
        for class in [Class::Sse, Class::LongPoll] {
            let is_addressed = |subscriber: &SubscriberSender| {
                subscriber.class == class && subscriber.incarnation == broadcast.incarnation
            };
            if !self.0.values().any(is_addressed) {
                continue;
            }
            let encoded = broadcast.message(class);
            let message = encoded
                .ok()
                .and_then(|encoded| MessageHead::decode(&encoded));
            let Some((head, body)) = message else {
                // Detaching them makes the readers connect again and read the stream.
                tracing::error!(%name, "a broadcast could not be encoded");
                self.0.retain(|_, subscriber| !is_addressed(subscriber));
                continue;
            };
            let ends = broadcast.end.is_some();
            let message = Arc::new(LiveMessage { head, body });
            self.0.retain(|_, subscriber| {
                !is_addressed(subscriber) || (subscriber.send(&message) && !ends)
            });
        }
    }

    /// Returns the number of subscribers of an incarnation.
    pub(crate) fn count(&self, incarnation: Incarnation) -> usize {
        let subscribers = self.0.values();
        subscribers
            .filter(|subscriber| subscriber.incarnation == incarnation)
            .count()
    }

    pub(crate) fn remove(&mut self, subscriber: u64) {
        self.0.remove(&subscriber);
    }

    /// Detaches every subscriber. Their readers connect again.
    pub(crate) fn clear(&mut self) {
        self.0 = BTreeMap::new();
    }

    /// Frees the memory of the map if there are no subscribers.
    pub(crate) fn release_memory(&mut self) {
        if self.0.is_empty() {
            self.clear();
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    #[cfg(feature = "test-routes")]
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}

/// The stream's end of an attachment.
#[derive(Debug)]
struct SubscriberSender {
    class: Class,
    incarnation: Incarnation,
    messages: mpsc::UnboundedSender<Arc<LiveMessage>>,
    held: Arc<AtomicUsize>,
    held_bytes_max: usize,
}

/// What a turn sends to the subscribers of a class.
#[derive(Clone, Debug)]
struct LiveMessage {
    head: MessageHead,
    body: Vec<u8>,
}

/// The reader's end of an attachment. Dropping it detaches the subscriber.
#[derive(Debug)]
pub(crate) struct Attachment {
    messages: mpsc::UnboundedReceiver<Arc<LiveMessage>>,
    held: Arc<AtomicUsize>,
    subscriber: u64,
    incarnation: Incarnation,
    name: Arc<str>,
    streams: Arc<Streams>,
}

/// The flag in `held` that says that the buffer was full and the stream has detached the
/// subscriber.
const OVERFLOWED: usize = 1 << (usize::BITS - 1);

impl Attachment {
    /// Returns the next input for the reader's machine.
    pub(crate) async fn next(&mut self) -> live_reader::Input {
        let message = self.messages.recv().await;
        if self.held.load(Ordering::Acquire) & OVERFLOWED != 0 {
            return live_reader::Input::Backpressure;
        }
        let Some(message) = message else {
            return live_reader::Input::Disconnected;
        };
        self.held.fetch_sub(message.body.len(), Ordering::AcqRel);
        let LiveMessage { head, body } = Arc::unwrap_or_clone(message);
        live_reader::Input::Message { head, body }
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        self.streams
            .leave(&self.name, self.subscriber, self.incarnation);
    }
}

impl SubscriberSender {
    /// Sends a message. Returns whether the subscriber stays attached.
    fn send(&self, message: &Arc<LiveMessage>) -> bool {
        // Check the bound before adding, not after: a single message larger than the bound must
        // still reach a reader that keeps up.
        if self.held.load(Ordering::Acquire) >= self.held_bytes_max {
            self.held.fetch_or(OVERFLOWED, Ordering::AcqRel);
            return false;
        }
        self.held.fetch_add(message.body.len(), Ordering::AcqRel);
        self.messages.send(Arc::clone(message)).is_ok()
    }
}
