//! AWS Signature Version 4, by the vendor's own crate, for every AWS service that is called here.

use std::time::SystemTime;

use noshi_jobs::machine::{Closing, Unfit};

use aws_credential_types::Credentials;
use aws_sigv4::{
    http_request::{SignableBody, SignableRequest, SigningSettings, sign as sign_request},
    sign::v4,
};

use super::http::{Gate, Reply};

/// Whether a signature was refused because of this process's clock: AWS says so, or says only that the signature is wrong while the answer's
/// own Date shows that the clock is off. Every process with a right clock goes on; this one keeps away from the lane, and says why.
pub fn clock_is_off(provider: &'static str, reply: &Reply, refusal: &str, gate: &Gate) -> bool {
    let refusal = refusal.to_ascii_lowercase();
    let says = |words: &[&str]| words.iter().any(|word| refusal.contains(word));
    let of_time = says(&[
        "tooskewed",
        "too skewed",
        "signature expired",
        "not yet current",
        "requestexpired",
        "difference between the request time",
    ]);
    let of_signature = says(&["signature"]);
    if !(of_time || of_signature && reply.clock_off().is_some()) {
        return false;
    }
    tracing::error!(
        provider,
        seconds_ahead = reply.clock_ahead,
        "this process's clock is off, and its signatures are refused for that; nothing was done. Set the clock of this machine"
    );
    gate.tell(Closing::Process(Unfit::Clock));
    true
}

/// What is signed, beside the request.
pub struct Scope<'a> {
    pub credentials: &'a Credentials,
    pub region: &'a str,
    /// The service name in the scope of every signature.
    pub service: &'static str,
    pub at: SystemTime,
}

/// What is to be signed.
pub struct Unsigned<'a> {
    pub method: &'a str,
    pub url: &'a str,
    pub headers: &'a [(&'a str, &'a str)],
    pub body: &'a [u8],
}

/// The headers to add, and the signature in hexadecimal digits. `None` if the request cannot be one.
pub fn sign(scope: &Scope<'_>, request: &Unsigned<'_>) -> Option<(Vec<(&'static str, String)>, String)> {
    let identity = scope.credentials.clone().into();
    let params = v4::SigningParams::builder()
        .identity(&identity)
        .region(scope.region)
        .name(scope.service)
        .time(scope.at)
        .settings(SigningSettings::default())
        .build()
        .ok()?
        .into();
    let headers = request.headers.iter().copied();
    let signable =
        SignableRequest::new(request.method, request.url, headers, SignableBody::Bytes(request.body)).ok()?;
    let (instructions, signature) = sign_request(signable, &params).ok()?.into_parts();
    let (added, _) = instructions.into_parts();
    Some((added.iter().map(|header| (header.name(), header.value().to_owned())).collect(), signature))
}
