//! The messages before the passage (`spec/succession.md#messages`), and the words on it.

use super::Error;
use crate::transfer;

/// Magic and version of the layout of messages.
const MAGIC: [u8; 4] = *b"BTS\x01";
/// The version of succession this program speaks.
pub(super) const VERSION: u8 = 1;

const HELLO: u8 = 1;
const OFFER: u8 = 2;
const READY: u8 = 3;
const REFUSAL: u8 = 4;

/// The most listening sockets of an offer.
pub const MAX_LISTENERS: usize = 64;
/// The most bytes of an offer's note.
pub const MAX_NOTE: usize = 4096;
/// The most bytes of a refusal.
pub(super) const MAX_REASON: usize = 256;
/// The longest message.
pub(super) const LONGEST: usize = 16 + MAX_NOTE;

/// Words on the passage.
//= spec/succession.md#accepting
pub(super) const ACCEPT: u8 = 1;
//= spec/succession.md#end
pub(super) const END: u8 = 2;
pub(super) const TAKEN: u8 = 3;

/// What a successor says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hello {
    pub(super) lowest: u8,
    pub(super) highest: u8,
    pub(super) token: u8,
    pub(super) descriptors: u64,
}

impl Hello {
    /// This program's.
    pub(super) fn own(descriptors: u64) -> Self {
        Self {
            lowest: VERSION,
            highest: VERSION,
            token: transfer::VERSION,
            descriptors,
        }
    }

    pub(super) fn write(self) -> Vec<u8> {
        let mut message = begin(HELLO);
        message.extend([self.lowest, self.highest, self.token]);
        message.extend(self.descriptors.to_be_bytes());
        message
    }

    /// The version to be spoken, for a predecessor of this program's version.
    //= spec/succession.md#messages
    pub(super) fn agree(self) -> Result<u8, Error> {
        let spoken = (self.lowest..=self.highest).contains(&VERSION);
        if spoken && self.token >= transfer::VERSION {
            Ok(VERSION)
        } else {
            Err(Error::Version)
        }
    }
}

/// What the successor answers before the passage.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Hello(Hello),
    Ready,
    Refusal(String),
}

impl Answer {
    //= spec/succession.md#messages
    pub(super) fn read(message: &[u8]) -> Result<Self, Error> {
        match body(message)? {
            (HELLO, [lowest, highest, token, descriptors @ ..]) => {
                let descriptors = descriptors.try_into().map_err(|_| Error::Defective)?;
                Ok(Self::Hello(Hello {
                    lowest: *lowest,
                    highest: *highest,
                    token: *token,
                    descriptors: u64::from_be_bytes(descriptors),
                }))
            }
            (READY, []) => Ok(Self::Ready),
            (REFUSAL, reason)
                if (1..=MAX_REASON).contains(&reason.len()) && reason.iter().all(is_printable) =>
            {
                let reason = reason.iter().copied().map(char::from).collect();
                Ok(Self::Refusal(reason))
            }
            _ => Err(Error::Defective),
        }
    }
}

pub(super) fn ready() -> Vec<u8> {
    begin(READY)
}

/// A refusal: what cannot be printed of the reason is a question mark.
pub(super) fn refusal(reason: &str) -> Vec<u8> {
    let mut message = begin(REFUSAL);
    let shown = |byte: u8| if is_printable(&byte) { byte } else { b'?' };
    message.extend(reason.bytes().take(MAX_REASON).map(shown));
    if reason.is_empty() {
        message.push(b'?');
    }
    message
}

/// An offer as it is written; none when note or listeners are too many.
pub(super) fn offer(version: u8, listeners: usize, note: &[u8]) -> Option<Vec<u8>> {
    let count = u8::try_from(listeners).ok()?;
    let length = u16::try_from(note.len()).ok()?;
    if listeners > MAX_LISTENERS || note.len() > MAX_NOTE {
        return None;
    }
    let mut message = begin(OFFER);
    message.extend([version, count]);
    message.extend(length.to_be_bytes());
    message.extend_from_slice(note);
    Some(message)
}

/// The number of listening sockets of an offer, and its note.
//= spec/succession.md#messages
pub(super) fn read_offer(message: &[u8]) -> Result<(usize, &[u8]), Error> {
    let (OFFER, [version, count, high, low, note @ ..]) = body(message)? else {
        return Err(Error::Defective);
    };
    if *version != VERSION {
        return Err(Error::Version);
    }
    let count = usize::from(*count);
    let length = usize::from(u16::from_be_bytes([*high, *low]));
    if count > MAX_LISTENERS || note.len() != length || length > MAX_NOTE {
        return Err(Error::Defective);
    }
    Ok((count, note))
}

fn begin(kind: u8) -> Vec<u8> {
    let mut message = MAGIC.to_vec();
    message.push(kind);
    message
}

fn body(message: &[u8]) -> Result<(u8, &[u8]), Error> {
    match message.strip_prefix(&MAGIC) {
        Some([kind, rest @ ..]) => Ok((*kind, rest)),
        _ => Err(Error::Defective),
    }
}

fn is_printable(byte: &u8) -> bool {
    (b' '..=b'~').contains(byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    //= proves spec/succession.md#messages
    #[test]
    fn a_message_reads_as_it_was_written_and_no_other_does() {
        let hello = Hello::own(20_000);
        assert_eq!(Answer::read(&hello.write()).unwrap(), Answer::Hello(hello));
        assert_eq!(Answer::read(&ready()).unwrap(), Answer::Ready);
        let reason = "no port\n\u{e9}";
        let shown = "no port???".to_owned();
        assert_eq!(
            Answer::read(&refusal(reason)).unwrap(),
            Answer::Refusal(shown)
        );
        assert!(Answer::read(&refusal("")).is_ok());
        let long = "x".repeat(1000);
        assert_eq!(
            Answer::read(&refusal(&long)).unwrap(),
            Answer::Refusal("x".repeat(MAX_REASON))
        );
        let offered = offer(VERSION, 3, b"note").unwrap();
        assert_eq!(read_offer(&offered).unwrap(), (3, &b"note"[..]));
        assert!(offer(VERSION, MAX_LISTENERS + 1, b"").is_none());
        assert!(offer(VERSION, 0, &[0; MAX_NOTE + 1]).is_none());
        assert!(offer(VERSION, MAX_LISTENERS, &[0; MAX_NOTE]).unwrap().len() <= LONGEST);
        for message in [hello.write(), ready(), offered, refusal("x")] {
            for cut in 0..message.len() {
                assert!(Answer::read(&message[..cut]).is_err());
                assert!(read_offer(&message[..cut]).is_err());
            }
            let longer = [&message[..], b"\0"].concat();
            assert!(Answer::read(&longer).is_err());
            assert!(read_offer(&longer).is_err());
        }
        let unprintable = [&MAGIC[..], &[REFUSAL, 27]].concat();
        assert!(matches!(Answer::read(&unprintable), Err(Error::Defective)));
        let long = [&MAGIC[..], &[REFUSAL], &[b'x'; MAX_REASON + 1]].concat();
        assert!(matches!(Answer::read(&long), Err(Error::Defective)));
    }

    //= proves spec/succession.md#messages
    #[test]
    fn what_is_not_spoken_is_not_agreed() {
        let own = Hello::own(1);
        let later = Hello { highest: 9, ..own };
        assert_eq!(later.agree().unwrap(), VERSION);
        for other in [
            Hello {
                lowest: 2,
                highest: 9,
                ..own
            },
            Hello {
                lowest: 0,
                highest: 0,
                ..own
            },
            Hello { token: 0, ..own },
        ] {
            assert!(matches!(other.agree(), Err(Error::Version)));
        }
        let mut newer = offer(VERSION, 0, b"").unwrap();
        newer[5] = VERSION + 1;
        assert!(matches!(read_offer(&newer), Err(Error::Version)));
    }
}
