//! A report as a JSON object. A name is a key, or a path of keys separated by dots.
use std::collections::BTreeMap;

use serde_json::Value;
use serde_json::value::RawValue;

use super::{Found, Reading, ReportFault, collect, excerpt};
use crate::config::FigureNames;

/// Reads an object. A value that cannot be read, such as a number beyond the range of floats, does
/// not affect the others.
pub(super) fn read(text: &[u8], names: &FigureNames) -> Reading {
    let Some(object) = object(text) else {
        return Reading::failed(ReportFault::NoObject { excerpt: excerpt::of_backend(text) });
    };
    collect(names, |name| found(value(&object, name)?))
}

type Object<'a> = BTreeMap<String, &'a RawValue>;

fn object(text: &[u8]) -> Option<Object<'_>> {
    serde_json::from_str(str::from_utf8(text).ok()?).ok()
}

/// Returns the value at a path. A key that itself contains dots is also found.
fn value<'a>(object: &Object<'a>, path: &str) -> Option<&'a RawValue> {
    if let Some(value) = object.get(path) {
        return Some(value);
    }
    let (key, rest) = path.split_once('.')?;
    let inner = serde_json::from_str::<Object<'a>>(object.get(key)?.get()).ok()?;
    value(&inner, rest)
}

/// Returns a number, or an excerpt of any other value; `None` for null.
fn found(value: &RawValue) -> Option<Found> {
    let text = value.get();
    match serde_json::from_str(text) {
        Ok(Value::Null) => None,
        Ok(Value::Number(number)) => number.as_f64().map(Found::Number),
        Ok(_) | Err(_) => Some(Found::Other(excerpt::of_backend(text.as_bytes()))),
    }
}
