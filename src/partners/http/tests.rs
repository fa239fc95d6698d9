use std::time::Instant;

use crate::partners::scripted::{Act, Scripted};

use super::*;

const CANARY: &str = "CNRY-AAAAAA-BBBB";

fn reach(url: &str) -> Reach {
    Reach {
        provider: "test",
        base_url: url.to_owned(),
        allow_plain_http: false,
        ca_file: None,
        connect_timeout: Duration::from_millis(500),
        read_timeout: Duration::from_millis(800),
        timeout: Duration::from_secs(2),
        budgets: vec![Budget { calls: 1000, window: Duration::from_secs(1), jitter: Duration::ZERO }],
        only: None,
    }
}

async fn post(url: &str) -> Answer {
    let http = Http::new(&reach(url)).unwrap();
    http.send(http.request(Method::POST, &["issue"]).body("{}"), &Gate::open()).await
}

fn reply(answer: Answer) -> Reply {
    match answer {
        Answer::Reply(reply) => reply,
        other @ (Answer::NotSent | Answer::Unknown) => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn an_answer_is_handed_over_without_showing_its_body() {
    let body = format!("{{\"code\":\"{CANARY}\"}}");
    let server = Scripted::start([Act::answer("201 Created\r\nRetry-After: 7", &body)]).await;
    let reply = reply(post(&format!("{}/v1/", server.url)).await);
    assert_eq!((reply.status.as_u16(), reply.retry_after), (201, Some(Duration::from_secs(7))));
    assert_eq!(reply.body.json::<serde_json::Value>().unwrap()["code"], CANARY);
    assert!(format!("{reply:?}").contains("Body(27 bytes)") && !format!("{reply:?}").contains("CNRY"));
    let requests = server.requests();
    assert_eq!(requests.len(), 1);
    assert!(requests[0].starts_with("POST /v1/issue HTTP/1.1\r\n"), "{}", requests[0]);
}

#[tokio::test]
async fn what_never_left_is_not_sent() {
    // A port that was free a moment ago.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    assert!(matches!(post(&format!("http://127.0.0.1:{port}")).await, Answer::NotSent));
    let nowhere = Reach { allow_plain_http: true, ..reach("http://nowhere.invalid") };
    let http = Http::new(&nowhere).unwrap();
    let answer = http.send(http.request(Method::POST, &[]), &Gate::open()).await;
    assert!(matches!(answer, Answer::NotSent));
}

#[tokio::test]
async fn without_tls_nothing_is_sent() {
    for act in [Act::ResetAtOnce, Act::Say(b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec())] {
        let server = Scripted::start([act]).await;
        match Http::new(&reach(&server.url.replace("http:", "https:"))) {
            Ok(http) => {
                let answer = http.send(http.request(Method::POST, &[]).body("{}"), &Gate::open()).await;
                assert!(matches!(answer, Answer::NotSent), "{answer:?}");
            }
            // A machine without certificates has no https at all.
            Err(error) => assert!(format!("{error:#}").contains("ca-certificates"), "{error:#}"),
        }
    }
}

#[tokio::test]
async fn whatever_else_goes_wrong_is_unknown_and_never_repeated() {
    let ok = "HTTP/1.1 200 OK\r\nContent-Length: ";
    let say = |text: String| Act::Say(text.into_bytes());
    for act in [
        Act::Reset,
        Act::ResetAtOnce,
        Act::Hang(vec![]),
        Act::Hang(format!("{ok}10\r\n\r\n{{}}").into_bytes()),
        say(String::new()),
        say("not HTTP at all\r\n\r\n".to_owned()),
        say("HTTP/1.1 200 OK\r\nContent-Len".to_owned()),
        say(format!("{ok}10\r\n\r\n{{}}")),
        say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{\"a\":".to_owned()),
        say(format!("{ok}300000\r\n\r\n{}", " ".repeat(300_000))),
        say(format!("HTTP/1.1 200 OK\r\n\r\n{}", " ".repeat(300_000))),
    ] {
        let server = Scripted::start([act.clone()]).await;
        let answer = post(&server.url).await;
        assert!(matches!(answer, Answer::Unknown), "{answer:?} after {act:?}");
        assert_eq!(server.requests().len(), 1, "after {act:?}");
    }
}

#[tokio::test]
async fn the_largest_answer_still_fits() {
    let server = Scripted::start([Act::answer("200 OK", &" ".repeat(MAX_BYTES))]).await;
    assert_eq!(format!("{:?}", reply(post(&server.url).await).body), "Body(262144 bytes)");
}

#[tokio::test]
async fn a_redirect_is_an_answer_and_each_call_has_its_own_connection() {
    let other = Scripted::start([Act::answer("200 OK", "{}")]).await;
    let redirect = Act::answer(&format!("307 Temporary Redirect\r\nLocation: {}", other.url), "");
    // The second connection is a new one, though the first was not closed.
    let Act::Say(bytes) = redirect else { unreachable!() };
    let server = Scripted::start([Act::Hang(bytes), Act::answer("200 OK", "{}")]).await;
    let http = Http::new(&reach(&server.url)).unwrap();
    let first = http.send(http.request(Method::POST, &["a"]).body("{}"), &Gate::open()).await;
    assert_eq!(reply(first).status.as_u16(), 307);
    let second = http.send(http.request(Method::GET, &["b"]), &Gate::open()).await;
    assert_eq!(reply(second).status.as_u16(), 200);
    assert_eq!((server.requests().len(), other.requests().len()), (2, 0));
}

#[tokio::test]
async fn a_closed_gate_a_foreign_host_and_a_spent_budget_send_nothing() {
    let server = Scripted::start([]).await;
    let other = Scripted::start([]).await;
    let http = Http::new(&reach(&server.url)).unwrap();
    let closed = http.send(http.request(Method::POST, &[]), &Gate::new(|| false)).await;
    assert!(matches!(closed, Answer::NotSent));
    let foreign = http.send(Client::new().post(&other.url), &Gate::open()).await;
    assert!(matches!(foreign, Answer::NotSent));
    let day = Budget { calls: 1, window: Duration::from_secs(24 * 60 * 60), jitter: Duration::ZERO };
    let answering = Scripted::start([Act::answer("200 OK", "{}")]).await;
    let http = Http::new(&Reach { budgets: vec![day], ..reach(&answering.url) }).unwrap();
    assert!(matches!(http.send(http.request(Method::GET, &[]), &Gate::open()).await, Answer::Reply(_)));
    assert!(matches!(http.send(http.request(Method::GET, &[]), &Gate::open()).await, Answer::NotSent));
    assert_eq!((server.requests().len(), other.requests().len(), answering.requests().len()), (0, 0, 1));
}

#[tokio::test]
async fn the_whole_timeout_ends_a_call_whose_reads_may_last_longer() {
    let head = "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n";
    let server = Scripted::start([Act::Hang(head.as_bytes().to_vec())]).await;
    let slow =
        Reach { read_timeout: Duration::from_secs(60), timeout: Duration::from_millis(300), ..reach(&server.url) };
    let http = Http::new(&slow).unwrap();
    let start = Instant::now();
    assert!(matches!(http.send(http.request(Method::GET, &[]), &Gate::open()).await, Answer::Unknown));
    assert!(start.elapsed() < Duration::from_secs(30));
}

#[test]
fn path_segments_cannot_lead_elsewhere() {
    let http = Http::new(&reach("http://localhost:8080/raas/v2")).unwrap();
    assert_eq!(http.url(&["orders", "A1"]).as_str(), "http://localhost:8080/raas/v2/orders/A1");
    for (segment, path) in [
        ("../..", "/raas/v2/gifts/..%2F.."),
        ("a?b=c#d", "/raas/v2/gifts/a%3Fb=c%23d"),
        ("@evil.example", "/raas/v2/gifts/@evil.example"),
    ] {
        let url = http.url(&["gifts", segment]);
        assert_eq!((url.host_str(), url.path()), (Some("localhost"), path));
    }
}

/// Libraries leave such segments out, so the call would be another one.
#[tokio::test]
async fn a_segment_of_dots_is_not_sent() {
    let server = Scripted::start([Act::answer("200 OK", "{}")]).await;
    let http = Http::new(&reach(&server.url)).unwrap();
    for segment in ["..", ".", "%2e%2e", ".%2E"] {
        let plain = http.request(Method::POST, &["organizations", segment, "shops"]);
        let query = http.query(Method::GET, &["organizations", segment], &[("a", "b")]);
        for request in [plain, query] {
            assert!(matches!(http.send(request, &Gate::open()).await, Answer::NotSent), "{segment}");
        }
    }
    assert!(server.requests().is_empty());
}

#[test]
fn a_base_url_that_shows_credentials_or_leads_astray_is_refused() {
    for (url, says) in [
        ("http://api.example.com", "plain http"),
        ("ftp://api.example.com", "https://"),
        ("api.example.com", "not a URL"),
        ("https://user:secret@api.example.com", "credentials"),
        ("https://api.example.com/?a=b", "end with the path"),
    ] {
        let error = Http::new(&reach(url)).err().map(|error| format!("{error:#}")).unwrap();
        assert!(error.contains(says) && error.contains("test") && !error.contains("secret"), "{error}");
    }
    for here in ["http://127.0.0.1:1", "http://localhost", "http://[::1]:80/x"] {
        assert!(Http::new(&reach(here)).is_ok(), "{here}");
    }
}

#[test]
fn retry_after_is_read_in_both_forms_and_clamped() {
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    let date =
        |seconds: u64| httpdate::fmt_http_date(SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000 + seconds));
    let read = |value: &str, its_date: Option<String>| {
        let mut headers = HeaderMap::new();
        headers.insert(header::RETRY_AFTER, value.parse().unwrap());
        if let Some(date) = its_date {
            headers.insert(header::DATE, date.parse().unwrap());
        }
        retry_after(&headers, now).map(|wait| wait.as_secs())
    };
    for (value, seconds) in [
        ("0", Some(0)),
        ("120", Some(120)),
        (" 5 ", Some(5)),
        ("3600", Some(3600)),
        ("3601", Some(3600)),
        ("99999999999999999999999999", Some(3600)),
        ("-5", Some(0)),
        ("soon", None),
        ("", None),
        ("-", None),
        ("1.5", None),
    ] {
        assert_eq!(read(value, None), seconds, "{value:?}");
    }
    // Against the local clock, then against the answer's own, which is an hour behind.
    assert_eq!(read(&date(30), None), Some(30));
    assert_eq!(read(&date(30 - 30), Some(date(0))), Some(0));
    let behind = httpdate::fmt_http_date(now - Duration::from_secs(3600));
    let soon = httpdate::fmt_http_date(now - Duration::from_secs(3600 - 45));
    assert_eq!(read(&soon, Some(behind)), Some(45));
    assert_eq!(read(&soon, None), Some(0), "in the past");
    assert_eq!(read(&soon, Some("yesterday".to_owned())), Some(0), "an unreadable Date is none");
    assert_eq!(read(&date(1_000_000), None), Some(3600));
    assert_eq!(retry_after(&HeaderMap::new(), now), None);
}

mod private {
    //! A partner whose certificate a private authority signed. Keys and certificates are for these tests alone.

    use std::{path::PathBuf, sync::Arc};

    use noshi_jobs::machine::Tls;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio_rustls::TlsAcceptor;

    use super::*;
    use crate::db::queue::slot::Notice;

    fn file(name: &str) -> PathBuf {
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/partners/http/tls").join(name)
    }

    /// A server that answers each call with 200, over TLS, by this certificate.
    async fn server(certificate: &str) -> String {
        install_tls();
        let chain = vec![CertificateDer::from_pem_file(file(&format!("{certificate}.pem"))).unwrap()];
        let key = PrivateKeyDer::from_pem_file(file(&format!("{certificate}.key"))).unwrap();
        let config = rustls::ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key).unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                // A client that does not trust us leaves here.
                let Ok(mut stream) = acceptor.accept(stream).await else { continue };
                let _ = stream.read(&mut [0; 4096]).await;
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
                let _ = stream.shutdown().await;
            }
        });
        format!("https://localhost:{port}")
    }

    async fn called(url: &str, ca: Option<&str>) -> (Answer, Option<Closing>) {
        let http = Http::new(&Reach { ca_file: ca.map(file), ..reach(url) }).unwrap();
        let told = Notice::default();
        let gate = Gate::open().telling(&told);
        let answer = http.send(http.request(Method::POST, &["issue"]).body("{}"), &gate).await;
        let told = *told.lock().unwrap();
        (answer, told)
    }

    #[tokio::test]
    async fn its_authority_is_trusted_where_it_is_named_and_each_fault_has_its_word() {
        let right = server("right").await;
        let (answer, told) = called(&right, Some("ca.pem")).await;
        assert!(matches!(answer, Answer::Reply(_)) && told.is_none(), "{answer:?} {told:?}");
        for (certificate, ca, trouble) in [
            ("right", None, Tls::UnknownCa),
            ("another", Some("ca.pem"), Tls::WrongHost),
            ("expired", Some("ca.pem"), Tls::Expired),
        ] {
            let (answer, told) = called(&server(certificate).await, ca).await;
            assert!(matches!(answer, Answer::NotSent), "{certificate}: {answer:?}");
            assert_eq!(told, Some(Closing::Tls(trouble)), "{certificate}");
        }
    }

    #[test]
    fn a_file_that_names_no_authority_is_refused_by_name() {
        for (name, words) in [("none.pem", "cannot read the ca_file"), ("right.key", "holds no certificate in PEM")] {
            let error = Http::new(&Reach { ca_file: Some(file(name)), ..reach("https://localhost") }).err().unwrap();
            let error = format!("{error:#}");
            assert!(error.contains(words) && error.contains(name) && error.contains("test"), "{error}");
        }
    }
}
