//! The table of limits and settings.
//!
//! [`limits_table!`](crate::limits_table) declares a struct of numbers together with one [`Row`]
//! for each: name, type, default, unit, range, and the variable that sets it. The documentation of
//! the field is its help text. Texts and choices have a [`Setting`] of their own. The flags of the
//! server, `docs/configuration.md`, `wrangler.toml` and the lists of the tests are all made from
//! these rows.
use core::time::Duration;

use serde::Serialize;

/// What a number counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unit {
    /// Bytes.
    Bytes,
    /// Bytes in each second.
    BytesPerSecond,
    /// Things that the name of the number says.
    Count,
    /// 1,024 bytes.
    Kibibytes,
    /// Milliseconds.
    Milliseconds,
    /// Hundredths.
    Percent,
    /// Seconds.
    Seconds,
}

impl Unit {
    /// Returns the unit as the flags of a program name it.
    #[must_use]
    pub const fn value_name(self) -> &'static str {
        match self {
            Self::Bytes => "BYTES",
            Self::BytesPerSecond => "BYTES/S",
            Self::Count => "COUNT",
            Self::Kibibytes => "KIB",
            Self::Milliseconds => "MS",
            Self::Percent => "PERCENT",
            Self::Seconds => "SECONDS",
        }
    }
}

/// Where a value can be set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scope {
    /// A variable of the Worker, and a variable and a flag of the server for one machine.
    Both,
    /// A variable of the Worker.
    Worker,
    /// A variable and a flag of the server for one machine.
    Server,
    /// Fixed for operators. Simulations and tests choose other values.
    Simulator,
}

/// One number of `T`.
#[derive(Clone, Copy, Debug)]
pub struct Row<T: 'static> {
    /// The name of the field.
    pub field: &'static str,
    /// The variable that sets it, if an operator can.
    pub variable: Option<&'static str>,
    /// What the number counts.
    pub unit: Unit,
    /// The least valid value.
    pub least: u64,
    /// The greatest valid value.
    pub greatest: u64,
    /// What it limits, as lines of a doc comment.
    help: &'static [&'static str],
    /// Reads the field.
    pub get: fn(&T) -> u64,
    /// Writes the field.
    pub set: fn(&mut T, u64),
}

/// A row as operators see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Setting {
    /// The name of the variable. A row without a variable has the name of its field.
    pub name: &'static str,
    /// Where the value can be set.
    pub scope: Scope,
    /// The valid values and the default.
    pub value: Value,
    /// What it does, in sentences.
    pub help: String,
}

/// The values that a setting can have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Value {
    /// A number between two bounds.
    Number {
        /// What the number counts.
        unit: Unit,
        /// The value that counts when none is set.
        default: u64,
        /// The least valid value.
        least: u64,
        /// The greatest valid value.
        greatest: u64,
    },
    /// One of several words.
    Choice {
        /// The words.
        options: &'static [&'static str],
        /// The word that counts when none is set.
        default: &'static str,
    },
    /// `default` says in words what an absent text means, unless it is the text itself.
    Text {
        /// What the text must look like, in words.
        shape: &'static str,
        /// What counts when no text is set.
        default: TextDefault,
    },
}

/// What counts when a text is not set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum TextDefault {
    /// This text.
    Is(&'static str),
    /// No text. The words say what happens instead.
    Absent(&'static str),
    /// No text. The value is a secret, which is never shown.
    Secret(&'static str),
}

impl Setting {
    /// Returns whether operators can set it.
    #[must_use]
    pub fn is_variable(&self) -> bool {
        self.scope != Scope::Simulator
    }

    /// Returns the first sentence of the help text, without its full stop.
    #[must_use]
    pub fn summary(&self) -> &str {
        let end = self.help.find(". ").unwrap_or(self.help.len() - 1);
        &self.help[..end]
    }
}

impl<T> Row<T> {
    /// Returns the row of a field. Used by [`limits_table!`](crate::limits_table).
    #[doc(hidden)]
    #[must_use]
    pub const fn new(
        field: &'static str,
        variable: Option<&'static str>,
        unit: Unit,
        (least, greatest): (u64, u64),
        help: &'static [&'static str],
        get: fn(&T) -> u64,
        set: fn(&mut T, u64),
    ) -> Self {
        assert!(
            least <= greatest,
            "a range has a least and a greatest value"
        );
        Self {
            field,
            variable,
            unit,
            least,
            greatest,
            // The Worker shows no help, and its size is limited.
            help: if cfg!(target_family = "wasm") {
                &[]
            } else {
                help
            },
            get,
            set,
        }
    }

    /// Returns whether a value is within the range of the row.
    #[must_use]
    pub const fn admits(&self, value: u64) -> bool {
        self.least <= value && value <= self.greatest
    }

    /// Returns the row as operators of this scope see it.
    #[must_use]
    pub fn setting(&self, defaults: &T, scope: Scope) -> Setting {
        Setting {
            name: self.variable.unwrap_or(self.field),
            scope: if self.variable.is_some() {
                scope
            } else {
                Scope::Simulator
            },
            value: Value::Number {
                unit: self.unit,
                default: (self.get)(defaults),
                least: self.least,
                greatest: self.greatest,
            },
            help: self.help.concat().trim().to_owned(),
        }
    }

    /// Checks the number of this row.
    ///
    /// # Panics
    /// When the number of this row is outside of its range.
    pub fn check(&self, values: &T) {
        let value = (self.get)(values);
        assert!(
            self.admits(value),
            "{} is {value}, which is not from {} to {}",
            self.field,
            self.least,
            self.greatest
        );
    }
}

/// A type that a column of the table can have. Times count milliseconds.
pub trait Number {
    /// Returns the field as a number.
    fn to_number(&self) -> u64;
    /// Returns the field's value for a number within its bounds.
    fn from_number(number: u64) -> Self;
}

impl Number for u64 {
    fn to_number(&self) -> u64 {
        *self
    }

    fn from_number(number: u64) -> Self {
        number
    }
}

impl Number for u32 {
    fn to_number(&self) -> u64 {
        u64::from(*self)
    }

    fn from_number(number: u64) -> Self {
        Self::try_from(number).expect("the range of the row has 32 bits")
    }
}

impl Number for usize {
    fn to_number(&self) -> u64 {
        u64::try_from(*self).expect("a size has at most 64 bits")
    }

    fn from_number(number: u64) -> Self {
        // A number that the machine cannot address is no bound there.
        Self::try_from(number).unwrap_or(Self::MAX)
    }
}

impl Number for Duration {
    fn to_number(&self) -> u64 {
        u64::try_from(self.as_millis()).expect("a duration is within the range of its row")
    }

    fn from_number(number: u64) -> Self {
        Self::from_millis(number)
    }
}

/// Declares a struct of numbers, its `DEFAULT`, and its `TABLE` of [`Row`]s.
///
/// Each field is written as `name: Type = default, Unit, (least, greatest), "VARIABLE";`, where the
/// variable is left out when operators cannot set the number. Fields that are no numbers follow
/// after `beside`.
#[macro_export]
macro_rules! limits_table {
    (
        $(#[$attribute:meta])*
        pub struct $Name:ident;
        $(
            $(#[doc = $help:literal])+
            $field:ident:
                $Type:ty = $default:expr, $Unit:ident, $range:expr $(, $variable:literal)?;
        )+
        $(beside {
            $($(#[$other_attribute:meta])* $other:ident: $Other:ty = $other_default:expr;)+
        })?
    ) => {
        $(#[$attribute])*
        pub struct $Name {
            $($(#[doc = $help])+ pub $field: $Type,)+
            $($($(#[$other_attribute])* pub $other: $Other,)+)?
        }

        impl $Name {
            /// The values used in production unless configured otherwise.
            pub const DEFAULT: Self = Self {
                $($field: $default,)+
                $($($other: $other_default,)+)?
            };

            /// All numbers, in the order in which operators read them.
            pub const TABLE: &'static [$crate::table::Row<Self>] = &[
                $($crate::table::Row::new(
                    stringify!($field),
                    $crate::limits_table!(@variable $($variable)?),
                    $crate::table::Unit::$Unit,
                    $range,
                    &[$($help),+],
                    |limits| $crate::table::Number::to_number(&limits.$field),
                    |limits, number| limits.$field = $crate::table::Number::from_number(number),
                ),)+
            ];
        }

        impl Default for $Name {
            fn default() -> Self {
                Self::DEFAULT
            }
        }
    };
    (@variable) => { None };
    (@variable $variable:literal) => { Some($variable) };
}
