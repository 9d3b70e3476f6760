//! How the objects of a kind are listed, and the paths of lists.

use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use shared::id::Kind;

/// What cannot stand unescaped in a segment of a path.
const SEGMENT: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'#')
    .add(b'%')
    .add(b'/')
    .add(b'<')
    .add(b'>')
    .add(b'?')
    .add(b'\\')
    .add(b'`')
    .add(b'{')
    .add(b'}')
    .add(b'|')
    .add(b'^')
    .add(b'[')
    .add(b']')
    .add(b';');

/// An id as a segment of a path. `.` and `..` would change the path, also with their dots escaped: what they become is
/// the id of nothing.
pub(super) fn segment(id: &str) -> String {
    match id {
        "." | ".." => id.replace('.', "%252E"),
        id => utf8_percent_encode(id, SEGMENT).to_string(),
    }
}

/// How everything of a kind is listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listed {
    /// One list of everything, at this path.
    Everywhere(&'static str),
    /// A list for each object of another kind, whose id goes where the path has `{}`.
    Under(Kind, &'static str),
    /// Not by itself: the list of this kind brings it along.
    Inside(Kind),
    /// Relations, composed for each object of that kind from lists of their other side.
    Composed(Kind, Composition),
    /// Relations, asked for one by one: those of each object of these kinds.
    Whole(&'static [Kind]),
}

impl Listed {
    /// Of which kinds the objects must be known before.
    #[must_use]
    pub fn parents(self) -> Vec<Kind> {
        match self {
            Self::Everywhere(_) | Self::Inside(_) => Vec::new(),
            Self::Under(parent, _) | Self::Composed(parent, _) => vec![parent],
            Self::Whole(owners) => owners.to_vec(),
        }
    }
}

/// How relations are composed: everything that is in one of the groups, for each of the groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Composition {
    /// The kind of the groups, and their list, with `{}` for the id of what holds them.
    pub groups: (Kind, &'static str),
    /// The list of what is in one of them, with `{}` for its id and `{holder}` for the id of what holds it. What follows
    /// `#` is for the rate budget and not for WorkOS.
    pub members: &'static str,
}

/// The path of the list that belongs to one object.
#[must_use]
pub fn list_under(path: &str, id: &str) -> String {
    path.replace("{}", &segment(id).replace('&', "%26").replace('+', "%2B"))
}

/// The same path, within the object that holds it.
#[must_use]
pub fn list_within(path: &str, holder: &str) -> String {
    path.replace("{holder}", &segment(holder))
}

#[cfg(test)]
mod tests {
    use reqwest::Url;

    use super::*;

    #[test]
    fn an_id_cannot_leave_its_path() {
        let base = Url::parse("https://api.example.com/v1/").expect("an address");
        for (id, path) in
            [("../x", "..%2Fx"), ("..", "%252E%252E"), (".", "%252E"), ("a b?c#d", "a%20b%3Fc%23d")]
        {
            let url = base.join(&format!("users/{}", segment(id))).expect("an address");
            assert_eq!(url.as_str(), format!("https://api.example.com/v1/users/{path}"));
        }
    }
}
