//! Appends: an acknowledged append is there, and a producer's append is there once.

use std::collections::BTreeMap;

use crate::ids::{ObjectId, OperationId};
use crate::model::{Content, Mismatch};
use crate::workload::Claim;

/// An operation whose body has a marker by which it can be found again.
#[derive(Clone, Debug)]
pub struct Marked<'a> {
    pub operation: OperationId,
    pub object: ObjectId,
    pub marker: &'a str,
    pub claim: Option<&'a Claim>,
    pub is_post: bool,
    /// How many requests were sent, copies included.
    pub sent: u64,
    /// The incarnations in which it was acknowledged, each with the status.
    pub acknowledged: &'a [(u64, u16)],
}

/// Holds that an acknowledged append is stored, and a producer's append once.
#[derive(Debug, Default)]
pub struct ExactlyOnce<'a> {
    counts: BTreeMap<(ObjectId, u64), BTreeMap<String, u64>>,
    accepted: BTreeMap<(ObjectId, u64, &'a Claim), OperationId>,
}

impl<'a> ExactlyOnce<'a> {
    /// Counts the markers in the content of an incarnation.
    pub fn count(&mut self, object: ObjectId, incarnation: u64, content: &Content) {
        let counts = markers_in(content);
        self.counts.insert((object, incarnation), counts);
    }

    /// Judges how often an operation's append is in an incarnation. The server may have forgotten a
    /// producer that was idle; its repeated appends may then be stored again.
    ///
    /// # Errors
    /// When it is there too often or not often enough, or when a claim was accepted twice.
    pub fn judge(
        &mut self,
        marked: &Marked<'a>,
        incarnation: u64,
        is_forgotten: bool,
    ) -> Result<(), Mismatch> {
        let counts = self.counts.get(&(marked.object, incarnation));
        let count = counts.and_then(|counts| counts.get(marked.marker));
        let count = count.copied().unwrap_or(0);
        let acknowledged = |status: &[u16]| {
            let of = marked.acknowledged.iter();
            of.filter(|(each, of)| *each == incarnation && status.contains(of))
                .count() as u64
        };
        let (least, most) = match marked.claim {
            Some(_) if is_forgotten && marked.is_post => (acknowledged(&[200]).min(1), marked.sent),
            Some(claim) if marked.is_post => {
                let accepted = acknowledged(&[200]);
                let key = (marked.object, incarnation, claim);
                if accepted > 0 && self.accepted.insert(key, marked.operation).is_some() {
                    return Err(Mismatch {
                        expected: format!("{claim:?} to be accepted once"),
                        actual: format!("operation {}, too", marked.operation),
                    });
                }
                (accepted.min(1), 1)
            }
            _ => (acknowledged(&[201, 204]), marked.sent),
        };
        if (least..=most).contains(&count) {
            return Ok(());
        }
        let (marker, operation) = (marked.marker, marked.operation);
        Err(Mismatch {
            expected: format!(
                "{marker} of operation {operation} {least} to {most} times in {incarnation}"
            ),
            actual: format!("{count} times; acknowledged {:?}", marked.acknowledged),
        })
    }
}

/// Counts all markers in some content.
fn markers_in(content: &Content) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    let mut count = |bytes: &[u8]| {
        for (start, _) in bytes.iter().enumerate().filter(|(_, byte)| **byte == b'#') {
            let rest = &bytes[start..];
            if let Some(end) = rest.iter().position(|byte| *byte == b';') {
                let marker = String::from_utf8_lossy(&rest[..=end]).into_owned();
                *counts.entry(marker).or_insert(0) += 1;
            }
        }
    };
    match content {
        Content::Messages(messages) => messages.iter().for_each(|message| count(message)),
        Content::Run { bytes, .. } => count(bytes),
    }
    counts
}
