//! The signature of a call: AWS Signature Version 4.

use std::time::SystemTime;

use aws_credential_types::Credentials;
use http::{HeaderMap, HeaderValue};

use crate::partners::aws::{self, Scope, Unsigned};

/// The service name in the scope of every signature.
const SERVICE: &str = "AGCODService";

pub struct Signer {
    pub credentials: Credentials,
    pub region: String,
}

impl Signer {
    /// All headers of a call; `None` if one of them cannot be a header.
    pub fn headers(&self, url: &str, operation: &str, body: &[u8], at: SystemTime) -> Option<HeaderMap> {
        let target = format!("com.amazonaws.agcod.AGCODService.{operation}");
        let plain = [("accept", "application/json"), ("content-type", "application/json"), ("x-amz-target", &target)];
        let mut headers = HeaderMap::new();
        for (name, value) in plain {
            headers.insert(name, HeaderValue::from_str(value).ok()?);
        }
        for (name, value) in self.sign(url, &plain, body, at)?.0 {
            let mut value = HeaderValue::from_str(&value).ok()?;
            value.set_sensitive(true);
            headers.insert(name, value);
        }
        Some(headers)
    }

    /// The headers to add, and the signature in hexadecimal digits.
    fn sign(
        &self,
        url: &str,
        headers: &[(&str, &str)],
        body: &[u8],
        at: SystemTime,
    ) -> Option<(Vec<(&'static str, String)>, String)> {
        let scope = Scope { credentials: &self.credentials, region: &self.region, service: SERVICE, at };
        aws::sign(&scope, &Unsigned { method: "POST", url, headers, body })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn signer() -> Signer {
        let credentials = Credentials::new("AKID", "SECRET", None, None, "test");
        Signer { credentials, region: "us-west-2".to_owned() }
    }

    /// 2016-07-08T07:31:47Z
    fn then() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_467_963_107)
    }

    #[test]
    fn the_known_answer_of_a_public_client_comes_out() {
        let url = "https://agcod-v2-fe-gamma.amazon.com/CreateGiftCard";
        let headers =
            [("accept", "application/json"), ("x-amz-target", "com.amazonaws.agcod.AGCODService.CreateGiftCard")];
        let body = br#"{"creationRequestId":"","partnerId":"Amazon","value":{"currencyCode":"USD","amount":null}}"#;
        let (added, signature) = signer().sign(url, &headers, body, then()).unwrap();
        assert_eq!(signature, "a47dd06c1bcff61e8c96fee2c87c4230a4dd5f7d4ffb5b958897027a3acae54b");
        let authorization = added.iter().find(|(name, _)| *name == "authorization").unwrap();
        assert!(authorization.1.contains("SignedHeaders=accept;host;x-amz-date;x-amz-target"));
        assert!(added.contains(&("x-amz-date", "20160708T073147Z".to_owned())));
    }

    #[test]
    fn the_headers_of_a_call_are_all_signed_and_show_nothing() {
        let headers = signer().headers("https://example.com/CancelGiftCard", "CancelGiftCard", b"{}", then()).unwrap();
        let authorization = headers["authorization"].to_str().unwrap();
        assert!(authorization.contains("SignedHeaders=accept;content-type;host;x-amz-date;x-amz-target"));
        assert_eq!(headers["x-amz-target"], "com.amazonaws.agcod.AGCODService.CancelGiftCard");
        assert!(!format!("{headers:?}").contains("Signature="));
    }
}
