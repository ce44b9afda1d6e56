//! DER, as much of it as OCSP needs: strict, in place, without recursion.
//!
//! Invariant: what is read was written in the one form DER has for it; what is left over is a defect.

/// Values one after the other.
#[derive(Clone, Copy)]
pub(super) struct Reader<'a>(&'a [u8]);

pub(super) const BOOLEAN: u8 = 0x01;
pub(super) const INTEGER: u8 = 0x02;
pub(super) const BIT_STRING: u8 = 0x03;
pub(super) const OCTET_STRING: u8 = 0x04;
pub(super) const NULL: u8 = 0x05;
pub(super) const OBJECT_IDENTIFIER: u8 = 0x06;
pub(super) const ENUMERATED: u8 = 0x0a;
pub(super) const GENERALIZED_TIME: u8 = 0x18;
pub(super) const SEQUENCE: u8 = 0x30;

/// The tag of `[number]` around a value.
pub(super) const fn around(number: u8) -> u8 {
    0xa0 | number
}

impl<'a> Reader<'a> {
    pub(super) const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// That nothing is left.
    pub(super) fn end(self) -> Option<()> {
        self.0.is_empty().then_some(())
    }

    /// The next value's tag, if there is one.
    pub(super) fn tag(&self) -> Option<u8> {
        self.0.first().copied()
    }

    /// The next value: its content, and all of it.
    pub(super) fn whole(&mut self, tag: u8) -> Option<(&'a [u8], &'a [u8])> {
        let (&found, rest) = self.0.split_first()?;
        if found != tag {
            return None;
        }
        let (&first, rest) = rest.split_first()?;
        let (length, header) = match first {
            0..=0x7f => (usize::from(first), 2),
            0x81 => match rest.first() {
                Some(&length @ 0x80..) => (usize::from(length), 3),
                _ => return None,
            },
            0x82 => match rest.first_chunk() {
                Some(&length) if length[0] > 0 => (usize::from(u16::from_be_bytes(length)), 4),
                _ => return None,
            },
            // Nothing here is so long.
            _ => return None,
        };
        let (value, rest) = self.0.split_at_checked(header + length)?;
        self.0 = rest;
        Some((value.get(header..)?, value))
    }

    /// The content of the next value.
    pub(super) fn value(&mut self, tag: u8) -> Option<&'a [u8]> {
        Some(self.whole(tag)?.0)
    }

    /// What is in the next value.
    pub(super) fn within(&mut self, tag: u8) -> Option<Self> {
        self.value(tag).map(Self)
    }

    /// What is in the next value, if it has this tag.
    #[allow(
        clippy::option_option,
        reason = "not there, and a defect, are two things"
    )]
    pub(super) fn maybe(&mut self, tag: u8) -> Option<Option<Self>> {
        match self.tag() {
            Some(found) if found == tag => self.within(tag).map(Some),
            _ => Some(None),
        }
    }

    /// The one value in a value around it.
    pub(super) fn alone(&mut self, outer: u8, inner: u8) -> Option<&'a [u8]> {
        let mut within = self.within(outer)?;
        let value = within.value(inner)?;
        within.end()?;
        Some(value)
    }
}

/// A value of this tag and content.
pub(super) fn write(tag: u8, pieces: &[&[u8]]) -> Vec<u8> {
    let content = pieces.concat();
    let mut out = vec![tag];
    match content.len() {
        short @ 0..=0x7f => out.push(short as u8),
        middle @ 0x80..=0xff => out.extend([0x81, middle as u8]),
        long => {
            out.push(0x82);
            out.extend((long as u16).to_be_bytes());
        }
    }
    out.extend(content);
    out
}

/// Seconds since 1970 of `YYYYMMDDHHMMSSZ`, of the years from 1970 on.
pub(super) fn seconds(time: &[u8]) -> Option<u64> {
    let (digits, [b'Z']) = time.split_at_checked(14)? else {
        return None;
    };
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = |from: usize, to: usize| {
        let digits = digits.get(from..to).unwrap_or_default();
        digits
            .iter()
            .fold(0, |n, digit| n * 10 + u64::from(digit - b'0'))
    };
    let (year, month, day) = (number(0, 4), number(4, 6), number(6, 8));
    let (hour, minute, second) = (number(8, 10), number(10, 12), number(12, 14));
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days = match month {
        2 if leap => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return None,
    };
    let within =
        year >= 1970 && (1..=days).contains(&day) && hour < 24 && minute < 60 && second < 60;
    if !within {
        return None;
    }
    // Years that begin in March, so that the day that is not always there is the last one.
    let (year, month) = match month {
        1 | 2 => (year - 1, month + 9),
        _ => (year, month - 3),
    };
    let day_of_year = (153 * month + 2) / 5 + day - 1;
    let day = 365 * year + year / 4 - year / 100 + year / 400 + day_of_year - 719_468;
    Some(((day * 24 + hour) * 60 + minute) * 60 + second)
}
