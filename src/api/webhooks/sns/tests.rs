use ring::{
    rand::SystemRandom,
    signature::{RSA_PKCS1_SHA256, RsaKeyPair},
};
use serde_json::json;

use super::*;

const TOPIC: &str = "arn:aws:sns:ap-northeast-1:123456789012:noshi-mail";
const CERTIFICATE: &str = include_str!("../../../lab/simulator/sns_test_certificate.pem");
const KEY: &[u8] = include_bytes!("../../../lab/simulator/sns_test_key.der");

fn checker() -> Checker {
    Checker {
        topics: vec![TOPIC.to_owned()],
        pinned: public_key(CERTIFICATE.as_bytes()).ok(),
        fetched: Mutex::default(),
    }
}

fn signed(kind: &str, subject: Option<&str>) -> Notification {
    let mut notification: Notification = serde_json::from_value(json!({
        "Type": kind, "MessageId": "m-1", "TopicArn": TOPIC, "Message": "{\"a\": 1}",
        "Timestamp": "2030-01-01T00:00:00.000Z", "Subject": subject, "SignatureVersion": "2", "Signature": "",
        "Token": "t", "SubscribeURL": "https://sns.ap-northeast-1.amazonaws.com/?Action=ConfirmSubscription",
        "SigningCertURL": "https://sns.ap-northeast-1.amazonaws.com/SimpleNotificationService-1.pem",
    }))
    .unwrap();
    let key = RsaKeyPair::from_pkcs8(KEY).unwrap();
    let mut signature = vec![0; key.public().modulus_len()];
    key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), notification.canonical().as_bytes(), &mut signature).unwrap();
    notification.signature = STANDARD.encode(signature);
    notification
}

fn body(notification: &Notification) -> Vec<u8> {
    let Notification { kind, message_id, topic_arn, message, timestamp, subject, token, subscribe_url, .. } =
        notification;
    json!({
        "Type": kind, "MessageId": message_id, "TopicArn": topic_arn, "Message": message, "Timestamp": timestamp,
        "Subject": subject, "Token": token, "SubscribeURL": subscribe_url,
        "SignatureVersion": notification.signature_version, "Signature": notification.signature,
        "SigningCertURL": notification.signing_cert_url, "UnsubscribeURL": "https://example.com",
    })
    .to_string()
    .into_bytes()
}

#[tokio::test]
async fn what_is_signed_is_believed_and_nothing_that_was_changed() {
    for (kind, subject) in [("Notification", None), ("Notification", Some("s")), ("SubscriptionConfirmation", None)] {
        let good = signed(kind, subject);
        assert_eq!(checker().read(&body(&good)).await, Ok(good.clone()));
        let change = |change: fn(&mut Notification)| {
            let mut bad = good.clone();
            change(&mut bad);
            bad
        };
        for bad in [
            change(|n| n.message.push(' ')),
            change(|n| n.message_id = "m-2".to_owned()),
            change(|n| n.timestamp.push('0')),
            change(|n| n.signature_version = "1".to_owned()),
            change(|n| n.signature_version = "3".to_owned()),
            change(|n| n.signature = String::new()),
            change(|n| n.kind = "UnsubscribeConfirmation".to_owned()),
            change(|n| n.topic_arn = format!("{TOPIC}2")),
        ] {
            // Two kinds have the same canonical fields, and the kind itself is one of them.
            assert_eq!(checker().read(&body(&bad)).await.unwrap_err().status, 403);
        }
    }
    assert_eq!(checker().read(b"{}").await.unwrap_err().status, 400);
}

/// Made with `openssl dgst -sha1 -sign`: ring signs no SHA-1, and SNS still does.
#[test]
fn version_1_is_sha_1() {
    const SIGNATURE: &str = include_str!("version_1.txt");
    let mut notification = signed("Notification", None);
    notification.signature_version = "1".to_owned();
    notification.signature = SIGNATURE.replace('\n', "");
    let key = public_key(CERTIFICATE.as_bytes()).unwrap();
    assert!(is_signed(&notification, &key));
    notification.message.push(' ');
    assert!(!is_signed(&notification, &key));
}

#[tokio::test]
async fn a_certificate_or_a_subscription_elsewhere_is_not_visited() {
    let checker = Checker { pinned: None, ..checker() };
    for url in [
        "http://sns.ap-northeast-1.amazonaws.com/x.pem",
        "https://sns.ap-northeast-1.amazonaws.com.example.com/x.pem",
        "https://sns.evil.com/SimpleNotificationService-x.pem",
        // Another's bucket, another region than the topic's, and what is no certificate's name.
        "https://sns.s3.amazonaws.com/SimpleNotificationService-x.pem",
        "https://sns.s3-us-west-2.amazonaws.com/SimpleNotificationService-x.pem",
        "https://sns.us-east-1.amazonaws.com/SimpleNotificationService-x.pem",
        "https://sns.ap-northeast-1.amazonaws.com.cn/SimpleNotificationService-x.pem",
        "https://sns.ap-northeast-1.amazonaws.com/x.pem",
        "https://sns.ap-northeast-1.amazonaws.com/a/SimpleNotificationService-x.pem",
        "https://sns.ap-northeast-1.amazonaws.com/SimpleNotificationService-.pem",
        "https://sns.ap-northeast-1.amazonaws.com/SimpleNotificationService-x.pem#y",
        "https://sns.amazonaws.com/x.pem",
        "https://sns.a.b.amazonaws.com/x.pem",
        "https://sns.ap-northeast-1.amazonaws.com:8443/x.pem",
        "https://user@sns.ap-northeast-1.amazonaws.com/x.pem",
        "https://sns.ap-northeast-1.amazonaws.com@evil.com/x.pem",
        "https://sns.ap-northeast-1.amazonaws.com/x.pem?a=b",
        "https://sns.ap-northeast-1.amazonaws.com/x.txt",
        "x.pem",
    ] {
        let mut notification = signed("Notification", None);
        notification.signing_cert_url = url.to_owned();
        assert_eq!(checker.read(&body(&notification)).await.unwrap_err().status, 403, "{url}");
    }
    for url in ["https://example.com/?Action=ConfirmSubscription", "http://sns.eu-west-1.amazonaws.com/"] {
        let mut notification = signed("SubscriptionConfirmation", None);
        notification.subscribe_url = Some(url.to_owned());
        assert_eq!(confirm(&notification).await.unwrap_err().status, 403, "{url}");
    }
    let pem = |host: &str, topic: &str| {
        amazons(&format!("https://{host}/SimpleNotificationService-0123abc.pem"), topic)
            .is_some_and(|url| is_certificate(&url))
    };
    assert!(pem("sns.cn-north-1.amazonaws.com.cn", "arn:aws-cn:sns:cn-north-1:1:t"));
    assert!(pem("sns.us-gov-west-1.amazonaws.com", "arn:aws-us-gov:sns:us-gov-west-1:1:t"));
    assert!(!pem("sns.s3.amazonaws.com", "arn:aws:sns:s3:1:t"));
}
