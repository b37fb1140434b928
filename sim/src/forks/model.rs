//! The reference model of forks, derived from the protocol (4.2, 5.1, 5.4, 8): what each
//! incarnation of each name holds, and which answers are allowed. It knows nothing of pins, calls,
//! segments or rows. Offsets are opaque tokens to it.

use std::collections::BTreeMap;

use machine::rows::Incarnation as MachineIncarnation;

/// A message, or a byte.
pub type Unit = Vec<u8>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Json,
    Bytes,
}

impl Format {
    #[must_use]
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Bytes => "application/octet-stream",
        }
    }

    /// Returns the body of a request or of an answer with these units.
    #[must_use]
    pub fn body(self, units: &[Unit]) -> Vec<u8> {
        match self {
            Self::Bytes => units.concat(),
            Self::Json => [b"[", units.join(&b","[..]).as_slice(), b"]"].concat(),
        }
    }

    /// Returns the units that a request's body adds; `None` if the body is malformed.
    #[must_use]
    pub fn content(self, body: &[u8]) -> Option<Vec<Unit>> {
        if body.is_empty() {
            return Some(Vec::new());
        }
        match self {
            Self::Json if body[0] != b'[' => self.units(&[b"[", body, b"]"].concat()),
            Self::Json | Self::Bytes => self.units(body),
        }
    }

    /// Returns the units of an answer's body; `None` if the body is malformed.
    #[must_use]
    pub fn units(self, body: &[u8]) -> Option<Vec<Unit>> {
        match self {
            Self::Bytes => Some(body.iter().map(|byte| vec![*byte]).collect()),
            Self::Json => {
                let inner = body.strip_prefix(b"[")?.strip_suffix(b"]")?;
                if inner.is_empty() {
                    return Some(Vec::new());
                }
                let units = inner.split(|byte| *byte == b',');
                let is_number =
                    |unit: &&[u8]| !unit.is_empty() && unit.iter().all(u8::is_ascii_digit);
                units
                    .map(|unit| Some(unit).filter(is_number).map(<[u8]>::to_vec))
                    .collect()
            }
        }
    }
}

/// When a stream ends by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expiry {
    Never,
    /// `Stream-TTL`, in seconds.
    Ttl(u64),
    /// `Stream-Expires-At`, in milliseconds since 1970.
    At(u64),
}

/// What a PUT asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// The content type, if the request names one.
    pub format: Option<Format>,
    pub expiry: Expiry,
    pub closed: bool,
    pub body: Vec<u8>,
    pub fork: Option<AskedFork>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AskedFork {
    pub source: String,
    pub offset: Option<String>,
    pub sub_offset: u64,
}

/// The token of the beginning of every stream.
pub const START: &str = "0000000000000000_0000000000000000";
/// A token beyond every tail.
pub const BEYOND: &str = "9999999999999999_9999999999999999";

/// One life of a name.
#[derive(Clone, Debug)]
pub struct Incarnation {
    pub name: String,
    /// How the machine calls it. Used to find it again, never to decide what it holds.
    pub machine: MachineIncarnation,
    pub format: Format,
    pub expiry: Expiry,
    pub closed: bool,
    pub content: Vec<Unit>,
    /// Where appends end, in order.
    pub ends: Vec<u64>,
    /// The offsets that the server gave, and what they mean.
    pub tokens: BTreeMap<String, u64>,
    pub fork: Option<ForkOf>,
    pub asked: Asked,
    /// How many forks lie between it and a stream that is no fork.
    pub depth: u64,
    /// The last use that is certain, and the last one that is possible.
    pub used: (u64, u64),
    /// Deleted or expired, and needed by forks.
    pub hidden: bool,
    /// Ended for good.
    pub ended: bool,
    /// Epoch and sequence of each producer.
    pub producers: BTreeMap<u64, (u64, u64)>,
    pub stream_seq: Option<u64>,
}

/// The source of a fork.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ForkOf {
    /// Its place in [`Model::incarnations`].
    pub source: usize,
    /// The fork offset.
    pub anchor: u64,
    /// How many units the fork has from it.
    pub cut: u64,
}

/// The state of a name at some time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State {
    /// Its place in [`Model::incarnations`]; `None` if there is no stream.
    pub incarnation: Option<usize>,
    pub hidden: bool,
    /// Units.
    pub length: u64,
}

impl State {
    const ABSENT: Self = Self {
        incarnation: None,
        hidden: false,
        length: 0,
    };
}

/// All incarnations of all names.
#[derive(Clone, Debug, Default)]
pub struct Model {
    pub incarnations: Vec<Incarnation>,
    pub present: BTreeMap<String, usize>,
    /// How many creations of forks have named each name as their source.
    pub fork_requests: BTreeMap<String, u64>,
    /// The states of each name, and the commit after which each holds.
    history: BTreeMap<String, Vec<(u64, State)>>,
}

impl Model {
    #[must_use]
    pub fn present(&self, name: &str) -> Option<&Incarnation> {
        let index = self.present.get(name)?;
        Some(&self.incarnations[*index])
    }

    pub fn present_mut(&mut self, name: &str) -> Option<&mut Incarnation> {
        let index = self.present.get(name)?;
        Some(&mut self.incarnations[*index])
    }

    #[must_use]
    pub fn state(&self, name: &str) -> State {
        self.present(name).map_or(State::ABSENT, |present| State {
            incarnation: self.present.get(name).copied(),
            hidden: present.hidden,
            length: present.content.len() as u64,
        })
    }

    /// Notes the present state of a name.
    pub fn note(&mut self, name: &str, clock: u64) {
        let state = self.state(name);
        let history = self.history.entry(name.to_owned()).or_default();
        if history.last().is_none_or(|(_, last)| *last != state) {
            history.push((clock, state));
        }
    }

    /// Returns the states that a name has had since a commit.
    #[must_use]
    pub fn since(&self, name: &str, clock: u64) -> Vec<State> {
        let Some(history) = self.history.get(name) else {
            return vec![State::ABSENT];
        };
        let first = history.iter().rposition(|(at, _)| *at <= clock);
        let mut states: Vec<_> = history[first.unwrap_or(0)..]
            .iter()
            .map(|(_, state)| *state)
            .collect();
        if first.is_none() {
            states.push(State::ABSENT);
        }
        states
    }

    /// Ends the present incarnation of a name.
    pub fn end(&mut self, name: &str) {
        if let Some(index) = self.present.remove(name) {
            self.incarnations[index].ended = true;
        }
    }

    /// Returns the forks of an incarnation that have not ended.
    pub fn forks_of(&self, source: usize) -> impl Iterator<Item = &Incarnation> {
        let all = self.incarnations.iter().filter(|each| !each.ended);
        all.filter(move |each| each.fork.is_some_and(|fork| fork.source == source))
    }

    /// Returns why a fork is refused whose source is in this state: nothing, or one of these
    /// statuses.
    #[must_use]
    pub fn refusals(&self, asked: &Asked, state: State, limits: &machine::Limits) -> Vec<u16> {
        let fork = asked.fork.as_ref().expect("the creation is a fork's");
        let Some(index) = state.incarnation else {
            return vec![404];
        };
        if state.hidden {
            return vec![409];
        }
        let source = &self.incarnations[index];
        let mut refusals = Vec::new();
        if source.depth >= limits.fork_depth_max {
            refusals.push(409);
        }
        if asked.format.is_some_and(|format| format != source.format) {
            refusals.push(409);
        }
        if !source.accepts(fork, state.length) {
            refusals.push(400);
        }
        let format = asked.format.unwrap_or(source.format);
        if format.content(&asked.body).is_none() {
            refusals.push(400);
        }
        refusals
    }

    /// Checks and keeps what an offset means.
    ///
    /// # Errors
    /// When the same offset has meant something else, offsets are not in the order of their places,
    /// or a fork spells an inherited place otherwise than its source.
    pub fn learn(&mut self, index: usize, token: &str, place: u64) -> Result<(), String> {
        let it = &mut self.incarnations[index];
        if let Some(known) = it.tokens.get(token) {
            return if *known == place {
                Ok(())
            } else {
                Err(format!("{token} means {known} and {place} in {}", it.name))
            };
        }
        let before = it.tokens.range(..token.to_owned()).next_back();
        let after = it.tokens.range(token.to_owned()..).next();
        let is_ordered = before.is_none_or(|(_, other)| *other < place)
            && after.is_none_or(|(_, other)| *other > place);
        if !is_ordered {
            return Err(format!(
                "{token} means {place} in {}, between {before:?} and {after:?}",
                it.name
            ));
        }
        it.tokens.insert(token.to_owned(), place);
        let (name, fork) = (it.name.clone(), it.fork);
        // The source gives the same offsets, if it gives any there.
        let mut up = fork.filter(|fork| place <= fork.cut);
        while let Some(fork) = up {
            let source = &self.incarnations[fork.source];
            let mut tokens = source.tokens.iter();
            let is_other = |(other, at): &(&String, &u64)| (*other == token) != (**at == place);
            if let Some(other) = tokens.find(is_other) {
                let source = &source.name;
                return Err(format!(
                    "{token} means {place} in {name}, but {other:?} in {source}"
                ));
            }
            up = source.fork.filter(|fork| place <= fork.cut);
        }
        Ok(())
    }
}

impl Incarnation {
    /// Returns where the append ends that has the unit at `place`, among the first `length` units.
    #[must_use]
    pub fn end_after(&self, place: u64, length: u64) -> Option<u64> {
        let end = self.ends.iter().find(|end| **end > place);
        end.copied().filter(|end| *end <= length)
    }

    /// Returns the places that the headers of a fork can mean: the fork offset and the end of what
    /// is inherited. `None` for an offset that was never given.
    #[must_use]
    pub fn anchor(&self, offset: &str) -> Option<u64> {
        if offset == START {
            return Some(0);
        }
        self.tokens.get(offset).copied()
    }

    fn accepts(&self, fork: &AskedFork, length: u64) -> bool {
        let Some(offset) = &fork.offset else {
            return fork.sub_offset == 0;
        };
        if offset == BEYOND {
            return false;
        }
        let Some(anchor) = self.anchor(offset) else {
            // An offset of another incarnation may be a place in this one as well.
            return true;
        };
        anchor <= length
            && (fork.sub_offset == 0
                || self
                    .end_after(anchor, length)
                    .is_some_and(|end| anchor + fork.sub_offset <= end))
    }

    /// Returns whether a PUT asks for this stream (protocol 5.1, 4.2).
    #[must_use]
    pub fn is_asked_for(&self, asked: &Asked, source: Option<&Self>) -> bool {
        let same_source = match (&self.asked.fork, &asked.fork, self.fork) {
            (None, None, _) => true,
            (Some(own), Some(other), Some(fork)) => {
                let same_offset = match &other.offset {
                    None => true,
                    same if *same == own.offset => true,
                    Some(offset) => source
                        .and_then(|source| source.anchor(offset))
                        .is_some_and(|anchor| anchor == fork.anchor),
                };
                own.source == other.source && own.sub_offset == other.sub_offset && same_offset
            }
            _ => false,
        };
        let format = match &asked.fork {
            Some(_) => asked.format,
            None => Some(asked.format.unwrap_or(Format::Bytes)),
        };
        same_source
            && format.is_none_or(|format| format == self.format)
            && asked.expiry == self.asked.expiry
            && asked.closed == self.closed
    }

    /// Returns whether it may have expired by now, and whether it must have.
    #[must_use]
    pub fn expiry_at(&self, now: u64, slack_divisor: u64) -> (bool, bool) {
        match self.expiry {
            Expiry::Never => (false, false),
            Expiry::At(at) => (at <= now, at <= now),
            Expiry::Ttl(seconds) => {
                let ttl = seconds * 1_000;
                let (certain, possible) = self.used;
                (
                    certain + ttl <= now,
                    possible + ttl + ttl / slack_divisor < now,
                )
            }
        }
    }
}
