//! What the simulator must know about a kind of object. Each kind is one file that says it; a new kind
//! is one file and one line in [`of`].

use serde_json::{Map, Value};
use shared::id::Kind;

use super::answer::Reply;
use super::directory::Directory;
use super::directory_group::DirectoryGroup;
use super::directory_group_membership::DirectoryGroupMembership;
use super::directory_user::DirectoryUser;
use super::organization::Organization;
use super::organization_domain::OrganizationDomain;
use super::organization_membership::OrganizationMembership;
use super::query::Query;
use super::store::View;
use super::user::User;

/// The fields that an object has of its own.
pub(super) type Fields = Map<String, Value>;

/// One kind of object: where it is found, how it looks, what is announced about it.
pub(super) trait Object: Sync {
    /// Which kind this is.
    fn kind(&self) -> Kind;

    /// Its name in messages: `User not found: 'user_1'.`
    fn title(&self) -> &'static str;

    /// What its ids begin with.
    fn prefix(&self) -> &'static str;

    /// The list, if there is one, is at this path; GET-one at this path, `/` and the id.
    fn path(&self) -> &'static str;

    /// Which objects a list shows. A kind that says nothing has no list.
    fn select(&self, _query: &Query) -> Result<Selection, Reply> {
        Err(Reply::message(404, "Not Found"))
    }

    /// The fields that point to what it cannot exist without: it is deleted along with that.
    fn parents(&self) -> &'static [(&'static str, Kind)] {
        &[]
    }

    /// Kinds of parents and children that are shown inside it.
    fn embeds(&self) -> &'static [Kind] {
        &[]
    }

    /// What a new object has where its maker did not say.
    fn defaults(&self, id: &str, given: &Fields) -> Fields;

    /// What a GET answers.
    fn represent(&self, view: View<'_>, fields: &Fields) -> Fields;

    /// What an event carries.
    fn payload(&self, _event_type: &str, view: View<'_>, fields: &Fields) -> Fields {
        self.represent(view, fields)
    }

    /// The event that announces a new one; some are told of in silence.
    fn create_event(&self, _fields: &Fields) -> Option<String> {
        Some(format!("{}.created", self.kind()))
    }

    /// The event that announces a change, if WorkOS has one for it.
    fn update_event(&self, _before: &Fields, _after: &Fields) -> Option<String> {
        Some(format!("{}.updated", self.kind()))
    }

    /// The event that announces that one is gone.
    fn delete_event(&self) -> String {
        format!("{}.deleted", self.kind())
    }

    /// Whether what is deleted along with one of these is never announced, whatever the knobs say: the event of
    /// this one is the only one.
    fn falls_alone(&self) -> bool {
        false
    }
}

/// Which objects a list shows.
pub(super) struct Selection {
    /// Only children of this object.
    pub(super) of: Option<String>,
    /// Only those it says yes to.
    pub(super) accept: Accept,
}

/// Whether a list shows an object.
pub(super) type Accept = Box<dyn Fn(View<'_>, &Fields) -> bool>;

/// What the simulator knows about a kind.
pub(super) fn of(kind: Kind) -> &'static dyn Object {
    match kind {
        Kind::Organization => &Organization,
        Kind::User => &User,
        Kind::OrganizationDomain => &OrganizationDomain,
        Kind::OrganizationMembership => &OrganizationMembership,
        Kind::Directory => &Directory,
        Kind::DirectoryUser => &DirectoryUser,
        Kind::DirectoryGroup => &DirectoryGroup,
        Kind::DirectoryGroupMembership => &DirectoryGroupMembership,
    }
}

/// The text of a field.
pub(super) fn text<'a>(fields: &'a Fields, name: &str) -> Option<&'a str> {
    fields.get(name).and_then(Value::as_str)
}

/// The fields of `json!({...})`; nothing for what is no object.
pub(super) fn fields(value: Value) -> Fields {
    match value {
        Value::Object(fields) => fields,
        _ => Fields::new(),
    }
}
