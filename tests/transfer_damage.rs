//! Nothing but the token itself imports, and nothing that fails spends it (C4, C5, C7, C9).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use baton::context::Context;
use baton::ledger::Domain;
use baton::message::Message;
use baton::record::Record;
use baton::status::{Major, Minor};
use baton::transfer::{BUCKETS, Export, HEADER, PublicHeader, forge, import};
use support::{Talk, domain, pair, talk};

/// A token, the domain, and the peer that tells whether the context is whole.
struct Case<F: Talk> {
    domain: Domain,
    token: Vec<u8>,
    peer: Context<F>,
}

impl<F: Talk> Case<F> {
    fn new() -> Self {
        let domain = domain();
        let (context, peer) = pair::<F>(&domain);
        let token = context.export(&Export::default()).unwrap().into_bytes();
        Self {
            domain,
            token,
            peer,
        }
    }

    fn refused(&self, bytes: &[u8]) -> Minor {
        let status = import::<F>(&self.domain, bytes, None).unwrap_err();
        assert_eq!(status.major(), Major::DefectiveToken, "{status}");
        status.minor()
    }

    /// The token was not spent by anything before.
    fn still_imports(mut self) {
        let mut context: Context<F> = import(&self.domain, &self.token, None).unwrap();
        talk(&mut context, &mut self.peer);
    }
}

fn every_bit<F: Talk>() {
    let case = Case::<F>::new();
    let mut bytes = case.token.clone();
    for bit in 0..bytes.len() * 8 {
        bytes[bit / 8] ^= 1 << (bit % 8);
        let expected = match bit / 8 {
            0..3 => Minor::TokenMalformed,
            3 => Minor::TokenVersion,
            4..12 => Minor::TokenKey,
            _ => Minor::TokenAltered,
        };
        assert_eq!(case.refused(&bytes), expected, "bit {bit}");
        bytes[bit / 8] ^= 1 << (bit % 8);
    }
    case.still_imports();
}

/// C5. proves that every bit is authenticated.
//= proves spec/token.md#sealing C5
#[test]
fn a_token_with_any_bit_flipped_is_refused() {
    every_bit::<Message>();
    every_bit::<Record>();
}

/// C7: cut at every length, and extended.
//= proves spec/token.md#buckets C7
#[test]
fn a_token_of_any_other_length_is_refused() {
    let case = Case::<Record>::new();
    assert!(BUCKETS.contains(&case.token.len()));
    for length in 0..case.token.len() {
        assert_eq!(case.refused(&case.token[..length]), Minor::TokenMalformed);
    }
    for more in [
        1,
        16,
        512,
        1536,
        2048 - 512,
        8192 - 512,
        131_072 - 512,
        1 << 20,
    ] {
        let mut longer = case.token.clone();
        longer.resize(case.token.len() + more, 0);
        let minor = case.refused(&longer);
        let a_bucket = BUCKETS.contains(&longer.len());
        assert_eq!(
            minor,
            if a_bucket {
                Minor::TokenAltered
            } else {
                Minor::TokenMalformed
            }
        );
    }
    let twice = [case.token.clone(), case.token.clone()].concat();
    assert_eq!(case.refused(&twice), Minor::TokenMalformed);
    case.still_imports();
}

/// C5: two tokens of one domain and key, spliced at every place.
#[test]
fn a_token_spliced_from_two_is_refused() {
    let case = Case::<Message>::new();
    let (other, mut other_peer) = pair::<Message>(&case.domain);
    let other = other.export(&Export::default()).unwrap();
    for cut in 1..case.token.len() {
        let spliced = [&case.token[..cut], &other.as_bytes()[cut..]].concat();
        // Up to the nonce the headers of one key are the same: then it is the other token whole.
        if spliced == case.token || spliced == other.as_bytes() {
            continue;
        }
        assert_eq!(case.refused(&spliced), Minor::TokenAltered, "cut at {cut}");
    }
    let mut context: Context<Message> = import(&case.domain, other.as_bytes(), None).unwrap();
    talk(&mut context, &mut other_peer);
    case.still_imports();
}

/// C5: another domain's, with its own key and with this domain's key id written over it.
#[test]
fn a_token_of_another_domain_is_refused() {
    let (case, other) = (Case::<Message>::new(), Case::<Message>::new());
    assert_eq!(case.refused(&other.token), Minor::TokenKey);
    let mut relabelled = other.token.clone();
    relabelled[4..12].copy_from_slice(&case.token[4..12]);
    assert_eq!(case.refused(&relabelled), Minor::TokenAltered);
    case.still_imports();
    other.still_imports();
}

/// C9: a token from the future is refused by name.
//= proves spec/token.md#versions C9
#[test]
fn a_token_of_an_unknown_version_is_refused_by_name() {
    let case = Case::<Record>::new();
    let mut bytes = case.token.clone();
    for version in (0..=255).filter(|version| *version != 1) {
        bytes[3] = version;
        assert_eq!(case.refused(&bytes), Minor::TokenVersion);
        // Of whatever size its version gives it.
        assert_eq!(
            case.refused(&[&bytes[..], &[0; 100]].concat()),
            Minor::TokenVersion
        );
        assert_eq!(PublicHeader::read(&bytes).unwrap().version, version);
    }
    case.still_imports();
}

/// C7: noise of many lengths, with and without the magic.
#[test]
fn noise_is_refused() {
    let case = Case::<Message>::new();
    let mut noise = vec![0; 1 << 20];
    for chunk in noise.chunks_mut(256) {
        baton::crypto::random(chunk).unwrap();
    }
    for length in [0, 1, 35, 36, 37, 512, 2048, 131_072, 1 << 20] {
        assert_eq!(case.refused(&noise[..length]), Minor::TokenMalformed);
    }
    noise[..12].copy_from_slice(&case.token[..12]);
    for length in BUCKETS {
        assert_eq!(case.refused(&noise[..length]), Minor::TokenAltered);
    }
    assert_eq!(case.refused(&noise), Minor::TokenMalformed);
    case.still_imports();
}

/// C7: the other framing's, which is not spent by the attempt.
//= proves spec/token.md#binding
#[test]
fn a_token_of_the_other_framing_is_refused_and_kept() {
    let case = Case::<Message>::new();
    let status = import::<Record>(&case.domain, &case.token, None).unwrap_err();
    assert_eq!(
        (status.major(), status.minor()),
        (Major::Unavailable, Minor::TokenFraming)
    );
    case.still_imports();
}

/// C5: what a token shows is version, key id and nonce; two tokens of one state share nothing else.
#[test]
fn a_token_shows_nothing_else() {
    let domain = domain();
    let (context, _peer) = pair::<Message>(&domain);
    let mut shared = vec![true; 512];
    let mut previous: Option<Vec<u8>> = None;
    let mut context = Some(context);
    for _ in 0..64 {
        let token = context
            .take()
            .unwrap()
            .export(&Export::default())
            .unwrap()
            .into_bytes();
        if let Some(previous) = &previous {
            for (same, (a, b)) in shared.iter_mut().zip(previous.iter().zip(&token)) {
                *same &= a == b;
            }
        }
        context = Some(import(&domain, &token, None).unwrap());
        previous = Some(token);
    }
    assert!(
        shared[..12].iter().all(|same| *same),
        "magic, version and key id"
    );
    assert!(
        shared[12..].iter().all(|same| !*same),
        "nonce and everything behind it"
    );
    assert_eq!(HEADER, 36);
}

/// C9: the key is rotated; within the grace the old one opens, after it it is unknown.
#[test]
fn a_rotated_key_opens_for_its_grace_and_no_longer() {
    let domain = domain();
    let (context, _peer) = pair::<Message>(&domain);
    let token = context.export(&Export::default()).unwrap();
    domain
        .keyring()
        .expect("keys")
        .rotate(std::time::Duration::from_secs(3600))
        .unwrap();
    let context: Context<Message> = import(&domain, token.as_bytes(), None).unwrap();
    let old = PublicHeader::read(token.as_bytes()).unwrap().key;
    let token = context.export(&Export::default()).unwrap();
    assert_ne!(token.public_header().key, old);
    domain
        .keyring()
        .expect("keys")
        .rotate(std::time::Duration::ZERO)
        .unwrap();
    let refused = import::<Message>(&domain, token.as_bytes(), None).unwrap_err();
    assert_eq!(
        (refused.major(), refused.minor()),
        (Major::DefectiveToken, Minor::TokenKey)
    );
    let (mut context, mut peer_2) = pair::<Message>(&domain);
    talk(&mut context, &mut peer_2);
}

/// C7: made before this machine was started. Only who has the domain's keys can seal one here.
#[test]
fn a_token_of_another_boot_is_refused_and_kept() {
    let case = Case::<Record>::new();
    let mut inside = forge::inside(&case.domain, &case.token).unwrap();
    let boot = baton::sys::process::boot_id().unwrap();
    let at = inside.windows(16).position(|w| w == boot).unwrap();
    inside[at] ^= 1;
    let forged = forge::token(&case.domain, &inside).unwrap();
    let status = import::<Record>(&case.domain, &forged, None).unwrap_err();
    assert_eq!(
        (status.major(), status.minor()),
        (Major::NoContext, Minor::TokenBoot)
    );
    case.still_imports();
}

/// A hostile process that has the domain's keys seals what no exporter would.
#[test]
fn a_forged_inside_is_refused_and_the_token_kept() {
    let case = Case::<Message>::new();
    let inside = forge::inside(&case.domain, &case.token).unwrap();
    let refused = |inside: &[u8]| case.refused(&forge::token(&case.domain, inside).unwrap());
    // Something behind the body.
    let mut padded = inside.clone();
    *padded.last_mut().unwrap() = 1;
    assert_eq!(refused(&padded), Minor::TokenState);
    // Nothing at all, and noise.
    assert_eq!(refused(&[]), Minor::TokenState);
    assert_eq!(refused(&[0xff; 400]), Minor::TokenState);
    case.still_imports();
}
