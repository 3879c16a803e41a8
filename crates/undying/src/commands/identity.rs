//! Owns `undying host init`, `trust`, `distrust` and `identities`: who this host is, and whom it trusts.
//!
//! They work on files and need no agent; one that runs takes what they change into account at its next handshake.

use crate::cli::{IdentityCommand, Output};
use crate::failure::{Failure, Kind};
use crate::{out, view};
use host::config::Config;
use protocol::HostName;
use serde::Serialize;
use std::path::{Path, PathBuf};
use trust::{Certificate, Fingerprint, Lifetime, Store, TrustError};

impl From<TrustError> for Failure {
    fn from(error: TrustError) -> Self {
        let kind = match &error {
            TrustError::File { .. } | TrustError::Make(_) => Kind::Failed,
            TrustError::OtherName { .. } | TrustError::Certificate { .. } => Kind::Invalid,
            _ => Kind::Refused,
        };
        Self::new(kind, error.to_string())
    }
}

/// A certificate, for programs.
#[derive(Serialize)]
struct Shown {
    host: HostName,
    sha256: String,
    valid_from: String,
    valid_until: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<PathBuf>,
}

impl Shown {
    fn of(certificate: &Certificate, file: Option<PathBuf>) -> Self {
        Self {
            host: certificate.name().clone(),
            sha256: certificate.fingerprint().to_string(),
            valid_from: certificate.valid_from(),
            valid_until: certificate.valid_until(),
            file,
        }
    }
}

/// Carries out a command about identities.
pub fn run(output: Output, command: &IdentityCommand) -> Result<(), Failure> {
    match command {
        IdentityCommand::Init { config, days, renew, switch } => init(output, config, *days, *renew, *switch),
        IdentityCommand::Trust { config, name, certificate } => trust(output, config, name, certificate),
        IdentityCommand::Distrust { config, name, fingerprint } => {
            distrust(output, config, name, *fingerprint)
        }
        IdentityCommand::Identities { config } => identities(output, config),
    }
}

fn store(config: &Path) -> Result<Store, Failure> {
    let config = Config::load(config).map_err(|error| Failure::new(Kind::Invalid, error.to_string()))?;
    Ok(config.trust())
}

fn init(output: Output, config: &Path, days: u32, renew: bool, switch: bool) -> Result<(), Failure> {
    let store = store(config)?;
    let (certificate, path, text) = if switch {
        let certificate = store.switch()?;
        let text = "is in use for new connections. Take the old one back at the other hosts, with its fingerprint: `undying \
                    host identities CONFIG` and `undying host distrust CONFIG NAME --fingerprint SHA256`";
        (certificate, store.certificate_path(), text)
    } else if renew {
        let certificate = store.renew(Lifetime::days(days))?;
        let text = "is not used yet. Carry the certificate to every other host and take it in there (`undying host trust`), \
                    then put it into use here: `undying host init CONFIG --switch`";
        (certificate, store.next_certificate_path(), text)
    } else {
        let certificate = store.init(Lifetime::days(days))?;
        let text = "is this host's. Carry the certificate to every other host and take it in there: `undying host trust \
                    CONFIG NAME CERTIFICATE.pem`";
        (certificate, store.certificate_path(), text)
    };
    match output {
        Output::Json => out::json(&Shown::of(&certificate, Some(path))),
        Output::Text => out::line(&format!(
            "The identity of host {} {text}\n  certificate  {}\n  SHA-256      {}\n  valid until  {}",
            certificate.name(),
            path.display(),
            certificate.fingerprint(),
            certificate.valid_until()
        )),
    }
}

fn trust(output: Output, config: &Path, name: &HostName, file: &Path) -> Result<(), Failure> {
    let store = store(config)?;
    let invalid = |why: String| Failure::new(Kind::Invalid, format!("{}: {why}", file.display()));
    let pem = std::fs::read(file).map_err(|error| invalid(error.to_string()))?;
    let certificate = Certificate::from_pem(&pem).map_err(|error| invalid(error.to_string()))?;
    if name == store.host() {
        let message = format!("this is host {name} itself; give the certificate of another host");
        return Err(Failure::new(Kind::Invalid, message));
    }
    store.trust(name, &certificate)?;
    match output {
        Output::Json => out::json(&Shown::of(&certificate, None)),
        Output::Text => out::line(&format!(
            "Host {} now trusts host {name} by the certificate\n  SHA-256      {}\n  valid until  {}\nCompare this \
             fingerprint with the one that `undying host identities CONFIG` prints at host {name}. If they differ, take it \
             back: `undying host distrust CONFIG {name}`",
            store.host(),
            certificate.fingerprint(),
            certificate.valid_until()
        )),
    }
}

fn distrust(
    output: Output,
    config: &Path,
    name: &HostName,
    fingerprint: Option<Fingerprint>,
) -> Result<(), Failure> {
    let store = store(config)?;
    let revoked = store.distrust(name, fingerprint)?;
    let revoked: Vec<_> = revoked.iter().map(ToString::to_string).collect();
    match output {
        Output::Json => out::json(&serde_json::json!({"host": name, "revoked": revoked})),
        Output::Text => out::line(&format!(
            "Revoked, for good, at host {}: of host {name}\n  {}\nIts sessions by these end within two seconds.",
            store.host(),
            revoked.join("\n  ")
        )),
    }
}

fn identities(output: Output, config: &Path) -> Result<(), Failure> {
    let store = store(config)?;
    let own = store.identity()?.certificate().clone();
    let next = store.next_certificate()?;
    let mut all = vec![("own", own, Some(store.certificate_path()))];
    all.extend(next.map(|next| ("own, not in use", next, Some(store.next_certificate_path()))));
    all.extend(store.trusted()?.into_iter().map(|(_, certificate)| ("trusted", certificate, None)));
    let revoked: Vec<_> = store.revoked()?.iter().map(ToString::to_string).collect();
    if output == Output::Json {
        let shown = |state: &str| -> Vec<_> {
            let of_state = all.iter().filter(|(found, ..)| *found == state);
            of_state.map(|(_, certificate, file)| Shown::of(certificate, file.clone())).collect()
        };
        return out::json(&serde_json::json!({
            "own": shown("own").pop(), "next": shown("own, not in use").pop(), "trusted": shown("trusted"),
            "revoked": revoked,
        }));
    }
    let mut rows: Vec<_> = all
        .iter()
        .map(|(state, certificate, _)| {
            let fingerprint = certificate.fingerprint().to_string();
            vec![certificate.name().to_string(), (*state).into(), certificate.valid_until(), fingerprint]
        })
        .collect();
    rows.extend(revoked.into_iter().map(|sha256| vec!["-".into(), "revoked".into(), "-".into(), sha256]));
    out::line(&view::table(&["HOST", "STATE", "VALID UNTIL", "SHA-256"], &rows))
}
