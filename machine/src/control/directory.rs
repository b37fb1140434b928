//! One shard of the directory: the streams whose names share a hash of their first segment, and the
//! subscriptions whose patterns may match them.
//!
//! One object has both, so that no stream and no subscription miss each other: whichever comes
//! second finds the first. A pattern that begins with a wildcard is in every shard.

use core::ops::Bound;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Changes, Step, after, each_row, json_answer, stored, to_json};
use crate::rows::Incarnation;
use crate::storage::{Storage, StorageError};
use crate::subscription::glob::Glob;
use crate::wire::control::{DirectoryCall, Interest, Interested, Listed};
use crate::{Answer, CallId, Limits};

const STREAM: &str = "stream/";
const SUBSCRIPTION: &str = "subscription/";

#[derive(Clone, Debug, Default)]
pub(super) struct Directory {
    /// By their ids.
    interests: BTreeMap<String, (Interest, Option<Glob>)>,
    changed: Vec<(String, Option<String>)>,
}

/// The row of a stream.
#[derive(Serialize, Deserialize)]
struct StreamEntry {
    incarnation: Incarnation,
}

fn glob(interest: &Interest, limits: &Limits) -> Option<Glob> {
    let pattern = interest.pattern.as_ref()?;
    let glob = Glob::parse(pattern, limits);
    Some(glob.expect("the subscription has checked its pattern"))
}

impl Directory {
    pub(super) fn recall(storage: &dyn Storage, limits: &Limits) -> Result<Self, StorageError> {
        let mut interests = BTreeMap::new();
        each_row(storage, SUBSCRIPTION, &mut |id, row| {
            let interest: Interest = stored(row)?;
            let glob = glob(&interest, limits);
            interests.insert(id.to_owned(), (interest, glob));
            Ok(())
        })?;
        Ok(Self {
            interests,
            changed: Vec::new(),
        })
    }

    pub(super) fn changes(&mut self) -> Changes {
        Changes {
            head: false,
            rows: core::mem::take(&mut self.changed),
        }
    }

    pub(super) fn call(
        &mut self,
        step: &mut Step<'_>,
        id: CallId,
        call: DirectoryCall,
    ) -> Result<(), StorageError> {
        let answer = match call {
            DirectoryCall::Register {
                stream,
                incarnation,
            } => {
                let key = format!("{STREAM}{stream}");
                let entry = to_json(&StreamEntry { incarnation });
                self.changed.push((key, Some(entry)));
                json_answer(200, &self.interested(&stream))
            }
            DirectoryCall::Forget {
                stream,
                incarnation,
            } => {
                let key = format!("{STREAM}{stream}");
                let rows = step.rows(&key, 1)?;
                if let Some(row) = rows.first().filter(|row| row.key == key) {
                    let entry: StreamEntry = stored(row)?;
                    if entry.incarnation == incarnation {
                        self.changed.push((key, None));
                    }
                }
                Answer::uncached(204)
            }
            DirectoryCall::Add {
                subscription,
                after,
            } => {
                let listed = self.add(step, subscription, after)?;
                json_answer(200, &listed)
            }
            DirectoryCall::Remove {
                subscription,
                incarnation,
            } => {
                let is_it = |(interest, _): &(Interest, _)| interest.incarnation == incarnation;
                if self.interests.get(&subscription).is_some_and(is_it) {
                    self.interests.remove(&subscription);
                    let key = format!("{SUBSCRIPTION}{subscription}");
                    self.changed.push((key, None));
                }
                Answer::uncached(204)
            }
            DirectoryCall::Subscriptions { after, limit } => {
                let from = after.map_or(Bound::Unbounded, Bound::Excluded);
                let behind = self.interests.range((from, Bound::Unbounded));
                let page = behind.zip(0..limit);
                let page = page.map(|((_, (interest, _)), _)| interest.clone());
                let subscriptions = page.collect();
                json_answer(200, &Interested { subscriptions })
            }
        };
        step.answer(id, answer);
        Ok(())
    }

    /// Returns the subscriptions whose patterns match a stream.
    fn interested(&self, stream: &str) -> Interested {
        let all = self.interests.values();
        let subscriptions = all.filter(|(interest, glob)| {
            glob.as_ref().is_some_and(|glob| glob.matches(stream))
                && interest.except.as_deref() != Some(stream)
        });
        Interested {
            subscriptions: subscriptions
                .map(|(interest, _)| interest.clone())
                .collect(),
        }
    }

    /// Adds a subscription, unless it is there, and returns a page of the streams that its pattern
    /// matches.
    fn add(
        &mut self,
        step: &Step<'_>,
        interest: Interest,
        behind: Option<String>,
    ) -> Result<Listed, StorageError> {
        let glob = glob(&interest, step.limits);
        let id = interest.subscription.clone();
        // A late call can be that of a former subscription, which has fewer predecessors. After
        // `token_ms` a subscription forgets its predecessors, so their numbers say nothing then.
        let counts_until = |known: &Interest| known.since.plus(step.limits.token_ms);
        let is_former = |known: &Interest| {
            known.predecessors > interest.predecessors && interest.since < counts_until(known)
        };
        let known = self.interests.get(&id);
        let count = self.interests.len() as u64;
        if known.is_none() && count >= step.limits.directory_subscriptions_max {
            return Ok(Listed {
                is_refused: true,
                ..Listed::default()
            });
        }
        if known.is_none_or(|(known, _)| *known != interest && !is_former(known)) {
            let key = format!("{SUBSCRIPTION}{id}");
            self.changed.push((key, Some(to_json(&interest))));
            let entry = (interest.clone(), glob.clone());
            self.interests.insert(id, entry);
        }
        let Some(glob) = glob else {
            return Ok(Listed::default());
        };
        let from = match &behind {
            None => STREAM.to_owned(),
            Some(stream) => after(&format!("{STREAM}{stream}")),
        };
        let limit = step.limits.directory_page_max;
        let rows = step.rows(&from, limit)?;
        let mut listed = Listed::default();
        let mut last = None;
        for row in &rows {
            let Some(stream) = row.key.strip_prefix(STREAM) else {
                return Ok(listed);
            };
            if glob.matches(stream) && interest.except.as_deref() != Some(stream) {
                listed.streams.push(stream.to_owned());
            }
            last = Some(stream.to_owned());
        }
        listed.next = last.filter(|_| rows.len() as u64 == limit);
        Ok(listed)
    }
}
