//! Credentials where AWS users keep them: environment, profile, web identity, container, instance metadata.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use aws_credential_types::Credentials;
use noshi_jobs::email::Send;
use reqsign_aws_v4::{Credential, DefaultCredentialProvider};
use reqsign_core::{Context, Error, HttpSend, OsEnv, ProvideCredential, Result, SigningCredential};
use reqsign_file_read_tokio::TokioFileRead;
use tokio::sync::Mutex;

use crate::clients::http::install_tls;

/// A changed file or role is noticed after this long.
const KEPT: Duration = Duration::from_secs(60);
/// Metadata and token services answer at once, or are not there.
const TIMEOUT: Duration = Duration::from_secs(5);

pub struct Keys {
    context: Context,
    provider: DefaultCredentialProvider,
    kept: Mutex<Option<(Instant, Credential)>>,
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
        Ok(Keys { context, provider: DefaultCredentialProvider::new(), kept: Mutex::new(None) })
    }

    /// Credentials for a call; otherwise what the send comes to instead.
    pub async fn get(&self) -> std::result::Result<Credentials, Send> {
        let mut kept = self.kept.lock().await;
        if let Some((since, credential)) = kept.as_ref()
            && since.elapsed() < KEPT
            && credential.is_valid()
        {
            return Ok(for_signing(credential));
        }
        match self.provider.provide_credential(&self.context).await {
            Ok(Some(credential)) => {
                let credentials = for_signing(&credential);
                *kept = Some((Instant::now(), credential));
                Ok(credentials)
            }
            Ok(None) => {
                tracing::error!(
                    "no AWS credentials were found in the environment, a profile, or this machine's role; nothing is sent"
                );
                Err(Send::BadCredentials)
            }
            // The text of the error may come from a credentials file.
            Err(_) => {
                tracing::warn!("the AWS credentials could not be fetched now; nothing was sent");
                Err(Send::NotSent)
            }
        }
    }

    /// After they were refused as expired.
    pub async fn forget(&self) {
        *self.kept.lock().await = None;
    }
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
