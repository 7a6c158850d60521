//! Suggests the known key that was probably meant.
use serde_json::Value;

use super::Config;
use super::place::below;

/// Returns the path of the key that is most similar to `key`, which is unknown in the object at
/// `path`. This is a similar key among `known`, or the same key elsewhere in a configuration.
pub(super) fn nearest_key(path: &str, key: &str, known: &[&str]) -> Option<String> {
    if key.len() > KEY_BYTES_MAX {
        return None;
    }
    let distance = |name: &str| distance(&name.to_lowercase(), &key.to_lowercase());
    // A third of the letters may be wrong.
    let limit = (key.chars().count() / 3).max(1);
    let here = known.iter().map(|name| (distance(name), below(path, name)));
    let here = here.filter(|(distance, _)| *distance <= limit);
    let elsewhere = all_keys().into_iter().filter(|known| {
        let name = known.rsplit('.').next().unwrap_or(known);
        distance(name) == 0
    });
    let all = here.chain(elsewhere.map(|path| (ELSEWHERE, path)));
    all.min_by_key(|(distance, _)| *distance).map(|(_, path)| path)
}

/// Returns the number of letters that differ: inserted, omitted, replaced, or swapped with the next
/// letter (optimal string alignment).
fn distance(one: &str, other: &str) -> usize {
    let (one, other): (Vec<char>, Vec<char>) = (one.chars().collect(), other.chars().collect());
    // The rows of the table for the last two letters of `one`.
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=other.len()).collect();
    for (row, letter) in one.iter().enumerate() {
        let mut next = vec![row + 1];
        for (column, wanted) in other.iter().enumerate() {
            let replaced = last[column] + usize::from(letter != wanted);
            let mut least = replaced.min(last[column + 1] + 1).min(next[column] + 1);
            let is_swapped =
                row > 0 && column > 0 && letter == &other[column - 1] && wanted == &one[row - 1];
            if is_swapped {
                least = least.min(before[column - 1] + 1);
            }
            next.push(least);
        }
        before = std::mem::replace(&mut last, next);
    }
    last[other.len()]
}

/// Returns the path of every key of a configuration, except those in lists.
fn all_keys() -> Vec<String> {
    let mut keys = Vec::new();
    let mut objects = vec![(String::new(), Config::default().to_value())];
    while let Some((path, value)) = objects.pop() {
        let Value::Object(object) = value else { continue };
        for (key, value) in object {
            let path = below(&path, &key);
            keys.push(path.clone());
            objects.push((path, value));
        }
    }
    keys
}

/// The rank of the same key in another object, equal to one wrong letter.
const ELSEWHERE: usize = 1;
/// Longer keys get no suggestion. This bounds the time of the comparison.
const KEY_BYTES_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    /// Distances are symmetric, and agree with those computed by hand.
    #[test]
    fn letters_are_compared() {
        let rows = [
            ("", "", 0),
            ("abc", "abc", 0),
            ("abc", "", 3),
            ("abc", "abd", 1),
            ("abc", "ac", 1),
            ("abc", "bac", 1),
            ("ca", "abc", 3),
            ("äb", "bä", 1),
            ("kitten", "sitting", 3),
        ];
        for (one, other, expected) in rows {
            assert_eq!(distance(one, other), expected, "{one} {other}");
            assert_eq!(distance(other, one), expected, "{other} {one}");
        }
    }

    /// For a misspelt key the correct one is suggested, and for a key of another object the path in
    /// that object. Other texts get no suggestion.
    #[test]
    fn slips_find_the_key() {
        let timeouts = ["connectMs", "responseHeadMs", "responseBodyMs"];
        let rows = [
            ("timeouts", "responseHeadsMs", Some("timeouts.responseHeadMs")),
            ("timeouts", "responsehead", Some("timeouts.responseHeadMs")),
            ("timeouts", "conectMs", Some("timeouts.connectMs")),
            ("timeouts", "ocnnectMs", Some("timeouts.connectMs")),
            ("timeouts", "perBackend", Some("limits.perBackend")),
            ("", "cooldownms", Some("routing.switch.cooldownMs")),
            ("timeouts", "x", None),
            ("timeouts", "", None),
            ("timeouts", "readTimeout", None),
            ("backends[3]", "weight", None),
        ];
        for (path, key, expected) in rows {
            assert_eq!(nearest_key(path, key, &timeouts).as_deref(), expected, "{path} {key}");
        }
        assert_eq!(nearest_key("", &"x".repeat(1_000_000), &timeouts), None);
    }
}
