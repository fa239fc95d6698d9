//! Credentials where AWS users keep them: environment, profile, web identity, container, instance metadata.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use aws_credential_types::Credentials;
use noshi_jobs::{
    email::Send,
    machine::{Closing, Unfit},
};
use reqsign_aws_v4::{Credential, DefaultCredentialProvider};
use reqsign_core::{Context, Error, HttpSend, OsEnv, ProvideCredential, Result, SigningCredential, time::Timestamp};
use reqsign_file_read_tokio::TokioFileRead;
use tokio::sync::Mutex;

use crate::partners::http::{Gate, install_tls};

/// A changed file or role is noticed after this long.
const KEPT: Duration = Duration::from_secs(60);
/// After a source did not answer it is left alone for this long: each look at all of them may take seconds.
const LEFT_ALONE: Duration = Duration::from_secs(5);
/// Metadata and token services answer at once, or are not there.
const TIMEOUT: Duration = Duration::from_secs(5);

pub struct Keys {
    context: Context,
    provider: DefaultCredentialProvider,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    credential: Option<Credential>,
    /// When they were fetched.
    since: Option<Instant>,
    /// When their source did not answer.
    away: Option<Instant>,
}

impl Kept {
    /// What may still be signed with, to the second: the library would have others two minutes earlier.
    fn valid(&self) -> Option<Credentials> {
        let valid = self.credential.as_ref().filter(|credential| credential.is_valid_at(Timestamp::now()));
        valid.map(for_signing)
    }
}

impl Keys {
    pub fn new() -> anyhow::Result<Keys> {
        install_tls();
        let client = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .connect_timeout(TIMEOUT / 2)
            .timeout(TIMEOUT)
            .build()
            .context("the HTTP client for AWS credentials cannot start; https needs the package ca-certificates")?;
        let context = Context::new().with_env(OsEnv).with_file_read(TokioFileRead).with_http_send(Errands(client));
        Ok(Keys { context, provider: DefaultCredentialProvider::new(), kept: Mutex::default() })
    }

    /// Credentials for a call; otherwise what the send comes to instead: nothing was sent. A source that is away is this process's trouble
    /// alone, and keys that are still valid are kept.
    pub async fn get(&self, gate: &Gate) -> std::result::Result<Credentials, Send> {
        let mut kept = self.kept.lock().await;
        let fresh = kept.since.is_some_and(|since| since.elapsed() < KEPT);
        let left_alone = kept.away.is_some_and(|away| away.elapsed() < LEFT_ALONE);
        if (fresh && kept.credential.as_ref().is_some_and(SigningCredential::is_valid)) || left_alone {
            return kept.valid().ok_or_else(|| without(gate));
        }
        match self.provider.provide_credential(&self.context).await {
            Ok(Some(credential)) if credential.is_valid_at(Timestamp::now()) => {
                *kept = Kept { credential: Some(credential), since: Some(Instant::now()), away: None };
            }
            // The text of an error may come from a credentials file.
            Ok(_) | Err(_) => {
                kept.away = Some(Instant::now());
                tracing::warn!(
                    kept = kept.valid().is_some(),
                    "no AWS credentials were found in the environment, a profile, or this machine's role; what is kept and valid is used on"
                );
            }
        }
        kept.valid().ok_or_else(|| without(gate))
    }

    /// After they were refused as expired.
    pub async fn forget(&self) {
        *self.kept.lock().await = Kept::default();
    }
}

fn without(gate: &Gate) -> Send {
    tracing::error!("this process has no AWS credentials; nothing was sent");
    gate.tell(Closing::Process(Unfit::Keys));
    Send::NotSent
}

fn for_signing(credential: &Credential) -> Credentials {
    let Credential { access_key_id, secret_access_key, session_token, expires_in: _ } = credential;
    Credentials::new(access_key_id, secret_access_key, session_token.clone(), None, "noshi")
}

/// What the providers fetch from metadata and token services.
#[derive(Debug)]
struct Errands(reqwest::Client);

impl HttpSend for Errands {
    async fn http_send(&self, request: http::Request<axum::body::Bytes>) -> Result<http::Response<axum::body::Bytes>> {
        let failed = |error: reqwest::Error| Error::unexpected("asking for credentials").with_source(error);
        let request = reqwest::Request::try_from(request).map_err(failed)?;
        let response = self.0.execute(request).await.map_err(failed)?;
        let mut answer = http::Response::builder().status(response.status());
        if let Some(headers) = answer.headers_mut() {
            headers.clone_from(response.headers());
        }
        let body = response.bytes().await.map_err(failed)?;
        answer.body(body).map_err(|error| Error::unexpected("reading credentials").with_source(error))
    }
}
