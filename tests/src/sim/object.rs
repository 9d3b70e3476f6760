//! What the simulator must know about a kind of object. Each kind is one file that says it; a new kind
//! is one file and one line in [`of`].

use serde_json::{Map, Value};
use shared::id::Kind;

use super::answer::Reply;
use super::api_key::ApiKey;
use super::connection::Connection;
use super::directory::Directory;
use super::directory_group::DirectoryGroup;
use super::directory_group_membership::DirectoryGroupMembership;
use super::directory_user::DirectoryUser;
use super::feature_flag::FeatureFlag;
use super::group::Group;
use super::group_membership::GroupMembership;
use super::invitation::Invitation;
use super::organization::Organization;
use super::organization_domain::OrganizationDomain;
use super::organization_membership::OrganizationMembership;
use super::organization_role::OrganizationRole;
use super::permission::Permission;
use super::query::Query;
use super::role::Role;
use super::session::Session;
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

    /// The list, if there is one, is at this path; GET-one at this path, `/` and the id. `{}` stands for the id of
    /// the object that it is found under.
    fn path(&self) -> &'static str;

    /// Other paths at which some of them are listed. What a path names with several `{}` has `/` between them.
    fn also_listed(&self) -> &'static [&'static str] {
        &[]
    }

    /// What an object says it is, in `object`.
    fn name(&self) -> &'static str {
        self.kind().name()
    }

    /// What it is asked for by: its id, unless a kind says otherwise.
    fn key(&self, id: &str, _own: &Fields) -> String {
        id.to_owned()
    }

    /// The same, from the path of a request.
    fn found_by(&self, _of: Option<&str>, id: &str) -> String {
        id.to_owned()
    }

    /// What a list without pages shows, if this kind has such a list.
    fn whole(&self, _view: View<'_>, _of: Option<&str>) -> Option<Result<Vec<Value>, Reply>> {
        None
    }

    /// What answers where there is none with this key.
    fn instead(&self, _view: View<'_>, _key: &str) -> Option<Value> {
        None
    }

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
        Kind::Group => &Group,
        Kind::GroupMembership => &GroupMembership,
        Kind::Session => &Session,
        Kind::ApiKey => &ApiKey,
        Kind::Connection => &Connection,
        Kind::Invitation => &Invitation,
        Kind::Role => &Role,
        Kind::OrganizationRole => &OrganizationRole,
        Kind::Permission => &Permission,
        Kind::FeatureFlag => &FeatureFlag,
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
