//! Checks the AWS signature of a call by signing it again with the shared secret and comparing.

use std::time::{Duration, SystemTime};

use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4;

use super::messages::Arrived;

/// How far a signature's date may be from now (AWS's usual tolerance).
const TOLERANCE: Duration = Duration::from_secs(5 * 60);

/// What a right signature is made with.
#[derive(Clone)]
pub struct Keys<'a> {
    pub id: &'a str,
    pub secret: &'a str,
    pub region: &'a str,
    /// The name in the scope of the signature.
    pub service: &'a str,
    /// The least that it has to cover.
    pub covers: &'a [&'a str],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// The access key id is unknown.
    Key,
    /// Anything else: missing, for another region or service, too old, or not the right one.
    Signature,
}

/// Accepts exactly the calls that the holder of the secret signed within the last or next five minutes.
pub fn verify(call: &Arrived, keys: &Keys<'_>, now: SystemTime) -> Result<(), Wrong> {
    let given = Given::parse(call.header("authorization")).ok_or(Wrong::Signature)?;
    let mut scope = given.credential.split('/');
    if scope.next() != Some(keys.id) {
        return Err(Wrong::Key);
    }
    let stamp = call.header("x-amz-date");
    let day = stamp.get(..8).unwrap_or_default();
    if !scope.eq([day, keys.region, keys.service, "aws4_request"]) {
        return Err(Wrong::Signature);
    }
    let time = chrono::NaiveDateTime::parse_from_str(stamp, "%Y%m%dT%H%M%SZ").map_err(|_| Wrong::Signature)?;
    let time = SystemTime::from(time.and_utc());
    let apart = now.duration_since(time).unwrap_or_else(|early| early.duration());
    let covers = |name: &&str| given.signed_headers.split(';').any(|signed| signed == *name);
    if apart > TOLERANCE || !keys.covers.iter().all(covers) {
        return Err(Wrong::Signature);
    }
    match resign(call, keys, time, given.signed_headers) {
        Some(right) if right == given.signature => Ok(()),
        Some(_) | None => Err(Wrong::Signature),
    }
}

/// What `Authorization: AWS4-HMAC-SHA256 Credential=…, SignedHeaders=…, Signature=…` says.
struct Given<'a> {
    credential: &'a str,
    signed_headers: &'a str,
    signature: &'a str,
}

impl Given<'_> {
    fn parse(header: &str) -> Option<Given<'_>> {
        let fields = header.strip_prefix("AWS4-HMAC-SHA256 ")?;
        let field = |name: &str| fields.split(',').find_map(|field| field.trim().strip_prefix(name));
        Some(Given {
            credential: field("Credential=")?,
            signed_headers: field("SignedHeaders=")?,
            signature: field("Signature=")?,
        })
    }
}

fn resign(call: &Arrived, keys: &Keys<'_>, time: SystemTime, signed_headers: &str) -> Option<String> {
    let identity = aws_credential_types::Credentials::new(keys.id, keys.secret, None, None, "simulator").into();
    let params = v4::SigningParams::builder()
        .identity(&identity)
        .region(keys.region)
        .name(keys.service)
        .time(time)
        .settings(SigningSettings::default())
        .build()
        .ok()?
        .into();
    // The signer adds the date itself.
    let headers = signed_headers.split(';').filter(|name| *name != "x-amz-date").map(|name| (name, call.header(name)));
    let uri = format!("http://{}{}", call.header("host"), call.uri.path_and_query()?);
    let request = SignableRequest::new(call.method.as_str(), uri, headers, SignableBody::Bytes(&call.body)).ok()?;
    let (_, signature) = sign(request, &params).ok()?.into_parts();
    Some(signature)
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderMap, HeaderValue, Method};

    use super::*;
    use crate::lab::simulator::Credentials;
    use crate::lab::simulator::amazon_incentives::keys;

    /// The known answer of a public Go client's test.
    const BODY: &str = r#"{"creationRequestId":"","partnerId":"Amazon","value":{"currencyCode":"USD","amount":null}}"#;
    const SIGNATURE: &str = "a47dd06c1bcff61e8c96fee2c87c4230a4dd5f7d4ffb5b958897027a3acae54b";

    fn known() -> (Arrived, Credentials, SystemTime) {
        let authorization = format!(
            "AWS4-HMAC-SHA256 Credential=AKID/20160708/us-west-2/AGCODService/aws4_request, \
             SignedHeaders=accept;host;x-amz-date;x-amz-target, Signature={SIGNATURE}"
        );
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("accept", "application/json"),
            ("host", "agcod-v2-fe-gamma.amazon.com"),
            ("x-amz-date", "20160708T073147Z"),
            ("x-amz-target", "com.amazonaws.agcod.AGCODService.CreateGiftCard"),
            ("authorization", authorization.as_str()),
        ] {
            headers.insert(name, HeaderValue::from_str(value).unwrap());
        }
        let call = Arrived {
            method: Method::POST,
            uri: "/CreateGiftCard".parse().unwrap(),
            path: "/CreateGiftCard".into(),
            headers,
            body: BODY.into(),
        };
        let credentials =
            Credentials { amazon_key_id: "AKID".into(), amazon_secret: "SECRET".into(), ..Credentials::default() };
        let at = chrono::NaiveDate::from_ymd_opt(2016, 7, 8).and_then(|day| day.and_hms_opt(7, 31, 47)).unwrap();
        (call, credentials, at.and_utc().into())
    }

    #[test]
    fn the_known_signature_is_accepted_for_five_minutes() {
        let (call, credentials, at) = known();
        assert_eq!(verify(&call, &keys(&credentials), at), Ok(()));
        assert_eq!(verify(&call, &keys(&credentials), at + TOLERANCE), Ok(()));
        let late = at + TOLERANCE + Duration::from_secs(1);
        assert_eq!(verify(&call, &keys(&credentials), late), Err(Wrong::Signature));
    }

    #[test]
    fn another_body_key_secret_region_or_header_is_refused() {
        let (mut call, credentials, at) = known();
        let other = |change: fn(&mut Credentials)| {
            let mut other = credentials.clone();
            change(&mut other);
            other
        };
        let key = other(|c| c.amazon_key_id = "AKIE".into());
        assert_eq!(verify(&call, &keys(&key), at), Err(Wrong::Key));
        let secret = other(|c| c.amazon_secret = "SECRETS".into());
        assert_eq!(verify(&call, &keys(&secret), at), Err(Wrong::Signature));
        let region = other(|c| c.amazon_region = "us-east-1".into());
        assert_eq!(verify(&call, &keys(&region), at), Err(Wrong::Signature));
        call.body = BODY.replace("USD", "JPY").into();
        assert_eq!(verify(&call, &keys(&credentials), at), Err(Wrong::Signature));
        let (mut call, credentials, at) = known();
        call.headers.insert("accept", HeaderValue::from_static("*/*"));
        assert_eq!(verify(&call, &keys(&credentials), at), Err(Wrong::Signature));
        call.headers.remove("authorization");
        assert_eq!(verify(&call, &keys(&credentials), at), Err(Wrong::Signature));
    }
}
