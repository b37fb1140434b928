//! The arguments of the commands: seeds and tapes.

use std::convert::Infallible;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Context as _, Result};

use super::Layer;
use super::LayerOutcome;
use super::Source;
use crate::run::Options;

/// A range of seeds.
#[derive(Clone, Copy, Debug)]
pub struct Seeds {
    pub first: u64,
    pub end: u64,
}

impl FromStr for Seeds {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let (first, end) = text.split_once("..").context("a range is written A..B")?;
        Ok(Self {
            first: first.parse()?,
            end: end.parse()?,
        })
    }
}

impl fmt::Display for Seeds {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}..{}", self.first, self.end)
    }
}

/// A seed, or a file with a tape.
#[derive(Clone, Debug)]
pub enum Subject {
    Seed(u64),
    Tape(PathBuf),
}

impl Subject {
    /// Returns the argument that names it for another program, in any directory.
    ///
    /// # Errors
    /// When the present directory is unknown.
    pub fn absolute(&self) -> Result<String> {
        Ok(match self {
            Self::Seed(seed) => seed.to_string(),
            Self::Tape(path) => std::path::absolute(path)?.display().to_string(),
        })
    }

    /// Runs it.
    ///
    /// # Errors
    /// When the tape cannot be read.
    pub(super) fn run<L: Layer>(&self, options: Options) -> Result<LayerOutcome<L>> {
        Ok(match self {
            Self::Seed(seed) => L::run(Source::Seed(*seed), options),
            Self::Tape(path) => {
                let tape = std::fs::read(path);
                let tape = tape.with_context(|| format!("cannot read {}", path.display()))?;
                L::run(Source::Tape(&tape), options)
            }
        })
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Seed(seed) => write!(formatter, "{seed}"),
            Self::Tape(path) => write!(formatter, "{}", path.display()),
        }
    }
}

impl FromStr for Subject {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        let seed = text.parse().map(Self::Seed);
        Ok(seed.unwrap_or_else(|_| Self::Tape(text.into())))
    }
}
