//! Receiving: nothing of the state changes before a tag has verified.

use super::header::{Header, Kind};
use super::keys::{Chain, Key};
use super::{AHEAD, Error, HEADER, MAX_MESSAGE, Message, Unwrapped, behind, state};
use crate::crypto::{Expanded, Suite, TAG};
use crate::secret::{Depth, Slot, scrubbed};
use crate::status::Supplementary;

impl Message {
    /// Opens a wrap token where it lies (RFC 2743 2.3.4).
    ///
    /// Errors, which leave the state as it was: [`Error::Malformed`]; [`Error::Forged`];
    /// [`Error::Reflected`]; [`Error::ClosedByPeer`]. After an error the token's bytes are
    /// unspecified and are no message.
    pub fn unwrap<'a>(&mut self, token: &'a mut [u8]) -> Result<Unwrapped<'a>, Error> {
        let header = self.admit(token, Kind::Wrap)?;
        let end = token.len() - TAG;
        let (aad, in_out) = token.split_at_mut(if header.confidential { HEADER } else { end });
        let supplementary = self.verify(&header, aad, in_out)?;
        let message = &mut token[HEADER..end];
        Ok(Unwrapped {
            message,
            confidential: header.confidential,
            supplementary,
        })
    }

    /// Verifies a MIC token of `message` (RFC 2743 2.3.2). The supplementary status tells about the
    /// token's place, as in [`Unwrapped`].
    ///
    /// Errors: those of [`Message::unwrap`]; [`Error::TooLarge`] as in [`Message::get_mic`].
    pub fn verify_mic(&mut self, message: &[u8], mic: &[u8]) -> Result<Supplementary, Error> {
        let header = self.admit(mic, Kind::Mic)?;
        if message.len() > MAX_MESSAGE {
            return Err(Error::TooLarge);
        }
        let (head, tag) = mic.split_at(HEADER);
        let signed = behind(head, message)?;
        self.verify(&header, &signed, &mut tag_of(tag))
    }

    /// Takes the peer's close token (RFC 2743 2.2.4): from now on nothing is accepted from the peer.
    ///
    /// A gap in the supplementary status says that messages before it have not arrived. Errors:
    /// those of [`Message::unwrap`].
    pub fn process(&mut self, token: &[u8]) -> Result<Supplementary, Error> {
        let header = self.admit(token, Kind::Close)?;
        let (head, tag) = token.split_at(HEADER);
        let supplementary = self.verify(&header, head, &mut tag_of(tag))?;
        self.closed_by_peer = true;
        Ok(supplementary)
    }

    /// Every check of a received token that needs no key.
    #[inline]
    fn admit(&self, token: &[u8], kind: Kind) -> Result<Header, Error> {
        if !self.state.is_here() {
            return Err(Error::Forked);
        }
        let header = Header::parse(token, kind)?;
        if header.confidential && !self.services.confidentiality {
            return Err(Error::Malformed);
        }
        //= spec/messages.md#reflection
        if header.from_acceptor != self.initiator {
            return Err(Error::Reflected);
        }
        if self.closed_by_peer {
            return Err(Error::ClosedByPeer);
        }
        Ok(header)
    }

    /// Opens `in_out` under the key of the token's generation; then, and only then, the state
    /// learns of the token.
    //= spec/messages.md#forged
    #[inline]
    fn verify(
        &mut self,
        header: &Header,
        aad: &[u8],
        in_out: &mut [u8],
    ) -> Result<Supplementary, Error> {
        let (token, present) = (header.generation, self.state.rx.generation);
        //= spec/messages.md#ahead
        if token == present {
            let key = &self.state.rx.key;
            open(self.suite, key, &mut self.rx_key, header, aad, in_out)?;
        } else if token > present && token - present <= AHEAD {
            scrubbed(Depth::Derived, || {
                self.open_ahead(token - present, header, aad, in_out)
            })?;
        } else if present.checked_sub(token) == Some(1) {
            let (key, place) = self.previous.as_mut().ok_or(Error::Forged)?;
            open(self.suite, key, place, header, aad, in_out)?;
        } else {
            return Err(Error::Forged);
        }
        let state = &mut *self.state;
        let place = state.window.accept(header.sequence);
        //= spec/messages.md#supplementary
        let told = self.services.told(place);
        if self.previous.is_some()
            && !state::previous_is_kept(state.rx.generation, state.since, state.window.next())
        {
            self.previous = None;
        }
        Ok(told)
    }

    /// Opens a token of the generation `steps` past the present one, and makes that one present
    /// when it verifies. The keys it leaves on the stack are wiped by its caller.
    #[cold]
    fn open_ahead(
        &mut self,
        steps: u32,
        header: &Header,
        aad: &[u8],
        in_out: &mut [u8],
    ) -> Result<(), Error> {
        let suite = self.suite;
        let (secret, before) = self.state.rx.ahead(suite, steps);
        let next = Chain::at(suite, header.generation, &secret);
        let mut place = Expanded::default();
        open(suite, &next.key, &mut place, header, aad, in_out)?;
        //= spec/messages.md#commit
        let state = &mut *self.state;
        let last = core::mem::replace(&mut state.rx, next);
        state.since = header.sequence;
        let last_place = core::mem::replace(&mut self.rx_key, place);
        self.previous = Some(if steps == 1 {
            (Slot::new(last.key), last_place)
        } else {
            (
                Slot::new(Chain::key_of(suite, &before)),
                Expanded::default(),
            )
        });
        Ok(())
    }
}

#[inline]
fn open(
    suite: Suite,
    key: &Key,
    place: &mut Expanded,
    header: &Header,
    aad: &[u8],
    in_out: &mut [u8],
) -> Result<(), Error> {
    let key = key.expanded(suite, place).map_err(|_| Error::Forged)?;
    let opened = key.open(header.sequence, aad, in_out);
    opened.map(|_| ()).map_err(|_| Error::Forged)
}

/// A copy of a tag: opening wants to write where it reads.
fn tag_of(bytes: &[u8]) -> [u8; TAG] {
    let mut tag = [0; TAG];
    tag.copy_from_slice(bytes);
    tag
}
