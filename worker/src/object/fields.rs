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
use sqlx::postgres::{PgArgumentBuffer, PgHasArrayType, PgTypeInfo, PgValueFormat, PgValueRef};

use super::Misread;

/// The fields of an object, in the order of the answer. Of a relation, its members.
#[derive(Clone, Debug, Default)]
pub struct Fields<'a> {
    entries: Vec<(Cow<'a, str>, Cow<'a, RawValue>)>,
    /// All of it, as long as nothing was changed.
    whole: Option<&'a str>,
    members: Vec<(String, Fields<'a>)>,
}

impl<'a> Fields<'a> {
    /// Reads an object.
    pub fn parse(json: &'a [u8]) -> Result<Self, Misread> {
        let mut fields: Self = serde_json::from_slice(json).map_err(|error| match error.classify() {
            Category::Data => Misread::NotAnObject,
            Category::Io | Category::Syntax | Category::Eof => Misread::NotJson(error),
        })?;
        fields.whole = std::str::from_utf8(json).ok();
        Ok(fields)
    }

    /// The members of a relation, each by its id.
    pub(super) fn of_members(members: Vec<(String, Self)>) -> Self {
        Self { members, ..Self::default() }
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
        self.entries.is_empty()
    }

    /// A field by its name; if there are several, the last, as in Postgres.
    fn get(&self, name: &str) -> Option<&RawValue> {
        self.entries.iter().rev().find(|(field, _)| field == name).map(|(_, value)| &**value)
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
        for (_, value) in self.entries.extract_if(.., |(field, _)| field == name) {
            removed = Some(value);
            self.whole = None;
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
            self.entries.push((Cow::Owned(name.to_owned()), Cow::Owned(value)));
            self.whole = None;
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
        let before = self.entries.len();
        self.entries.retain(|(name, _)| is_kept(name));
        if self.entries.len() < before {
            self.whole = None;
        }
    }

    /// Changes those whose name or value must not stay as it is: `change` says whether it did.
    pub(super) fn change<E>(
        &mut self,
        change: impl Fn(&mut Cow<'a, str>, &mut Cow<'a, RawValue>) -> Result<bool, E>,
    ) -> Result<(), E> {
        for (name, value) in &mut self.entries {
            if change(name, value)? {
                self.whole = None;
            }
        }
        Ok(())
    }

    /// All of it, for the column `_raw`.
    pub(super) fn into_raw(self) -> Raw {
        match self.whole {
            Some(whole) => Raw(whole.into()),
            // It was read from JSON.
            None => Raw(serde_json::to_string(&self).unwrap_or_else(|_| "{}".to_owned()).into()),
        }
    }

    fn into_owned<'b>(self) -> Fields<'b> {
        let owned = |(name, value): (Cow<'a, str>, Cow<'a, RawValue>)| {
            (Cow::Owned(name.into_owned()), Cow::Owned(value.into_owned()))
        };
        Fields {
            entries: self.entries.into_iter().map(owned).collect(),
            whole: None,
            members: self.members.into_iter().map(|(id, fields)| (id, fields.into_owned())).collect(),
        }
    }
}

/// The objects of a list.
fn objects(list: &str) -> Vec<Fields<'_>> {
    let items: Vec<&RawValue> = serde_json::from_str(list).unwrap_or_default();
    items.into_iter().filter_map(|item| Fields::parse(item.get().as_bytes()).ok()).collect()
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
                let mut entries = Vec::with_capacity(16);
                while let Some((Name(name), value)) = map.next_entry::<Name<'de>, &'de RawValue>()? {
                    entries.push((name, Cow::Borrowed(value)));
                }
                Ok(Fields { entries, ..Fields::default() })
            }
        }

        deserializer.deserialize_map(Object)
    }
}

/// The name of a field, borrowed if nothing in it is escaped.
#[derive(Deserialize)]
#[serde(transparent)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

impl Serialize for Fields<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.entries.len()))?;
        for (name, value) in &self.entries {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

/// What the column `_raw` holds: an answer, stripped. Two are the same if they say the same, however they are written:
/// Postgres orders fields in its own way.
#[derive(Clone, Debug)]
pub struct Raw(Box<str>);

impl Raw {
    /// As JSON.
    #[must_use]
    pub fn get(&self) -> &str {
        &self.0
    }
}

impl PartialEq for Raw {
    fn eq(&self, other: &Self) -> bool {
        let parsed = |raw: &Self| serde_json::from_str::<Value>(raw.get()).ok();
        self.get() == other.get()
            || match (parsed(self), parsed(other)) {
                (Some(this), Some(that)) => say_the_same(&this, &that),
                // A number beyond all bounds, which Postgres spells out: it cannot be told, and must not differ for ever.
                (this, that) => this.is_none() && that.is_none(),
            }
    }
}

/// Whether two documents say the same. Postgres spells a number in its own way: `1e2` comes back as `100`.
fn say_the_same(this: &Value, that: &Value) -> bool {
    match (this, that) {
        (Value::Number(this), Value::Number(that)) => this == that || this.as_f64() == that.as_f64(),
        (Value::Array(this), Value::Array(that)) => {
            this.len() == that.len() && this.iter().zip(that).all(|(this, that)| say_the_same(this, that))
        }
        (Value::Object(this), Value::Object(that)) => {
            this.len() == that.len()
                && this.iter().all(|(name, this)| that.get(name).is_some_and(|that| say_the_same(this, that)))
        }
        _ => this == that,
    }
}

/// The version of the binary format of a `jsonb`, which stands before its text.
const JSONB_VERSION: u8 = 1;

impl sqlx::Type<Postgres> for Raw {
    fn type_info() -> PgTypeInfo {
        <Value as sqlx::Type<Postgres>>::type_info()
    }
}

impl PgHasArrayType for Raw {
    fn array_type_info() -> PgTypeInfo {
        <Value as PgHasArrayType>::array_type_info()
    }
}

impl<'r> sqlx::Decode<'r, Postgres> for Raw {
    fn decode(value: PgValueRef<'r>) -> Result<Self, BoxDynError> {
        let text = match value.format() {
            PgValueFormat::Text => value.as_str()?,
            PgValueFormat::Binary => match value.as_bytes()?.split_first() {
                Some((&JSONB_VERSION, text)) => std::str::from_utf8(text)?,
                _ => return Err("a jsonb of an unknown version".into()),
            },
        };
        Ok(Self(text.into()))
    }
}

impl sqlx::Encode<'_, Postgres> for Raw {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        buffer.push(JSONB_VERSION);
        buffer.extend_from_slice(self.get().as_bytes());
        Ok(IsNull::No)
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
        assert_ne!(raw(r#"{"a":[1]}"#), raw(r#"{"a":[1,1]}"#));
        assert_eq!(raw(r#"{"a":[1e2,-0,1.50]}"#), raw(r#"{"a": [100, 0, 1.50]}"#), "as Postgres spells them");
        assert_eq!(raw(r#"{"a":1e400}"#), raw(&format!(r#"{{"a":1{}}}"#, "0".repeat(400))));
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
