//! Chains of certificates, templates, times and stapled responses, as `certificates` is asked.
//!
//! The time (8 bytes), the role (1), the length of a template (1) and the template, then lists of two
//! bytes of length and a certificate each; what is left over is a stapled response. Held is: who is let
//! in has a name that can be shown, a leaf that is its issuer's, and the same answer twice.

#![no_main]

use std::path::PathBuf;
use std::sync::OnceLock;

use baton::builtin::{Certificates, Configuration, OcspSettings, Template};
use baton::exit::{CheckCertList, Role};
use libfuzzer_sys::fuzz_target;

fn checker() -> &'static Certificates {
    static CHECKER: OnceLock<Certificates> = OnceLock::new();
    CHECKER.get_or_init(|| {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/identity");
        let anchor = PathBuf::from(folder).join("authority.pem");
        let mut configuration = Configuration::new(vec![anchor]);
        // No certificate under this authority names a responder, so nobody is ever asked.
        configuration.ocsp = Some(OcspSettings {
            required: false,
            ..OcspSettings::default()
        });
        Certificates::new(&configuration).expect("the authority")
    })
}

fn take<'a>(rest: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (taken, left) = rest.split_at_checked(length)?;
    *rest = left;
    Some(taken)
}

fn question(mut rest: &[u8]) -> Option<(CheckCertList, Option<Template>)> {
    let time = u64::from_be_bytes(take(&mut rest, 8)?.try_into().ok()?);
    let role = take(&mut rest, 1)?[0];
    let length = take(&mut rest, 1)?[0];
    let template = take(&mut rest, length.into())?;
    let mut question = CheckCertList {
        time,
        ..CheckCertList::default()
    };
    if role % 2 == 1 {
        question.role = Role::Initiator;
        question.server_name = Some("leaf.example".to_owned());
    }
    while let Some((length, after)) = rest.split_first_chunk() {
        let length = u16::from_be_bytes(*length).into();
        let Some((certificate, after)) = after.split_at_checked(length) else {
            break;
        };
        question.cert_list.push(certificate.to_vec());
        rest = after;
    }
    if !rest.is_empty() {
        question.ocsp_response = Some(rest.to_vec());
    }
    Some((question, str::from_utf8(template).ok()?.parse().ok()))
}

fuzz_target!(|input: &[u8]| {
    let Some((question, template)) = question(input) else {
        return;
    };
    let answer = checker().check(&question);
    assert_eq!(answer, checker().check(&question));
    if let Ok(accepted) = answer {
        let name = accepted.peer_name;
        assert!((1..=1024).contains(&name.len()) && !name.chars().any(char::is_control));
    }
    if let (Some(template), Some(leaf)) = (template, question.cert_list.first()) {
        assert_eq!(template.fits(leaf), template.clone().fits(leaf));
    }
});
