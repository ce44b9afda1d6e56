use rcgen::{
    CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519,
    date_time_ymd,
};

use super::*;
use crate::status::Major;

/// A certificate of its own key: the two PEM texts.
fn certificate(key: &KeyPair) -> (String, String) {
    let mut params = CertificateParams::new(vec!["a.example".into()]).unwrap();
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(2100, 1, 1);
    (params.self_signed(key).unwrap().pem(), key.serialize_pem())
}

#[test]
fn a_certificate_and_its_key_are_a_credential() {
    for key in [
        KeyPair::generate().unwrap(),
        KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap(),
        KeyPair::generate_for(&PKCS_ED25519).unwrap(),
    ] {
        let (chain, key) = certificate(&key);
        let credential = AcceptorCredential::from_pem(chain.as_bytes(), key.as_bytes()).unwrap();
        assert_eq!(credential.name().to_string(), "CN=rcgen self signed cert");
        assert_eq!(credential.valid_until(), 4_102_444_800);
        let both = chain + &key;
        let both = InitiatorCredential::from_pem(both.as_bytes(), both.as_bytes()).unwrap();
        assert_eq!(&both.name(), credential.name());
    }
}

#[test]
fn what_does_not_belong_together_is_no_credential() {
    let (chain, key) = certificate(&KeyPair::generate().unwrap());
    let (_, other) = certificate(&KeyPair::generate().unwrap());
    let refused = |chain: &str, key: &str| {
        let error = AcceptorCredential::from_pem(chain.as_bytes(), key.as_bytes()).unwrap_err();
        assert_eq!(error.status().major(), Major::DefectiveCredential);
        error.reason().to_owned()
    };
    assert_eq!(
        refused(&chain, &other),
        "the private key is not the certificate's"
    );
    refused("", &key);
    refused(&chain, "");
    refused(&key, &key);
    refused(&chain, &chain);
    let cut = &chain[..chain.len() / 2];
    refused(cut, &key);
    let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    refused(broken, &key);
    refused(&"x".repeat(FILE_LIMIT + 1), &key);
    assert_eq!(
        refused(&chain.repeat(300), &key),
        "the certificate chain is longer than 64 KiB"
    );
    assert!(Anchors::from_pem(broken.as_bytes()).is_err());
    assert!(Anchors::from_pem(b"").is_err());
    assert!(Anchors::from_pem(chain.as_bytes()).is_ok());
}

#[test]
fn a_key_is_read_in_its_older_form_too() {
    for (algorithm, octets) in [(&PKCS_ECDSA_P256_SHA256, 27), (&PKCS_ECDSA_P384_SHA384, 24)] {
        let pair = KeyPair::generate_for(algorithm).unwrap();
        let pkcs8 = pair.serialize_der();
        // Behind version and algorithm: an octet string, and in it the key as SEC 1 has it.
        assert_eq!(pkcs8[octets], 0x04);
        let header = if pkcs8[octets + 1] == 0x81 { 3 } else { 2 };
        let older = PrivateKeyDer::Sec1(pkcs8[octets + header..].to_vec().into());
        let key = private_key(&older).unwrap();
        let newer = PrivateKeyDer::Pkcs8(pkcs8.into());
        let expected = private_key(&newer).unwrap();
        assert_eq!(key.signing.public_key(), expected.signing.public_key());
        assert!(key.is_here());
    }
    let nonsense = PrivateKeyDer::Sec1(vec![0x30; 400].into());
    assert!(private_key(&nonsense).is_none());
}

#[test]
fn a_credential_is_read_from_files() {
    let files = tempfile::tempdir().unwrap();
    let (chain, key) = certificate(&KeyPair::generate().unwrap());
    let [chain_file, key_file] = ["chain.pem", "key.pem"].map(|name| files.path().join(name));
    std::fs::write(&chain_file, &chain).unwrap();
    std::fs::write(&key_file, &key).unwrap();
    let credential = AcceptorCredential::from_pem_files(&chain_file, &key_file).unwrap();
    assert_eq!(credential.valid_until(), 4_102_444_800);
    assert!(InitiatorCredential::from_pem_files(&chain_file, &key_file).is_ok());
    assert!(Anchors::from_pem_file(&chain_file).is_ok());
    std::fs::write(&key_file, vec![b'x'; FILE_LIMIT + 1]).unwrap();
    assert!(AcceptorCredential::from_pem_files(&chain_file, &key_file).is_err());
}

#[test]
fn a_file_that_is_not_there_is_no_credential() {
    let nowhere = Path::new("/nonexistent/key.pem");
    let error = AcceptorCredential::from_pem_files(nowhere, nowhere).unwrap_err();
    assert_eq!(error.status().major(), Major::NoCred);
    assert!(Anchors::from_pem_file(nowhere).is_err());
}

//= proves spec/mechanism.md#password
#[test]
fn a_password_is_text_of_at_most_1024_bytes() {
    for right in ["", "secret", "pässwörd", &"p".repeat(PASSWORD_LIMIT)] {
        let password = Password::new("ada", right).unwrap();
        assert_eq!(password.texts().unwrap(), ("ada", right));
    }
    for wrong in [
        "a\0b",
        &"p".repeat(PASSWORD_LIMIT + 1),
        &"p".repeat(1 << 20),
    ] {
        assert!(Password::new("ada", wrong).is_err());
    }
    assert!(check_password(b"\xff").is_err());
    assert!(Password::new("a\nb", "secret").is_err());
}

#[test]
fn a_secret_is_not_shown() {
    let password = || Password::new("ada", "correct horse").unwrap();
    let credential = InitiatorCredential::from_password(password());
    assert_eq!(format!("{:?}", password()), "Password(ada)");
    assert_eq!(format!("{credential:?}"), "InitiatorCredential(ada)");
    assert_eq!(
        format!("{:?}", InitiatorCredential::anonymous()),
        "InitiatorCredential(ANONYMOUS)"
    );
}
