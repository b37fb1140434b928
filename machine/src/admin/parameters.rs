//! The parameters in the query of a request.

use core::ops::RangeInclusive;

use percent_encoding::percent_decode_str;

use crate::Refusal;
use crate::wire::request::safe_integer;

/// The parameters that are not taken yet.
pub(super) struct Parameters(Vec<(String, String)>);

impl Parameters {
    /// Reads the query of a target. A plus is a plus: ids have no spaces.
    pub(super) fn read(target: &str) -> Result<Self, Refusal> {
        let query = target.split_once('?').map_or("", |(_, query)| query);
        let pairs = query.split('&').filter(|pair| !pair.is_empty());
        let pairs = pairs.map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            Ok((decoded(name)?, decoded(value)?))
        });
        pairs.collect::<Result<_, _>>().map(Self)
    }

    /// Takes a parameter; `None` if it is not there.
    pub(super) fn text(&mut self, name: &'static str) -> Result<Option<String>, Refusal> {
        let is_it = |(each, _): &(String, String)| each == name;
        let Some(at) = self.0.iter().position(is_it) else {
            return Ok(None);
        };
        let (_, value) = self.0.remove(at);
        if self.0.iter().any(is_it) {
            return Err(bad(name, "is there more than once".to_owned()));
        }
        Ok(Some(value))
    }

    /// Takes a whole number.
    pub(super) fn number(
        &mut self,
        name: &'static str,
        range: RangeInclusive<u64>,
    ) -> Result<Option<u64>, Refusal> {
        let Some(text) = self.text(name)? else {
            return Ok(None);
        };
        let number = safe_integer(&text).filter(|number| range.contains(number));
        number.map(Some).ok_or_else(|| {
            let (least, most) = (range.start(), range.end());
            bad(
                name,
                format!("must be a whole number from {least} to {most}"),
            )
        })
    }

    /// Takes the greatest number of entries.
    pub(super) fn limit(&mut self, default: u64, most: u64) -> Result<u64, Refusal> {
        Ok(self.number("limit", 1..=most)?.unwrap_or(default))
    }

    /// Refuses parameters that nobody has taken.
    pub(super) fn finish(self) -> Result<(), Refusal> {
        match self.0.into_iter().next() {
            None => Ok(()),
            Some((name, _)) => Err(Refusal::BadParameter {
                name,
                rule: "is not a parameter of this route".to_owned(),
            }),
        }
    }
}

fn bad(name: &str, rule: String) -> Refusal {
    Refusal::BadParameter {
        name: name.to_owned(),
        rule,
    }
}

fn decoded(text: &str) -> Result<String, Refusal> {
    const MALFORMED: Refusal = Refusal::Malformed("the query is not valid percent-encoded UTF-8");
    let mut rest = text;
    while let Some((_, after)) = rest.split_once('%') {
        let digits = after.as_bytes().get(..2);
        if !digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit)) {
            return Err(MALFORMED);
        }
        rest = after;
    }
    let decoded = percent_decode_str(text).decode_utf8();
    decoded.map(String::from).map_err(|_| MALFORMED)
}
