//! Typed columns: how a field of an answer becomes a column, and how two rows are compared.

use std::borrow::Cow;

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Serialize, Serializer};
use serde_json::Value;
use sqlx::types::Json;

pub use super::fields::{Fields, Raw};

/// A change of one column.
#[derive(Clone, Debug, PartialEq)]
pub struct Change<'a> {
    /// Name of the column.
    pub column: &'static str,
    /// What stood there; null for a new row.
    pub old: Shown<'a>,
    /// What stands there now.
    pub new: Shown<'a>,
}

/// A value as the audit log shows it. Most are redacted there: until then they stay where they are.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Shown<'a> {
    /// Nothing.
    Null,
    /// A text.
    Text(&'a str),
    /// Yes or no.
    Flag(bool),
    /// A time.
    Time(#[serde(serialize_with = "to_the_millisecond")] DateTime<Utc>),
    /// Several texts.
    Texts(&'a [String]),
    /// A document.
    Document(&'a Value),
    /// What was put together for it.
    Made(Value),
}

impl Shown<'_> {
    /// For a document of several.
    pub(super) fn into_value(self) -> Value {
        match self {
            Self::Made(value) => value,
            shown => serde_json::to_value(shown).unwrap_or_default(),
        }
    }
}

fn to_the_millisecond<S: Serializer>(time: &DateTime<Utc>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&time.to_rfc3339_opts(SecondsFormat::Millis, true))
}

/// A value that a column can hold. A missing field, a null, or a value of another type than
/// documented is `None`: it never keeps an object out, and `_raw` still has it.
pub trait Column: PartialEq + Sized {
    /// How its value is handed to the database.
    type Parameter<'a>
    where
        Self: 'a;

    /// Takes it from a field of an answer.
    fn read(fields: &Fields<'_>, name: &str) -> Self;

    /// Hands it to the database; `None` is a null.
    fn parameter(&self) -> Option<Self::Parameter<'_>>;

    /// For the audit log.
    fn shown(&self) -> Shown<'_>;
}

/// A text column.
pub type Text = Option<String>;

impl Column for Text {
    type Parameter<'a> = &'a str;

    fn read(fields: &Fields<'_>, name: &str) -> Self {
        fields.text(name).map(Cow::into_owned)
    }

    fn parameter(&self) -> Option<&str> {
        self.as_deref()
    }

    fn shown(&self) -> Shown<'_> {
        self.as_deref().map_or(Shown::Null, Shown::Text)
    }
}

/// A boolean column.
pub type Flag = Option<bool>;

impl Column for Flag {
    type Parameter<'a> = bool;

    fn read(fields: &Fields<'_>, name: &str) -> Self {
        fields.read(name)
    }

    fn parameter(&self) -> Self {
        *self
    }

    fn shown(&self) -> Shown<'_> {
        self.map_or(Shown::Null, Shown::Flag)
    }
}

/// A time column, kept to the millisecond.
pub type Time = Option<DateTime<Utc>>;

impl Column for Time {
    type Parameter<'a> = DateTime<Utc>;

    fn read(fields: &Fields<'_>, name: &str) -> Self {
        shared::timestamp::parse(&fields.text(name)?)
    }

    fn parameter(&self) -> Self {
        *self
    }

    fn shown(&self) -> Shown<'_> {
        self.map_or(Shown::Null, Shown::Time)
    }
}

/// A jsonb column.
pub type Document = Option<Value>;

impl Column for Document {
    type Parameter<'a> = Json<&'a Value>;

    fn read(fields: &Fields<'_>, name: &str) -> Self {
        fields.read(name)
    }

    fn parameter(&self) -> Option<Json<&Value>> {
        self.as_ref().map(Json)
    }

    fn shown(&self) -> Shown<'_> {
        self.as_ref().map_or(Shown::Null, Shown::Document)
    }
}

/// A text[] column. It travels as jsonb, because an array of arrays would have to be rectangular.
pub type Texts = Option<Vec<String>>;

impl Column for Texts {
    type Parameter<'a> = Json<&'a Vec<String>>;

    fn read(fields: &Fields<'_>, name: &str) -> Self {
        let items: Vec<Value> = fields.read(name)?;
        Some(items.iter().filter_map(|item| item.as_str().map(str::to_owned)).collect())
    }

    fn parameter(&self) -> Option<Json<&Vec<String>>> {
        self.as_ref().map(Json)
    }

    fn shown(&self) -> Shown<'_> {
        self.as_deref().map_or(Shown::Null, Shown::Texts)
    }
}

/// The name of a column whose field in Rust must be written `r#type`.
pub(super) const fn bare(name: &'static str) -> &'static str {
    match name.as_bytes() {
        [b'r', b'#', ..] => name.split_at(2).1,
        _ => name,
    }
}

/// Declares the columns of a kind, once: the row, its comparison, and the arrays that carry many
/// rows to one statement. `personal` marks a column whose values the audit log redacts, `derived` one
/// that follows the row of another object and so is not compared with the answer, `unannounced` one that
/// WorkOS changes without an event.
macro_rules! columns {
    // What cannot be a field of a row by its own name: `id` is what the guard knows it by, `type` a word of Rust.
    (@name workos_id) => { "id" };
    (@name role_type) => { "type" };
    (@name $name:ident) => { $crate::object::columns::bare(stringify!($name)) };
    (@personal $name:ident personal) => { $crate::object::columns::columns!(@name $name) };
    (@personal $name:ident $other:ident) => { "" };
    (@unannounced $name:ident unannounced) => { $crate::object::columns::columns!(@name $name) };
    (@unannounced $name:ident $other:ident) => { "" };
    (@derived derived) => { true };
    (@derived $( $other:ident )?) => { false };
    (
        $(#[$doc:meta])*
        $( $name:ident : $column:ident $( $marker:ident )? , )+
    ) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq)]
        pub struct Row {
            /// What the guard knows it by: its WorkOS id, or its slug.
            pub id: String,
            $(
                #[doc = concat!("Column `", stringify!($name), "`.")]
                pub $name: $crate::object::columns::$column,
            )+
            /// The answer, stripped.
            pub raw: $crate::object::columns::Raw,
            /// Set on a tombstone.
            pub deleted_at: Option<chrono::DateTime<chrono::Utc>>,
        }

        impl Row {
            /// It is an object of its own.
            #[must_use]
            pub const fn is_empty(&self) -> bool {
                false
            }

            /// An event says nothing of it but that it is there.
            #[must_use]
            pub const fn agrees(&self, _member: &shared::event::Member) -> bool {
                true
            }

            /// It has no members whose end could be told.
            pub const fn hear(&mut self, _ends: &[shared::event::Member]) {}

            /// Takes the columns from an answer that was stripped.
            pub(super) fn read(id: &str, fields: $crate::object::columns::Fields<'_>) -> Self {
                use $crate::object::columns::Column as _;
                Self {
                    id: id.to_owned(),
                    $( $name: <$crate::object::columns::$column>::read(&fields, $crate::object::columns::columns!(@name $name)), )+
                    raw: fields.into_raw(),
                    deleted_at: None,
                }
            }

            /// The columns in which this row differs from what stands in the mirror; all that hold
            /// something, when nothing stands there. An unknown field that changed shows as `_raw`.
            #[must_use]
            pub fn changes<'a>(&'a self, old: Option<&'a Self>) -> Vec<$crate::object::columns::Change<'a>> {
                use $crate::object::columns::Column as _;
                let mut changes = Vec::new();
                $(
                    let before = old.and_then(|old| old.$name.as_ref());
                    if !$crate::object::columns::columns!(@derived $( $marker )?) && self.$name.as_ref() != before {
                        changes.push($crate::object::columns::Change {
                            column: $crate::object::columns::columns!(@name $name),
                            old: old.map_or($crate::object::columns::Shown::Null, |old| old.$name.shown()),
                            new: self.$name.shown(),
                        });
                    }
                )+
                if changes.is_empty() && old.is_some_and(|old| old.raw != self.raw) {
                    changes.push($crate::object::columns::Change {
                        column: "_raw",
                        old: $crate::object::columns::Shown::Null,
                        new: $crate::object::columns::Shown::Null,
                    });
                }
                changes
            }

            /// The same, and the columns that follow another object too.
            #[must_use]
            pub fn changes_in_full<'a>(&'a self, old: &'a Self) -> Vec<$crate::object::columns::Change<'a>> {
                use $crate::object::columns::Column as _;
                let mut changes = self.changes(Some(old));
                $(
                    if $crate::object::columns::columns!(@derived $( $marker )?) && self.$name != old.$name {
                        changes.push($crate::object::columns::Change {
                            column: $crate::object::columns::columns!(@name $name),
                            old: old.$name.shown(),
                            new: self.$name.shown(),
                        });
                    }
                )+
                changes
            }
        }

        /// Columns with personal values.
        pub const PERSONAL: &[&str] =
            &[ $( $( $crate::object::columns::columns!(@personal $name $marker), )? )+ ];

        /// Columns that WorkOS changes without an event.
        pub const UNANNOUNCED: &[&str] =
            &[ $( $( $crate::object::columns::columns!(@unannounced $name $marker), )? )+ ];

        /// Many rows in order of their ids, column by column.
        pub(super) struct Columns<'a> {
            #[allow(dead_code, reason = "what is known by its slug has its id among the columns")]
            pub(super) ids: Vec<&'a str>,
            $(
                pub(super) $name: Vec<
                    Option<<$crate::object::columns::$column as $crate::object::columns::Column>::Parameter<'a>>,
                >,
            )+
            pub(super) raw: Vec<&'a $crate::object::columns::Raw>,
        }

        impl<'a> Columns<'a> {
            pub(super) fn of(rows: &[&'a Row]) -> Self {
                use $crate::object::columns::Column as _;
                let mut rows = rows.to_vec();
                rows.sort_unstable_by(|a, b| a.id.cmp(&b.id));
                Self {
                    ids: rows.iter().map(|row| row.id.as_str()).collect(),
                    $( $name: $crate::database::sparse(rows.iter().map(|row| row.$name.parameter()).collect()), )+
                    raw: rows.iter().map(|row| &row.raw).collect(),
                }
            }
        }
    };
}

pub(crate) use columns;
