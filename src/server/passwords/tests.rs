use super::hash::{Costs, Hash, Workshop};
use super::*;

#[test]
fn users_are_known_by_their_own_password_only() {
    let file = File::parse(b"# people\n\nalice:sesame:open\nbob:\n").unwrap();
    for (user, password, known) in [
        ("alice", "sesame:open", true),
        ("alice", "sesame", false),
        ("bob", "", true),
        ("carol", "", false),
        ("# people", "", false),
        ("alice\0", "sesame:open", false),
    ] {
        assert_eq!(file.knows(user, password), known, "{user} {password}");
    }
    assert_eq!((file.users(), file.in_clear()), (2, 2));
}

/// `password` with the salt `somesalt`, 64 KiB, 2 passes: of the reference implementation's own tests.
const REFERENCE: &str =
    "$argon2id$v=19$m=256,t=2,p=1$c29tZXNhbHQ$nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4";

//= proves spec/passwords.md#file
#[test]
fn a_hash_of_the_reference_implementation_is_read() {
    let file = File::parse(format!("alice:{REFERENCE}\n").as_bytes()).unwrap();
    assert!(file.knows("alice", "password"));
    assert!(!file.knows("alice", "Password"));
    assert!(!file.knows("alice", REFERENCE));
    assert!(!file.knows("bob", "password"));
    assert_eq!((file.users(), file.in_clear()), (1, 0));
    let made = Workshop::default().text("\u{fc}ber".as_bytes()).unwrap();
    assert!(made.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"));
    assert_ne!(
        made,
        Workshop::default().text("\u{fc}ber".as_bytes()).unwrap()
    );
    let file = File::parse(format!("bob:{made}").as_bytes()).unwrap();
    assert!(file.knows("bob", "\u{fc}ber") && !file.knows("bob", "uber"));
}

#[test]
fn a_defective_file_is_refused_with_its_line() {
    let number = |bytes: &[u8]| File::parse(bytes).err().unwrap().to_string();
    assert!(number(b"alice:a\nbob").contains("line 2"));
    assert!(number(b":a").contains("line 1"));
    assert!(number(b"a\x07:a").contains("line 1"));
    assert!(number(b"a\0:a").contains("line 1"));
    assert!(number(&[&[b'a'; 257][..], b":a"].concat()).contains("line 1"));
    assert!(number(b"\n\xff:a").contains("line 2"));
    assert!(number(b"alice:a\nbob:b\nalice:c").contains("line 3"));
}

//= proves spec/passwords.md#file
//= proves spec/passwords.md#costs
#[test]
fn a_hash_that_costs_too_much_or_is_none_is_refused() {
    let why = |text: &str| Hash::parse(text).err();
    let tail = "$c29tZXNhbHQ$nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4";
    let with = |costs: &str| why(&format!("$argon2id$v=19${costs}{tail}"));
    for good in ["m=8,t=1,p=1", "m=262144,t=4,p=16", "m=65536,t=16,p=1"] {
        assert_eq!(with(good), None, "{good}");
    }
    for costs in [
        // 4 GiB, one after the other.
        "m=4194304,t=1,p=1",
        "m=99999999999,t=1,p=1",
        "m=262145,t=1,p=1",
        "m=262144,t=5,p=1",
        "m=8,t=17,p=1",
        "m=256,t=1,p=17",
        "m=8,t=0,p=1",
        "m=7,t=1,p=1",
        "m=8,t=1,p=2",
        "m=8,t=1,p=0",
    ] {
        assert_eq!(with(costs), Some(Defect::Costs), "{costs}");
    }
    for costs in [
        "m=8,t=1",
        "t=1,m=8,p=1",
        "m=8,t=1,p=1,keyid=a",
        "m=+8,t=1,p=1",
        "m=08,t=1,p=1",
        "m=,t=1,p=1",
        "",
    ] {
        assert_eq!(with(costs), Some(Defect::Form), "{costs}");
    }
    for text in [
        "$argon2i$v=19$m=8,t=1,p=1$c29tZXNhbHQ$nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu",
        "$argon2id$v=16$m=8,t=1,p=1$c29tZXNhbHQ$nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu",
        "$2b$12$abcdefghijklmnopqrstuu",
        "$",
    ] {
        assert_eq!(why(text), Some(Defect::Scheme), "{text}");
        // A hash is never taken for a password.
        assert!(File::parse(format!("alice:{text}").as_bytes()).is_err());
    }
    for text in [
        "$argon2id$v=19$m=8,t=1,p=1$c29tZXNhbHQ",
        "$argon2id$v=19$m=8,t=1,p=1$c29t$nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu",
        "$argon2id$v=19$m=8,t=1,p=1$c29tZXNhbHQ$nf65",
        "$argon2id$v=19$m=8,t=1,p=1$c29tZXNhbHQ=$nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu",
        "$argon2id$v=19$m=8,t=1,p=1$c29tZXNhbHQ$nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu$",
    ] {
        assert_eq!(why(text), Some(Defect::Form), "{text}");
    }
}

//= proves spec/passwords.md#time
#[test]
fn a_stranger_costs_what_a_user_costs() {
    let cost_of = |file: &File, user: &str| {
        let before = file.workshop.done();
        file.knows(user, "wrong");
        file.workshop.done() - before
    };
    // All hashes alike, one password in clear.
    let file = File::parse(format!("alice:{REFERENCE}\nbob:clear\n").as_bytes()).unwrap();
    for user in ["alice", "bob", "carol", "", "a\0b"] {
        assert_eq!(cost_of(&file, user), 512, "{user}");
    }
    let before = file.workshop.done();
    assert!(file.knows("bob", "clear") && file.knows("alice", "password"));
    assert_eq!(file.workshop.done() - before, 1024);
    // No hash at all.
    let file = File::parse(b"bob:clear\n").unwrap();
    for user in ["bob", "carol"] {
        assert_eq!(cost_of(&file, user), 2 * 19_456);
    }
    // Hashes of several costs: strangers have them too, each always the same, as often as users.
    let cheap = REFERENCE.replace("m=256", "m=128");
    let text = format!("a:{REFERENCE}\nb:{cheap}\nc:{cheap}\nd:{cheap}\n");
    let file = File::parse(text.as_bytes()).unwrap();
    let again = File::parse(text.as_bytes()).unwrap();
    let mut dear = 0;
    for number in 0..400 {
        let stranger = format!("stranger {number}");
        let cost = cost_of(&file, &stranger);
        assert!([512, 256].contains(&cost));
        assert_eq!(cost, cost_of(&again, &stranger));
        dear += usize::from(cost == 512);
    }
    assert!((60..=140).contains(&dear), "{dear}");
    assert_eq!(Costs::default(), File::parse(b"").unwrap().costs[0]);
}
