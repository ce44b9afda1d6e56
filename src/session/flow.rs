//! The plaintext of a session between its connection and its job: two bounded buffers.

/// Bytes a buffer holds at most.
pub const CAPACITY: usize = 64 * 1024;
/// Bytes it takes memory for at first. Most sessions need no more, and for a short one each page
/// it touches is a part of its cost.
const FIRST: usize = 1024;

/// A bounded queue of bytes: filled at its end, taken from its front. Memory is taken as it is
/// needed.
#[derive(Default)]
pub struct Buffer {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

impl Buffer {
    /// What is in it, oldest first.
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    /// Bytes in it.
    pub fn len(&self) -> usize {
        self.end - self.start
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Bytes it still takes.
    pub fn room(&self) -> usize {
        CAPACITY - self.len()
    }

    /// Removes the `count` oldest bytes; all, when there are fewer.
    pub fn consume(&mut self, count: usize) {
        self.start = self.end.min(self.start.saturating_add(count));
        if self.start == self.end {
            self.clear();
        }
    }

    /// Removes everything.
    pub fn clear(&mut self) {
        (self.start, self.end) = (0, 0);
    }

    /// A free part, to be written to; [`Buffer::filled`] says how much was. Empty only when there
    /// is no room.
    pub fn spare(&mut self) -> &mut [u8] {
        self.free(1)
    }

    /// The free part, of at least `wanted` bytes where there is room for so many.
    fn free(&mut self, wanted: usize) -> &mut [u8] {
        if self.start > 0 {
            self.bytes.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        while self.bytes.len() < CAPACITY && self.bytes.len() < self.end + wanted {
            let grown = (self.bytes.len() * 4).clamp(FIRST, CAPACITY);
            self.bytes.resize(grown, 0);
        }
        &mut self.bytes[self.end..]
    }

    /// The first `count` bytes of the free part have been written.
    pub fn filled(&mut self, count: usize) {
        self.end = self.bytes.len().min(self.end.saturating_add(count));
    }

    /// Appends as much of `bytes` as there is room for, and answers how much that was.
    pub fn push(&mut self, bytes: &[u8]) -> usize {
        let spare = self.free(bytes.len());
        let count = bytes.len().min(spare.len());
        spare[..count].copy_from_slice(&bytes[..count]);
        self.filled(count);
        count
    }
}

/// Both directions, as a job sees them.
#[derive(Default)]
pub struct Flow {
    /// What the peer sent and the job has not yet taken.
    pub inbox: Buffer,
    /// What the job gave and the peer has not yet been sent.
    pub outbox: Buffer,
    /// The peer has said that nothing follows what is in the inbox.
    pub peer_ended: bool,
    /// The job has said that nothing follows what is in the outbox.
    pub job_ended: bool,
    /// How many further processes the connection is still to be moved through.
    pub hops_left: u32,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn a_buffer_is_a_queue(steps in proptest::collection::vec((any::<bool>(), 0usize..CAPACITY * 5 / 4), 0..40)) {
            let mut buffer = Buffer::default();
            let (mut pushed, mut taken) = (0usize, 0usize);
            let byte = |position: usize| (position % 251) as u8;
            for (push, amount) in steps {
                if push {
                    let bytes: Vec<u8> = (pushed..pushed + amount).map(byte).collect();
                    let room = buffer.room();
                    let count = buffer.push(&bytes);
                    prop_assert_eq!(count, amount.min(room));
                    pushed += count;
                } else {
                    let count = amount.min(buffer.len());
                    buffer.consume(amount);
                    taken += count;
                }
                prop_assert_eq!(buffer.len(), pushed - taken);
                prop_assert!(buffer.as_slice().iter().copied().eq((taken..pushed).map(byte)));
            }
        }
    }
}
