//! Texts of words between single spaces, for what objects store or send to each other about forks.
//! A format of our own takes a fraction of the code that JSON takes in the Worker.

use core::fmt::{Display, Write as _};
use core::str::FromStr;

use crate::Millis;
use crate::rows::{Expiry, Incarnation};

/// Stands for a value that is not there.
const NONE: &str = "-";

/// Writes words.
#[derive(Debug, Default)]
pub(crate) struct Words(String);

impl Words {
    pub(crate) fn new(first: &str) -> Self {
        Self(first.to_owned())
    }

    /// Adds a word, which has no space and is not empty.
    pub(crate) fn word(mut self, word: impl Display) -> Self {
        self.push(&word);
        self
    }

    fn push(&mut self, word: &dyn Display) {
        let begin = self.0.len();
        write!(self.0, " {word}").expect("a text takes more text");
        let word = &self.0[begin + 1..];
        assert!(
            !word.is_empty() && !word.contains(' '),
            "a word has no space, and is not empty"
        );
    }

    pub(crate) fn optional(self, word: Option<impl Display>) -> Self {
        match word {
            Some(word) => self.word(word),
            None => self.word(NONE),
        }
    }

    /// Adds an expiry, which ends the text because it can have spaces.
    pub(crate) fn expiry(self, expiry: &Expiry) -> String {
        match expiry {
            Expiry::Never => self.word("never").0,
            Expiry::Sliding { seconds } => self.word("sliding").word(seconds).0,
            Expiry::At { at, text } => {
                let mut words = self.word("at").word(at.0).0;
                words.push(' ');
                words.push_str(text);
                words
            }
        }
    }

    pub(crate) fn finish(self) -> String {
        self.0
    }
}

/// Reads words. Each method returns `None` if the next word is missing or malformed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader<'a>(&'a str);

impl<'a> Reader<'a> {
    pub(crate) const fn new(text: &'a str) -> Self {
        Self(text)
    }

    pub(crate) fn word(&mut self) -> Option<&'a str> {
        let (word, rest) = self.0.split_once(' ').unwrap_or((self.0, ""));
        self.0 = rest;
        Some(word).filter(|word| !word.is_empty())
    }

    pub(crate) fn parse<T: FromStr>(&mut self) -> Option<T> {
        self.word()?.parse().ok()
    }

    pub(crate) fn optional<T: FromStr>(&mut self) -> Option<Option<T>> {
        match self.word()? {
            NONE => Some(None),
            word => word.parse().ok().map(Some),
        }
    }

    pub(crate) fn incarnation(&mut self) -> Option<Incarnation> {
        Incarnation::from_text(self.word()?)
    }

    /// Reads the expiry that ends the text.
    pub(crate) fn expiry(mut self) -> Option<Expiry> {
        match self.word()? {
            "never" => Some(Expiry::Never),
            "sliding" => Some(Expiry::Sliding {
                seconds: self.parse()?,
            }),
            "at" => Some(Expiry::At {
                at: Millis(self.parse()?),
                text: self.0.to_owned(),
            }),
            _ => None,
        }
    }
}
