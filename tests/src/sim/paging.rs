//! Cursors: which items of a list a page shows. Pure.

use super::answer::Reply;
use super::query::Query;

/// The order of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    Ascending,
    Descending,
    /// Descending, with `before` and `after` the other way round.
    Normal,
}

/// Which page is wanted.
#[derive(Debug)]
pub(super) struct Paging {
    limit: usize,
    order: Order,
    cursor: Option<Cursor>,
}

#[derive(Debug, PartialEq, Eq)]
enum Cursor {
    Before(String),
    After(String),
}

/// Where a cursor stands among items in order of creation: those below `below` are older, those from
/// `above` on are newer. They are equal when the item itself is not among them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) below: usize,
    pub(super) above: usize,
}

/// A page: indexes in the order of the list, and the ends that have more beyond them.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Page {
    pub(super) indexes: Vec<usize>,
    before: bool,
    after: bool,
    swapped: bool,
}

impl Paging {
    /// Reads `limit`, `order`, `before` and `after`, or says which of them is wrong.
    pub(super) fn parse(query: &Query) -> Result<Self, Reply> {
        let limit = match query.get("limit").map(str::parse::<usize>) {
            None => 10,
            Some(Ok(limit)) if (1..=100).contains(&limit) => limit,
            Some(_) => return Err(Reply::invalid("limit_out_of_range", "limit")),
        };
        let order = match query.get("order") {
            None | Some("desc") => Order::Descending,
            Some("asc") => Order::Ascending,
            Some("normal") => Order::Normal,
            Some(_) => return Err(Reply::invalid("unknown_order", "order")),
        };
        let cursor = match (query.get("before"), query.get("after")) {
            (None, None) => None,
            (Some(id), None) => Some(Cursor::Before(id.to_owned())),
            (None, Some(id)) => Some(Cursor::After(id.to_owned())),
            (Some(_), Some(_)) => return Err(Reply::invalid("exclusive_with_after", "before")),
        };
        Ok(Self { limit, order, cursor })
    }

    /// The id that the page is before or after.
    pub(super) fn cursor(&self) -> Option<&str> {
        match &self.cursor {
            Some(Cursor::Before(id) | Cursor::After(id)) => Some(id),
            None => None,
        }
    }

    /// The page of `length` items in order of creation, of which a list shows those that `accept`
    /// says yes to. `place` is where the cursor stands.
    pub(super) fn page(&self, length: usize, place: Option<Place>, accept: impl Fn(usize) -> bool) -> Page {
        let swapped = self.order == Order::Normal;
        let ascending = self.order == Order::Ascending;
        let forward = match &self.cursor {
            None => true,
            Some(Cursor::After(_)) => !swapped,
            Some(Cursor::Before(_)) => swapped,
        };
        let place = place.unwrap_or(if ascending {
            Place { below: 0, above: 0 }
        } else {
            Place { below: length, above: length }
        });
        // Forward is the direction in which the list is read.
        let upwards = ascending == forward;
        let (mut indexes, more, opposite) = if upwards {
            let (indexes, more) = take((place.above..length).filter(|&i| accept(i)), self.limit);
            (indexes, more, (0..place.above).rev().any(&accept))
        } else {
            let (indexes, more) = take((0..place.below).rev().filter(|&i| accept(i)), self.limit);
            (indexes, more, (place.below..length).any(&accept))
        };
        if forward {
            return Page { indexes, before: opposite, after: more, swapped };
        }
        indexes.reverse();
        Page { indexes, before: more, after: opposite, swapped }
    }
}

/// The first `limit`, and whether there are more.
fn take(mut items: impl Iterator<Item = usize>, limit: usize) -> (Vec<usize>, bool) {
    let indexes: Vec<usize> = items.by_ref().take(limit).collect();
    let more = items.next().is_some();
    (indexes, more)
}

impl Page {
    /// The indexes that `list_metadata` names as `before` and `after`.
    pub(super) fn ends(&self) -> (Option<usize>, Option<usize>) {
        let first = self.indexes.first().copied().filter(|_| self.before);
        let last = self.indexes.last().copied().filter(|_| self.after);
        if self.swapped { (last, first) } else { (first, last) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paging(query: &str) -> Paging {
        Paging::parse(&Query::parse(Some(query))).expect("a good query")
    }

    /// Ids are the indexes themselves.
    fn page(query: &str, length: usize) -> Page {
        let paging = paging(query);
        let place = paging.cursor().map(|id| {
            let below = id.parse().unwrap();
            Place { below, above: below + 1 }
        });
        paging.page(length, place, |_| true)
    }

    #[test]
    fn a_list_is_newest_first_ten_at_a_time() {
        let first = page("", 25);
        assert_eq!(first.indexes, (15..25).rev().collect::<Vec<_>>());
        assert_eq!(first.ends(), (None, Some(15)));
        let last = page("after=5", 25);
        assert_eq!(last.indexes, vec![4, 3, 2, 1, 0]);
        assert_eq!(last.ends(), (Some(4), None));
    }

    #[test]
    fn walking_by_after_sees_everything_once_in_either_order() {
        for (order, expected) in
            [("asc", (0..23).collect::<Vec<_>>()), ("desc", (0..23).rev().collect::<Vec<_>>())]
        {
            let mut seen: Vec<usize> = Vec::new();
            let mut cursor = String::new();
            loop {
                let page = page(&format!("order={order}&limit=5{cursor}"), 23);
                seen.extend(&page.indexes);
                match page.ends().1 {
                    Some(after) => cursor = format!("&after={after}"),
                    None => break,
                }
            }
            assert_eq!(seen, expected);
        }
    }

    #[test]
    fn before_is_the_page_just_before_the_cursor() {
        let page = page("order=desc&limit=3&before=10", 20);
        assert_eq!(page.indexes, vec![13, 12, 11]);
        assert_eq!(page.ends(), (Some(13), Some(11)));
    }

    #[test]
    fn normal_is_descending_with_cursors_the_other_way_round() {
        let first = page("order=normal&limit=3", 6);
        assert_eq!(first.indexes, vec![5, 4, 3]);
        assert_eq!(first.ends(), (Some(3), None));
        assert_eq!(page("order=normal&limit=3&before=3", 6).indexes, vec![2, 1, 0]);
    }

    #[test]
    fn a_cursor_whose_item_is_gone_keeps_its_place() {
        let paging = paging("order=asc&limit=2&after=gone");
        let page = paging.page(5, Some(Place { below: 2, above: 2 }), |i| i != 3);
        assert_eq!(page.indexes, vec![2, 4]);
    }

    #[test]
    fn a_limit_outside_1_to_100_is_refused() {
        for query in ["limit=0", "limit=101", "limit=-1", "limit=ten"] {
            assert_eq!(Paging::parse(&Query::parse(Some(query))).err().map(|reply| reply.status), Some(422));
        }
    }
}
