use std::time::SystemTime;

use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4;
use serde_json::{Value, json};

use super::{Rig, Said, subscriber::Subscriber};
use crate::lab::simulator::{Command, Errand, Event, Fault, Op, Partner, Sending};

const P: Partner = Partner::Ses;

fn mail(job: &str, to: &str) -> Value {
    json!({
        "FromEmailAddress": "gift@example.jp",
        "Destination": {"ToAddresses": [to]},
        "Content": {"Simple": {"Subject": {"Data": "贈り物"}, "Body": {"Text": {"Data": "届きました"}}}},
        "EmailTags": [{"Name": "job_id", "Value": job}],
        "ConfigurationSetName": "noshi",
    })
}

impl Rig {
    fn ses_request(&self, method: &str, path: &str, body: &str, secret: &str) -> reqwest::RequestBuilder {
        let config = &self.config.ses;
        let url = self.url(P, path);
        let host = self.simulator.addr().to_string();
        let identity = aws_credential_types::Credentials::new(&config.key_id, secret, None, None, "test").into();
        let params = v4::SigningParams::builder()
            .identity(&identity)
            .region(&config.region)
            .name("ses")
            .time(SystemTime::now())
            .settings(SigningSettings::default())
            .build()
            .unwrap()
            .into();
        let headers = [("host", host.as_str()), ("content-type", "application/json")];
        let signable =
            SignableRequest::new(method, url.clone(), headers.into_iter(), SignableBody::Bytes(body.as_bytes()));
        let (instructions, _) = sign(signable.unwrap(), &params).unwrap().into_parts();
        let method = reqwest::Method::from_bytes(method.as_bytes()).unwrap();
        let mut request = self.http.request(method, url).body(body.to_owned());
        for (name, value) in headers.into_iter().chain(instructions.headers()) {
            request = request.header(name, value);
        }
        request
    }

    fn mail_request(&self, body: &Value) -> reqwest::RequestBuilder {
        let secret = self.config.ses.secret.clone();
        self.ses_request("POST", "/v2/email/outbound-emails", &body.to_string(), &secret)
    }

    async fn mail(&self, job: &str, to: &str) -> Said {
        self.said(self.mail_request(&mail(job, to))).await
    }

    async fn account(&self) -> Value {
        self.said(self.ses_request("GET", "/v2/email/account", "", &self.config.ses.secret)).await.body
    }

    /// The status and the error's name.
    async fn failure(&self, body: &Value) -> (u16, String) {
        let answer = self.mail_request(body).send().await.unwrap();
        let error = answer.headers().get("x-amzn-errortype").map(|error| error.to_str().unwrap().to_owned());
        (answer.status().as_u16(), error.unwrap_or_default())
    }
}

fn told(event: &Value) -> Value {
    serde_json::from_str(event["Message"].as_str().unwrap()).unwrap()
}

#[tokio::test]
async fn the_same_message_twice_is_two_messages_and_no_address_is_in_the_ledger() {
    let rig = Rig::start(|_| {}).await;
    let first = rig.mail("J1", "taro.canary@example.jp").await;
    assert_eq!(first.status, 200);
    let second = rig.mail("J1", "taro.canary@example.jp").await;
    assert_ne!(first.body["MessageId"], second.body["MessageId"]);
    assert_eq!(rig.count(Event::MailSent, "J1"), 2);
    assert_eq!(rig.account().await["SendQuota"]["SentLast24Hours"], json!(2.0));
    let rig = rig.restart().await;
    assert_eq!(rig.account().await["SendQuota"]["SentLast24Hours"], json!(2.0));
    let third = rig.mail("J1", "taro.canary@example.jp").await;
    assert_ne!(second.body["MessageId"], third.body["MessageId"]);
    assert!(!std::fs::read_to_string(&rig.config.ledger).unwrap().contains("canary"));
}

#[tokio::test]
async fn each_refusal_has_its_name() {
    let rig = Rig::start(|config| config.ses.max_24_hour_send = 1).await;
    let secret = rig.ses_request("POST", "/v2/email/outbound-emails", "{}", "guess");
    assert_eq!(rig.said(secret).await.status, 403);
    let mut wrong = mail("J1", "a@b");
    wrong["Destination"] = json!({});
    assert_eq!(rig.failure(&wrong).await, (400, "BadRequestException".into()));
    assert_eq!(rig.failure(&mail("J 1", "a@b")).await, (400, "BadRequestException".into()));
    let mut wrong = mail("J1", "a@b");
    wrong["ConfigurationSetName"] = "missing-set".into();
    assert_eq!(rig.failure(&wrong).await, (404, "NotFoundException".into()));
    assert_eq!(rig.failure(&mail("J1", "refused@b")).await, (400, "MessageRejected".into()));
    for (state, name) in [
        (Sending::Paused, "SendingPausedException"),
        (Sending::Suspended, "AccountSuspendedException"),
        (Sending::Unverified, "MailFromDomainNotVerifiedException"),
    ] {
        rig.control().apply(Command::Sending { state }).unwrap();
        assert_eq!(rig.failure(&mail("J1", "a@b")).await, (400, name.into()));
    }
    assert_eq!(rig.account().await["SendingEnabled"], json!(false));
    rig.control().clear().unwrap();
    assert_eq!(rig.mail("J1", "a@b").await.status, 200);
    assert_eq!(rig.failure(&mail("J2", "a@b")).await, (400, "ThrottlingException".into()));
    rig.control().script(P, Errand::SendMail, Fault::ThrottleSeconds, 1).unwrap();
    assert_eq!(rig.failure(&mail("J2", "a@b")).await, (429, "TooManyRequestsException".into()));
    assert!(rig.control().script(P, Op::Issue, Fault::ThrottleSeconds, 1).is_err(), "SES sells no gifts");
}

#[tokio::test]
async fn what_becomes_of_a_message_is_published_until_it_is_taken() {
    let subscriber = Subscriber::start(2).await;
    let rig = Rig::start(|config| config.ses.events_url = Some(subscriber.url.clone())).await;
    for (to, events) in [
        ("hanako@example.jp", vec!["Send", "Delivery"]),
        ("bounce+1@example.jp", vec!["Send", "Bounce"]),
        ("transient@example.jp", vec!["Send", "Bounce"]),
        ("suppressed@example.jp", vec!["Send", "Bounce"]),
        ("complaint@example.jp", vec!["Send", "Delivery", "Complaint"]),
        ("reject@example.jp", vec!["Reject"]),
    ] {
        let before = subscriber.bodies().len();
        let id = rig.mail("J1", to).await.body["MessageId"].clone();
        let all = subscriber.events(before + events.len()).await;
        let new: Vec<Value> = all[before..].iter().map(|(_, body)| told(body)).collect();
        assert_eq!(new.iter().map(|event| event["eventType"].as_str().unwrap()).collect::<Vec<_>>(), events);
        for event in &new {
            assert_eq!((&event["mail"]["messageId"], &event["mail"]["tags"]["job_id"]), (&id, &json!(["J1"])));
        }
        let kind = match to.split(['@', '+']).next().unwrap() {
            "bounce" | "suppressed" => json!("Permanent"),
            "transient" => json!("Transient"),
            _ => Value::Null,
        };
        assert_eq!(new.last().unwrap()["bounce"]["bounceType"], kind);
    }
    let (headers, first) = subscriber.events(1).await.remove(0);
    assert_eq!(headers["x-amz-sns-message-type"], "Notification");
    assert_eq!((&first["Type"], &first["SignatureVersion"]), (&json!("Notification"), &json!("2")));
    let certificate =
        rig.http.get(first["SigningCertURL"].as_str().unwrap()).send().await.unwrap().text().await.unwrap();
    assert_eq!(certificate, crate::lab::simulator::SNS_TEST_CERTIFICATE);
    rig.until(Event::Published, "J1", 12).await;
}

#[tokio::test]
async fn a_send_whose_answer_was_lost_is_told_by_its_events_held_or_doubled() {
    let subscriber = Subscriber::start(0).await;
    let rig = Rig::start(|config| config.ses.events_url = Some(subscriber.url.clone())).await;
    let publishing = r#"{"do": "publishing", "held": true}"#;
    rig.control().apply(serde_json::from_str(publishing).unwrap()).unwrap();
    rig.control().script(P, Errand::SendMail, Fault::EffectThenReset, 1).unwrap();
    assert!(rig.mail_request(&mail("J1", "a@b")).send().await.is_err());
    assert_eq!(rig.count(Event::MailSent, "J1"), 1);
    rig.control().script(P, Errand::SendMail, Fault::LateLanding, 1).unwrap();
    assert!(rig.mail_request(&mail("J2", "a@b")).send().await.is_err());
    rig.until(Event::MailSent, "J2", 1).await;
    assert!(subscriber.bodies().is_empty());
    let publishing = r#"{"do": "publishing", "copies": 2}"#;
    rig.control().apply(serde_json::from_str(publishing).unwrap()).unwrap();
    let events = subscriber.events(8).await;
    for job in ["J1", "J2"] {
        let of_job = events.iter().filter(|(_, body)| told(body)["mail"]["tags"]["job_id"] == json!([job]));
        assert_eq!(of_job.count(), 4, "Send twice, Delivery twice");
    }
}

#[tokio::test]
async fn the_rate_is_a_limit() {
    let rig = Rig::start(|config| config.ses.limit = Some(2)).await;
    let mut statuses = vec![];
    for n in 0..4 {
        statuses.push(rig.mail(&format!("J{n}"), "a@b").await.status);
    }
    assert_eq!(statuses, [200, 200, 429, 429]);
}
