//! The partner over HTTP: a stub of the usual shape, to be replaced by yours. `PUT /reservations/ID` reserves once under an id; `POST /effects`
//! has an effect each time that it is called; `GET /effects/ID` tells of one; `DELETE /reservations/ID` releases.

use std::{sync::Arc, time::Duration};

use http::{Method, StatusCode};
use noshi::{
    Budget, Section,
    http::{Answer, Gate, Http, Reach, Reply},
};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use crate::job::{Args, LANE, Said};

/// The section `[starter]` of noshi.toml.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Partner {
    /// Where the partner is.
    base_url: String,
    /// Over the whole fleet.
    calls_per_second: u32,
    #[serde(skip)]
    client: Option<Arc<Client>>,
}

impl Section for Partner {
    fn open(self) -> anyhow::Result<Partner> {
        let http = Http::new(&Reach::usual("partner", &self.base_url, self.budget()))?;
        Ok(Partner { client: Some(Arc::new(Client(http))), ..self })
    }

    fn partners(&self) -> Vec<noshi::Partner> {
        let ops = &["reserve", "call", "inquire", "release"];
        vec![noshi::Partner { name: "partner", ops, lane: LANE, budget: self.budget() }]
    }
}

impl Partner {
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
    pub async fn reserve(&self, args: &Args, gate: &Gate) -> bool {
        let request = self.0.request(Method::PUT, &["reservations", &args.request]).json(args);
        matches!(self.0.send(request, gate).await, Answer::Reply(reply) if reply.status == StatusCode::OK)
    }

    pub async fn call(&self, args: &Args, gate: &Gate) -> Said {
        said(self.0.send(self.0.request(Method::POST, &["effects"]).json(args), gate).await)
    }

    pub async fn inquire(&self, args: &Args, gate: &Gate) -> Said {
        said(self.0.send(self.0.request(Method::GET, &["effects", &args.request]), gate).await)
    }

    pub async fn release(&self, args: &Args, gate: &Gate) -> bool {
        let request = self.0.request(Method::DELETE, &["reservations", &args.request]);
        matches!(self.0.send(request, gate).await, Answer::Reply(reply) if reply.status == StatusCode::NO_CONTENT)
    }
}

/// Each answer is named. What is not is unknown, and the job is in doubt.
fn said(answer: Answer) -> Said {
    let Answer::Reply(reply) = answer else {
        return if matches!(answer, Answer::NotSent) { Said::NotSent } else { Said::Unknown };
    };
    match (reply.status, receipt(&reply)) {
        (StatusCode::OK | StatusCode::CREATED, Some(receipt)) => Said::Done(receipt),
        (StatusCode::UNPROCESSABLE_ENTITY, _) => Said::Refused,
        (StatusCode::NOT_FOUND, _) => Said::NotFound,
        _ => Said::Unknown,
    }
}

fn receipt(reply: &Reply) -> Option<String> {
    reply.body.json::<Value>()?.get("receipt")?.as_str().map(str::to_owned)
}
