//! `/metrics` of a real worker process.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{fleet::Process, processes::until};

/// Where a worker started with `--metrics 127.0.0.1:0` serves them, as its log says.
async fn address(worker: &Process) -> String {
    let mut address = String::new();
    until("the address of /metrics in the log", Duration::from_secs(20), async || {
        let log = std::fs::read_to_string(&worker.log).unwrap_or_default();
        let line = log.lines().find(|line| line.contains("serving /metrics"));
        let line = line.and_then(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        address =
            line.map(|line| line["fields"]["address"].as_str().unwrap_or_default().to_owned()).unwrap_or_default();
        !address.is_empty()
    })
    .await;
    address
}

/// The text of `/metrics`.
pub async fn scrape(worker: &Process) -> String {
    let mut stream = TcpStream::connect(address(worker).await).await.expect("a connection to /metrics");
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").await.expect("a request");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("an answer");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    assert!(head.contains(" 200 "), "{head}");
    body.to_owned()
}
