//! Sending: what spends sequence numbers.

use super::header::{Header, Kind};
use super::keys::Chain;
use super::{
    BYTES_PER_KEY, CLOSE, Error, HEADER, MAX_MESSAGE, MESSAGES_PER_KEY, MIC, Message, OVERHEAD,
    behind,
};
use crate::crypto::{Suite, TAG};
use crate::secret::{Depth, scrubbed};

/// What is sent under the present key, and what was.
pub(super) struct Sending {
    pub(super) chain: Chain,
    /// The next number; 2^64 - 1 is never used.
    pub(super) sequence: u64,
    /// Tokens under the present key.
    pub(super) messages: u32,
    /// Bytes under the present key.
    pub(super) bytes: u64,
}

impl Message {
    /// Makes a wrap token of `message` (at most [`MAX_MESSAGE`] bytes; RFC 2743 2.3.3).
    ///
    /// Errors: those of [`Message::wrap_in_place`].
    pub fn wrap(&mut self, confidential: bool, message: &[u8]) -> Result<Vec<u8>, Error> {
        if message.len() > MAX_MESSAGE {
            return Err(Error::TooLarge);
        }
        let mut token = Vec::with_capacity(message.len() + OVERHEAD);
        token.extend_from_slice(&[0; HEADER]);
        token.extend_from_slice(message);
        token.extend_from_slice(&[0; TAG]);
        self.wrap_in_place(confidential, &mut token)?;
        Ok(token)
    }

    /// Makes a wrap token of the message that lies in `buffer` behind [`HEADER`] bytes and before
    /// 16 bytes, whose contents do not matter; nothing is copied. The whole buffer is the token.
    ///
    /// Errors, which leave buffer and state as they were: [`Error::BufferTooShort`] under
    /// [`OVERHEAD`] bytes; [`Error::TooLarge`]; [`Error::NotConfidential`] when encryption was not
    /// granted (it is never left out silently); [`Error::ClosedHere`]; [`Error::UsedUp`].
    pub fn wrap_in_place(&mut self, confidential: bool, buffer: &mut [u8]) -> Result<(), Error> {
        let Some((signed, tag)) = buffer.split_last_chunk_mut::<TAG>() else {
            return Err(Error::BufferTooShort);
        };
        let Some(len) = signed.len().checked_sub(HEADER) else {
            return Err(Error::BufferTooShort);
        };
        let header = self.number(Kind::Wrap, confidential, len)?;
        let (head, message) = signed.split_at_mut(HEADER);
        head.copy_from_slice(&header.encode());
        *tag = if confidential {
            //= spec/messages.md#wrap
            self.seal(&header, head, message)?
        } else {
            //= spec/messages.md#integrity
            self.seal(&header, signed, &mut [])?
        };
        Ok(())
    }

    /// Makes the MIC token of `message` (at most [`MAX_MESSAGE`] bytes; RFC 2743 2.3.1).
    ///
    /// The message is copied once, behind the header. Errors: as of [`Message::wrap_in_place`];
    /// [`Error::TooLarge`] also when there is no memory for the copy.
    pub fn get_mic(&mut self, message: &[u8]) -> Result<[u8; MIC], Error> {
        if message.len() > MAX_MESSAGE {
            return Err(Error::TooLarge);
        }
        // Memory first: a sequence number that is taken must be sent.
        let mut signed = behind(&[0; HEADER], message)?;
        //= spec/messages.md#mic
        let header = self.number(Kind::Mic, false, message.len())?;
        signed[..HEADER].copy_from_slice(&header.encode());
        let tag = self.seal(&header, &signed, &mut [])?;
        Ok(join(header.encode(), tag))
    }

    /// Makes the close token: nothing can be sent after it. Receiving goes on until the peer closes.
    ///
    /// Errors: [`Error::ClosedHere`] the second time; [`Error::UsedUp`].
    pub fn close(&mut self) -> Result<[u8; CLOSE], Error> {
        //= spec/messages.md#close
        let header = self.number(Kind::Close, false, 0)?;
        let tag = self.seal(&header, &header.encode(), &mut [])?;
        self.closed_here = true;
        Ok(join(header.encode(), tag))
    }

    /// Takes the next sequence number for a token of `len` message bytes, after every check; moves
    /// to the next generation when it is time.
    #[inline]
    fn number(&mut self, kind: Kind, confidential: bool, len: usize) -> Result<Header, Error> {
        if !self.state.is_here() {
            return Err(Error::Forked);
        }
        //= spec/messages.md#closed
        if self.closed_here {
            return Err(Error::ClosedHere);
        }
        if len > MAX_MESSAGE {
            return Err(Error::TooLarge);
        }
        if confidential && !self.services.confidentiality {
            return Err(Error::NotConfidential);
        }
        let state = &mut *self.state;
        //= spec/messages.md#sequence
        if state.tx.sequence == u64::MAX {
            return Err(Error::UsedUp);
        }
        let bytes = (HEADER + len) as u64;
        //= spec/messages.md#move
        if state.tx.messages >= MESSAGES_PER_KEY || state.tx.bytes + bytes > BYTES_PER_KEY {
            scrubbed(Depth::Derived, || state.tx.move_on(self.suite))?;
            self.tx_key.forget();
        }
        let header = Header {
            kind,
            confidential,
            from_acceptor: !self.initiator,
            generation: state.tx.chain.generation,
            sequence: state.tx.sequence,
        };
        state.tx.sequence += 1;
        state.tx.messages += 1;
        state.tx.bytes += bytes;
        Ok(header)
    }

    #[inline]
    fn seal(&mut self, header: &Header, aad: &[u8], in_out: &mut [u8]) -> Result<[u8; TAG], Error> {
        let key = &self.state.tx.chain.key;
        let key = key
            .expanded(self.suite, &mut self.tx_key)
            .map_err(|_| Error::TooLarge)?;
        key.seal(header.sequence, aad, in_out)
            .map_err(|_| Error::TooLarge)
    }
}

impl Sending {
    /// Not inlined: the keys it leaves on the stack are wiped by its caller.
    #[cold]
    #[inline(never)]
    fn move_on(&mut self, suite: Suite) -> Result<(), Error> {
        //= spec/messages.md#last-generation
        let generation = self.chain.generation.checked_add(1).ok_or(Error::UsedUp)?;
        let (secret, _) = self.chain.ahead(suite, 1);
        self.chain = Chain::at(suite, generation, &secret);
        self.messages = 0;
        self.bytes = 0;
        Ok(())
    }
}

fn join(header: [u8; HEADER], tag: [u8; TAG]) -> [u8; OVERHEAD] {
    let mut token = [0; OVERHEAD];
    token[..HEADER].copy_from_slice(&header);
    token[HEADER..].copy_from_slice(&tag);
    token
}
