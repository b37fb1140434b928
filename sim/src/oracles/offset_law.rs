//! The content at an offset never changes.

use std::collections::BTreeMap;

use serde_json::value::RawValue;

use crate::ids::ObjectId;
use crate::model::{Content, Mismatch};

/// Holds that the first observation of each unit of an incarnation fixes it (protocol 4: immutable
/// by position).
#[derive(Debug, Default)]
pub struct OffsetLaw {
    units: BTreeMap<(ObjectId, u64), Vec<Option<u64>>>,
}

impl OffsetLaw {
    /// Notes content that a client was shown at a position.
    ///
    /// # Errors
    ///
    /// When other content was shown there before.
    pub fn observe(
        &mut self,
        object: ObjectId,
        incarnation: u64,
        from: u64,
        units: &[u64],
    ) -> Result<(), Mismatch> {
        let seen = self.units.entry((object, incarnation)).or_default();
        let from = usize::try_from(from).unwrap_or(0);
        if seen.len() < from + units.len() {
            seen.resize(from + units.len(), None);
        }
        for (index, unit) in units.iter().enumerate() {
            match seen[from + index].replace(*unit) {
                Some(before) if before != *unit => {
                    return Err(Mismatch {
                        expected: format!(
                            "{before:x} at {} of incarnation {incarnation}, as before",
                            from + index
                        ),
                        actual: format!("{unit:x}"),
                    });
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// Returns a number for each unit of a body; `None` if the body is not of this type.
#[must_use]
pub fn units(content: &Content, body: &[u8]) -> Option<Vec<u64>> {
    Some(match content {
        Content::Run { .. } => body.iter().map(|byte| u64::from(*byte)).collect(),
        Content::Messages(_) => {
            let messages: Vec<&RawValue> = if body.trim_ascii_start().starts_with(b"[") {
                serde_json::from_slice(body).ok()?
            } else {
                vec![serde_json::from_slice(body).ok()?]
            };
            let hash = |message: &&RawValue| {
                let mut digest = crate::digest::Digest::default();
                digest.bytes(message.get().as_bytes());
                digest.value()
            };
            messages.iter().map(hash).collect()
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Id as _;

    #[test]
    fn a_unit_once_seen_stays() {
        let mut law = OffsetLaw::default();
        assert_eq!(law.observe(ObjectId::new(0), 1, 3, &[7, 8]), Ok(()));
        assert_eq!(law.observe(ObjectId::new(0), 1, 0, &[1, 1, 1, 7]), Ok(()));
        assert_eq!(law.observe(ObjectId::new(0), 2, 4, &[9]), Ok(()));
        assert!(law.observe(ObjectId::new(0), 1, 4, &[9]).is_err());
    }
}
