//! Amazon SNS as SES publishes through it: a signed `Notification` (signature version 2: RSA with SHA-256, over the
//! canonical string). The key and the certificate beside this file are published test material: they were made for
//! this simulator and open nothing else.

use anyhow::anyhow;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::rand::SystemRandom;
use ring::signature::{RSA_PKCS1_SHA256, RsaKeyPair};
use serde_json::json;

/// The certificate that every notification's signature is checked with, PEM.
pub const CERTIFICATE: &str = include_str!("sns_test_certificate.pem");
/// Where it can be fetched.
pub const CERTIFICATE_PATH: &str = "/sns/SimpleNotificationService-test.pem";
const KEY: &[u8] = include_bytes!("sns_test_key.der");

/// The body of the POST that carries `message`.
pub fn notification(
    id: &str,
    topic: &str,
    timestamp: &str,
    certificate_url: &str,
    message: &str,
) -> anyhow::Result<String> {
    let canonical =
        format!("Message\n{message}\nMessageId\n{id}\nTimestamp\n{timestamp}\nTopicArn\n{topic}\nType\nNotification\n");
    let body = json!({
        "Type": "Notification",
        "MessageId": id,
        "TopicArn": topic,
        "Message": message,
        "Timestamp": timestamp,
        "SignatureVersion": "2",
        "Signature": sign(canonical.as_bytes())?,
        "SigningCertURL": certificate_url,
    });
    Ok(body.to_string())
}

fn sign(text: &[u8]) -> anyhow::Result<String> {
    let key = RsaKeyPair::from_pkcs8(KEY).map_err(|error| anyhow!("the test key does not read: {error}"))?;
    let mut signature = vec![0; key.public().modulus_len()];
    key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), text, &mut signature)
        .map_err(|_| anyhow!("the test key does not sign"))?;
    Ok(STANDARD.encode(signature))
}

#[cfg(test)]
mod tests {
    use ring::signature::{KeyPair as _, RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};

    use super::*;

    #[test]
    fn the_signature_is_over_the_canonical_string_and_the_certificate_holds_its_key() {
        let text = notification("M1", "arn:t", "2030-01-01T00:00:00.000Z", "http://x/c.pem", "{\"a\":1}").unwrap();
        let body: serde_json::Value = serde_json::from_str(&text).unwrap();
        let key = RsaKeyPair::from_pkcs8(KEY).unwrap();
        let public = UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, key.public_key().as_ref());
        let signature = STANDARD.decode(body["Signature"].as_str().unwrap()).unwrap();
        let canonical = "Message\n{\"a\":1}\nMessageId\nM1\nTimestamp\n2030-01-01T00:00:00.000Z\nTopicArn\narn:t\nType\nNotification\n";
        public.verify(canonical.as_bytes(), &signature).unwrap();
        assert!(public.verify(canonical.replace("M1", "M2").as_bytes(), &signature).is_err());
        let base64: String = CERTIFICATE.lines().filter(|line| !line.starts_with("-----")).collect();
        let certificate = STANDARD.decode(base64).unwrap();
        let public = key.public_key().as_ref();
        assert!(certificate.windows(public.len()).any(|part| part == public));
    }
}
