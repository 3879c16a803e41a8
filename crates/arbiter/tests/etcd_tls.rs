//! An etcd cluster that speaks TLS and wants to know its clients.

mod support;

use arbiter::etcd::{EtcdArbiter, TlsFiles};
use arbiter::{Arbiter, conformance};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use std::path::{Path, PathBuf};
use support::etcd::{Etcd, own_address, possible};

fn write(directory: &Path, name: &str, text: &str) -> PathBuf {
    let path = directory.join(name);
    std::fs::write(&path, text).unwrap();
    path
}

fn authority(directory: &Path, name: &str) -> (Issuer<'static, KeyPair>, PathBuf) {
    let mut params = CertificateParams::new(vec![]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let path = write(directory, name, &params.self_signed(&key).unwrap().pem());
    (Issuer::new(params, key), path)
}

/// A certificate for the members' address, and its key.
fn certificate(directory: &Path, name: &str, by: &Issuer<'static, KeyPair>) -> (PathBuf, PathBuf) {
    let params = CertificateParams::new(vec![own_address().to_string()]).unwrap();
    let key = KeyPair::generate().unwrap();
    let text = params.signed_by(&key, by).unwrap().pem();
    let path = write(directory, &format!("{name}.pem"), &text);
    (path, write(directory, &format!("{name}.key"), &key.serialize_pem()))
}

#[test]
fn certificates_are_shown_and_wanted() {
    if !possible() {
        return;
    }
    let files = tempfile::tempdir().unwrap();
    let (issuer, ca) = authority(files.path(), "ca.pem");
    let (stranger, other_ca) = authority(files.path(), "other.pem");
    let member = certificate(files.path(), "member", &issuer);
    let host = certificate(files.path(), "host", &issuer);
    let unknown = certificate(files.path(), "unknown", &stranger);
    let mut arguments = vec!["--client-cert-auth".to_owned()];
    for (option, file) in [("--cert-file", &member.0), ("--key-file", &member.1), ("--trusted-ca-file", &ca)]
    {
        arguments.extend([option.to_owned(), file.display().to_string()]);
    }
    let tls = |ca: &PathBuf, identity| TlsFiles { ca: Some(ca.clone()), identity };
    let etcd = Etcd::start_with("https", tls(&ca, Some(host.clone())), arguments);
    let client = |tls| {
        let mut place = etcd.place();
        place.tls = tls;
        EtcdArbiter::new(&place).unwrap()
    };
    let good = tls(&ca, Some(host.clone()));
    conformance::first_and_next(&|| Box::new(client(good.clone())));
    for (what, bad) in [
        ("a host without a certificate", tls(&ca, None)),
        ("a host with another's", tls(&ca, Some(unknown))),
        ("members of another authority", tls(&other_ca, Some(host))),
    ] {
        let error = client(bad).identity().expect_err(what);
        assert!(error.is_unreachable(), "{what}: {error}");
    }
}
