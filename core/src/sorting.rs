//! Sorting with little code, for lists that no request waits for.
//!
//! The layout hints are explained in `router.rs`.
use std::cmp::Ordering;

/// Sorts like `sort_by` of the standard library: equal elements keep their order.
///
/// That one has 4 to 20 KB of code for each type and order, this one 300 bytes. It is slower, and
/// takes two numbers of memory for each element meanwhile.
pub fn sort_by<T>(elements: &mut [T], mut compare: impl FnMut(&T, &T) -> Ordering) {
    let mut compare_at = |one: usize, other: usize| compare(&elements[one], &elements[other]);
    let mut sources = sorted_places(elements.len(), &mut compare_at);
    for start in 0..sources.len() {
        // Moves the elements of one circle: each place gets its element from the next place.
        let mut place = start;
        while sources[place] != start {
            let source = sources[place];
            elements.swap(place, source);
            sources[place] = place;
            place = source;
        }
        sources[place] = place;
    }
}

/// Returns the places of the elements in their order.
#[inline(never)]
fn sorted_places(count: usize, compare: &mut dyn FnMut(usize, usize) -> Ordering) -> Vec<usize> {
    let mut places: Vec<usize> = (0..count).collect();
    places.sort_by(|one, other| compare(*one, *other));
    places
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// The order is that of the standard library, also among equal elements.
        #[test]
        fn the_order_is_that_of_std(keys in prop::collection::vec(0_u8..20, 0..60)) {
            let mut elements: Vec<(u8, usize)> = keys.into_iter().zip(0..).collect();
            let mut expected = elements.clone();
            sort_by(&mut elements, |one, other| other.0.cmp(&one.0));
            expected.sort_by_key(|element| std::cmp::Reverse(element.0));
            prop_assert_eq!(elements, expected);
        }
    }
}
