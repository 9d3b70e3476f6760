//! Within which object WorkOS keeps another, where that must be known to ask for it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use shared::id::ObjectRef;

use crate::object;

/// Objects that are kept in mind at most. What is forgotten is looked up in the mirror.
const MOST: usize = 20_000;

/// What is known of places. Cheap to clone; every copy knows the same.
#[derive(Clone, Default)]
pub(super) struct Places(Arc<Mutex<HashMap<ObjectRef, String>>>);

impl Places {
    fn lock(&self) -> MutexGuard<'_, HashMap<ObjectRef, String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps the place of an object in mind, if its kind needs one.
    pub(super) fn keep(&self, object: &ObjectRef, holder: &str) {
        if !object::is_within(object.kind) {
            return;
        }
        let mut places = self.lock();
        if places.len() >= MOST {
            places.clear();
        }
        places.insert(object.clone(), holder.to_owned());
    }

    /// The id of the object that holds this one.
    pub(super) fn holder(&self, object: &ObjectRef) -> Option<String> {
        self.lock().get(object).cloned()
    }
}
