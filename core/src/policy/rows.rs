//! Tables with one row per backend, by slot.
use crate::id::BackendId;

/// The row of a backend in a table that grows as backends join.
pub(super) fn entry<T: Default>(rows: &mut Vec<T>, backend: BackendId) -> &mut T {
    if rows.len() <= backend.index() {
        rows.resize_with(backend.index() + 1, T::default);
    }
    &mut rows[backend.index()]
}
