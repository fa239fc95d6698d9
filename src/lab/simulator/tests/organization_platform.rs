use std::time::Duration;

use ring::hmac;
use serde_json::{Value, json};

use super::{Rig, Said, subscriber::Subscriber};
use crate::lab::simulator::{Errand, Event, Fault, Partner};

const P: Partner = Partner::OrganizationPlatform;

impl Rig {
    fn platform(&self, method: reqwest::Method, path: &str) -> reqwest::RequestBuilder {
        self.http.request(method, self.url(P, path)).bearer_auth("demo-token")
    }

    fn shop_request(&self, organization: &str, public_id: &str, name: &str, key: &str) -> reqwest::RequestBuilder {
        let body = json!({"public_id": public_id, "name": name, "phone": "03-0000-0000"});
        self.platform(reqwest::Method::POST, &format!("/v1/organizations/{organization}/shops"))
            .header("idempotency-key", key)
            .json(&body)
    }

    async fn shop(&self, organization: &str, public_id: &str, name: &str, key: &str) -> Said {
        self.said(self.shop_request(organization, public_id, name, key)).await
    }

    async fn shops(&self, organization: &str, public_id: &str) -> Value {
        let path = format!("/v1/organizations/{organization}/shops?public_id={public_id}");
        self.said(self.platform(reqwest::Method::GET, &path)).await.body["shops"].clone()
    }

    async fn assign(&self, organization: &str) -> Said {
        let path = format!("/v1/organizations/{organization}/services/reserve");
        self.said(self.platform(reqwest::Method::PUT, &path)).await
    }

    async fn delete(&self, shop: &Value) -> u16 {
        let path = format!("/v1/shops/{}", shop.as_str().unwrap());
        self.said(self.platform(reqwest::Method::DELETE, &path)).await.status
    }

    fn scene(&self, scene: &Value) {
        let mut command = scene.clone();
        command["do"] = "platform".into();
        self.control().apply(serde_json::from_value(command).unwrap()).unwrap();
    }
}

#[tokio::test]
async fn a_key_is_answered_the_same_for_a_day_refusals_too() {
    let rig = Rig::start(|_| {}).await;
    let first = rig.shop("O-1", "S-1", "本店", "k1").await;
    assert_eq!((first.status, &first.body["public_id"]), (201, &json!("S-1")));
    let again = rig.shop("O-1", "S-1", "本店", "k1").await;
    assert_eq!((again.status, &again.body), (200, &first.body));
    let other = rig.shop("O-1", "S-1", "支店", "k1").await;
    assert_eq!((other.status, &other.body["code"]), (422, &json!("idempotency_key_reused")));
    let taken = rig.shop("O-1", "S-1", "本店", "k2").await;
    assert_eq!((taken.status, &taken.body["code"]), (409, &json!("public_id_taken")));
    assert_eq!(rig.delete(&first.body["shop_id"]).await, 204);
    assert_eq!(rig.delete(&first.body["shop_id"]).await, 404);
    assert_eq!(rig.shop("O-1", "S-1", "本店", "k2").await.status, 409, "k2 was told so already");

    let rig = rig.restart().await;
    assert_eq!(rig.shop("O-1", "S-1", "本店", "k2").await.status, 409);
    let again = rig.shop("O-1", "S-1", "本店", "k1").await;
    assert_eq!((again.status, &again.body), (200, &first.body));
    assert_eq!(rig.shops("O-1", "S-1").await, json!([]));
    let third = rig.shop("O-1", "S-1", "本店", "k3").await;
    assert_eq!(third.status, 201);
    assert_ne!(third.body["shop_id"], first.body["shop_id"]);
    assert_eq!(rig.shops("O-1", "S-1").await, json!([third.body]));
    assert_eq!(rig.shops("O-2", "S-1").await, json!([]));
    assert_eq!(rig.count(Event::ShopCreated, "k1"), 1);
}

#[tokio::test]
async fn a_forgotten_key_is_a_new_one() {
    let rig = Rig::start(|config| config.organization_platform.key_memory = Duration::ZERO).await;
    assert_eq!(rig.shop("O-1", "S-1", "本店", "k1").await.status, 201);
    assert_eq!(rig.shop("O-1", "S-1", "本店", "k1").await.status, 409);
}

#[tokio::test]
async fn contents_and_organisations_are_refused_as_marked() {
    let rig = Rig::start(|_| {}).await;
    for (organization, public_id, name, status, code) in [
        ("O-1", "NOSHOP-1", "本店", 422, "public_id_refused"),
        ("O-1", "S-1", "NOSHOP 本店", 422, "name_refused"),
        ("O-1", "S-2", "", 422, "body_refused"),
        ("NOORG-1", "S-3", "本店", 403, "organization_refused"),
    ] {
        let said = rig.shop(organization, public_id, name, public_id).await;
        assert_eq!((said.status, &said.body["code"]), (status, &json!(code)));
    }
    let guess = rig.http.get(rig.url(P, "/v1/organizations/O-1/shops?public_id=S")).bearer_auth("guess");
    assert_eq!(rig.said(guess).await.status, 401);
    assert_eq!(rig.assign("O-1").await.body, json!({"status": "assigned"}));
    assert_eq!(rig.assign("O-1").await.body, json!({"status": "already_assigned"}));
    assert_eq!(rig.assign("NOSERVICE-1").await.status, 403);
    rig.scene(&json!({"scene": "organization", "organization": "O-1", "refuse": "services"}));
    assert_eq!(rig.assign("O-1").await.status, 403);
    assert_eq!(rig.shop("O-1", "S-4", "本店", "S-4").await.status, 201);
    rig.scene(&json!({"scene": "organization", "organization": "O-1", "refuse": "nothing"}));
    let rig = rig.restart().await;
    assert_eq!(rig.assign("O-1").await.body, json!({"status": "already_assigned"}));
}

#[tokio::test]
async fn deletes_fail_or_are_refused_as_told() {
    let rig = Rig::start(|_| {}).await;
    let shop = rig.shop("O-1", "S-1", "本店", "k1").await.body["shop_id"].clone();
    rig.scene(&json!({"scene": "deletes", "answer": "failing"}));
    assert_eq!(rig.delete(&shop).await, 500);
    rig.scene(&json!({"scene": "deletes", "answer": "refused", "public_id": "S-1"}));
    assert_eq!(rig.delete(&shop).await, 409);
    rig.control().clear().unwrap();
    assert_eq!(rig.delete(&shop).await, 204);
    let kept = rig.shop("O-1", "INUSE-1", "本店", "k2").await.body["shop_id"].clone();
    assert_eq!(rig.delete(&kept).await, 409);
    assert_eq!(rig.count(Event::ShopDeleted, shop.as_str().unwrap()), 1);
    rig.scene(&json!({"scene": "shop", "organization": "O-1", "public_id": "S-9", "name": "他店"}));
    assert_eq!(rig.shops("O-1", "S-9").await[0]["idempotency_key"], json!(""));
    assert_eq!(rig.shop("O-1", "S-9", "本店", "k9").await.status, 409);
}

#[tokio::test]
async fn faults_hide_or_delay_what_happened() {
    let rig = Rig::start(|_| {}).await;
    rig.control().script(P, Errand::CreateShop, Fault::EffectThenReset, 1).unwrap();
    assert!(rig.shop_request("O-1", "S-1", "本店", "k1").send().await.is_err());
    rig.control().script(P, Errand::FindShop, Fault::StaleInquiry, 1).unwrap();
    assert_eq!(rig.shops("O-1", "S-1").await, json!([]));
    assert_eq!(rig.shops("O-1", "S-1").await[0]["idempotency_key"], "k1");
    rig.control().script(P, Errand::CreateShop, Fault::OtherTrade, 1).unwrap();
    let other = rig.shop("O-1", "S-1", "本店", "k1").await;
    assert_ne!(other.body["idempotency_key"], json!("k1"));
    rig.control().script(P, Errand::CreateShop, Fault::LateLanding, 1).unwrap();
    assert!(rig.shop_request("O-1", "S-2", "本店", "k2").send().await.is_err());
    assert_eq!(rig.count(Event::ShopCreated, "k2"), 0);
    rig.until(Event::ShopCreated, "k2", 1).await;
    rig.control().script(P, Errand::AssignService, Fault::ThrottleSeconds, 1).unwrap();
    let throttled = rig.assign("O-1").await;
    assert!(throttled.status == 429 && throttled.retry_after.is_some());
    assert_eq!(rig.shop("O-1", "S-3", "本店", "k3").await.status, 429);
}

#[tokio::test]
async fn every_change_is_published_and_signed() {
    let subscriber = Subscriber::start(1).await;
    let rig = Rig::start(|config| config.organization_platform.events_url = Some(subscriber.url.clone())).await;
    let shop = rig.shop("O-1", "S-1", "本店", "k1").await.body["shop_id"].clone();
    subscriber.events(1).await;
    rig.scene(&json!({"scene": "updated", "organization": "O-1", "public_id": "S-1", "name": "新本店"}));
    subscriber.events(2).await;
    assert_eq!(rig.delete(&shop).await, 204);
    subscriber.events(3).await;
    rig.scene(&json!({"scene": "organization_updated", "organization": "O-1", "name": "会社"}));
    let events = subscriber.events(4).await;
    let told: Vec<_> =
        events.iter().map(|(_, body)| (body["type"].as_str().unwrap(), body["version"].clone())).collect();
    assert_eq!(
        told,
        [
            ("shop.created", json!(1)),
            ("shop.updated", json!(2)),
            ("shop.deleted", json!(3)),
            ("organization.updated", json!(1))
        ]
    );
    assert_eq!((&events[0].1["shop_id"], &events[1].1["name"]), (&shop, &json!("新本店")));
    let (headers, body) = subscriber.bodies().remove(0);
    let key = hmac::Key::new(hmac::HMAC_SHA256, b"demo-events-secret");
    let text = format!("{}.{body}", headers["x-organization-timestamp"].to_str().unwrap());
    let signature = headers["x-organization-signature"].to_str().unwrap().strip_prefix("sha256=").unwrap();
    hmac::verify(&key, text.as_bytes(), &hex::decode(signature).unwrap()).unwrap();
}
