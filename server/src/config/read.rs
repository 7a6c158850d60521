//! Lets serde read the values of a document. Every error names its value. The keys are the fields
//! in `mod.rs`, the ranges in `check.rs`.
//!
//! Serde reports errors by kind, so the texts are written here and serde's texts are not parsed.
//!
//! Serde creates a copy of this code for each type. Without inlining, the program is 130 KB
//! smaller, and a file is read only once.
use std::fmt;

use jsonc_parser::ast::{Object, ObjectProp, StringLit, Value};
use jsonc_parser::common::Ranged;
use serde::de::{self, DeserializeSeed, Deserializer, IntoDeserializer, MapAccess, SeqAccess};
use serde::de::{Expected, Unexpected, Visitor};
use serde::forward_to_deserialize_any;

use super::Config;
use super::nearest::nearest_key;
use super::place::{FileError, below, first_place, position};
use super::units::Unit;

/// A value of a document, from which serde reads.
#[derive(Clone, Copy)]
pub(super) struct Node<'d> {
    text: &'d str,
    value: &'d Value<'d>,
    /// Its key; empty for an element of a list.
    key: &'d str,
    /// Whether it is a whole document, which may name its schema.
    is_document: bool,
}

impl<'d> Node<'d> {
    /// Returns the node of the root, or of another value whose key does not matter.
    pub(super) const fn new(text: &'d str, value: &'d Value<'d>) -> Self {
        Self { text, value, key: "", is_document: false }
    }

    /// Returns the node of a whole document.
    pub(super) const fn document(text: &'d str, value: &'d Value<'d>) -> Self {
        Self { is_document: true, ..Self::new(text, value) }
    }

    #[inline(never)]
    fn visit<V: Visitor<'d>>(self, visitor: V) -> Result<V::Value, ReadError> {
        match self.value {
            Value::StringLit(string) => visitor.visit_str(self.checked(string)?),
            Value::NumberLit(number) => match Number::parse(number.value)? {
                Number::Whole(number) => visitor.visit_u64(number),
                Number::Negative(number) => visitor.visit_i64(number),
                Number::Fraction(number) => visitor.visit_f64(number),
            },
            Value::BooleanLit(boolean) => visitor.visit_bool(boolean.value),
            Value::NullKeyword(_) => visitor.visit_unit(),
            Value::Array(array) => {
                visitor.visit_seq(Elements { node: self, values: &array.elements, next: 0 })
            }
            Value::Object(object) => {
                let mut entries = Entries { node: self, properties: &object.properties, next: 0 };
                let visited = visitor.visit_map(&mut entries);
                // Serde finds a repeated key when it has read it, so that is the last one.
                visited.map_err(|error| match entries.last() {
                    Some(last) if matches!(error.0.fault, Fault::Repeated { .. }) => {
                        error.repeated(self.text, object, last)
                    }
                    _ => error,
                })
            }
        }
    }

    /// Visits a value of one kind. An error for another kind names the expected one.
    #[inline(never)]
    fn visit_as<V: Visitor<'d>>(self, kind: &str, visitor: V) -> Result<V::Value, ReadError> {
        self.visit(visitor).map_err(|error| error.at(self, Some(kind)))
    }

    /// Visits a whole number, or a text with a unit if the key has one.
    #[inline(never)]
    fn visit_whole<V: Visitor<'d>>(self, visitor: V) -> Result<V::Value, ReadError> {
        let kind = "a whole number, 0 or more";
        let (Value::StringLit(string), Some(unit)) = (self.value, Unit::of_key(self.key)) else {
            return self.visit_as(kind, visitor);
        };
        let visited = match unit.parse(&string.value) {
            Some(number) => visitor.visit_u64(number),
            None => Err(ReadError::wrong(kind)),
        };
        visited.map_err(|error| {
            let mut error = error.at(self, Some(kind));
            error.0.unit = Some(unit);
            error
        })
    }

    /// Returns a string's value. JSON forbids control characters in strings, but the parser accepts
    /// them.
    #[inline(never)]
    fn checked(self, string: &'d StringLit<'d>) -> Result<&'d str, ReadError> {
        let source = string.text(self.text);
        if source.bytes().any(|byte| byte < b' ') {
            let wrong = "has a line break or another control character, which needs an escape";
            return Err(ReadError::from(Fault::Other(wrong.to_owned())));
        }
        Ok(&string.value)
    }

    /// Returns the value for an error, cut to [`SHOWN_MAX`] characters.
    #[inline(never)]
    fn describe(self) -> String {
        match self.value {
            Value::StringLit(string) if string.value.chars().count() > SHOWN_MAX => {
                let start: String = string.value.chars().take(SHOWN_MAX).collect();
                format!("{start:?}...")
            }
            Value::StringLit(string) => format!("{:?}", string.value),
            Value::NumberLit(number) => number.value.chars().take(SHOWN_MAX).collect(),
            Value::BooleanLit(boolean) => boolean.value.to_string(),
            Value::NullKeyword(_) => "null".to_owned(),
            Value::Array(_) => "a list".to_owned(),
            Value::Object(_) => "an object".to_owned(),
        }
    }
}

/// A number of a document, as the first of these types that has its value.
enum Number {
    Whole(u64),
    Negative(i64),
    Fraction(f64),
}

impl Number {
    fn parse(literal: &str) -> Result<Self, ReadError> {
        if let Ok(number) = literal.parse() {
            return Ok(Self::Whole(number));
        }
        if let Ok(number) = literal.parse() {
            return Ok(Self::Negative(number));
        }
        match literal.parse() {
            Ok(number) if f64::is_finite(number) => Ok(Self::Fraction(number)),
            _ => Err(ReadError::from(Fault::Other("number out of range".to_owned()))),
        }
    }
}

macro_rules! kinds {
    ($($method:ident: $kind:literal)*) => {
        $(fn $method<V: Visitor<'d>>(self, visitor: V) -> Result<V::Value, ReadError> {
            self.visit_as($kind, visitor)
        })*
    };
}

macro_rules! whole_numbers {
    ($($method:ident)*) => {
        $(fn $method<V: Visitor<'d>>(self, visitor: V) -> Result<V::Value, ReadError> {
            self.visit_whole(visitor)
        })*
    };
}

impl<'d> Deserializer<'d> for Node<'d> {
    type Error = ReadError;

    kinds! {
        deserialize_bool: "true or false"
        deserialize_f32: "a number"
        deserialize_f64: "a number"
        deserialize_str: "a string"
        deserialize_string: "a string"
        deserialize_seq: "a list"
        deserialize_map: "an object"
    }

    whole_numbers! { deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64 }

    fn deserialize_any<V: Visitor<'d>>(self, visitor: V) -> Result<V::Value, ReadError> {
        self.visit(visitor).map_err(|error| error.at(self, None))
    }

    fn deserialize_option<V: Visitor<'d>>(self, visitor: V) -> Result<V::Value, ReadError> {
        match self.value {
            Value::NullKeyword(_) => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'d>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, ReadError> {
        visitor.visit_newtype_struct(self)
    }

    /// Accepts only objects: the visitors of structs would also accept lists.
    fn deserialize_struct<V: Visitor<'d>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, ReadError> {
        let kind = "an object";
        match self.value {
            Value::Object(_) => self.visit_as(kind, visitor),
            _ => Err(ReadError::wrong(kind).at(self, None)),
        }
    }

    fn deserialize_enum<V: Visitor<'d>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, ReadError> {
        let visited = match self.value {
            Value::StringLit(string) => {
                let variant: de::value::StrDeserializer<'_, ReadError> =
                    self.checked(string).map_err(|error| error.at(self, None))?.into_deserializer();
                visitor.visit_enum(variant)
            }
            // The permitted words are added below.
            _ => Err(ReadError::wrong("")),
        };
        visited.map_err(|error| error.at(self, Some(&one_of(variants))))
    }

    forward_to_deserialize_any! {
        <V: Visitor<'d>>
        i8 i16 i32 i64 char bytes byte_buf unit unit_struct tuple tuple_struct identifier
        ignored_any
    }
}

/// The elements of a list.
struct Elements<'d> {
    node: Node<'d>,
    values: &'d [Value<'d>],
    next: usize,
}

impl<'d> SeqAccess<'d> for Elements<'d> {
    type Error = ReadError;

    #[inline(never)]
    fn next_element_seed<T: DeserializeSeed<'d>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, ReadError> {
        let index = self.next;
        let Some(value) = self.values.get(index) else { return Ok(None) };
        self.next += 1;
        let node = Node { value, key: "", is_document: false, ..self.node };
        seed.deserialize(node).map(Some).map_err(|error| error.below(Step::Index(index)))
    }
}

/// The properties of an object.
struct Entries<'d> {
    node: Node<'d>,
    properties: &'d [ObjectProp<'d>],
    next: usize,
}

impl<'d> Entries<'d> {
    /// Returns the property whose key was read last.
    fn last(&self) -> Option<&'d ObjectProp<'d>> {
        self.properties.get(self.next.checked_sub(1)?)
    }
}

impl<'d> MapAccess<'d> for Entries<'d> {
    type Error = ReadError;

    fn next_key_seed<K: DeserializeSeed<'d>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, ReadError> {
        let Some(property) = self.properties.get(self.next) else { return Ok(None) };
        self.next += 1;
        let key = property.name.as_str();
        if key == SCHEMA && self.node.is_document {
            // For editors; the program ignores it.
            let node = Node { value: &property.value, key, is_document: false, ..self.node };
            if !matches!(property.value, Value::StringLit(_)) {
                let error = ReadError::wrong("a string").at(node, None);
                return Err(error.below(Step::Key(key.to_owned())));
            }
            return self.next_key_seed(seed);
        }
        let read: Result<_, ReadError> = seed.deserialize(key.into_deserializer());
        read.map(Some).map_err(|mut error| {
            error.0.place = Some((property.name.start(), String::new()));
            error.below(Step::Key(key.to_owned()))
        })
    }

    #[inline(never)]
    fn next_value_seed<T: DeserializeSeed<'d>>(&mut self, seed: T) -> Result<T::Value, ReadError> {
        let Some(property) = self.last() else {
            return Err(de::Error::custom("a value was asked for before its key"));
        };
        let key = property.name.as_str();
        let node = Node { value: &property.value, key, is_document: false, ..self.node };
        seed.deserialize(node).map_err(|error| error.below(Step::Key(key.to_owned())))
    }
}

/// The reason for refusing a value. Boxed, because every copy of this code returns it.
#[derive(Debug)]
pub(super) struct ReadError(Box<Refused>);

#[derive(Debug)]
struct Refused {
    fault: Fault,
    /// The byte offset and the text of the value.
    place: Option<(usize, String)>,
    /// The path to it, from the inside out.
    steps: Vec<Step>,
    /// The unit, if a text with a unit is permitted.
    unit: Option<Unit>,
}

#[derive(Debug)]
enum Fault {
    UnknownKey { known: &'static [&'static str] },
    Repeated { first_line: usize },
    Missing { key: &'static str },
    Wrong { allowed: String },
    Other(String),
}

#[derive(Debug)]
enum Step {
    Key(String),
    Index(usize),
}

impl ReadError {
    #[inline(never)]
    fn wrong(allowed: &str) -> Self {
        Fault::Wrong { allowed: allowed.to_owned() }.into()
    }

    /// Adds the position of a node and the permitted kind, unless the error is from a nested value.
    #[inline(never)]
    fn at(mut self, node: Node<'_>, kind: Option<&str>) -> Self {
        if self.0.place.is_none() {
            self.0.place = Some((node.value.start(), node.describe()));
            if let (Fault::Wrong { allowed }, Some(kind)) = (&mut self.0.fault, kind) {
                kind.clone_into(allowed);
            }
        }
        self
    }

    #[inline(never)]
    fn below(mut self, step: Step) -> Self {
        self.0.steps.push(step);
        self
    }

    #[inline(never)]
    fn repeated(mut self, text: &str, object: &Object<'_>, property: &ObjectProp<'_>) -> Self {
        if self.0.place.is_none() {
            let key = property.name.as_str();
            let (first_line, _) = position(text, first_place(object, key));
            self.0.fault = Fault::Repeated { first_line };
            self.0.place = Some((property.name.start(), String::new()));
            self.0.steps.push(Step::Key(key.to_owned()));
        }
        self
    }

    /// Returns the error for the user, with the full path of the value.
    pub(super) fn into_file_error(self, text: &str, above: &str) -> FileError {
        let Refused { fault, place, steps, unit } = *self.0;
        let mut path = above.to_owned();
        let mut around = String::new();
        for step in steps.iter().rev() {
            // In the end, the path of the object that has the key.
            around.clone_from(&path);
            match step {
                Step::Key(key) => path = below(&path, key),
                Step::Index(index) => path.push_str(&format!("[{index}]")),
            }
        }
        let (at, found) = place.unwrap_or_default();
        let wrong = match fault {
            Fault::UnknownKey { known } => {
                let key = match steps.first() {
                    Some(Step::Key(key)) => key.as_str(),
                    _ => "",
                };
                match nearest_key(&around, key, known) {
                    Some(nearest) => format!("unknown key; did you mean `{nearest}`?"),
                    None => format!("unknown key; known: {}", known.join(", ")),
                }
            }
            Fault::Repeated { first_line } => format!("repeated; first on line {first_line}"),
            Fault::Missing { key } => format!("needs {key}"),
            Fault::Wrong { allowed } => {
                let allowed = Config::allowed_at(&path).unwrap_or(allowed);
                let unit =
                    unit.map_or_else(String::new, |unit| format!(", or {}", unit.examples()));
                format!("must be {allowed}{unit}, not {found}")
            }
            Fault::Other(wrong) => wrong,
        };
        FileError::new(text, at, path, wrong)
    }
}

impl From<Fault> for ReadError {
    fn from(fault: Fault) -> Self {
        Self(Box::new(Refused { fault, place: None, steps: Vec::new(), unit: None }))
    }
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0.fault)
    }
}

impl std::error::Error for ReadError {}

impl de::Error for ReadError {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Fault::Other(message.to_string()).into()
    }

    fn invalid_type(_: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::wrong(&expected.to_string())
    }

    fn invalid_value(_: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::wrong(&expected.to_string())
    }

    fn unknown_variant(_: &str, expected: &'static [&'static str]) -> Self {
        Self::wrong(&one_of(expected))
    }

    fn unknown_field(_: &str, known: &'static [&'static str]) -> Self {
        Fault::UnknownKey { known }.into()
    }

    fn missing_field(key: &'static str) -> Self {
        Fault::Missing { key }.into()
    }

    fn duplicate_field(_: &'static str) -> Self {
        Fault::Repeated { first_line: 0 }.into()
    }
}

fn one_of(names: &[&str]) -> String {
    match names {
        [others @ .., last] if !others.is_empty() => format!("{} or {last}", others.join(", ")),
        _ => names.join(""),
    }
}

/// The key that names the schema of a document.
const SCHEMA: &str = "$schema";
/// The maximum number of characters of a value in an error.
pub(super) const SHOWN_MAX: usize = 60;
