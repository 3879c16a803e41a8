use super::*;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;

fn name(name: &str) -> HostName {
    HostName::new(name).expect("a name")
}

fn store(place: &tempfile::TempDir, host: &str) -> Store {
    Store::new(&place.path().join(host), &name(host))
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).expect("it is there").permissions().mode() & 0o777
}

fn certificate(host: &str) -> Certificate {
    Identity::make(&name(host), Lifetime::default()).expect("made").certificate().clone()
}

#[test]
fn an_identity_is_made_once_and_is_its_owners_alone() {
    let place = tempfile::tempdir().expect("a directory");
    let alpha = store(&place, "alpha");
    assert!(matches!(alpha.identity(), Err(TrustError::NoIdentity { .. })));
    let made = alpha.init(Lifetime::default()).expect("made");
    assert_eq!((made.name(), alpha.identity().expect("there").certificate()), (&name("alpha"), &made));
    let error = alpha.init(Lifetime::default()).expect_err("once").to_string();
    assert!(error.contains("--renew") && error.contains(&made.fingerprint().to_string()), "{error}");
    let directory = place.path().join("alpha/identity");
    assert_eq!((mode(&directory), mode(&directory.join("host.pem"))), (0o700, 0o600));
    let public = std::fs::read(alpha.certificate_path()).expect("there");
    assert_eq!(Certificate::from_pem(&public).expect("a certificate"), made);
    assert!(!String::from_utf8_lossy(&public).contains("PRIVATE"));
}

#[test]
fn a_key_that_others_may_read_is_refused_and_the_cure_is_named() {
    let place = tempfile::tempdir().expect("a directory");
    let alpha = store(&place, "alpha");
    alpha.init(Lifetime::default()).expect("made");
    let key = place.path().join("alpha/identity/host.pem");
    for bad in [0o644, 0o640, 0o604, 0o660] {
        std::fs::set_permissions(&key, Permissions::from_mode(bad)).expect("set");
        let error = alpha.check().expect_err("refused").to_string();
        assert!(error.contains(&format!("chmod 600 {}", key.display())), "{bad:o}: {error}");
    }
    std::fs::set_permissions(&key, Permissions::from_mode(0o600)).expect("set");
    std::fs::set_permissions(key.parent().expect("a parent"), Permissions::from_mode(0o755)).expect("set");
    let error = alpha.check().expect_err("refused").to_string();
    assert!(error.contains("chmod 700"), "{error}");
}

#[test]
fn a_trust_store_that_others_may_change_is_refused() {
    let place = tempfile::tempdir().expect("a directory");
    let alpha = store(&place, "alpha");
    alpha.init(Lifetime::default()).expect("made");
    alpha.trust(&name("beta"), &certificate("beta")).expect("trusted");
    alpha.check().expect("all is well");
    for directory in ["trusted", "revoked"] {
        let path = place.path().join("alpha").join(directory);
        std::fs::set_permissions(&path, Permissions::from_mode(0o777)).expect("set");
        assert!(matches!(alpha.check(), Err(TrustError::Mode { .. })), "{directory}");
        std::fs::set_permissions(&path, Permissions::from_mode(0o700)).expect("set");
    }
    alpha.check().expect("all is well again");
}

#[test]
fn a_copied_state_directory_is_not_another_host() {
    let place = tempfile::tempdir().expect("a directory");
    store(&place, "alpha").init(Lifetime::default()).expect("made");
    let beta = Store::new(&place.path().join("alpha"), &name("beta"));
    assert!(matches!(beta.identity(), Err(TrustError::Foreign { .. })));
}

#[test]
fn a_new_identity_is_made_beside_the_old_one_and_then_takes_its_place() {
    let place = tempfile::tempdir().expect("a directory");
    let alpha = store(&place, "alpha");
    assert!(matches!(alpha.renew(Lifetime::default()), Err(TrustError::NoIdentity { .. })));
    let old = alpha.init(Lifetime::default()).expect("made");
    assert!(matches!(alpha.switch(), Err(TrustError::NothingNext)));
    let new = alpha.renew(Lifetime::default()).expect("made");
    assert_ne!(new.fingerprint(), old.fingerprint());
    assert_eq!(alpha.identity().expect("there").certificate(), &old);
    assert_eq!(alpha.next_certificate().expect("right"), Some(new.clone()));
    assert_eq!(alpha.switch().expect("switched"), new);
    assert_eq!(alpha.identity().expect("there").certificate(), &new);
    let public = std::fs::read(alpha.certificate_path()).expect("there");
    assert_eq!(Certificate::from_pem(&public).expect("a certificate"), new);
    assert_eq!(alpha.next_certificate().expect("right"), None);
}

#[test]
fn a_peer_has_two_certificates_at_most_and_only_its_own() {
    let place = tempfile::tempdir().expect("a directory");
    let alpha = store(&place, "alpha");
    let (beta, [one, two, three]) = (name("beta"), [(); 3].map(|()| certificate("beta")));
    let error = alpha.trust(&name("gamma"), &one).expect_err("refused").to_string();
    assert!(error.contains("of host beta, not of gamma"), "{error}");
    for certificate in [&one, &two, &one] {
        alpha.trust(&beta, certificate).expect("trusted, once or again");
    }
    let error = alpha.trust(&beta, &three).expect_err("one too many").to_string();
    assert!(error.contains(&one.fingerprint().to_string()), "{error}");
    assert_eq!(alpha.distrust(&beta, Some(one.fingerprint())).expect("revoked"), [one.fingerprint()]);
    alpha.trust(&beta, &three).expect("there is room");
    assert_eq!(alpha.trusted_of(&beta).expect("read"), [two, three]);
}

#[test]
fn what_is_revoked_is_never_trusted_again() {
    let place = tempfile::tempdir().expect("a directory");
    let alpha = store(&place, "alpha");
    let (beta, one) = (name("beta"), certificate("beta"));
    assert!(matches!(alpha.distrust(&beta, None), Err(TrustError::NotTrusted { .. })));
    alpha.trust(&beta, &one).expect("trusted");
    assert_eq!(alpha.distrust(&beta, None).expect("revoked"), [one.fingerprint()]);
    assert!(alpha.trusted().expect("read").is_empty());
    assert!(matches!(alpha.trust(&beta, &one), Err(TrustError::Revoked { .. })));
    let never_seen = certificate("beta");
    alpha.distrust(&beta, Some(never_seen.fingerprint())).expect("revoked beforehand");
    assert!(matches!(alpha.trust(&beta, &never_seen), Err(TrustError::Revoked { .. })));
    assert_eq!(alpha.revoked().expect("read").len(), 2);
}

#[test]
fn an_expired_certificate_is_not_taken_in() {
    let place = tempfile::tempdir().expect("a directory");
    let old = Identity::make(&name("beta"), Lifetime::between(-86_400, -60)).expect("made");
    let error = store(&place, "alpha").trust(&name("beta"), old.certificate()).expect_err("refused");
    assert!(matches!(error, TrustError::Expired { .. }), "{error}");
}

#[test]
fn every_name_that_a_host_may_have_fits_into_a_certificate() {
    let long = "x".repeat(protocol::ids::MAX_NAME_LEN);
    for host in ["a", "1", "10.0.0.1", "_", "a-", "a.", "Alpha_7", long.as_str()] {
        assert_eq!(certificate(host).name(), &name(host));
    }
}

#[test]
fn fingerprints_are_read_as_they_are_printed_and_as_file_names() {
    let fingerprint = certificate("beta").fingerprint();
    assert_eq!(fingerprint.to_string().parse(), Ok(fingerprint));
    assert_eq!(fingerprint.plain().parse(), Ok(fingerprint));
    assert_eq!(fingerprint.to_string().to_lowercase().parse(), Ok(fingerprint));
    for wrong in ["", "ab", "zz", &"0".repeat(63), &"0".repeat(66), &"g".repeat(64)] {
        assert!(wrong.parse::<Fingerprint>().is_err(), "{wrong}");
    }
}

#[test]
fn what_is_no_certificate_of_a_host_is_named() {
    let two = certificate("a").pem() + &certificate("b").pem();
    assert_eq!(Certificate::from_pem(two.as_bytes()), Err(CertificateError::Several(2)));
    assert!(matches!(Certificate::from_pem(b"hello"), Err(CertificateError::Pem(_))));
    let mut params = rcgen::CertificateParams::new(vec!["beta".into()]).expect("parameters");
    params.distinguished_name.push(rcgen::DnType::CommonName, "beta");
    let foreign = params.self_signed(&rcgen::KeyPair::generate().expect("a key")).expect("a certificate");
    assert_eq!(Certificate::from_pem(foreign.pem().as_bytes()), Err(CertificateError::NoName));
    let mut damaged = certificate("beta").der().to_vec();
    let last = damaged.len() - 1;
    damaged[last] ^= 1;
    assert!(matches!(Certificate::from_der(damaged.into()), Err(CertificateError::Der(_))));
}
