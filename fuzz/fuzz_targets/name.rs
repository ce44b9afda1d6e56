//! Names, in every form they are imported from.
//!
//! The first byte says which: a kind of name (1 to 4), an exported name (0), a certificate (5), a
//! name as it is encoded in a token (6), a name type's OID (7). Held is: what was imported is
//! exported and imported again as the same, is encoded and decoded as the same, and is displayed
//! on one line.

#![no_main]

use baton::codec;
use baton::name::{Kind, Name};
use baton::secret::Scratch;
use libfuzzer_sys::fuzz_target;

fn held(name: &Name) {
    assert!(name.as_bytes().len() <= Name::LIMIT);
    let exported = name.export();
    assert_eq!(Name::import_exported(&exported).as_ref(), Ok(name));
    let again = Name::import(name.kind(), name.as_bytes());
    assert_eq!(again.as_ref(), Ok(name), "it was canonical");
    let mut state = Scratch::with_capacity(64);
    codec::encode(name, &mut state, 2048).expect("a name is bounded");
    let (decoded, rest) = codec::decode::<Name>(&state).expect("it was encoded");
    assert!(rest.is_empty() && &decoded == name);
    assert_eq!(name.compare(&decoded), name.kind() != Kind::Anonymous);
    let text = name.to_string();
    assert!(!text.is_empty() && !text.chars().any(char::is_control));
    if let Some(host) = name.host() {
        assert!(name.service().is_some() && name.server_name().is_some());
        assert!(!host.bytes().any(|byte| byte.is_ascii_uppercase()));
    }
}

fuzz_target!(|data: &[u8]| {
    let Some((&form, bytes)) = data.split_first() else {
        return;
    };
    let name = match form % 8 {
        0 => Name::import_exported(bytes).inspect(|name| assert_eq!(name.export(), bytes)),
        1 => Name::import(Kind::HostBasedService, bytes),
        2 => Name::import(Kind::User, bytes),
        3 => Name::import(Kind::Anonymous, bytes),
        4 => Name::import(Kind::Certificate, bytes),
        5 => Name::of_certificate(bytes),
        6 => match codec::decode::<Name>(bytes) {
            Ok((name, _)) => Ok(name),
            Err(_) => return,
        },
        _ => {
            if let Some(kind) = Kind::from_oid(bytes) {
                assert_eq!(Kind::from_oid(kind.oid()), Some(kind));
            }
            return;
        }
    };
    if let Ok(name) = name {
        held(&name);
    }
});
