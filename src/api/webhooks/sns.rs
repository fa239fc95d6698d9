//! Amazon SNS: whether a notification is Amazon's, and for a topic of ours.
//!
//! The signature is over a canonical text, with RSA and SHA-256 (version 2) or SHA-1 (version 1). The certificate is
//! fetched once, over https from Amazon's own hosts only, or pinned by a file.

use std::{collections::HashMap, path::Path, sync::Mutex, time::Duration};

use anyhow::{Context, anyhow, bail};
use base64::{Engine, engine::general_purpose::STANDARD};
use reqwest::{Method, Url};
use ring::signature::{
    RSA_PKCS1_2048_8192_SHA1_FOR_LEGACY_USE_ONLY, RSA_PKCS1_2048_8192_SHA256, RsaParameters, UnparsedPublicKey,
};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use serde::Deserialize;
use webpki::EndEntityCert;

use crate::{
    api::answer::Refused,
    partners::{
        Gate,
        http::{Answer, Body, Http, Reach},
    },
};

/// Amazon's certificates are few; a sender of many is none of ours.
const MAX_CERTIFICATES: usize = 16;

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Notification {
    #[serde(rename = "Type")]
    pub kind: String,
    pub message_id: String,
    pub topic_arn: String,
    pub message: String,
    timestamp: String,
    subject: Option<String>,
    token: Option<String>,
    #[serde(rename = "SubscribeURL")]
    subscribe_url: Option<String>,
    signature_version: String,
    signature: String,
    #[serde(rename = "SigningCertURL")]
    signing_cert_url: String,
}

impl Notification {
    /// What is signed: some fields, each with its name, in the order of the names.
    fn canonical(&self) -> String {
        let mut text = String::new();
        let mut add = |name: &str, value: Option<&str>| {
            if let Some(value) = value {
                text.extend([name, "\n", value, "\n"]);
            }
        };
        add("Message", Some(&self.message));
        add("MessageId", Some(&self.message_id));
        if self.kind == "Notification" {
            add("Subject", self.subject.as_deref());
        } else {
            add("SubscribeURL", self.subscribe_url.as_deref());
        }
        add("Timestamp", Some(&self.timestamp));
        if self.kind != "Notification" {
            add("Token", self.token.as_deref());
        }
        add("TopicArn", Some(&self.topic_arn));
        add("Type", Some(&self.kind));
        text
    }
}

/// What checks notifications.
pub struct Checker {
    topics: Vec<String>,
    pinned: Option<Vec<u8>>,
    /// Public keys by the address of their certificate.
    fetched: Mutex<HashMap<String, Vec<u8>>>,
}

impl Checker {
    pub fn new(topics: &[String], certificate_file: Option<&Path>) -> anyhow::Result<Checker> {
        let pinned = certificate_file.map(|file| {
            let name = file.display();
            let pem = std::fs::read(file).with_context(|| format!("cannot read the certificate {name}"))?;
            public_key(&pem).with_context(|| format!("the certificate {name} cannot be used; it must hold an RSA key"))
        });
        Ok(Checker { topics: topics.to_vec(), pinned: pinned.transpose()?, fetched: Mutex::default() })
    }

    /// Only what this returns may be believed.
    pub async fn read(&self, body: &[u8]) -> Result<Notification, Refused> {
        let notification: Notification = serde_json::from_slice(body)
            .map_err(|_| Refused::new(400, "This is no SNS notification; switch raw message delivery off."))?;
        if !self.topics.contains(&notification.topic_arn) {
            return Err(Refused::new(403, "The topic is none of those in the configuration."));
        }
        let key = self.key(&notification.signing_cert_url, &notification.topic_arn).await?;
        match is_signed(&notification, &key) {
            true => Ok(notification),
            false => Err(Refused::new(403, "The signature is not Amazon's.")),
        }
    }

    async fn key(&self, url: &str, topic: &str) -> Result<Vec<u8>, Refused> {
        if let Some(pinned) = &self.pinned {
            return Ok(pinned.clone());
        }
        let Some(parsed) = amazons(url, topic).filter(is_certificate) else {
            return Err(Refused::new(
                403,
                "The signing certificate is not one of Amazon SNS in the region of the topic.",
            ));
        };
        if let Some(key) = self.lock().get(url) {
            return Ok(key.clone());
        }
        let key = match fetch(&parsed).await {
            Ok(pem) => public_key(pem.text().unwrap_or_default().as_bytes()),
            Err(error) => Err(error),
        };
        let key = key.map_err(|error| {
            tracing::warn!(error = format!("{error:#}"), "the signing certificate of SNS could not be fetched");
            Refused::new(503, "The signing certificate could not be fetched now; send it again.")
        })?;
        let mut fetched = self.lock();
        if fetched.len() >= MAX_CERTIFICATES {
            fetched.clear();
        }
        fetched.insert(url.to_owned(), key.clone());
        Ok(key)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Vec<u8>>> {
        self.fetched.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// Visits the address of a subscription's confirmation, which must be Amazon's.
pub async fn confirm(notification: &Notification) -> Result<(), Refused> {
    let Some(url) = notification.subscribe_url.as_deref().and_then(|url| amazons(url, &notification.topic_arn)) else {
        return Err(Refused::new(403, "The subscription's address is not on a host of Amazon SNS."));
    };
    match fetch(&url).await {
        Ok(_) => {
            tracing::info!(topic = notification.topic_arn, "confirmed the subscription to a topic");
            Ok(())
        }
        Err(error) => {
            tracing::warn!(error = format!("{error:#}"), "a subscription could not be confirmed");
            Err(Refused::new(503, "The subscription could not be confirmed now; send it again."))
        }
    }
}

/// The address, if it is on the host of Amazon SNS in the topic's own region, and nothing odd is in it. Any other host may be somebody's:
/// `sns.s3.amazonaws.com` is a bucket.
fn amazons(url: &str, topic: &str) -> Option<Url> {
    let mut arn = topic.split(':');
    let (Some("arn"), Some(partition), Some("sns"), Some(region)) = (arn.next(), arn.next(), arn.next(), arn.next())
    else {
        return None;
    };
    let ending = match partition {
        "aws" | "aws-us-gov" => "amazonaws.com",
        "aws-cn" => "amazonaws.com.cn",
        _ => return None,
    };
    let parsed = Url::parse(url).ok()?;
    // A region has a number, such as ap-northeast-1; other services' names have none.
    let is_region = region.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
        && region.rsplit_once('-').is_some_and(|(_, number)| number.parse::<u8>().is_ok());
    let is_theirs = is_region && parsed.host_str() == Some(&format!("sns.{region}.{ending}"));
    let plain = parsed.username().is_empty() && parsed.password().is_none() && parsed.port().is_none();
    (parsed.scheme() == "https" && is_theirs && plain && parsed.fragment().is_none()).then_some(parsed)
}

/// As SNS names its certificates: `/SimpleNotificationService-<letters and digits>.pem`.
fn is_certificate(url: &Url) -> bool {
    let name = url.path().strip_prefix("/SimpleNotificationService-").and_then(|name| name.strip_suffix(".pem"));
    let plain = |name: &str| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric());
    url.query().is_none() && name.is_some_and(plain)
}

async fn fetch(url: &Url) -> anyhow::Result<Body> {
    let http = Http::new(&Reach {
        provider: "sns",
        base_url: url.origin().ascii_serialization(),
        allow_plain_http: false,
        ca_file: None,
        connect_timeout: Duration::from_secs(2),
        read_timeout: Duration::from_secs(4),
        timeout: Duration::from_secs(6),
        budgets: vec![],
        only: None,
    })?;
    let path: Vec<&str> = url.path_segments().into_iter().flatten().filter(|part| !part.is_empty()).collect();
    let query: Vec<_> = url.query_pairs().collect();
    let query: Vec<(&str, &str)> = query.iter().map(|(name, value)| (name.as_ref(), value.as_ref())).collect();
    let request = match query.is_empty() {
        true => http.request(Method::GET, &path),
        false => http.query(Method::GET, &path, &query),
    };
    match http.send(request, &Gate::open()).await {
        Answer::Reply(reply) if reply.status.is_success() => Ok(reply.body),
        Answer::Reply(reply) => bail!("Amazon SNS answered {}", reply.status),
        Answer::NotSent | Answer::Unknown => bail!("Amazon SNS did not answer"),
    }
}

fn is_signed(notification: &Notification, key: &[u8]) -> bool {
    let parameters: &'static RsaParameters = match notification.signature_version.as_str() {
        "1" => &RSA_PKCS1_2048_8192_SHA1_FOR_LEGACY_USE_ONLY,
        "2" => &RSA_PKCS1_2048_8192_SHA256,
        _ => return false,
    };
    let Ok(signature) = STANDARD.decode(&notification.signature) else { return false };
    UnparsedPublicKey::new(parameters, key).verify(notification.canonical().as_bytes(), &signature).is_ok()
}

/// The RSA key of a certificate in PEM, as DER. That the certificate is Amazon's is known from where it was fetched.
fn public_key(pem: &[u8]) -> anyhow::Result<Vec<u8>> {
    let certificate = CertificateDer::from_pem_slice(pem).map_err(|_| anyhow!("it is no certificate in PEM"))?;
    let certificate = EndEntityCert::try_from(&certificate).map_err(|error| anyhow!("it does not read: {error}"))?;
    rsa_key(certificate.subject_public_key_info().as_ref()).context("its key is not RSA")
}

/// rsaEncryption with its empty parameters; the key follows as a bit string without unused bits.
const RSA: [u8; 13] = [0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00];

fn rsa_key(info: &[u8]) -> Option<Vec<u8>> {
    let at = info.windows(RSA.len()).position(|part| part == RSA)? + RSA.len();
    let (length, key) = match info.get(at..)? {
        [0x03, 0x82, high, low, 0x00, key @ ..] => (usize::from(*high) << 8 | usize::from(*low), key),
        [0x03, 0x81, length, 0x00, key @ ..] => (usize::from(*length), key),
        _ => return None,
    };
    (key.len() + 1 == length).then(|| key.to_vec())
}

#[cfg(test)]
mod tests;
