//! Every event type of the catalogue, from WorkOS to its outcome.
