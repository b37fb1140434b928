//! Pages that were read lately. Many clients that read the same content cost one read of its rows.
//!
//! An entity tag names the incarnation of a stream and both ends of a page, so the content of a tag
//! never changes, and no page is ever removed because it is stale.

use std::sync::Arc;

use bytes::Bytes;
use lru::LruCache;
use machine::wire::header;
use machine::{Answer, Body};
use parking_lot::Mutex;

/// The name of a page.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct PageKey {
    stream: Arc<str>,
    entity_tag: String,
}

impl PageKey {
    /// Returns the name of the page in an answer. Returns `None` if the answer has no tag, or does
    /// not have all of its body in rows.
    pub(crate) fn of(stream: &Arc<str>, answer: &Answer) -> Option<Self> {
        let Body::Plan(plan) = &answer.body else {
            return None;
        };
        let entity_tag = answer.header(header::ETAG).filter(|_| plan.is_whole())?;
        Some(Self {
            stream: Arc::clone(stream),
            entity_tag: entity_tag.to_owned(),
        })
    }

    fn size(&self, page: &Bytes) -> usize {
        let texts = self.stream.len() + self.entity_tag.len();
        size_of::<(Self, Bytes)>() + texts + page.len()
    }
}

/// Keeps pages up to a size. The one that was not read for the longest time makes room for others.
#[derive(Debug)]
pub(crate) struct PageCache {
    bytes_max: usize,
    kept: Mutex<Kept>,
}

#[derive(Debug)]
struct Kept {
    pages: LruCache<PageKey, Bytes>,
    bytes: usize,
}

impl PageCache {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self {
            bytes_max,
            kept: Mutex::new(Kept {
                pages: LruCache::unbounded(),
                bytes: 0,
            }),
        }
    }

    pub(crate) fn get(&self, key: &PageKey) -> Option<Bytes> {
        self.kept.lock().pages.get(key).cloned()
    }

    /// Keeps a page that is durable.
    pub(crate) fn insert(&self, key: PageKey, page: Bytes) {
        let size = key.size(&page);
        if size > self.bytes_max {
            return;
        }
        let mut kept = self.kept.lock();
        kept.bytes += size;
        if let Some((key, replaced)) = kept.pages.push(key, page) {
            kept.bytes -= key.size(&replaced);
        }
        while kept.bytes > self.bytes_max {
            let (key, oldest) = kept.pages.pop_lru().expect("kept bytes belong to a page");
            kept.bytes -= key.size(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(entity_tag: &str) -> PageKey {
        PageKey {
            stream: "s".into(),
            entity_tag: entity_tag.to_owned(),
        }
    }

    #[test]
    fn the_page_that_was_not_read_for_longest_makes_room() {
        let page = |byte| Bytes::from(vec![byte; 1_000]);
        let size = key("a").size(&page(0));
        let cache = PageCache::new(size * 2);
        cache.insert(key("a"), page(1));
        cache.insert(key("b"), page(2));
        assert_eq!(cache.get(&key("a")), Some(page(1)));
        cache.insert(key("c"), page(3));
        assert_eq!(cache.get(&key("b")), None);
        assert_eq!(cache.get(&key("a")), Some(page(1)));
        assert_eq!(cache.get(&key("c")), Some(page(3)));
        assert_eq!(cache.kept.lock().bytes, size * 2);
    }

    #[test]
    fn a_page_that_is_kept_twice_counts_once() {
        let page = Bytes::from_static(b"content");
        let size = key("a").size(&page);
        let cache = PageCache::new(size * 2);
        for _ in 0..3 {
            cache.insert(key("a"), page.clone());
        }
        assert_eq!(cache.kept.lock().bytes, size);
    }

    #[test]
    fn a_page_larger_than_all_room_is_not_kept() {
        let cache = PageCache::new(0);
        cache.insert(key("a"), Bytes::from_static(b"content"));
        assert_eq!(cache.get(&key("a")), None);
        assert_eq!(cache.kept.lock().bytes, 0);
    }
}
