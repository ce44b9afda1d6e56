//! JSON as the exits have it: strict, bounded, and without a copy where none is needed.
//!
//! Invariants: a value stands at most [`DEPTH`] deep, and no object has one key twice, also in what
//! nobody reads; reading takes time and memory in proportion to the line.

use std::borrow::Cow;
use std::cell::Cell;
use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

use crate::exit::{Datum, Fields, Kind, Limits, Override, Shape, Unfit};

use super::wire::Garbage;

/// Objects and arrays in each other.
const DEPTH: u8 = 16;
/// Keys of an object that are compared one by one.
const FEW: usize = 16;

/// A JSON value; texts are borrowed from the line where nothing in them is escaped.
#[derive(Debug)]
pub(super) enum Value<'a> {
    Null,
    Boolean(bool),
    Integer(i128),
    /// A number with a fraction or an exponent, or too large: no field of ours.
    OtherNumber,
    Text(Cow<'a, str>),
    List(Vec<Value<'a>>),
    Object(Object<'a>),
}

/// The members of an object, each key once.
#[derive(Debug, Default)]
pub(super) struct Object<'a>(Vec<(Cow<'a, str>, Value<'a>)>);

/// Reads one object, and nothing behind it.
//= spec/exits.md#json
pub(super) fn read(line: &[u8]) -> Result<Object<'_>, Garbage> {
    let broken = Cell::new(Garbage::NotJson);
    let mut reader = serde_json::Deserializer::from_slice(line);
    let seed = Seed {
        depth: DEPTH,
        broken: &broken,
    };
    let value = seed.deserialize(&mut reader).map_err(|_| broken.get())?;
    reader.end().map_err(|_| Garbage::NotJson)?;
    match value {
        Value::Object(object) => Ok(object),
        _ => Err(Garbage::NotJson),
    }
}

#[derive(Clone, Copy)]
struct Seed<'c> {
    /// Objects and arrays that may still be opened.
    depth: u8,
    /// Which rule was broken, if it was one of ours.
    broken: &'c Cell<Garbage>,
}

impl<'c> Seed<'c> {
    fn breaks<E: Error>(self, garbage: Garbage) -> E {
        self.broken.set(garbage);
        E::custom("a rule is broken")
    }

    fn deeper<E: Error>(self) -> Result<Seed<'c>, E> {
        match self.depth.checked_sub(1) {
            Some(depth) => Ok(Self { depth, ..self }),
            None => Err(self.breaks(Garbage::Deep)),
        }
    }
}

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Value<'de>;

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<Value<'de>, D::Error> {
        reader.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = Value<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E: Error>(self) -> Result<Value<'de>, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: Error>(self, yes: bool) -> Result<Value<'de>, E> {
        Ok(Value::Boolean(yes))
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Value<'de>, E> {
        Ok(Value::Integer(number.into()))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Value<'de>, E> {
        Ok(Value::Integer(number.into()))
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<Value<'de>, E> {
        Ok(Value::OtherNumber)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Value<'de>, E> {
        Ok(Value::Text(Cow::Owned(text.to_owned())))
    }

    fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Value<'de>, E> {
        Ok(Value::Text(Cow::Borrowed(text)))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut members: A) -> Result<Value<'de>, A::Error> {
        let seed = self.deeper()?;
        let mut list = Vec::new();
        while let Some(member) = members.next_element_seed(seed)? {
            list.push(member);
        }
        Ok(Value::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value<'de>, A::Error> {
        let seed = self.deeper()?;
        let mut object: Vec<(Cow<'de, str>, Value<'de>)> = Vec::new();
        while let Some(key) = members.next_key_seed(Key)? {
            if object.len() < FEW && object.iter().any(|(known, _)| *known == key) {
                return Err(self.breaks(Garbage::Twice));
            }
            object.push((key, members.next_value_seed(seed)?));
        }
        if object.len() > FEW {
            let mut keys: Vec<&str> = object.iter().map(|(key, _)| &**key).collect();
            keys.sort_unstable();
            if keys.windows(2).any(|two| two[0] == two[1]) {
                return Err(self.breaks(Garbage::Twice));
            }
        }
        Ok(Value::Object(Object(object)))
    }
}

/// A key, borrowed where nothing in it is escaped.
struct Key;

impl<'de> DeserializeSeed<'de> for Key {
    type Value = Cow<'de, str>;

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<Cow<'de, str>, D::Error> {
        reader.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Key {
    type Value = Cow<'de, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Cow<'de, str>, E> {
        Ok(Cow::Owned(text.to_owned()))
    }

    fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Cow<'de, str>, E> {
        Ok(Cow::Borrowed(text))
    }
}

impl<'a> Object<'a> {
    /// Takes the value of a key out; none where it is absent or null.
    pub(super) fn take(&mut self, name: &str) -> Option<Value<'a>> {
        let (_, value) = self.0.iter_mut().find(|(key, _)| key == name)?;
        match std::mem::replace(value, Value::Null) {
            Value::Null => None,
            value => Some(value),
        }
    }

    /// A text.
    pub(super) fn text(&mut self, name: &'static str) -> Result<Cow<'a, str>, Garbage> {
        self.optional_text(name)?.ok_or(Garbage::Field(name))
    }

    /// A text that may be absent.
    pub(super) fn optional_text(
        &mut self,
        name: &'static str,
    ) -> Result<Option<Cow<'a, str>>, Garbage> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Text(text)) => Ok(Some(text)),
            Some(_) => Err(Garbage::Field(name)),
        }
    }

    /// An integer that may be absent.
    pub(super) fn optional_integer<T: TryFrom<i128>>(
        &mut self,
        name: &'static str,
    ) -> Result<Option<T>, Garbage> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Integer(number)) => match number.try_into() {
                Ok(number) => Ok(Some(number)),
                Err(_) => Err(Garbage::Field(name)),
            },
            Some(_) => Err(Garbage::Field(name)),
        }
    }

    /// An integer.
    pub(super) fn integer<T: TryFrom<i128>>(&mut self, name: &'static str) -> Result<T, Garbage> {
        self.optional_integer(name)?.ok_or(Garbage::Field(name))
    }

    /// Bytes that may be absent.
    pub(super) fn optional_bytes(
        &mut self,
        name: &'static str,
    ) -> Result<Option<Vec<u8>>, Garbage> {
        let text = self.optional_text(name)?;
        text.map_or(Ok(None), |text| decode(&text).map(Some))
            .map_err(|()| Garbage::Field(name))
    }

    /// An object that may be absent.
    pub(super) fn optional_object(&mut self, name: &'static str) -> Result<Option<Self>, Garbage> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Object(object)) => Ok(Some(object)),
            Some(_) => Err(Garbage::Field(name)),
        }
    }
}

fn decode(text: &str) -> Result<Vec<u8>, ()> {
    STANDARD.decode(text).map_err(|_| ())
}

/// A value of this shape; none when it is of another.
fn datum(shape: Shape, value: Value<'_>) -> Option<Datum<'_>> {
    Some(match (shape, value) {
        (Shape::Text, Value::Text(text)) => Datum::Text(text),
        (Shape::Bytes, Value::Text(text)) => Datum::Bytes(decode(&text).ok()?.into()),
        (Shape::List, Value::List(list)) => {
            let bytes = |value| match value {
                Value::Text(text) => decode(&text).ok(),
                _ => None,
            };
            Datum::List(
                list.into_iter()
                    .map(bytes)
                    .collect::<Option<Vec<_>>>()?
                    .into(),
            )
        }
        (Shape::Numbers, Value::List(list)) => {
            let number = |value| match value {
                Value::Integer(number) => u16::try_from(number).ok(),
                _ => None,
            };
            let numbers: Option<Vec<_>> = list.into_iter().map(number).collect();
            Datum::Numbers(numbers?.into())
        }
        (Shape::Integer, Value::Integer(number)) => Datum::Integer(number.try_into().ok()?),
        (Shape::Boolean, Value::Boolean(yes)) => Datum::Boolean(yes),
        _ => return None,
    })
}

/// Reads the fields of a value from an object.
pub(super) struct Reader<'a>(pub(super) Object<'a>);

fn read_field<T: Kind>(
    name: &'static str,
    value: Value<'_>,
    limits: &Limits,
) -> Result<T, Garbage> {
    let wrong = Garbage::Field(name);
    let datum = datum(T::SHAPE, value).ok_or(wrong)?;
    datum.check(name, limits).map_err(|_| wrong)?;
    T::take(datum).ok_or(wrong)
}

impl Fields for Reader<'_> {
    type Error = Garbage;

    fn field<T: Kind>(
        &mut self,
        name: &'static str,
        value: &mut T,
        limits: &Limits,
    ) -> Result<(), Garbage> {
        *value = read_field(name, self.0.take(name).ok_or(Garbage::Field(name))?, limits)?;
        Ok(())
    }

    fn optional<T: Kind>(
        &mut self,
        name: &'static str,
        value: &mut Option<T>,
        limits: &Limits,
    ) -> Result<(), Garbage> {
        *value = match self.0.take(name) {
            None => None,
            Some(read) => Some(read_field(name, read, limits)?),
        };
        Ok(())
    }

    //= spec/exits.md#override
    fn overridden<T: Kind>(
        &mut self,
        name: &'static str,
        value: &mut Override<T>,
        limits: &Limits,
        needed: bool,
    ) -> Result<(), Garbage> {
        let wrong = Garbage::Field(name);
        *value = Override::Keep;
        if let Some(mut object) = self.0.optional_object(name)? {
            match object.take("override") {
                None | Some(Value::Boolean(false)) => {}
                Some(Value::Boolean(true)) => {
                    let read = object.take("value").ok_or(wrong)?;
                    *value = Override::Replace(read_field(name, read, limits)?);
                }
                Some(_) => return Err(wrong),
            }
        }
        match value {
            Override::Keep if needed => Err(wrong),
            _ => Ok(()),
        }
    }
}

/// Writes the fields of a value as an object's members, within their limits.
pub(super) struct Writer<'o> {
    pub(super) out: &'o mut Vec<u8>,
    /// Whether a member stands before the next.
    pub(super) follows: bool,
}

impl Writer<'_> {
    fn name(&mut self, name: &str) {
        if self.follows {
            self.out.push(b',');
        }
        self.follows = true;
        self.out.push(b'"');
        self.out.extend_from_slice(name.as_bytes());
        self.out.extend_from_slice(b"\":");
    }

    fn value<T: Kind>(
        &mut self,
        name: &'static str,
        value: &T,
        limits: &Limits,
    ) -> Result<(), Unfit> {
        let datum = value.lend();
        datum.check(name, limits)?;
        match datum {
            Datum::Text(text) => write_text(self.out, &text),
            Datum::Bytes(bytes) => write_bytes(self.out, &bytes),
            Datum::List(list) => write_list(self.out, list.iter(), |out, bytes| {
                write_bytes(out, bytes);
            }),
            Datum::Numbers(numbers) => write_list(self.out, numbers.iter(), |out, number| {
                write_integer(out, u64::from(*number));
            }),
            Datum::Integer(integer) => write_integer(self.out, integer),
            Datum::Boolean(true) => self.out.extend_from_slice(b"true"),
            Datum::Boolean(false) => self.out.extend_from_slice(b"false"),
        }
        Ok(())
    }
}

impl Fields for Writer<'_> {
    type Error = Unfit;

    fn field<T: Kind>(
        &mut self,
        name: &'static str,
        value: &mut T,
        limits: &Limits,
    ) -> Result<(), Unfit> {
        self.name(name);
        self.value(name, value, limits)
    }

    fn overridden<T: Kind>(
        &mut self,
        name: &'static str,
        value: &mut Override<T>,
        limits: &Limits,
        needed: bool,
    ) -> Result<(), Unfit> {
        match value {
            Override::Keep if needed => Err(Unfit::Empty(name)),
            Override::Keep => Ok(()),
            Override::Replace(value) => {
                self.name(name);
                self.out.extend_from_slice(br#"{"override":true,"value":"#);
                self.value(name, value, limits)?;
                self.out.push(b'}');
                Ok(())
            }
        }
    }
}

pub(super) fn write_list<T>(
    out: &mut Vec<u8>,
    list: impl Iterator<Item = T>,
    write: impl Fn(&mut Vec<u8>, T),
) {
    out.push(b'[');
    for (at, member) in list.enumerate() {
        if at > 0 {
            out.push(b',');
        }
        write(out, member);
    }
    out.push(b']');
}

pub(super) fn write_integer(out: &mut Vec<u8>, mut number: u64) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

/// Base64, in quotes.
pub(super) fn write_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    out.push(b'"');
    let begin = out.len();
    out.resize(begin + bytes.len().div_ceil(3) * 4, 0);
    // There is room for exactly this.
    let written = STANDARD.encode_slice(bytes, &mut out[begin..]);
    out.truncate(begin + written.unwrap_or(0));
    out.push(b'"');
}

/// Text, in quotes.
pub(super) fn write_text(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    for &byte in text.as_bytes() {
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
            0..=31 => {
                let hex = |digit: u8| char::from_digit(digit.into(), 16).map_or(b'0', |c| c as u8);
                out.extend_from_slice(b"\\u00");
                out.extend_from_slice(&[hex(byte >> 4), hex(byte & 15)]);
            }
            _ => out.push(byte),
        }
    }
    out.push(b'"');
}
