//! What `certificates` answers: each refusal with its reason, hostile chains, revocation lists.

#![allow(clippy::unwrap_used, clippy::panic)]

mod certifying;

use baton::builtin::{Certificates, Configuration, No};
use baton::exit::{CheckCertList, Role};
use certifying::*;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CustomExtension, DnType,
    DnValue, ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, Issuer, KeyIdMethod, KeyPair,
    KeyUsagePurpose, NameConstraints, PublicKeyData, RevokedCertParams, SanType, SerialNumber,
    SignatureAlgorithm, SigningKey, date_time_ymd,
};

fn usages(params: &mut CertificateParams, usages: &[KeyUsagePurpose]) {
    params.key_usages = usages.to_vec();
}

//= proves spec/builtin.md#path
//= proves spec/builtin.md#peer-name
#[test]
fn a_path_of_several_authorities_is_found_in_any_order() {
    let root = Authority::root("root");
    let first = root.below(authority_params("first"));
    let second = first.below(authority_params("second"));
    let leaf = second.leaf(&named("leaf"));
    let checker = checker(&[&root.pem], |_| {});
    let lists: [&[&[u8]]; 4] = [
        &[&leaf, &second.der, &first.der],
        &[&leaf, &first.der, &second.der],
        &[&leaf, &second.der, &first.der, &root.der],
        &[&leaf, &second.der, &second.der, &leaf, &first.der],
    ];
    for list in lists {
        assert_eq!(said(&checker.check(&question(list))), "yes CN=leaf");
    }
    // A name that is not in the subject; and one that nobody may be misled by.
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.subject_alt_names = vec![SanType::DnsName("a.example".try_into().unwrap())];
    let nameless = root.leaf(&params);
    assert_eq!(
        said(&checker.check(&question(&[&nameless]))),
        "yes DNS:a.example"
    );
    let odd = root.leaf(&named("a\0b\nc,O=evil\u{202e}"));
    let expected = "yes CN=a\\00b\\0ac\\,O=evil\\e2\\80\\ae";
    assert_eq!(said(&checker.check(&question(&[&odd]))), expected);
    // An empty list never reaches a checker from a pool, and is no answer.
    assert_eq!(said(&checker.check(&question(&[]))), "-1");
}

//= proves spec/builtin.md#refusals X9
#[test]
fn each_refusal_has_its_reason() {
    let root = Authority::root("root");
    let stranger = Authority::root("stranger");
    let good = root.leaf(&named("leaf"));
    let same = checker(&[&root.pem], |configuration| {
        configuration.chain_limit = 2;
        configuration.templates = vec!["CN=leaf*".parse().unwrap()];
    });
    let ask = |list: &[&[u8]]| said(&same.check(&question(list)));
    assert_eq!(ask(&[&good]), "yes CN=leaf");

    assert_eq!(ask(&[b"\x30\x03no"]), "decoding-error");
    assert_eq!(ask(&[&good[..good.len() - 1]]), "decoding-error");
    assert_eq!(ask(&[&[&good[..], b"\0"].concat()]), "decoding-error");
    assert_eq!(ask(&[&stranger.leaf(&named("leaf"))]), "unknown-ca");
    assert_eq!(ask(&[&root.leaf(&named("other"))]), "no-matching-template");

    let mut params = named("leaf");
    (params.not_before, params.not_after) = (date_time_ymd(2000, 1, 1), date_time_ymd(2001, 1, 1));
    assert_eq!(ask(&[&root.leaf(&params)]), "expired");
    (params.not_before, params.not_after) = (date_time_ymd(3000, 1, 1), date_time_ymd(3001, 1, 1));
    assert_eq!(ask(&[&root.leaf(&params)]), "not-yet-valid");
    // It is the question's time that counts.
    let then = CheckCertList {
        time: 32_503_680_000 + 1,
        ..question(&[&root.leaf(&params)])
    };
    assert_eq!(said(&same.check(&then)), "yes CN=leaf");

    let mut altered = good.clone();
    *altered.last_mut().unwrap() ^= 1;
    assert_eq!(ask(&[&altered]), "bad-signature");
    let impostor = Authority::root("root");
    assert_eq!(ask(&[&impostor.leaf(&named("leaf"))]), "bad-signature");

    let mut params = named("leaf");
    usages(&mut params, &[KeyUsagePurpose::KeyEncipherment]);
    assert_eq!(ask(&[&root.leaf(&params)]), "key-usage-not-granted");
    usages(&mut params, &[KeyUsagePurpose::DigitalSignature]);
    assert_eq!(ask(&[&root.leaf(&params)]), "yes CN=leaf");
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    assert_eq!(ask(&[&root.leaf(&params)]), "key-usage-not-granted");
    params
        .extended_key_usages
        .push(ExtendedKeyUsagePurpose::ClientAuth);
    assert_eq!(ask(&[&root.leaf(&params)]), "yes CN=leaf");
    assert_eq!(
        ask(&[&root.leaf(&authority_params("leaf"))]),
        "key-usage-not-granted"
    );
    let no_authority = root.below(named("middle"));
    let below = no_authority.leaf(&named("leaf"));
    assert_eq!(ask(&[&below, &no_authority.der]), "key-usage-not-granted");
    let mut params = authority_params("middle");
    usages(&mut params, &[KeyUsagePurpose::CrlSign]);
    let no_signer = root.below(params);
    let below = no_signer.leaf(&named("leaf"));
    assert_eq!(ask(&[&below, &no_signer.der]), "key-usage-not-granted");

    let mut params = named("leaf");
    let mut extension =
        CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 32473, 9], vec![5, 0]);
    extension.set_criticality(true);
    params.custom_extensions = vec![extension.clone()];
    assert_eq!(ask(&[&root.leaf(&params)]), "unsupported");
    let mut params = authority_params("middle");
    params.custom_extensions = vec![extension];
    let strange = root.below(params);
    let below = strange.leaf(&named("leaf"));
    assert_eq!(ask(&[&below, &strange.der]), "unsupported");

    assert_eq!(
        ask(&[&stranger.leaf(&named("leaf")), &stranger.der]),
        "invalid-root"
    );
    let first = root.below(authority_params("first"));
    let second = first.below(authority_params("second"));
    let long = second.leaf(&named("leaf"));
    assert_eq!(ask(&[&long, &second.der, &first.der]), "chain-too-long");
    let mut params = authority_params("first");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    let first = root.below(params);
    let second = first.below(authority_params("second"));
    let long = second.leaf(&named("leaf"));
    assert_eq!(ask(&[&long, &second.der, &first.der]), "chain-too-long");
}

//= proves spec/builtin.md#refusals
#[test]
fn an_anchor_that_is_no_good_is_an_invalid_root() {
    let ask = |params: CertificateParams| {
        let root = Authority::root_of(params);
        let leaf = root.leaf(&named("leaf"));
        said(&checker(&[&root.pem], |_| {}).check(&question(&[&leaf])))
    };
    assert_eq!(ask(authority_params("root")), "yes CN=leaf");
    let mut params = authority_params("root");
    (params.not_before, params.not_after) = (date_time_ymd(2000, 1, 1), date_time_ymd(2001, 1, 1));
    assert_eq!(ask(params), "invalid-root");
    let mut params = authority_params("root");
    usages(&mut params, &[KeyUsagePurpose::DigitalSignature]);
    assert_eq!(ask(params), "invalid-root");
    assert_eq!(ask(named("root")), "invalid-root");
    // The same authority, renewed: one that is good is enough.
    let key = KeyPair::generate().unwrap();
    let mut params = authority_params("root");
    let new = params.self_signed(&key).unwrap().pem();
    params.not_after = date_time_ymd(2001, 1, 1);
    params.not_before = date_time_ymd(2000, 1, 1);
    let old = params.self_signed(&key).unwrap().pem();
    let issuer = Issuer::new(params, key);
    let leaf_key = KeyPair::generate().unwrap();
    let leaf = named("leaf").signed_by(&leaf_key, &issuer).unwrap();
    let both = checker(&[&old, &new], |_| {});
    assert_eq!(said(&both.check(&question(&[leaf.der()]))), "yes CN=leaf");
}

//= proves spec/builtin.md#path
#[test]
fn an_initiator_is_told_whether_the_server_is_the_one_it_wants() {
    let root = Authority::root("root");
    let mut params = named("server");
    params.subject_alt_names = vec![
        SanType::DnsName("*.example.org".try_into().unwrap()),
        SanType::IpAddress("192.0.2.1".parse().unwrap()),
    ];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let server = root.leaf(&params);
    let checker = checker(&[&root.pem], |_| {});
    for (name, expected) in [
        ("www.example.org", "yes CN=server"),
        ("192.0.2.1", "yes CN=server"),
        ("example.org", "no-matching-template"),
        ("a.b.example.org", "no-matching-template"),
        ("192.0.2.2", "no-matching-template"),
        ("server", "no-matching-template"),
        ("not a name", "-1"),
    ] {
        assert_eq!(
            said(&checker.check(&as_server(&[&server], name))),
            expected,
            "{name}"
        );
    }
    let nobody = CheckCertList {
        role: Role::Initiator,
        ..question(&[&server])
    };
    assert_eq!(said(&checker.check(&nobody)), "-1");
    assert_eq!(
        said(&checker.check(&question(&[&server]))),
        "key-usage-not-granted"
    );
}

/// A key that is too large to be checked, and signs with nonsense.
struct Huge(Vec<u8>);

impl PublicKeyData for Huge {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &rcgen::PKCS_RSA_SHA256
    }
}

impl SigningKey for Huge {
    fn sign(&self, _: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        Ok(vec![1; 4096])
    }
}

//= proves spec/builtin.md#bounds
#[test]
fn hostile_chains_are_refused_within_bounds() {
    let root = Authority::root("root");
    let generous = checker(&[&root.pem], |configuration| configuration.chain_limit = 7);
    let ask = |list: &[&[u8]]| said(&generous.check(&question(list)));

    // A hundred authorities, each below the last.
    let mut chain = vec![root.below(authority_params("1"))];
    for number in 2..=100 {
        let next = chain
            .last()
            .unwrap()
            .below(authority_params(&number.to_string()));
        chain.push(next);
    }
    let leaf = chain.last().unwrap().leaf(&named("leaf"));
    let mut list: Vec<&[u8]> = vec![&leaf];
    list.extend(chain.iter().rev().map(|authority| &*authority.der));
    assert_eq!(ask(&list), "chain-too-long");
    let leaf_of = |above: usize| {
        let leaf = chain[above - 1].leaf(&named("leaf"));
        let certificates = chain[..above].iter().map(|it| it.der.clone());
        let list: Vec<Vec<u8>> = std::iter::once(leaf).chain(certificates).collect();
        ask(&list.iter().map(Vec::as_slice).collect::<Vec<_>>())
    };
    assert_eq!(leaf_of(6), "yes CN=leaf");
    assert_eq!(leaf_of(7), "chain-too-long");
    assert_eq!(leaf_of(15), "chain-too-long");
    assert_eq!(leaf_of(16), "chain-too-long");

    // Those that refer to themselves, and to each other.
    let alone = Authority::root_of(named("alone"));
    assert_eq!(ask(&[&alone.der]), "invalid-root");
    assert_eq!(ask(&[&root.der]), "key-usage-not-granted");
    let (a, b) = (Authority::root("a"), Authority::root("b"));
    let a_by_b = b.below(authority_params("a"));
    let b_by_a = a.below(authority_params("b"));
    let leaf = a.leaf(&named("leaf"));
    assert_eq!(ask(&[&leaf, &a_by_b.der, &b_by_a.der]), "unknown-ca");

    // Many ways to go on: no search begins.
    let namesakes: Vec<Authority> = (0..15).map(|_| a.below(authority_params("a"))).collect();
    let mut list: Vec<&[u8]> = vec![&leaf];
    list.extend(namesakes.iter().map(|authority| &*authority.der));
    assert_eq!(ask(&list), "chain-too-long");
    // Three for each of five names, in a ring, is the most there is to search.
    let ring: Vec<Authority> = (0..15)
        .map(|number| {
            let above = Authority::root(&format!("ring {}", (number / 3 + 1) % 5));
            above.below(authority_params(&format!("ring {}", number / 3)))
        })
        .collect();
    let leaf = Authority::root("ring 0").leaf(&named("leaf"));
    let mut list: Vec<&[u8]> = vec![&leaf];
    list.extend(ring.iter().map(|authority| &*authority.der));
    let answer = ask(&list);
    assert_eq!(answer, "chain-too-long");

    // Keys of 16,384 bits.
    let modulus = [&[0, 0xff][..], &[0xfd; 2047]].concat();
    let numbers = [der(2, &modulus), der(2, &[1, 0, 1])].concat();
    let huge = || Huge(der(0x30, &numbers));
    let middle = authority_params("huge");
    let certificate = middle.signed_by(&huge(), &root.issuer).unwrap();
    let key = KeyPair::generate().unwrap();
    let leaf = named("leaf")
        .signed_by(&key, &Issuer::new(middle, huge()))
        .unwrap();
    assert_eq!(ask(&[leaf.der(), certificate.der()]), "bad-signature");

    // Names that are not the authority's to give.
    let mut params = authority_params("constrained");
    params.name_constraints = Some(NameConstraints {
        permitted_subtrees: vec![GeneralSubtree::DnsName("example.org".to_owned())],
        excluded_subtrees: Vec::new(),
    });
    let constrained = root.below(params);
    let mut params = named("leaf");
    for (name, expected) in [
        ("a.example.org", "yes CN=leaf"),
        ("a.example.com", "key-usage-not-granted"),
    ] {
        params.subject_alt_names = vec![SanType::DnsName(name.try_into().unwrap())];
        let leaf = constrained.leaf(&params);
        assert_eq!(ask(&[&leaf, &constrained.der]), expected);
    }
}

//= proves spec/builtin.md#templates
#[test]
fn names_of_every_kind_fit_or_do_not() {
    let root = Authority::root("root");
    let with = |template: &str| {
        let template = template.parse().unwrap();
        checker(&[&root.pem], |configuration| {
            configuration.templates = vec![template]
        })
    };
    let any = with("CN=*");
    let good = with("CN=good*");
    let ask = |checker: &Certificates, leaf: &[u8]| said(&checker.check(&question(&[leaf])));

    for value in [
        DnValue::Utf8String("good one".to_owned()),
        DnValue::PrintableString("good one".try_into().unwrap()),
        DnValue::Ia5String("good one".try_into().unwrap()),
        DnValue::TeletexString("good one".try_into().unwrap()),
        DnValue::BmpString("good one".try_into().unwrap()),
        DnValue::UniversalString("good one".try_into().unwrap()),
    ] {
        let answer = ask(&good, &root.leaf(&named_as(value)));
        assert!(
            answer.starts_with("yes CN=good one") || answer.starts_with("yes 2.5.4.3=#"),
            "{answer}"
        );
    }
    // A NUL and what stands behind it; other control characters.
    for name in [
        "good.example\0.evil",
        "good\u{7f}",
        "good\u{85}",
        "good\nevil",
    ] {
        for checker in [&any, &good] {
            let answer = ask(checker, &root.leaf(&named(name)));
            assert_eq!(answer, "no-matching-template", "{name:?}");
        }
    }
    // Bytes that are no characters, under the root's own signature.
    let key = root.issuer.key();
    let leaf = root.leaf(&named("good name"));
    for bytes in [b"good \xff\xfe\x80\x81", b"good\xc0\xaenam"] {
        let forged = forged(&leaf, b"good name", bytes, key);
        let answer = ask(&any, &forged);
        assert_eq!(answer, "no-matching-template");
    }
    // The same bytes under the tag of another string.
    let printable = forged(&leaf, b"\x0c\x09good", b"\x13\x09good", key);
    assert_eq!(ask(&good, &printable), "yes CN=good name");
    let number = forged(&leaf, b"\x0c\x09good", b"\x02\x09good", key);
    assert_eq!(ask(&any, &number), "no-matching-template");
    let odd = forged(&leaf, b"\x0c\x09good", b"\x1e\x09good", key);
    assert_eq!(ask(&any, &odd), "no-matching-template");
    // Very long ones, up to all that a question holds.
    assert_eq!(
        ask(&good, &root.leaf(&named(&"good".repeat(200)))).len(),
        807
    );
    assert_eq!(
        ask(&good, &root.leaf(&named(&"good".repeat(300)))),
        "unsupported"
    );
    assert_eq!(
        ask(&good, &root.leaf(&named(&"good".repeat(15_000)))),
        "unsupported"
    );
    // A second name does not hide behind the first.
    let mut two = named("good");
    two.distinguished_name
        .push(DnType::CustomDnType(vec![2, 5, 4, 3]), "evil");
    let answer = ask(&good, &root.leaf(&two));
    assert_ne!(answer, "yes CN=evil,CN=good");
    // None at all.
    let mut none = CertificateParams::default();
    none.distinguished_name = rcgen::DistinguishedName::new();
    none.subject_alt_names = vec![SanType::DnsName("good".try_into().unwrap())];
    assert_eq!(ask(&any, &root.leaf(&none)), "no-matching-template");
}

fn revoking(authority: &Authority, serials: &[u64], until: i32) -> Vec<u8> {
    let revoked = |serial: &u64| RevokedCertParams {
        serial_number: SerialNumber::from(*serial),
        revocation_time: date_time_ymd(2020, 1, 1),
        reason_code: None,
        invalidity_date: None,
    };
    let params = CertificateRevocationListParams {
        this_update: date_time_ymd(2020, 1, 1),
        next_update: date_time_ymd(until, 1, 1),
        crl_number: SerialNumber::from(1),
        issuing_distribution_point: None,
        revoked_certs: serials.iter().map(revoked).collect(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    params.signed_by(&authority.issuer).unwrap().der().to_vec()
}

fn with_serial(name: &str, serial: u64) -> CertificateParams {
    let mut params = named(name);
    params.serial_number = Some(SerialNumber::from(serial));
    params
}

//= proves spec/builtin.md#crls
//= proves spec/exits.md#answer X4
#[test]
fn a_revocation_list_revokes_and_one_that_does_not_count_answers_nothing() {
    let mut params = authority_params("root");
    usages(
        &mut params,
        &[KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign],
    );
    let root = Authority::root_of(params);
    let other = Authority::root("other");
    let (good, bad) = (
        root.leaf(&with_serial("good", 7)),
        root.leaf(&with_serial("bad", 8)),
    );
    let elsewhere = other.leaf(&with_serial("elsewhere", 8));
    let place = Place::new();
    let list = place.file("root.crl", revoking(&root, &[8, 9], 2990));
    let mut configuration = Configuration::new(vec![
        place.file("anchors.pem", root.pem.clone() + &other.pem),
    ]);
    configuration.crls = vec![list.clone()];
    let lenient = Certificates::new(&configuration).unwrap();
    configuration.crl_required = true;
    let strict = Certificates::new(&configuration).unwrap();
    let ask = |checker: &Certificates, leaf: &[u8]| said(&checker.check(&question(&[leaf])));
    for checker in [&lenient, &strict] {
        assert_eq!(ask(checker, &good), "yes CN=good");
        assert_eq!(ask(checker, &bad), "revoked");
    }
    assert_eq!(ask(&lenient, &elsewhere), "yes CN=elsewhere");
    assert_eq!(ask(&strict, &elsewhere), "-1");

    // A newer list is seen at the next question.
    place.file("root.crl", revoking(&root, &[7, 8, 9, 10], 2990));
    assert_eq!(ask(&lenient, &good), "revoked");
    // What is no list leaves the one before, and is told.
    place.file("root.crl", "nothing");
    assert_eq!(ask(&lenient, &bad), "revoked");
    let answer = lenient.check(&question(&[&elsewhere])).unwrap();
    assert!(
        answer
            .complaint
            .unwrap()
            .contains("root.crl: not one or more")
    );
    std::fs::remove_file(&list).unwrap();
    assert_eq!(ask(&lenient, &bad), "revoked");
    // Out of its time, or not the issuer's: no answer, whoever asks.
    place.file("root.crl", revoking(&root, &[], 2021));
    for leaf in [&good, &bad] {
        assert_eq!(ask(&lenient, leaf), "-1");
    }
    let impostor = Authority::root("root");
    place.file("root.crl", revoking(&impostor, &[], 2990));
    assert_eq!(ask(&lenient, &bad), "-1");
    place.file("root.crl", revoking(&root, &[], 2990));
    assert_eq!(ask(&lenient, &bad), "yes CN=bad");
    assert!(matches!(
        strict.check(&question(&[&elsewhere])),
        Err(No::Unanswered(text)) if text.contains("UnknownRevocationStatus")
    ));
}
