//! The judge of AWS signatures: written from AWS's description of Signature Version 4, and held against its published vectors. It shares no code
//! with the crate that signs our calls, so a fault there is seen here.

use std::time::{Duration, SystemTime};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, percent_encode, utf8_percent_encode};
use ring::{digest, hmac};

use super::messages::Arrived;

/// How far a signature's date may be from now (AWS's usual tolerance).
const TOLERANCE: Duration = Duration::from_secs(5 * 60);

/// What AWS leaves as it is; it writes everything else as bytes.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The path is encoded once more than it came, but for the slashes.
const PATH: &AsciiSet = &PLAIN.remove(b'/');

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
    let scope = format!("{day}/{}/{}/aws4_request", keys.region, keys.service);
    let canonical = hashed(canonical(call, given.signed_headers).as_bytes());
    let text = format!("AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{canonical}");
    match right_signature(keys, day, &text) == given.signature {
        true => Ok(()),
        false => Err(Wrong::Signature),
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

/// The key is derived for one day, region and service.
fn right_signature(keys: &Keys<'_>, day: &str, text: &str) -> String {
    let mac = |key: &[u8], data: &str| hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), data.as_bytes());
    let mut key = mac(format!("AWS4{}", keys.secret).as_bytes(), day);
    for part in [keys.region, keys.service, "aws4_request"] {
        key = mac(key.as_ref(), part);
    }
    hex::encode(mac(key.as_ref(), text))
}

fn hashed(bytes: &[u8]) -> String {
    hex::encode(digest::digest(&digest::SHA256, bytes))
}

/// The request as AWS writes it down before it is signed.
fn canonical(call: &Arrived, signed_headers: &str) -> String {
    let mut text =
        format!("{}\n{}\n{}\n", call.method, utf8_percent_encode(call.uri.path(), PATH), query(call.uri.query()));
    for name in signed_headers.split(';') {
        let values = call.headers.get_all(name).iter().map(|value| {
            let value = String::from_utf8_lossy(value.as_bytes());
            value.split(' ').filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
        });
        text += &format!("{name}:{}\n", values.collect::<Vec<_>>().join(","));
    }
    text += &format!("\n{signed_headers}\n{}", hashed(&call.body));
    text
}

/// Sorted, with each name and value written in one way, however it came.
fn query(query: Option<&str>) -> String {
    let written = |text: &str| percent_encode(&percent_decode_str(text).collect::<Vec<_>>(), PLAIN).to_string();
    let parts = query.unwrap_or_default().split('&').filter(|part| !part.is_empty());
    let mut pairs: Vec<_> = parts
        .map(|part| part.split_once('=').unwrap_or((part, "")))
        .map(|(name, value)| (written(name), written(value)))
        .collect();
    pairs.sort();
    pairs.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("&")
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

    /// Of the test suite that AWS publishes for Signature Version 4.
    #[test]
    fn the_published_vectors_come_out() {
        let keys = Keys {
            id: "AKIDEXAMPLE",
            secret: "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY",
            region: "us-east-1",
            service: "service",
            covers: &["host"],
        };
        let at = chrono::NaiveDate::from_ymd_opt(2015, 8, 30).and_then(|day| day.and_hms_opt(12, 36, 0)).unwrap();
        let none: &[(&str, &str)] = &[];
        let trimmed: &[(&str, &str)] = &[("my-header1", " value1"), ("my-header2", r#""a   b   c""#)];
        let twice: &[(&str, &str)] = &[("my-header1", "value2"), ("my-header1", "value2"), ("my-header1", "value1")];
        let form = "Param1=value1";
        let of_form: &[(&str, &str)] = &[
            ("content-length", "13"),
            ("content-type", "application/x-www-form-urlencoded"),
            ("x-amz-content-sha256", "9095672bbd1f56dfc5b65f3e153adc8731a4a654192329106275f4c7b24d0b6e"),
        ];
        for (method, uri, headers, body, signature) in [
            (Method::GET, "/", none, "", "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"),
            (Method::POST, "/", none, "", "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b"),
            (
                Method::GET,
                "/?Param2=value2&Param1=value1",
                none,
                "",
                "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500",
            ),
            (
                Method::GET,
                "/?%E1%88%B4=bar",
                none,
                "",
                "2cdec8eed098649ff3a119c94853b13c643bcf08f8b0a1d91e12c9027818dd04",
            ),
            (Method::GET, "/", trimmed, "", "acc3ed3afb60bb290fc8d2dd0098b9911fcaa05412b367055dee359757a9c736"),
            (Method::GET, "/", twice, "", "c9d5ea9f3f72853aea855b47ea873832890dbdd183b4468f858259531a5138ea"),
            (Method::POST, "/", of_form, form, "d3875051da38690788ef43de4db0d8f280229d82040bfac253562e56c3f20e0b"),
        ] {
            let mut all = [headers, &[("host", "example.amazonaws.com"), ("x-amz-date", "20150830T123600Z")]].concat();
            all.sort_by_key(|(name, _)| *name);
            let mut names: Vec<&str> = all.iter().map(|(name, _)| *name).collect();
            names.dedup();
            let authorization = format!(
                "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, \
                 SignedHeaders={}, Signature={signature}",
                names.join(";")
            );
            all.push(("authorization", &authorization));
            let mut headers = HeaderMap::new();
            for (name, value) in all {
                headers.append(name.parse::<axum::http::HeaderName>().unwrap(), HeaderValue::from_str(value).unwrap());
            }
            let call = Arrived {
                method: method.clone(),
                uri: uri.parse().unwrap(),
                path: "/".into(),
                headers,
                body: body.to_owned().into(),
            };
            assert_eq!(verify(&call, &keys, at.and_utc().into()), Ok(()), "{method} {uri}");
            let other = Arrived { method: Method::PUT, ..call };
            assert_eq!(verify(&other, &keys, at.and_utc().into()), Err(Wrong::Signature), "{method} {uri}");
        }
        // A path is encoded once more than it came.
        let path = "/2015-03-31/functions/arn%3Aaws%3Alambda/@invocations";
        let once_more = "/2015-03-31/functions/arn%253Aaws%253Alambda/%40invocations";
        assert_eq!(utf8_percent_encode(path, PATH).to_string(), once_more);
    }
}
