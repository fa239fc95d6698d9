//! The simulator from outside: over real connections, judged by its ledger file.

mod amazon_incentives;
mod faults;
mod gift_on_demand;
mod ledger;
mod organization_platform;
mod ses;
mod subscriber;
mod tango_card;

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{Config, Control, Credentials, Event, Line, Partner, PerProvider, Provider, Simulator};

pub struct Rig {
    dir: TempDir,
    pub config: Config,
    pub simulator: Simulator,
    pub http: reqwest::Client,
}

/// An answer as a test looks at it.
#[derive(Debug)]
pub struct Said {
    pub status: u16,
    pub retry_after: Option<String>,
    pub body: Value,
}

impl Rig {
    /// A simulator without limits and random faults, `change`d.
    pub async fn start(change: impl FnOnce(&mut Config)) -> Rig {
        // Only the first of a test process is taken; all are the same.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let dir = TempDir::new().unwrap();
        let mut config = Config::new(dir.path().join("ledger.jsonl"));
        config.limits = PerProvider { amazon_incentives: None, gift_on_demand: None, tango_card: None };
        config.organization_platform.limit = None;
        config.ses.limit = None;
        change(&mut config);
        let simulator = Simulator::start(config.clone()).await.unwrap();
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        Rig { dir, config, simulator, http }
    }

    /// Stops the simulator and starts it again on its ledger.
    pub async fn restart(self) -> Rig {
        let Rig { dir, config, simulator, http } = self;
        simulator.stop().await.unwrap();
        let simulator = Simulator::start(config.clone()).await.unwrap();
        Rig { dir, config, simulator, http }
    }

    pub fn control(&self) -> Control {
        self.simulator.control()
    }

    pub fn lines(&self) -> Vec<Line> {
        let text = std::fs::read_to_string(self.dir.path().join("ledger.jsonl")).unwrap();
        // A line that is still being written is nobody's answer yet.
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        whole.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// How often this happened, in the ledger, for this trade.
    pub fn count(&self, event: Event, trade: &str) -> usize {
        let lines = self.lines();
        lines.iter().filter(|line| line.event == event && line.trade.as_deref() == Some(trade)).count()
    }

    /// Waits until `event` has happened `times` times for the trade.
    pub async fn until(&self, event: Event, trade: &str, times: usize) {
        let wait = async {
            while self.count(event, trade) < times {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), wait).await.expect("it never happened");
    }

    pub async fn said(&self, request: reqwest::RequestBuilder) -> Said {
        let answer = request.send().await.unwrap();
        let status = answer.status().as_u16();
        let after = answer.headers().get("retry-after").map(|after| after.to_str().unwrap().to_owned());
        let body = answer.json().await.unwrap_or_default();
        Said { status, retry_after: after, body }
    }

    pub fn url(&self, partner: impl Into<Partner>, path: &str) -> String {
        format!("{}{path}", self.simulator.base_url(partner))
    }

    pub async fn amazon(&self, operation: &str, body: &Value) -> Said {
        self.said(self.amazon_request(operation, body, &Credentials::default())).await
    }

    pub fn amazon_request(&self, operation: &str, body: &Value, keys: &Credentials) -> reqwest::RequestBuilder {
        let url = self.url(Provider::AmazonIncentives, &format!("/{operation}"));
        let body = body.to_string();
        let target = format!("com.amazonaws.agcod.AGCODService.{operation}");
        let headers = BTreeMap::from([
            ("accept", "application/json".to_owned()),
            ("content-type", "application/json".to_owned()),
            ("host", self.simulator.addr().to_string()),
            ("x-amz-target", target),
        ]);
        let identity =
            aws_credential_types::Credentials::new(&keys.amazon_key_id, &keys.amazon_secret, None, None, "test").into();
        let params = v4::SigningParams::builder()
            .identity(&identity)
            .region(&keys.amazon_region)
            .name("AGCODService")
            .time(SystemTime::now())
            .settings(SigningSettings::default())
            .build()
            .unwrap()
            .into();
        let signable = SignableRequest::new(
            "POST",
            url.clone(),
            headers.iter().map(|(name, value)| (*name, value.as_str())),
            SignableBody::Bytes(body.as_bytes()),
        );
        let (instructions, _) = sign(signable.unwrap(), &params).unwrap().into_parts();
        let mut request = self.http.post(url).body(body);
        for (name, value) in headers {
            request = request.header(name, value);
        }
        for (name, value) in instructions.headers() {
            request = request.header(name, value);
        }
        request
    }

    pub async fn create(&self, id: &str, amount: i64) -> Said {
        let value = json!({"currencyCode": "JPY", "amount": amount});
        self.amazon("CreateGiftCard", &json!({"creationRequestId": id, "partnerId": "Noshi", "value": value})).await
    }

    pub fn gift_request(&self, trade: &str, amount: i64) -> reqwest::RequestBuilder {
        let body = json!({"tradeId": trade, "product": "AMAZON", "faceValue": amount, "currency": "JPY"});
        self.http.post(self.url(Provider::GiftOnDemand, "/v1/gifts")).header("X-Api-Key", "demo-key").json(&body)
    }

    pub async fn gift(&self, trade: &str, amount: i64) -> Said {
        self.said(self.gift_request(trade, amount)).await
    }

    pub async fn gift_get(&self, path: &str) -> Said {
        let url = self.url(Provider::GiftOnDemand, path);
        self.said(self.http.get(url).header("X-Api-Key", "demo-key")).await
    }

    pub async fn tango(&self, path: &str, body: &Value) -> Said {
        let url = self.url(Provider::TangoCard, path);
        self.said(self.http.post(url).basic_auth("demo", Some("demo-key")).json(body)).await
    }

    pub async fn tango_get(&self, path: &str) -> Said {
        let url = self.url(Provider::TangoCard, path);
        self.said(self.http.get(url).basic_auth("demo", Some("demo-key"))).await
    }

    /// A gift issue over a bare connection.
    pub async fn bare_gift(&self, trade: &str) -> TcpStream {
        let body = json!({"tradeId": trade, "product": "AMAZON", "faceValue": 500, "currency": "JPY"}).to_string();
        let head = format!(
            "POST /gift_on_demand/v1/gifts HTTP/1.1\r\nHost: x\r\nX-Api-Key: demo-key\r\nConnection: close\r\n\
             Content-Length: {}\r\n\r\n",
            body.len()
        );
        let mut stream = TcpStream::connect(self.simulator.addr()).await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(body.as_bytes()).await.unwrap();
        stream
    }
}

/// Everything up to the end of the connection, as head and body, or how it broke.
pub async fn read_out(stream: &mut TcpStream) -> std::io::Result<(String, String)> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).await?;
    let text = String::from_utf8(bytes).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    Ok((head.to_ascii_lowercase(), body.to_owned()))
}

pub fn order(trade: &str, amount: i64) -> Value {
    json!({
        "externalRefID": trade,
        "customerIdentifier": "noshi-demo",
        "accountIdentifier": "noshi-account",
        "utid": "U123456",
        "amount": amount,
        "deliveryMethod": "NONE",
    })
}
