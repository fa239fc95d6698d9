//! The shop that holds and refunds payments, over HTTP. `PUT /holds/ID` holds once under an id; `POST /refunds` refunds each time that it is
//! called; `GET /refunds/ID` tells of one; `DELETE /holds/ID` releases.

use std::{sync::Arc, time::Duration};

use http::{Method, StatusCode};
use noshi::{
    Budget, Partner, Section,
    http::{Answer, Gate, Http, Reach, Reply},
};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use crate::job::{Args, LANE, Said};

/// The section `[refund]` of noshi.toml.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Shop {
    /// Where the shop is.
    base_url: String,
    /// Over the whole fleet.
    calls_per_second: u32,
    #[serde(skip)]
    client: Option<Arc<Client>>,
}

impl Section for Shop {
    fn open(self) -> anyhow::Result<Shop> {
        let http = Http::new(&Reach::usual("shop", &self.base_url, self.budget()))?;
        Ok(Shop { client: Some(Arc::new(Client(http))), ..self })
    }

    fn partners(&self) -> Vec<Partner> {
        let ops = &["hold", "refund", "inquire", "release"];
        vec![Partner { name: "shop", ops, lane: LANE, budget: self.budget() }]
    }
}

impl Shop {
    fn budget(&self) -> Budget {
        Budget { calls: self.calls_per_second, window: Duration::from_secs(1), jitter: Duration::from_millis(20) }
    }

    pub fn client(&self) -> Arc<Client> {
        Arc::clone(self.client.as_ref().expect("opened at the start"))
    }
}

/// Each method makes at most one request.
pub struct Client(Http);

impl Client {
    pub async fn hold(&self, args: &Args, gate: &Gate) -> bool {
        let request = self.0.request(Method::PUT, &["holds", &args.payment]).json(args);
        matches!(self.0.send(request, gate).await, Answer::Reply(reply) if reply.status == StatusCode::OK)
    }

    pub async fn refund(&self, args: &Args, gate: &Gate) -> Said {
        said(self.0.send(self.0.request(Method::POST, &["refunds"]).json(args), gate).await)
    }

    pub async fn inquire(&self, args: &Args, gate: &Gate) -> Said {
        said(self.0.send(self.0.request(Method::GET, &["refunds", &args.payment]), gate).await)
    }

    pub async fn release(&self, args: &Args, gate: &Gate) -> bool {
        let request = self.0.request(Method::DELETE, &["holds", &args.payment]);
        matches!(self.0.send(request, gate).await, Answer::Reply(reply) if reply.status == StatusCode::NO_CONTENT)
    }
}

fn said(answer: Answer) -> Said {
    let Answer::Reply(reply) = answer else {
        return if matches!(answer, Answer::NotSent) { Said::NotSent } else { Said::Unknown };
    };
    match (reply.status, receipt(&reply)) {
        (StatusCode::OK | StatusCode::CREATED, Some(receipt)) => Said::Done(receipt),
        (StatusCode::UNPROCESSABLE_ENTITY, _) => Said::Refused,
        (StatusCode::CONFLICT, _) => Said::Conflict,
        (StatusCode::NOT_FOUND, _) => Said::NotFound,
        _ => Said::Unknown,
    }
}

fn receipt(reply: &Reply) -> Option<String> {
    reply.body.json::<Value>()?.get("receipt")?.as_str().map(str::to_owned)
}
