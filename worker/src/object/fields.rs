//! The fields of an answer, as WorkOS wrote them: what no column wants is carried as it came, and never taken apart.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeOwned, MapAccess, Visitor};
use serde::ser::{Serialize, SerializeMap as _, Serializer};
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use serde_json::error::Category;
use serde_json::value::{RawValue, to_raw_value};
use sqlx::Postgres;
use sqlx::encode::IsNull;
use sqlx::error::BoxDynError;
use sqlx::postgres::{PgArgumentBuffer, PgHasArrayType, PgTypeInfo, PgValueRef};
use sqlx::types::Json;

use super::Misread;

/// The fields of an object, in the order of the answer. Of a relation, its members.
#[derive(Clone, Debug, Default)]
pub struct Fields<'a> {
    fields: Vec<(Cow<'a, str>, Cow<'a, RawValue>)>,
    members: Vec<(String, Fields<'a>)>,
}

impl<'a> Fields<'a> {
    /// Reads an object.
    pub fn parse(json: &'a [u8]) -> Result<Self, Misread> {
        serde_json::from_slice(json).map_err(|error| match error.classify() {
            Category::Data => Misread::NotAnObject,
            Category::Io | Category::Syntax | Category::Eof => Misread::NotJson(error),
        })
    }

    /// The members of a relation, each by its id.
    pub(super) fn of_members(members: Vec<(String, Self)>) -> Self {
        Self { fields: Vec::new(), members }
    }

    /// The members of a relation.
    pub(super) fn into_members(self) -> Vec<(String, Self)> {
        self.members
    }

    /// What an event told of an object.
    pub(super) fn told<'b>(told: impl IntoIterator<Item = (&'b String, &'b String)>) -> Self {
        let mut fields = Self::default();
        for (name, text) in told {
            fields.set(name, &text);
        }
        fields
    }

    /// Whether it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }

    /// A field by its name; if there are several, the last, as in Postgres.
    fn get(&self, name: &str) -> Option<&RawValue> {
        self.fields.iter().rev().find(|(field, _)| field == name).map(|(_, value)| &**value)
    }

    /// A field, if it is what is wanted.
    pub(super) fn read<T: DeserializeOwned>(&self, name: &str) -> Option<T> {
        serde_json::from_str::<Option<T>>(self.get(name)?.get()).ok().flatten()
    }

    /// A text.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<Cow<'_, str>> {
        let json = self.get(name)?.get();
        match json.strip_prefix('"')?.strip_suffix('"') {
            Some(text) if !text.contains('\\') => Some(Cow::Borrowed(text)),
            _ => serde_json::from_str(json).ok().map(Cow::Owned),
        }
    }

    /// Takes a field out.
    pub(super) fn remove(&mut self, name: &str) -> Option<Cow<'a, RawValue>> {
        let mut removed = None;
        for (_, value) in self.fields.extract_if(.., |(field, _)| field == name) {
            removed = Some(value);
        }
        removed
    }

    /// Takes the objects of a list out.
    pub(super) fn remove_objects(&mut self, name: &str) -> Vec<Self> {
        match self.remove(name) {
            Some(Cow::Borrowed(list)) => objects(list.get()),
            Some(Cow::Owned(list)) => objects(list.get()).into_iter().map(Fields::into_owned).collect(),
            None => Vec::new(),
        }
    }

    /// Sets a field, whatever it was.
    pub(super) fn set(&mut self, name: &str, value: &impl Serialize) {
        self.remove(name);
        // Nothing that is set here cannot be written as JSON.
        if let Ok(value) = to_raw_value(value) {
            self.fields.push((Cow::Owned(name.to_owned()), Cow::Owned(value)));
        }
    }

    /// Sets a field that it does not have.
    pub(super) fn set_if_absent(&mut self, name: &str, value: &impl Serialize) {
        if self.get(name).is_none() {
            self.set(name, value);
        }
    }

    /// Keeps the fields with these names.
    pub(super) fn retain(&mut self, is_kept: impl Fn(&str) -> bool) {
        self.fields.retain(|(name, _)| is_kept(name));
    }

    /// All of them, to be changed.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut (Cow<'a, str>, Cow<'a, RawValue>)> {
        self.fields.iter_mut()
    }

    /// All of it, for the column `_raw`.
    pub(super) fn into_raw(self) -> Raw {
        // It was read from JSON.
        Raw(to_raw_value(&self).unwrap_or_default())
    }

    fn into_owned<'b>(self) -> Fields<'b> {
        let owned = |(name, value): (Cow<'a, str>, Cow<'a, RawValue>)| {
            (Cow::Owned(name.into_owned()), Cow::Owned(value.into_owned()))
        };
        Fields {
            fields: self.fields.into_iter().map(owned).collect(),
            members: self.members.into_iter().map(|(id, fields)| (id, fields.into_owned())).collect(),
        }
    }
}

/// The objects of a list.
fn objects(list: &str) -> Vec<Fields<'_>> {
    let items: Vec<&RawValue> = serde_json::from_str(list).unwrap_or_default();
    items.into_iter().filter_map(|item| serde_json::from_str(item.get()).ok()).collect()
}

impl<'de: 'a, 'a> Deserialize<'de> for Fields<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;

        impl<'de> Visitor<'de> for Object {
            type Value = Fields<'de>;

            fn expecting(&self, text: &mut fmt::Formatter<'_>) -> fmt::Result {
                text.write_str("an object")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Self::Value, M::Error> {
                // As many as most objects have.
                let mut fields = Vec::with_capacity(16);
                while let Some((Name(name), value)) = map.next_entry::<Name<'de>, &'de RawValue>()? {
                    fields.push((name, Cow::Borrowed(value)));
                }
                Ok(Fields { fields, members: Vec::new() })
            }
        }

        deserializer.deserialize_map(Object)
    }
}

/// The name of a field, borrowed if nothing in it is escaped.
struct Name<'a>(Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Name<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;

        impl<'de> Visitor<'de> for Text {
            type Value = Name<'de>;

            fn expecting(&self, text: &mut fmt::Formatter<'_>) -> fmt::Result {
                text.write_str("a name")
            }

            fn visit_borrowed_str<E>(self, name: &'de str) -> Result<Self::Value, E> {
                Ok(Name(Cow::Borrowed(name)))
            }

            fn visit_str<E>(self, name: &str) -> Result<Self::Value, E> {
                Ok(Name(Cow::Owned(name.to_owned())))
            }
        }

        deserializer.deserialize_str(Text)
    }
}

impl Serialize for Fields<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.fields.len()))?;
        for (name, value) in &self.fields {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

/// What the column `_raw` holds: an answer, stripped. Two are the same if they say the same, however they are written:
/// Postgres orders fields in its own way.
#[derive(Clone, Debug)]
pub struct Raw(Box<RawValue>);

impl Raw {
    /// As JSON.
    #[must_use]
    pub fn get(&self) -> &str {
        self.0.get()
    }
}

impl PartialEq for Raw {
    fn eq(&self, other: &Self) -> bool {
        let parsed = |raw: &Self| serde_json::from_str::<Value>(raw.get()).ok();
        self.get() == other.get() || parsed(self).is_some_and(|this| Some(this) == parsed(other))
    }
}

impl sqlx::Type<Postgres> for Raw {
    fn type_info() -> PgTypeInfo {
        <Json<Box<RawValue>> as sqlx::Type<Postgres>>::type_info()
    }
}

impl PgHasArrayType for Raw {
    fn array_type_info() -> PgTypeInfo {
        <Json<Box<RawValue>> as PgHasArrayType>::array_type_info()
    }
}

impl<'r> sqlx::Decode<'r, Postgres> for Raw {
    fn decode(value: PgValueRef<'r>) -> Result<Self, BoxDynError> {
        <Json<Box<RawValue>> as sqlx::Decode<Postgres>>::decode(value).map(|Json(raw)| Self(raw))
    }
}

impl sqlx::Encode<'_, Postgres> for Raw {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        sqlx::Encode::<Postgres>::encode_by_ref(&Json(&*self.0), buffer)
    }
}

#[cfg(test)]
impl From<Value> for Fields<'_> {
    fn from(value: Value) -> Self {
        Fields::parse(value.to_string().as_bytes()).expect("an object").into_owned()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_field_is_read_as_what_is_wanted_or_not_at_all() {
        let fields =
            Fields::parse(br#"{"a":"x\u00e9","b":1,"c":null,"a":"last","d\u0065":true}"#).expect("an object");
        assert_eq!(fields.text("a").as_deref(), Some("last"), "as Postgres reads it");
        assert_eq!((fields.text("b"), fields.text("c"), fields.text("e")), (None, None, None));
        assert_eq!(fields.read::<i64>("b"), Some(1));
        assert_eq!(fields.read::<bool>("de"), Some(true));
    }

    #[test]
    fn what_nothing_wants_stays_as_it_was_written() {
        let json = r#"{"id":"user_1","huge":123456789012345678901234567890,"odd":[1.0,{"b":[],"a":null}]}"#;
        let mut fields = Fields::parse(json.as_bytes()).expect("an object");
        assert_eq!(fields.clone().into_raw().get(), json);
        fields.remove("odd");
        assert_eq!(fields.into_raw().get(), r#"{"id":"user_1","huge":123456789012345678901234567890}"#);
    }

    #[test]
    fn two_spellings_are_the_same() {
        let raw = |json: &str| Fields::parse(json.as_bytes()).expect("an object").into_raw();
        assert_eq!(raw(r#"{"a":1,"b":{"c":2,"d":"é"}}"#), raw(r#"{"b": {"d": "\u00e9", "c": 2}, "a": 1}"#));
        assert_ne!(raw(r#"{"a":1}"#), raw(r#"{"a":2}"#));
    }

    #[test]
    fn objects_of_a_list_are_taken_out_and_others_dropped() {
        let mut fields = Fields::from(json!({"id": "a", "list": [{"id": "b"}, null, 1, {"id": "c"}]}));
        let objects = fields.remove_objects("list");
        assert_eq!(objects.iter().filter_map(|object| object.text("id")).collect::<Vec<_>>(), ["b", "c"]);
        assert!(fields.remove_objects("list").is_empty());
        assert_eq!(fields.into_raw().get(), r#"{"id":"a"}"#);
    }
}
