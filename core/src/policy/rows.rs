//! Tables of one row for each backend, by slot.
use crate::id::BackendId;

/// The entry of a backend in a table that grows as backends come.
pub(super) fn entry<T: Default>(rows: &mut Vec<T>, backend: BackendId) -> &mut T {
    if rows.len() <= backend.index() {
        rows.resize_with(backend.index() + 1, T::default);
    }
    &mut rows[backend.index()]
}
