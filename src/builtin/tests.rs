//! Templates, against a matcher too simple to be wrong; configurations.

use proptest::prelude::*;

use super::subject::Attribute;
use super::{Configuration, Template, Unreadable};

/// Attributes as `(last byte of 2.5.4.n, text)`; none is no text.
fn attributes(list: &[(u8, Option<&str>)]) -> Vec<Attribute> {
    let attribute = |(kind, text): &(u8, Option<&str>)| Attribute {
        kind: vec![0x55, 4, *kind],
        text: text.map(|text| text.chars().collect()),
    };
    list.iter().map(attribute).collect()
}

const CN: u8 = 3;
const O: u8 = 10;
const OU: u8 = 11;

fn fits(template: &str, list: &[(u8, Option<&str>)]) -> bool {
    let template: Template = template.parse().unwrap();
    template.fits_all(&attributes(list))
}

//= proves spec/builtin.md#templates
#[test]
fn a_subject_fits_attribute_by_attribute() {
    let web = [(CN, Some("www.example.org")), (O, Some("Example"))];
    for (template, expected) in [
        ("CN=*.example.org,O=Exam?le", true),
        ("O=Exam?le,CN=*.example.org", true),
        ("cn=WWW.EXAMPLE.ORG", true),
        ("2.5.4.3=www.*", true),
        (" CN=*, O=*", true),
        ("CN=*.example.org,OU=*", false),
        ("CN=www.example.or", false),
        ("CN=ww.example.org", false),
        ("CN= www.example.org", false),
        ("CN=*.example.org,O=Exam??le", false),
        ("CN=*.example.org,O=Exam\\?le", false),
        ("CN=*,CN=*", false),
        ("CN=", false),
        ("CN=**w*", true),
        ("CN=???.*", true),
        ("CN=????.*", false),
    ] {
        assert_eq!(fits(template, &web), expected, "{template}");
    }
    let two = [(CN, Some("good")), (CN, Some("evil")), (OU, None)];
    for (template, expected) in [
        ("CN=good", false),
        ("CN=evil", false),
        ("CN=good,CN=evil", true),
        ("CN=good,L=x,CN=evil", false),
        ("CN=evil,CN=good", false),
        ("CN=*,CN=*", true),
        ("CN=*,CN=*,CN=*", false),
        // What is no text fits nothing.
        ("CN=*,CN=*,OU=*", false),
    ] {
        assert_eq!(fits(template, &two), expected, "{template}");
    }
    let odd = [(CN, Some("a,b*c?d\\e\u{e9}\u{1f600}"))];
    assert!(fits("CN=a\\,b\\*c\\?d\\\\e\u{e9}\u{1f600}", &odd));
    assert!(fits("CN=a\\,b?c?d?e??", &odd));
    assert!(!fits("CN=a\\,b\\*c\\?d\\\\e\u{c9}\u{1f600}", &odd));
    assert!(!fits("CN=*", &[]));
    assert!(fits("CN=", &[(CN, Some(""))]));
}

//= proves spec/builtin.md#templates
#[test]
fn a_text_that_is_no_template_is_refused_by_name() {
    let why = |text: &str| text.parse::<Template>().unwrap_err();
    for (text, expected) in [
        ("", Unreadable::Part(1)),
        ("CN", Unreadable::Part(1)),
        ("CN=a,", Unreadable::Part(2)),
        ("CN=a,b", Unreadable::Part(2)),
        ("=a", Unreadable::Part(1)),
        ("CN=a,  =b", Unreadable::Part(2)),
        ("XY=a", Unreadable::Type(1)),
        ("CN =a", Unreadable::Type(1)),
        ("CN=a,2.5.=b", Unreadable::Type(2)),
        ("3.1=a", Unreadable::Type(1)),
        ("1.40=a", Unreadable::Type(1)),
        ("2=a", Unreadable::Type(1)),
        ("2.5.4.99999999999=a", Unreadable::Type(1)),
        ("2.5.+4=a", Unreadable::Type(1)),
        ("CN=\\", Unreadable::Escape(1)),
        ("CN=\\a", Unreadable::Escape(1)),
        ("O=x,CN=\\,\\x", Unreadable::Escape(2)),
    ] {
        assert_eq!(why(text), expected, "{text}");
    }
    let parts = |number: usize| vec!["CN=a"; number].join(",");
    assert!(parts(16).parse::<Template>().is_ok());
    assert_eq!(why(&parts(17)), Unreadable::TooLong);
    assert!(
        format!("CN={}", "a".repeat(1021))
            .parse::<Template>()
            .is_ok()
    );
    assert_eq!(
        why(&format!("CN={}", "a".repeat(1022))),
        Unreadable::TooLong
    );
    // Identifiers of every length.
    for (text, bytes) in [
        (
            "0.9.2342.19200300.100.1.25",
            vec![0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 1, 25],
        ),
        ("2.999.127.128", vec![0x88, 0x37, 0x7f, 0x81, 0x00]),
    ] {
        let template: Template = format!("{text}=a").parse().unwrap();
        let attribute = Attribute {
            kind: bytes,
            text: Some(vec!['a']),
        };
        assert!(template.fits_all(&[attribute]), "{text}");
    }
}

/// Whether `value` is what a pattern's text says, by trying everything.
fn naive(pattern: &[char], value: &[char]) -> bool {
    match (pattern, value) {
        ([], value) => value.is_empty(),
        (['\\', meant, rest @ ..], [first, after @ ..]) => {
            meant.eq_ignore_ascii_case(first) && naive(rest, after)
        }
        (['\\', ..], []) => false,
        (['*', rest @ ..], value) => (0..=value.len()).any(|from| naive(rest, &value[from..])),
        (['?', rest @ ..], [_, after @ ..]) => naive(rest, after),
        ([meant, rest @ ..], [first, after @ ..]) => {
            meant.eq_ignore_ascii_case(first) && naive(rest, after)
        }
        (_, []) => false,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn a_value_fits_as_a_naive_matcher_says(
        pattern in "([*?abA.\u{e9} +=]|\\\\[*?,\\\\]){0,10}",
        value in "[abA.\u{e9} ,*?\\\\]{0,12}",
    ) {
        let simple = naive(
            &pattern.chars().collect::<Vec<_>>(),
            &value.chars().collect::<Vec<_>>(),
        );
        prop_assert_eq!(fits(&format!("CN={pattern}"), &[(CN, Some(&value))]), simple);
        // The same in two attributes, each for itself.
        let both = format!("O={pattern},CN={pattern}");
        let list = [(CN, Some(&*value)), (O, Some("a"))];
        let o = naive(&pattern.chars().collect::<Vec<_>>(), &['a']);
        prop_assert_eq!(fits(&both, &list), simple && o);
    }

    #[test]
    fn any_text_is_a_template_or_none(text in "\\PC{0,40}", value in "\\PC{0,40}") {
        if let Ok(template) = text.parse::<Template>() {
            template.fits_all(&attributes(&[(CN, Some(&value))]));
        }
    }
}

#[test]
fn the_worst_pattern_is_no_trouble() {
    let template: Template = format!("CN={}b", "*a".repeat(500)).parse().unwrap();
    let value = "a".repeat(1024);
    assert!(!template.fits_all(&attributes(&[(CN, Some(&value))])));
}

//= proves spec/builtin.md#configuration
#[test]
fn a_mistake_of_the_configuration_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("certificates.toml");
    let said = |text: &[u8]| {
        std::fs::write(&file, text).unwrap();
        match Configuration::read(&file) {
            Ok(_) => String::new(),
            Err(mistake) => mistake.to_string(),
        }
    };
    let large = "#".repeat((64 << 10) + 1);
    let many = format!("anchors = [{}]", "\"/a\",".repeat(17));
    for (text, expected) in [
        ("", "missing field `anchors`"),
        ("anchors = []", "anchors is to be 1 to 16 paths"),
        (&many, "anchors is to be 1 to 16 paths"),
        ("anchors = [\"a.pem\"]", "a.pem: not an absolute path"),
        ("anchors = \"/a\"", "line 1: invalid type"),
        (
            "anchors = [\"/a\"]\nanchor = 1",
            "line 2: unknown field `anchor`",
        ),
        (
            "anchors = [\"/a\"]\nchain_limit = 0",
            "chain_limit is to be 1 to 7",
        ),
        (
            "anchors = [\"/a\"]\nchain_limit = 8",
            "chain_limit is to be 1 to 7",
        ),
        (
            "anchors = [\"/a\"]\nchain_limit = -1",
            "line 2: invalid value",
        ),
        (
            "anchors = [\"/a\"]\nholds = 65537",
            "holds is to be 1 to 65536",
        ),
        (
            "anchors = [\"/a\"]\nthreads = 0",
            "threads is to be 1 to 64",
        ),
        (
            "anchors = [\"/a\"]\ntemplates = [\"CN\"]",
            "template \"CN\": part 1 is not TYPE=PATTERN",
        ),
        ("anchors = [\"/a\"", "line 1: "),
        (&large, "larger than 65536 bytes"),
    ] {
        let said = said(text.as_bytes());
        assert!(said.contains(expected), "{text:.40}: {said}");
    }
    for (line, expected) in [
        (
            "responder = \"https://a/\"",
            "ocsp.responder is to be an address http://",
        ),
        ("timeout_ms = 99", "ocsp.timeout_ms is to be 100 to 60000"),
        ("pause_ms = 60001", "ocsp.pause_ms is to be 0 to 60000"),
        ("skew = 86401", "ocsp.skew is to be 0 to 86400"),
        ("cache = 65537", "ocsp.cache is to be 0 to 65536"),
        ("method = \"put\"", "line 3: unknown variant `put`"),
        ("nonce = true", "line 3: "),
        ("timeout = 1", "line 3: unknown field `timeout`"),
    ] {
        let said = said(format!("anchors = [\"/a\"]\n[ocsp]\n{line}\n").as_bytes());
        assert!(said.contains(expected), "{line}: {said}");
    }
    let example = include_bytes!("../../examples/certificates.toml");
    assert_eq!(said(example), "");
    assert!(said(b"\xff").contains("certificates.toml: not UTF-8"));
    assert_eq!(said(b"anchors = [\"/a\"]"), "");
    let missing = Configuration::read(&folder.path().join("none")).unwrap_err();
    assert!(
        missing.to_string().contains("none: No such file"),
        "{missing}"
    );
}
