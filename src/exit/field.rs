//! Fields of questions and outputs: their kinds, their limits, and one description of each that
//! writing, reading and checking share.

use std::borrow::Cow;

use super::{Unfit, check_text};

/// A field of an output, and whether it replaces the profile's value.
///
/// ```
/// use baton::exit::Override;
/// assert_eq!(Override::Keep.or(1), 1);
/// assert_eq!(Override::Replace(2).or(1), 2);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Override<T> {
    /// The profile's value stays.
    #[default]
    Keep,
    /// This value is used.
    Replace(T),
}

impl<T> Override<T> {
    /// The value to use, given the profile's.
    //= spec/exits.md#override
    pub fn or(self, profile: T) -> T {
        match self {
            Self::Keep => profile,
            Self::Replace(value) => value,
        }
    }

    /// The value that replaces, where one does.
    pub fn replaced(&self) -> Option<&T> {
        match self {
            Self::Keep => None,
            Self::Replace(value) => Some(value),
        }
    }
}

/// What kind of value a field has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Text without control characters.
    Text,
    /// Bytes.
    Bytes,
    /// A list of bytes.
    List,
    /// A list of numbers of 16 bits.
    Numbers,
    /// An integer.
    Integer,
    /// Yes or no.
    Boolean,
}

/// The value of a field: lent when it is written, owned when it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Datum<'a> {
    /// Text without control characters.
    Text(Cow<'a, str>),
    /// Bytes.
    Bytes(Cow<'a, [u8]>),
    /// A list of bytes.
    List(Cow<'a, [Vec<u8>]>),
    /// A list of numbers of 16 bits.
    Numbers(Cow<'a, [u16]>),
    /// An integer.
    Integer(u64),
    /// Yes or no.
    Boolean(bool),
}

/// What a value may be.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of a text, of bytes, of each member of a list; or an integer's bounds.
    pub each: (u64, u64),
    /// Members of a list.
    pub count: (usize, usize),
    /// Bytes of a list's members together.
    pub total: usize,
}

/// The largest integer that every JSON reader takes as it is.
pub const LARGEST: u64 = (1 << 53) - 1;

impl Limits {
    /// Text, bytes or an integer, from `least` to `most`.
    pub const fn new(least: u64, most: u64) -> Self {
        Self {
            each: (least, most),
            count: (0, 0),
            total: 0,
        }
    }

    /// A list of `least` to `most` members of so many bytes each, `total` together.
    pub const fn list(least: usize, most: usize, each: (u64, u64), total: usize) -> Self {
        Self {
            each,
            count: (least, most),
            total,
        }
    }
}

impl Datum<'_> {
    /// Refuses a value out of its limits.
    pub fn check(&self, field: &'static str, limits: &Limits) -> Result<(), Unfit> {
        let (least, most) = limits.each;
        let most_bytes = usize::try_from(most).unwrap_or(usize::MAX);
        let length = |length: usize| match length as u64 {
            length if length > most => Err(Unfit::TooLong(field, most_bytes)),
            length if length < least => Err(Unfit::Empty(field)),
            _ => Ok(()),
        };
        let count = |count: usize| match count {
            count if count > limits.count.1 => Err(Unfit::TooMany(field, limits.count.1)),
            count if count < limits.count.0 => Err(Unfit::Empty(field)),
            _ => Ok(()),
        };
        match self {
            Self::Text(text) if text.is_empty() => length(0),
            Self::Text(text) => check_text(field, text, most_bytes),
            Self::Bytes(bytes) => length(bytes.len()),
            Self::List(list) => {
                count(list.len())?;
                list.iter().try_for_each(|bytes| length(bytes.len()))?;
                match list.iter().map(Vec::len).sum::<usize>() {
                    total if total > limits.total => Err(Unfit::TooLong(field, limits.total)),
                    _ => Ok(()),
                }
            }
            Self::Numbers(numbers) => count(numbers.len()),
            Self::Integer(integer) if (least..=most).contains(integer) => Ok(()),
            Self::Integer(_) => Err(Unfit::Impossible(field)),
            Self::Boolean(_) => Ok(()),
        }
    }
}

/// A type that fields have.
pub trait Kind: Sized {
    /// What kind of value it is.
    const SHAPE: Shape;
    /// Lends the value.
    fn lend(&self) -> Datum<'_>;
    /// Takes a value of [`Kind::SHAPE`]; none when it is not one of this type's.
    fn take(datum: Datum<'_>) -> Option<Self>;
}

macro_rules! kind {
    ($type:ty, $shape:ident, $value:ident, $lend:expr, $take:expr) => {
        impl Kind for $type {
            const SHAPE: Shape = Shape::$shape;

            fn lend(&self) -> Datum<'_> {
                let $value = self;
                Datum::$shape($lend)
            }

            fn take(datum: Datum<'_>) -> Option<Self> {
                match datum {
                    Datum::$shape($value) => $take,
                    _ => None,
                }
            }
        }
    };
}

kind!(
    String,
    Text,
    text,
    Cow::Borrowed(text),
    Some(text.into_owned())
);
kind!(
    Vec<u8>,
    Bytes,
    bytes,
    Cow::Borrowed(bytes),
    Some(bytes.into_owned())
);
kind!(
    Vec<Vec<u8>>,
    List,
    list,
    Cow::Borrowed(list),
    Some(list.into_owned())
);
kind!(
    Vec<u16>,
    Numbers,
    numbers,
    Cow::Borrowed(numbers),
    Some(numbers.into_owned())
);
kind!(u64, Integer, integer, *integer, Some(integer));
kind!(
    u16,
    Integer,
    integer,
    (*integer).into(),
    integer.try_into().ok()
);
kind!(bool, Boolean, yes, *yes, Some(yes));

/// Goes through the fields of a value: writes them, reads them, checks them.
pub trait Fields {
    /// Why it stops.
    type Error;

    /// A field that is always there.
    fn field<T: Kind>(
        &mut self,
        name: &'static str,
        value: &mut T,
        limits: &Limits,
    ) -> Result<(), Self::Error>;

    /// A field that may be absent.
    fn optional<T: Kind>(
        &mut self,
        name: &'static str,
        value: &mut Option<T>,
        limits: &Limits,
    ) -> Result<(), Self::Error> {
        value
            .as_mut()
            .map_or(Ok(()), |value| self.field(name, value, limits))
    }

    /// A field of an output. One that is `needed` is refused where it is not overridden.
    fn overridden<T: Kind>(
        &mut self,
        name: &'static str,
        value: &mut Override<T>,
        limits: &Limits,
        needed: bool,
    ) -> Result<(), Self::Error>;
}

/// A value made of fields.
pub trait Described {
    /// Goes through all fields, in order.
    fn describe<F: Fields>(&mut self, fields: &mut F) -> Result<(), F::Error>;

    /// Refuses a value one of whose fields is out of its limits.
    fn check(&mut self) -> Result<(), Unfit> {
        self.describe(&mut Check)
    }
}

struct Check;

impl Fields for Check {
    type Error = Unfit;

    fn field<T: Kind>(
        &mut self,
        name: &'static str,
        value: &mut T,
        limits: &Limits,
    ) -> Result<(), Unfit> {
        value.lend().check(name, limits)
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
            Override::Replace(value) => value.lend().check(name, limits),
        }
    }
}
