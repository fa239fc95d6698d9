//! AWS Signature Version 4, by the vendor's own crate, for every AWS service that is called here.

use std::time::SystemTime;

use aws_credential_types::Credentials;
use aws_sigv4::{
    http_request::{SignableBody, SignableRequest, SigningSettings, sign as sign_request},
    sign::v4,
};

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
