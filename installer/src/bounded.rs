//! Tables that strangers can fill, kept small.

use std::{collections::HashMap, hash::Hash};

/// Removes those of the lowest ranks, a quarter of all, from a table that has as many entries as it may.
pub(crate) fn make_room<K: Eq + Hash, V, R: Ord + Copy>(
    table: &mut HashMap<K, V>,
    most: usize,
    rank: impl Fn(&V) -> R,
) {
    if table.len() < most.max(1) {
        return;
    }
    let mut ranks: Vec<R> = table.values().map(&rank).collect();
    let quarter = ranks.len() / 4;
    let (_, last, _) = ranks.select_nth_unstable(quarter);
    let last = *last;
    table.retain(|_, value| rank(value) > last);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_recent_give_way() {
        let mut table = HashMap::new();
        for time in 0..1000 {
            make_room(&mut table, 100, |time| *time);
            table.insert(time, time);
            assert!(table.len() <= 100 && table.contains_key(&time));
            assert!((time / 2..time).all(|recent| time - recent > 70 || table.contains_key(&recent)));
        }
    }
}
