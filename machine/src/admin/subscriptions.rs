//! Subscriptions in the admin API: the list of them, and what it asks of one.

use std::collections::BTreeMap;

use super::call::{text, with_text};
use super::json::{Object, quoted};
use super::parameters::Parameters;
use crate::control::{answered, control_request};
use crate::outbox::Request;
use crate::wire::control::{
    DIRECTORY_SHARDS, DirectoryCall, Interest, Interested, directory_object,
};
use crate::wire::internal_headers;
use crate::words::{self, Words};
use crate::{Answer, CallOutcome, Limits, Refusal};

/// A request of the admin API to a subscription.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SubscriptionInquiry {
    /// Its properties, its state, and a page of its streams.
    Detail {
        /// The page begins behind this stream.
        after: Option<String>,
        /// The greatest number of streams.
        limit: u64,
    },
    /// Makes the next attempt to deliver a wake due now.
    Retry,
}

impl SubscriptionInquiry {
    /// Returns whether it changes nothing.
    #[must_use]
    pub const fn only_reads(&self) -> bool {
        matches!(self, Self::Detail { .. })
    }

    /// Returns the value of [`internal_headers::ADMIN_CALL`].
    pub(super) fn to_header(&self) -> String {
        match self {
            Self::Detail { after, limit } => {
                let words = Words::new("subscription").word(limit);
                with_text(words, after.as_deref()).finish()
            }
            Self::Retry => Words::new("retry").finish(),
        }
    }

    /// Reads what [`Self::to_header`] writes.
    pub(crate) fn from_header(header: &str) -> Result<Self, Refusal> {
        Self::read(words::Reader::new(header)).ok_or(Refusal::MalformedHeader {
            header: internal_headers::ADMIN_CALL,
            rule: "is not a call of this version",
        })
    }

    fn read(mut words: words::Reader<'_>) -> Option<Self> {
        Some(match words.word()? {
            "subscription" => Self::Detail {
                limit: words.parse()?,
                after: text(&mut words)?,
            },
            "retry" => Self::Retry,
            _ => return None,
        })
    }
}

/// A page of the list of subscriptions.
///
/// A subscription is in one shard of the directory or in several. The page is merged from the first
/// entries of all shards, so its work does not grow with the number of subscriptions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubscriptionListing {
    /// The page begins behind this id.
    after: Option<String>,
    limit: u64,
}

impl SubscriptionListing {
    pub(super) fn read(mut parameters: Parameters) -> Result<Self, Refusal> {
        let limit = parameters.limit(100, 1_000)?;
        let after = parameters.text("cursor")?;
        parameters.finish()?;
        // It becomes part of a header.
        let is_id = |id: &String| id.bytes().all(|byte| byte.is_ascii_graphic());
        if !after.as_ref().is_none_or(is_id) {
            return Err(Refusal::BadParameter {
                name: "cursor".to_owned(),
                rule: "must be the nextCursor of a page of this list".to_owned(),
            });
        }
        Ok(Self { after, limit })
    }

    /// Returns the questions to the shards of the directory: the names of the objects, and the
    /// requests to them.
    pub fn questions(&self) -> impl Iterator<Item = (String, Request)> {
        let call = DirectoryCall::Subscriptions {
            after: self.after.clone(),
            // One more than the page has, which shows that there is more.
            limit: self.limit + 1,
        };
        let request = control_request(&call);
        (0..DIRECTORY_SHARDS).map(move |shard| (directory_object(shard), request.clone()))
    }

    /// Returns the page that the answers to all [`Self::questions`] make. A page without the
    /// answer of a shard could lack entries for ever, because the next one begins behind it.
    #[must_use]
    pub fn answer(&self, outcomes: &[CallOutcome], limits: &Limits) -> Answer {
        let mut found: BTreeMap<String, Interest> = BTreeMap::new();
        assert_eq!(
            outcomes.len() as u64,
            DIRECTORY_SHARDS,
            "each shard is asked once"
        );
        for outcome in outcomes {
            let Some(Interested { subscriptions }) = answered(outcome) else {
                return Answer::unavailable(limits);
            };
            for interest in subscriptions {
                // A shard may not have heard yet that a subscription was created anew.
                let known = found.get(&interest.subscription);
                if known.is_none_or(|known| known.since < interest.since) {
                    found.insert(interest.subscription.clone(), interest);
                }
            }
        }
        let limit = usize::try_from(self.limit).expect("a page has few entries");
        let has_more = found.len() > limit;
        let page: Vec<_> = found.into_values().take(limit).collect();
        let next = page.last().filter(|_| has_more);
        let next = next.map(|last| quoted(&last.subscription));
        let object = Object::new().array("subscriptions", page.iter().map(entry));
        let object = match next {
            Some(next) => object.json("nextCursor", &next),
            None => object,
        };
        object.flag("hasMore", has_more).answer()
    }
}

fn entry(interest: &Interest) -> Object {
    Object::new()
        .text("subscriptionId", &interest.subscription)
        .text_or_null("pattern", interest.pattern.as_deref())
        .number("createdAt", interest.since.0)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::rows::Incarnation;
    use crate::{Body, Millis};

    fn listing(query: &str) -> Result<SubscriptionListing, Refusal> {
        let target = format!("/admin/api/subscriptions?{query}");
        SubscriptionListing::read(Parameters::read(&target)?)
    }

    fn interest(id: &str, since: u64, pattern: Option<&str>) -> Interest {
        Interest {
            predecessors: 0,
            subscription: id.to_owned(),
            incarnation: Incarnation(since),
            since: Millis(since),
            pattern: pattern.map(str::to_owned),
            except: None,
        }
    }

    fn listed(subscriptions: Vec<Interest>) -> CallOutcome {
        let body = serde_json::to_vec(&Interested { subscriptions });
        CallOutcome::Answered {
            status: 200,
            body: Bytes::from(body.expect("texts become JSON")),
        }
    }

    fn text_of(answer: Answer) -> String {
        match answer.body {
            Body::Bytes(bytes) => String::from_utf8(bytes).expect("the page is a text"),
            Body::Empty | Body::Plan(_) => panic!("the page is a text"),
        }
    }

    #[test]
    fn a_page_is_merged_from_all_shards() {
        let mut outcomes = vec![listed(Vec::new()); 16];
        outcomes[3] = listed(vec![
            interest("a", 1, Some("*")),
            interest("c", 9, None),
            interest("d", 4, Some("x/\"")),
        ]);
        outcomes[7] = listed(vec![
            interest("a", 1, Some("*")),
            interest("b%2Fc", 2, Some("*")),
            interest("c", 3, Some("former")),
        ]);
        let page = |limit: u64| {
            let listing = listing(&format!("limit={limit}")).expect("the query is well-formed");
            text_of(listing.answer(&outcomes, &Limits::DEFAULT))
        };
        let entries = [
            r#"{"subscriptionId":"a","pattern":"*","createdAt":1}"#,
            r#"{"subscriptionId":"b%2Fc","pattern":"*","createdAt":2}"#,
            r#"{"subscriptionId":"c","pattern":null,"createdAt":9}"#,
            r#"{"subscriptionId":"d","pattern":"x/\"","createdAt":4}"#,
        ];
        assert_eq!(
            page(4),
            format!(
                r#"{{"subscriptions":[{}],"hasMore":false}}"#,
                entries.join(",")
            )
        );
        assert_eq!(
            page(3),
            format!(
                r#"{{"subscriptions":[{}],"nextCursor":"c","hasMore":true}}"#,
                entries[..3].join(",")
            )
        );
    }

    #[test]
    fn a_page_is_not_answered_without_all_shards() {
        let listing = listing("").expect("the query is well-formed");
        let unreadable = CallOutcome::Answered {
            status: 200,
            body: Bytes::from_static(b"?"),
        };
        let refused = CallOutcome::Answered {
            status: 503,
            body: Bytes::from_static(b"{}"),
        };
        for missing in [CallOutcome::Failed, unreadable, refused] {
            let mut outcomes = vec![listed(vec![interest("a", 1, None)]); 16];
            outcomes[15] = missing;
            assert_eq!(listing.answer(&outcomes, &Limits::DEFAULT).status, 503);
        }
    }

    #[test]
    fn each_shard_is_asked_for_one_entry_more_than_the_page_has() {
        let listing = listing("limit=7&cursor=a%252Fb").expect("the query is well-formed");
        let questions: Vec<_> = listing.questions().collect();
        assert_eq!(questions.len(), 16);
        for (at, (object, request)) in questions.iter().enumerate() {
            assert_eq!(*object, format!("__ds/directory/{at}"));
            let (_, call) = &request.headers[0];
            assert_eq!(call, r#"{"subscriptions":{"after":"a%2Fb","limit":8}}"#);
        }
    }

    #[test]
    fn bad_parameters_are_refused_with_a_reason() {
        for (query, reason) in [
            ("limit=0", "limit must be a whole number from 1 to 1000"),
            ("limit=1001", "limit must be a whole number from 1 to 1000"),
            ("prefix=a", "prefix is not a parameter of this route"),
            (
                "cursor=%C3%A4",
                "cursor must be the nextCursor of a page of this list",
            ),
            (
                "cursor=a%0A",
                "cursor must be the nextCursor of a page of this list",
            ),
        ] {
            let refusal = listing(query).expect_err(query);
            assert_eq!(refusal.to_string(), reason, "{query}");
            assert_eq!(refusal.status_and_code().0, 400, "{query}");
        }
    }

    #[test]
    fn an_inquiry_is_read_as_it_was_written() {
        let texts = [None, Some(""), Some("a b"), Some("ä/%\n")];
        let details = texts.map(|text| SubscriptionInquiry::Detail {
            after: text.map(str::to_owned),
            limit: 7,
        });
        for inquiry in details.into_iter().chain([SubscriptionInquiry::Retry]) {
            let header = inquiry.to_header();
            assert!(header.bytes().all(|byte| (b' '..=b'~').contains(&byte)));
            assert_eq!(SubscriptionInquiry::from_header(&header), Ok(inquiry));
        }
        for malformed in ["", "action", "detail", "subscription", "subscription 1 x"] {
            let read = SubscriptionInquiry::from_header(malformed);
            assert!(read.is_err(), "{malformed}");
        }
    }
}
