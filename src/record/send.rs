//! What a [`Record`] sends.

use std::io::IoSlice;

use super::protocol::Gather;
use super::wire::{Alert, MAX_CONTENT};
use super::{Error, Record};

/// Most bytes of content that [`Record::write`] seals at once.
const BATCH: usize = 3 * MAX_CONTENT;

impl Record {
    /// Seals all of `data` at the end of `out`, behind everything that waits to be sent: after
    /// the call [`Record::output`] is empty. Empty data only fetches the output.
    ///
    /// [`Error::ClosedHere`] after [`Record::close_notify`].
    pub fn seal(&mut self, data: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
        self.may_send()?;
        //= spec/records.md#order
        out.extend_from_slice(&self.output[self.sent..]);
        self.sent(usize::MAX);
        let sealed = self
            .protocol
            .data(&mut Gather::new(&[IoSlice::new(data)]), usize::MAX, out);
        sealed.map(drop).map_err(|error| self.fail(error))
    }

    /// Bytes of the record that [`Record::seal_in_place`] makes of so much content.
    pub fn record_len(&self, content: usize) -> usize {
        self.protocol.record_len(content)
    }

    /// Seals one record where it lies: `content` bytes (at most [`MAX_CONTENT`], or the limits' fragment) that stand in
    /// `buffer` behind [`HEADER`](super::HEADER) bytes of room. Answers the record's length, which is
    /// [`Record::record_len`] of `content`.
    ///
    /// [`Error::OutputFirst`] when something must be sent before it, and the output holds it now:
    /// fetch it, then call again. [`Error::Buffer`] when `buffer` is too short or the content too
    /// long. [`Error::ClosedHere`] after [`Record::close_notify`]. None of these touches `buffer`.
    #[inline]
    pub fn seal_in_place(&mut self, buffer: &mut [u8], content: usize) -> Result<usize, Error> {
        self.may_send()?;
        if self.protocol.key_is_due() {
            self.due().map_err(|error| self.fail(error))?;
        }
        //= spec/records.md#order
        if self.sent < self.output.len() {
            return Err(Error::OutputFirst);
        }
        self.protocol
            .data_in_place(buffer, content)
            .map_err(|error| self.fail(error))
    }

    /// Seals `data` into the output; answers how much was taken: all of it up to three records,
    /// nothing while three records or more are unsent.
    ///
    /// [`Error::ClosedHere`] after [`Record::close_notify`].
    pub fn write(&mut self, data: &[u8]) -> Result<usize, Error> {
        self.write_vectored(&[IoSlice::new(data)])
    }

    /// As [`Record::write`]; the buffers are sealed as if they were one.
    pub fn write_vectored(&mut self, data: &[IoSlice<'_>]) -> Result<usize, Error> {
        self.may_send()?;
        if self.output.len() - self.sent >= BATCH {
            return Ok(0);
        }
        let sealed = self
            .protocol
            .data(&mut Gather::new(data), BATCH, &mut self.output);
        sealed.map_err(|error| self.fail(error))
    }

    /// What is to be sent: sealed data, answers the peer is owed, alerts. Say what left with
    /// [`Record::sent`].
    pub fn output(&mut self) -> &[u8] {
        if self.check() == Err(Error::Forked) {
            // What was sealed before the fork is the original's to send.
            return &[];
        }
        // A peer that asks again and again and reads nothing is answered once there is room.
        //= spec/records.md#buffers
        if self.output.len() - self.sent < BATCH {
            self.settle();
        }
        &self.output[self.sent..]
    }

    /// The first `bytes` of the output have left.
    pub fn sent(&mut self, bytes: usize) {
        self.sent = self.sent.saturating_add(bytes);
        if self.sent >= self.output.len() {
            self.output.clear();
            self.sent = 0;
        }
    }

    /// Takes the output, as if all of it had left.
    pub fn take_output(&mut self) -> Vec<u8> {
        if self.output().is_empty() {
            return Vec::new();
        }
        // All of it leaves now, so there is room for what is owed.
        self.settle();
        self.output.drain(..self.sent);
        self.sent = 0;
        core::mem::take(&mut self.output)
    }

    /// Seals what the peer is owed.
    //= spec/records.md#order
    fn settle(&mut self) {
        if self.may_send().is_ok()
            && let Err(error) = self.protocol.settle(&mut self.output)
        {
            self.fail(error);
        }
    }

    /// Moves this side to its next key, and asks the peer to move too when `request_peer`. What
    /// tells the peer is in the output.
    ///
    /// [`Error::ClosedHere`] after [`Record::close_notify`].
    pub fn key_update(&mut self, request_peer: bool) -> Result<(), Error> {
        self.may_send()?;
        let answered = core::mem::take(&mut self.protocol.owes_reply);
        let mut sealed = Ok(());
        if answered || !request_peer {
            sealed = self.protocol.key_update(false, &mut self.output);
        }
        if request_peer && sealed.is_ok() {
            sealed = self.protocol.key_update(true, &mut self.output);
        }
        sealed.map_err(|error| self.fail(error))
    }

    /// Closes this side's direction: the alert is in the output. The peer's stays open. Nothing
    /// happens when it was closed, or the session has failed.
    //= spec/records.md#half-close
    pub fn close_notify(&mut self) {
        if self.may_send().is_err() {
            return;
        }
        match self.protocol.alert(Alert::CLOSE_NOTIFY, &mut self.output) {
            Ok(()) => {
                self.protocol.tx_closed = true;
                self.protocol.owes_reply = false;
                self.protocol.owes_request = false;
            }
            Err(error) => drop(self.fail(error)),
        }
    }

    /// Ends the session with a fatal alert, which is in the output. Nothing happens when it has
    /// failed before.
    pub fn abort(&mut self, alert: Alert) {
        if self.check().is_ok() {
            self.fail(Error::Aborted(alert));
        }
    }

    #[inline]
    fn may_send(&self) -> Result<(), Error> {
        self.check()?;
        if self.protocol.tx_closed {
            return Err(Error::ClosedHere);
        }
        Ok(())
    }

    /// Seals what a record of data must wait for into the output.
    fn due(&mut self) -> Result<(), Error> {
        self.protocol.settle(&mut self.output)?;
        //= spec/records.md#key-limit-out
        if self.protocol.tx_sequence >= u64::from(self.protocol.limits.records) {
            self.protocol.key_update(false, &mut self.output)?;
        }
        Ok(())
    }
}
