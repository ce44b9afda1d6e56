//! How long a question's line can be.
//!
//! Invariant: what [`question_room`] answers is not exceeded by the line. A line that has to grow
//! while it is written leaves a copy of its user context behind, which nobody wipes.

use std::convert::Infallible;

use crate::exit::{Datum, Fields, Kind, Limits, Override, Question, UserContext};

/// What stands in a line besides its user context and its input.
const AROUND: usize = 256;
/// Digits of a number and what stands around a field: quotes, colon, comma.
const FIELD: usize = 32;
/// Digits of a member of a list of numbers, or quotes and padding of one of bytes, and a comma.
const MEMBER: usize = 8;

/// Bytes for which the line of this question has room at most, if it keeps its limits.
pub fn question_room(question: &mut Question) -> usize {
    let mut room = Room(AROUND + base64(UserContext::LIMIT));
    match question.describe(&mut room) {
        // One that keeps no limit is not written to its end.
        Ok(()) => room.0.min(4 * question.point().line_limit()),
    }
}

fn base64(bytes: usize) -> usize {
    bytes.div_ceil(3) * 4
}

struct Room(usize);

impl Fields for Room {
    type Error = Infallible;

    fn field<T: Kind>(
        &mut self,
        name: &'static str,
        value: &mut T,
        _: &Limits,
    ) -> Result<(), Infallible> {
        self.0 += name.len() + FIELD;
        self.0 += match value.lend() {
            // Each byte with an escape: control characters are in no text that is written.
            Datum::Text(text) => text.len() * 2,
            Datum::Bytes(bytes) => base64(bytes.len()),
            Datum::List(list) => list.iter().map(|it| base64(it.len()) + MEMBER).sum(),
            Datum::Numbers(numbers) => numbers.len() * MEMBER,
            Datum::Integer(_) | Datum::Boolean(_) => 0,
        };
        Ok(())
    }

    fn overridden<T: Kind>(
        &mut self,
        name: &'static str,
        value: &mut Override<T>,
        limits: &Limits,
        _: bool,
    ) -> Result<(), Infallible> {
        match value {
            Override::Keep => Ok(()),
            Override::Replace(value) => self.field(name, value, limits),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::exit::{
        BuildCaDnList, CheckCertList, Computation, GetCertList, GetServerPublicKey, HandshakeDone,
        LARGEST, Point, SessionEnd, SessionIdentifier, SessionInit, SetServerPublicKey,
    };
    use crate::worker::write_question;

    use super::*;

    /// The longest question of each point that its limits allow, texts of what is escaped.
    fn longest(point: Point) -> Question {
        let text = |length: usize| "\"".repeat(length);
        let server_name = Some(text(255));
        let key_reference = text(256);
        let (schemes, names) = (vec![u16::MAX; 64], vec![vec![0; 256]; 128]);
        match Question::blank(point) {
            Question::SessionInit(blank) => Question::from(SessionInit {
                listener: text(256),
                profile: text(256),
                remote: text(256),
                local: text(256),
                server_name,
                alpn: vec![vec![0; 255]; 32],
                ..blank
            }),
            Question::BuildCaDnList(blank) => Question::from(BuildCaDnList {
                ca_dn_list: names,
                ..blank
            }),
            Question::GetCertList(blank) => Question::from(GetCertList {
                server_name,
                signature_schemes: schemes,
                ca_dn_list: names,
                ..blank
            }),
            Question::CheckCertList(blank) => Question::from(CheckCertList {
                server_name,
                time: LARGEST,
                cert_list: vec![vec![0; 8192]; 16],
                ocsp_response: Some(vec![0; 32_768]),
                ..blank
            }),
            Question::Computation(blank) => Question::from(Computation {
                scheme: u16::MAX,
                key_reference,
                data: vec![0; 8192],
                ..blank
            }),
            Question::GetServerPublicKey(blank) => Question::from(GetServerPublicKey {
                key_reference,
                ..blank
            }),
            Question::SetServerPublicKey(blank) => Question::from(SetServerPublicKey {
                server_name,
                public_key: vec![0; 16_384],
                ..blank
            }),
            Question::HandshakeDone(blank) => Question::from(HandshakeDone {
                version: u16::MAX,
                cipher_suite: u16::MAX,
                alpn: Some(vec![0; 255]),
                server_name,
                peer_name: Some(text(1024)),
                ..blank
            }),
            Question::SessionEnd(blank) => Question::from(SessionEnd {
                seconds: LARGEST,
                received: Some(LARGEST),
                sent: Some(LARGEST),
                ..blank
            }),
        }
    }

    //= proves spec/exits.md#question X8
    #[test]
    fn a_line_never_outgrows_its_room() {
        let context = UserContext::new(vec![7; UserContext::LIMIT]).unwrap();
        let session = SessionIdentifier::from([7; 16]);
        for point in Point::ALL {
            let mut question = longest(point);
            let mut line = Vec::with_capacity(question_room(&mut question));
            let (place, room) = (line.as_ptr(), line.capacity());
            write_question(&mut line, LARGEST, session, &context, &mut question).unwrap();
            assert_eq!((line.as_ptr(), line.capacity()), (place, room), "{point}");
        }
    }
}
