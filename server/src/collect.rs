//! Ordered maps and sets from their elements.

/// Collects into an ordered map or set by inserting. `collect` sorts the elements first: 5 KB of
/// code for each type. A later element replaces an earlier one with the same key, as in `collect`.
pub(crate) fn one_by_one<T, C: Default + Extend<T>>(elements: impl IntoIterator<Item = T>) -> C {
    let mut collection = C::default();
    collection.extend(elements);
    collection
}
