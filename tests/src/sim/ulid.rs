//! Ids that sort in the order in which they were made: prefix, `_`, ULID.

use chrono::{DateTime, Utc};

const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

/// Makes ids. Within one millisecond, and when the clock steps back, it counts up.
#[derive(Debug, Default)]
pub(super) struct Ulids {
    milliseconds: u64,
    random: u128,
}

impl Ulids {
    /// The next id with this prefix.
    pub(super) fn next(&mut self, prefix: &str, rng: &mut fastrand::Rng, now: DateTime<Utc>) -> String {
        let milliseconds = u64::try_from(now.timestamp_millis()).unwrap_or(0);
        if milliseconds > self.milliseconds {
            self.milliseconds = milliseconds;
            // 79 of the 80 bits, so that counting up never overflows.
            self.random = rng.u128(..) >> 49;
        } else {
            self.random += 1;
        }
        let value = (u128::from(self.milliseconds) << 80) | self.random;
        let mut id = String::with_capacity(prefix.len() + 27);
        id.push_str(prefix);
        id.push('_');
        for place in (0..26).rev() {
            let digit = usize::try_from((value >> (place * 5)) & 31).unwrap_or(0);
            id.push(char::from(ALPHABET[digit]));
        }
        id
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_id_sorts_after_an_earlier_one() {
        let mut rng = fastrand::Rng::with_seed(1);
        let mut ulids = Ulids::default();
        let now = shared::clock::now();
        let ids: Vec<String> = (0..100).map(|_| ulids.next("user", &mut rng, now)).collect();
        assert!(ids.is_sorted());
        assert!(ids.iter().all(|id| id.len() == "user_".len() + 26));
        assert!(ulids.next("user", &mut rng, now + chrono::Duration::milliseconds(1)) > ids[99]);
    }
}
