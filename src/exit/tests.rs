use proptest::prelude::*;
use serde::{Deserialize, Serialize};

use super::*;
use crate::codec::{Defect, decode, encode};
use crate::secret::Scratch;

fn bytes_of(value: &impl Serialize) -> Vec<u8> {
    let mut out = Scratch::with_capacity(64);
    encode(value, &mut out, 1 << 20).unwrap();
    out.to_vec()
}

/// Decodes a whole value, and requires that nothing follows it.
fn read<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, Defect> {
    let (value, rest) = decode(bytes)?;
    assert!(rest.is_empty());
    Ok(value)
}

/// A ticket of module 1 and repository 2 as it is encoded, made without its checks.
fn ticket_bytes(uses: u32, state: TicketState, data: &[u8]) -> Vec<u8> {
    bytes_of(&(uses, 1_u32, 2_u32, state.bits(), data))
}

fn user(name: &str) -> UserData {
    let mut user = UserData::default();
    user.set_user_name(name).unwrap();
    user
}

#[test]
fn a_session_identifier_is_32_hexadecimal_digits() {
    let session = SessionIdentifier::from(*b"0123456789abcdef");
    assert_eq!(session.to_string(), "30313233343536373839616263646566");
    assert_eq!(session.to_string().parse(), Ok(session));
    assert_eq!(read(&bytes_of(&session)), Ok(session));
    for wrong in [
        "",
        "30",
        &"3".repeat(31),
        &"3".repeat(33),
        &"+3".repeat(16),
        &"é".repeat(16),
    ] {
        assert!(wrong.parse::<SessionIdentifier>().is_err(), "{wrong}");
    }
}

#[test]
fn a_user_context_is_bounded_when_made_and_when_decoded() {
    assert!(UserContext::new(vec![1; UserContext::LIMIT]).is_ok());
    let too_long = vec![1; UserContext::LIMIT + 1];
    assert_eq!(
        UserContext::new(too_long.clone()).unwrap_err(),
        Unfit::TooLong("user context", UserContext::LIMIT)
    );
    assert_eq!(
        read::<UserContext>(&bytes_of(&too_long)).unwrap_err(),
        Defect
    );
}

/// A3: the table of which account needs which field.
#[test]
fn missing_fields_are_named() {
    let mut nobody = UserData::default();
    let lacks = |user: &UserData, account| match user.check(account) {
        Ok(()) => String::new(),
        Err(missing) => missing.to_string(),
    };
    assert_eq!(
        lacks(&nobody, Account::Administrator),
        "user data lacks user name"
    );
    assert_eq!(
        lacks(&nobody, Account::Virtual),
        "user data lacks user name"
    );
    assert_eq!(
        lacks(&nobody, Account::System),
        "user data lacks user name, uid, gid, home"
    );
    nobody.set_user_name("nobody").unwrap();
    assert_eq!(lacks(&nobody, Account::Administrator), "");
    assert_eq!(lacks(&nobody, Account::Virtual), "");
    nobody.set_uid(65534).unwrap();
    nobody.set_home("/nonexistent").unwrap();
    assert_eq!(lacks(&nobody, Account::System), "user data lacks gid");
    nobody.set_gid(65534).unwrap();
    assert_eq!(lacks(&nobody, Account::System), "");
}

#[test]
fn a_user_field_out_of_bounds_is_refused() {
    let mut user = UserData::default();
    for wrong in [
        "",
        "a\0b",
        "a\nb",
        "a\x1b[2Jb",
        "a\u{85}b",
        &"a".repeat(257),
    ] {
        assert!(user.set_user_name(wrong).is_err(), "{wrong:?}");
        assert!(user.set_email(wrong).is_err(), "{wrong:?}");
        assert!(user.add(wrong, "value").is_err(), "{wrong:?}");
    }
    for wrong in ["", "home/ada", "/home\n", &"/".repeat(4096)] {
        assert!(user.set_home(wrong).is_err(), "{wrong:?}");
    }
    // To setuid(2) it would mean: stay what you are.
    assert_eq!(user.set_uid(u32::MAX), Err(Unfit::Impossible("uid")));
    assert_eq!(user.set_gid(u32::MAX), Err(Unfit::Impossible("gid")));
    assert_eq!(user, UserData::default());
}

#[test]
fn attributes_are_bounded_in_number_and_size() {
    let mut many = UserData::default();
    for i in 0..UserData::ATTRIBUTES_LIMIT {
        many.add(&i.to_string(), "").unwrap();
    }
    assert_eq!(many.add("more", ""), Err(Unfit::TooMany("attributes", 64)));
    for _ in 1..UserData::VALUES_LIMIT {
        many.add("0", "").unwrap();
    }
    assert_eq!(
        many.add("0", ""),
        Err(Unfit::TooMany("attribute values", 256))
    );
    assert_eq!(many.attribute("0").len(), 256);

    let mut large = UserData::default();
    let value = "v".repeat(UserData::VALUE_LIMIT);
    assert_eq!(
        large.add("a", format!("{value}v")),
        Err(Unfit::TooLong("attribute value", 4096))
    );
    for _ in 0..3 {
        large.add("a", value.as_str()).unwrap();
    }
    assert_eq!(
        large.add("a", value),
        Err(Unfit::TooLong("attributes", 16384))
    );
}

#[test]
fn a_user_that_cannot_be_is_not_decoded() {
    type Shape<'a> = (
        Option<&'a str>,
        Option<u32>,
        Option<u32>,
        Option<&'a str>,
        Option<&'a str>,
        Vec<(&'a str, Vec<&'a str>)>,
    );
    let good: Shape<'_> = (
        Some("ada"),
        Some(1),
        Some(2),
        None,
        Some("/"),
        vec![("a", vec!["1", "2"])],
    );
    let mut ada = user("ada");
    ada.set_uid(1).unwrap();
    ada.set_gid(2).unwrap();
    ada.set_home("/").unwrap();
    ada.add("a", "1").unwrap();
    ada.add("a", "2").unwrap();
    assert_eq!(bytes_of(&good), bytes_of(&ada));

    let broken: [fn(&mut Shape<'_>); 9] = [
        |user| user.0 = Some(""),
        |user| user.0 = Some("a\n"),
        |user| user.1 = Some(u32::MAX),
        |user| user.2 = Some(u32::MAX),
        |user| user.3 = Some("\0"),
        |user| user.4 = Some("relative"),
        |user| user.5 = vec![("a", vec![])],
        |user| user.5 = vec![("a", vec!["1"]), ("a", vec!["2"])],
        |user| user.5 = vec![("a", vec![""; 257])],
    ];
    for (i, breaks) in broken.iter().enumerate() {
        let mut shape = good.clone();
        breaks(&mut shape);
        assert_eq!(read::<UserData>(&bytes_of(&shape)), Err(Defect), "{i}");
    }
}

/// T3, T5: the states a ticket can and cannot have.
#[test]
fn a_ticket_contradicts_itself_in_no_way() {
    let make = |state, data: &[u8]| Ticket::new(1, 2, state, data.to_vec());
    assert!(make(TicketState::EMPTY | TicketState::SYSTEM_LOW, b"").is_ok());
    assert!(make(TicketState::VALID | TicketState::RESERVED, b"data").is_ok());
    assert!(make(TicketState::EMPTY, b"data").is_err());
    assert!(make(TicketState::VALID | TicketState::INVALID, b"").is_err());
    assert!(make(TicketState::VALID, &[0; Ticket::DATA_LIMIT]).is_ok());
    assert!(make(TicketState::VALID, &[0; Ticket::DATA_LIMIT + 1]).is_err());

    let mut sticky = make(TicketState::VALID | TicketState::STICKY, b"data")
        .ok()
        .unwrap();
    sticky.clear();
    assert_eq!(
        sticky.state(),
        TicketState::STICKY | TicketState::EMPTY | TicketState::INVALID
    );
    assert!(sticky.data().is_empty());

    assert!(read::<Ticket>(&ticket_bytes(0, TicketState::EMPTY, b"data")).is_err());
    assert!(read::<Ticket>(&ticket_bytes(0, TicketState::VALID, &[0; 8193])).is_err());
    let mut worn = read::<Ticket>(&ticket_bytes(u32::MAX - 1, TicketState::VALID, b""))
        .ok()
        .unwrap();
    worn.count_use();
    worn.count_use();
    assert_eq!(worn.uses(), u32::MAX);
}

#[test]
fn tickets_are_bounded_when_pushed_and_when_decoded() {
    let blank = || Ticket::new(0, 0, TicketState::EMPTY, vec![]).ok().unwrap();
    let mut tickets = Tickets::default();
    for _ in 0..Tickets::LIMIT {
        tickets.push(blank()).unwrap();
    }
    assert_eq!(
        read::<Tickets>(&bytes_of(&tickets)).unwrap().len(),
        Tickets::LIMIT
    );
    assert!(tickets.push(blank()).is_err());
    let mut bytes = bytes_of(&tickets);
    assert_eq!(bytes[0], 16);
    bytes[0] = 17;
    bytes.extend(bytes_of(&blank()));
    assert!(decode::<Tickets>(&bytes).is_err());
}

#[test]
fn a_claimed_count_allocates_nothing() {
    // 2^63 members, and none of them: refused for want of bytes, not of memory.
    let count = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f];
    assert!(decode::<Tickets>(&count).is_err());
    assert!(decode::<UserContext>(&count).is_err());
    assert!(decode::<UserData>(&[&[0; 5][..], &count].concat()).is_err());
}

#[test]
fn debug_shows_no_secret() {
    let mut ada = user("ada");
    ada.add("token", "hunter2").unwrap();
    assert!(format!("{ada:?}").contains("token") && !format!("{ada:?}").contains("hunter2"));
    let context = UserContext::new(b"hunter2".to_vec()).unwrap();
    assert_eq!(format!("{context:?}"), "UserContext(7 bytes)");
    let mut tickets = Tickets::default();
    tickets
        .push(
            Ticket::new(1, 1, TicketState::VALID, b"hunter2".to_vec())
                .ok()
                .unwrap(),
        )
        .unwrap();
    assert_eq!(format!("{tickets:?}"), "Tickets(1)");
}

proptest! {
    #[test]
    fn user_data_and_tickets_travel_unchanged(
        name in "[^\\p{C}]{1,60}", uid in 0..u32::MAX, gid in 0..u32::MAX,
        email in proptest::option::of("[a-z]{1,20}@[a-z]{1,20}"),
        attributes in proptest::collection::vec(("[a-d]{1,3}", ".{0,40}"), 0..20),
        uses: u32, module: u32, repository: u32, state: u16,
        data in proptest::collection::vec(any::<u8>(), 0..300),
    ) {
        let mut user = user(&name);
        user.set_uid(uid).unwrap();
        user.set_gid(gid).unwrap();
        if let Some(email) = email {
            user.set_email(email).unwrap();
        }
        for (name, value) in attributes {
            user.add(&name, value).unwrap();
        }
        prop_assert_eq!(read::<UserData>(&bytes_of(&user)), Ok(user));

        let state = TicketState::from_bits(state);
        if let Ok(ticket) = Ticket::new(module, repository, state, data.clone()) {
            let bytes = bytes_of(&ticket);
            let again = read::<Ticket>(&bytes).ok().unwrap();
            prop_assert_eq!(
                (again.uses(), again.module(), again.repository(), again.state(), again.data()),
                (0, module, repository, state, &data[..])
            );
        }
        let bytes = ticket_bytes(uses, TicketState::VALID, &data);
        let ticket = read::<Ticket>(&bytes).ok().unwrap();
        prop_assert_eq!((ticket.uses(), ticket.data()), (uses, &data[..]));
        prop_assert_eq!(bytes_of(&ticket), bytes);
    }

    #[test]
    fn any_bytes_are_decoded_or_refused(bytes: Vec<u8>) {
        let _ = decode::<UserData>(&bytes);
        let _ = decode::<Tickets>(&bytes);
        let _ = decode::<UserContext>(&bytes);
    }
}

//= proves spec/exits.md#reasons X9
#[test]
fn the_page_has_the_table_of_reasons() {
    let page = include_str!("../../spec/exits.md");
    let rows = page
        .split("<!-- reasons -->\n")
        .nth(1)
        .unwrap()
        .lines()
        .skip(2);
    let rows: Vec<(&str, &str)> = rows
        .take_while(|row| row.starts_with('|'))
        .map(|row| {
            let mut cells = row.split('|').map(str::trim).skip(1);
            (cells.next().unwrap(), cells.next().unwrap())
        })
        .collect();
    let table = Reason::TABLE.map(|(reason, name, (number, alert))| {
        assert_eq!(Reason::named(name), Some(reason));
        assert_eq!((reason.name(), reason.alert()), (name, (number, alert)));
        (format!("`{name}`"), format!("{number} {alert}"))
    });
    let table = table
        .each_ref()
        .map(|(name, alert)| (name.as_str(), alert.as_str()));
    assert_eq!(rows, table);
    assert_eq!(Reason::named("tired"), None);
}

//= proves spec/exits.md#failures X4
#[test]
fn a_failure_is_no_answer_and_neither_is_silence() {
    let page = include_str!("../../spec/exits.md");
    for failure in Failure::ALL {
        let answer = Answer::<Output>::from(failure);
        assert_eq!(answer.return_code(), ReturnCode::Fatal);
        assert_eq!(
            (answer.status(), answer.alert()),
            (None, Some(INTERNAL_ERROR))
        );
        let context = UserContext::new(b"left".to_vec()).unwrap();
        let answer = answer.map(|_| NoOutput {}).with_user_context(context);
        assert!(matches!(answer, Answer::Fatal(it) if it == failure));
        let own = matches!(failure, Failure::Answered | Failure::NoAnswer);
        assert!(own || page.contains(&format!("| `{}` |", failure.name())));
    }
    assert!(matches!(
        Answer::<Output>::default(),
        Answer::Fatal(Failure::NoAnswer)
    ));
    assert!(matches!(Reply::default().answer, Answer::Fatal(_)));
    let refused = Answer::<Output>::refused(Reason::Revoked).map(|_| NoOutput {});
    assert_eq!(refused.status(), Some(Status::Refused));
    assert_eq!(refused.alert(), Some((44, "certificate_revoked")));
    assert_eq!(Answer::<Output>::Nothing.alert(), None);
}
