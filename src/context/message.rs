//! Per-message services of a message-framing context (RFC 2743 2.3).

use crate::message::{CLOSE, MIC, Message, Unwrapped};
use crate::status::{Minor, Status, Supplementary};

use super::Context;

/// The one quality of protection there is (`GSS_C_QOP_DEFAULT`).
pub const QOP_DEFAULT: u32 = 0;

impl Context<Message> {
    /// Protects `message` in a new token, [`OVERHEAD`](crate::message::OVERHEAD) bytes longer (RFC 2743 2.3.3).
    ///
    /// # Errors
    /// NO_CONTEXT, CONTEXT_EXPIRED (also when all sequence numbers are used), FAILURE when the
    /// message is too large, UNAVAILABLE when confidentiality was not granted.
    pub fn wrap(&mut self, confidential: bool, message: &[u8]) -> Result<Vec<u8>, Status> {
        self.ready()?;
        Ok(self.protection.wrap(confidential, message)?)
    }

    /// [`Context::wrap`] without a copy: `buffer` is [`HEADER`](crate::message::HEADER) bytes of room, the message, and a
    /// tag's room, and becomes the token.
    ///
    /// # Errors
    /// As [`Context::wrap`]; on an error the buffer's content is not to be sent.
    pub fn wrap_in_place(&mut self, confidential: bool, buffer: &mut [u8]) -> Result<(), Status> {
        self.ready()?;
        Ok(self.protection.wrap_in_place(confidential, buffer)?)
    }

    /// Opens a token where it lies (RFC 2743 2.3.4). Replays and gaps are told by the
    /// supplementary status, if the context's flags ask for it: the message is authentic then too,
    /// and whether to act on it is the caller's to decide.
    ///
    /// # Errors
    /// NO_CONTEXT, CONTEXT_EXPIRED, DEFECTIVE_TOKEN, BAD_MIC. A forged token changes nothing.
    pub fn unwrap<'a>(&mut self, token: &'a mut [u8]) -> Result<Unwrapped<'a>, Status> {
        self.ready()?;
        Ok(self.protection.unwrap(token)?)
    }

    /// A MIC over `message`, [`MIC`] bytes (RFC 2743 2.3.1).
    ///
    /// # Errors
    /// As [`Context::wrap`].
    pub fn get_mic(&mut self, message: &[u8]) -> Result<[u8; MIC], Status> {
        self.ready()?;
        Ok(self.protection.get_mic(message)?)
    }

    /// Checks a MIC (RFC 2743 2.3.2).
    ///
    /// # Errors
    /// As [`Context::unwrap`].
    pub fn verify_mic(&mut self, message: &[u8], mic: &[u8]) -> Result<Supplementary, Status> {
        self.ready()?;
        Ok(self.protection.verify_mic(message, mic)?)
    }

    /// The longest message whose token is at most `max_token` bytes long (RFC 2743 2.2.7).
    ///
    /// # Errors
    /// NO_CONTEXT, CONTEXT_EXPIRED; BAD_QOP when `qop` is not [`QOP_DEFAULT`].
    pub fn wrap_size_limit(
        &self,
        confidential: bool,
        qop: u32,
        max_token: usize,
    ) -> Result<usize, Status> {
        self.ready()?;
        if qop != QOP_DEFAULT {
            return Err(Minor::QopUnknown.into());
        }
        Ok(Message::wrap_size_limit(confidential, max_token))
    }

    /// Closes this side's direction and answers the token that tells the peer, to be handed to
    /// its [`Context::process_context_token`]. Receiving goes on; drop the context to end it.
    ///
    /// # Errors
    /// NO_CONTEXT, CONTEXT_EXPIRED.
    pub fn close(&mut self) -> Result<[u8; CLOSE], Status> {
        self.ready()?;
        Ok(self.protection.close()?)
    }

    /// Ends the context and answers the token that tells the peer (RFC 2743 2.2.3).
    ///
    /// # Errors
    /// NO_CONTEXT, CONTEXT_EXPIRED; the context is gone all the same.
    pub fn delete(mut self) -> Result<[u8; CLOSE], Status> {
        self.close()
    }

    /// Takes the token of the peer's [`Context::close`] (RFC 2743 2.2.4): nothing is accepted from
    /// the peer from then on. A gap in the supplementary status tells that messages are missing.
    ///
    /// # Errors
    /// As [`Context::unwrap`].
    pub fn process_context_token(&mut self, token: &[u8]) -> Result<Supplementary, Status> {
        self.ready()?;
        Ok(self.protection.process(token)?)
    }

    /// Whether the peer has closed its direction.
    pub fn is_closed_by_peer(&self) -> bool {
        self.protection.is_closed_by_peer()
    }
}
