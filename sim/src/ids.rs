//! Ids of the things in a world. Each kind has its own type, so that two kinds cannot be confused.

use core::fmt::{self, Debug, Display, Formatter};
use core::hash::Hash;
use core::marker::PhantomData;
use core::ops::{Index, IndexMut};

use crate::trace::Span;

/// An id in a [`Table`].
pub trait Id: Copy + Eq + Ord + Hash + Debug + Display + 'static {
    fn new(number: usize) -> Self;
    fn number(self) -> usize;
}

macro_rules! ids {
    ($($(#[$outer:meta])* $name:ident)*) => { $(
        $(#[$outer])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(usize);

        impl Id for $name {
            fn new(number: usize) -> Self {
                Self(number)
            }

            fn number(self) -> usize {
                self.0
            }
        }

        impl Display for $name {
            fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
                Display::fmt(&self.0, formatter)
            }
        }
    )* };
}

ids! {
    ObjectId
    ClientId
    /// What a client does, in one or more calls.
    OperationId
    /// One request on its way to an object.
    CallId
    /// A reader's side of a live read.
    ReaderId
    /// A connection between an edge and an object.
    ConnectionId
    CacheId
    /// A put of an object of the cold tier.
    UploadId
    /// A deletion of objects of the cold tier.
    CollectionId
    /// The fetching of an answer's body from the cold tier.
    FetchId
    /// A message from object to object.
    RpcId
}

impl CallId {
    /// Returns its span in a timeline.
    #[must_use]
    pub const fn span(self) -> Span {
        Span::new("c", self.0 as u64)
    }
}

impl From<CallId> for machine::CallId {
    fn from(call: CallId) -> Self {
        Self(call.0 as u64)
    }
}

impl From<machine::CallId> for CallId {
    fn from(call: machine::CallId) -> Self {
        Self(usize::try_from(call.0).expect("the machine answers calls that it was given"))
    }
}

/// Things of one kind by their ids, in the order of their beginning.
pub struct Table<I, T> {
    rows: Vec<T>,
    id: PhantomData<fn(I) -> I>,
}

impl<I: Id, T> Table<I, T> {
    /// Adds one and returns its id.
    pub fn push(&mut self, row: T) -> I {
        self.rows.push(row);
        I::new(self.rows.len() - 1)
    }

    /// Returns the id of the next one.
    #[must_use]
    pub fn next_id(&self) -> I {
        I::new(self.rows.len())
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Returns the ids of all.
    pub fn ids(&self) -> impl Iterator<Item = I> + use<I, T> {
        (0..self.rows.len()).map(I::new)
    }

    pub fn iter(&self) -> core::slice::Iter<'_, T> {
        self.rows.iter()
    }

    pub fn iter_mut(&mut self) -> core::slice::IterMut<'_, T> {
        self.rows.iter_mut()
    }

    /// Returns each that began after this one, or all, with its id.
    pub fn named_after(&self, after: Option<I>) -> impl Iterator<Item = (I, &T)> {
        self.named()
            .skip(after.map_or(0, |after| after.number() + 1))
    }

    /// Returns each with its id.
    pub fn named(&self) -> impl Iterator<Item = (I, &T)> {
        self.rows
            .iter()
            .enumerate()
            .map(|(number, row)| (I::new(number), row))
    }
}

impl<'a, I: Id, T> IntoIterator for &'a Table<I, T> {
    type Item = &'a T;
    type IntoIter = core::slice::Iter<'a, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.rows.iter()
    }
}

impl<'a, I: Id, T> IntoIterator for &'a mut Table<I, T> {
    type Item = &'a mut T;
    type IntoIter = core::slice::IterMut<'a, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.rows.iter_mut()
    }
}

impl<I, T> Default for Table<I, T> {
    fn default() -> Self {
        Self {
            rows: Vec::new(),
            id: PhantomData,
        }
    }
}

impl<I, T: Debug> Debug for Table<I, T> {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        formatter.debug_list().entries(&self.rows).finish()
    }
}

impl<I: Id, T> Index<I> for Table<I, T> {
    type Output = T;

    fn index(&self, id: I) -> &T {
        &self.rows[id.number()]
    }
}

impl<I: Id, T> IndexMut<I> for Table<I, T> {
    fn index_mut(&mut self, id: I) -> &mut T {
        &mut self.rows[id.number()]
    }
}
