//! Trouble with TLS that is one process's own: it keeps away, and the lane stays open for the others. And a lane that closes where the trouble
//! is everybody's.

use std::{fs, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
};
use tokio_rustls::TlsAcceptor;

use crate::{
    fleet::{Fleet, Process, Terms, fleet},
    processes::{count, until},
    support::turn,
};
use noshi::lab::simulator::Provider;

const SOON: Duration = Duration::from_secs(40);
const CA_FILE: &str = "NOSHI_GIFTS__GIFT_ON_DEMAND__CA_FILE";

fn file(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/partners/http/tls").join(name)
}

/// The authority that signed the certificates of these tests.
fn authority() -> String {
    file("ca.pem").display().to_string()
}

/// A partner's front, with this certificate.
async fn front(certificate: &str, behind: SocketAddr) -> String {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let chain = vec![CertificateDer::from_pem_file(file(&format!("{certificate}.pem"))).unwrap()];
    let key = PrivateKeyDer::from_pem_file(file(&format!("{certificate}.key"))).unwrap();
    let config = rustls::ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key).unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((near, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                // A client that does not trust us leaves here.
                let Ok(mut near) = acceptor.accept(near).await else { return };
                let Ok(mut far) = TcpStream::connect(behind).await else { return };
                let _ = copy_bidirectional(&mut near, &mut far).await;
            });
        }
    });
    format!("https://localhost:{port}")
}

/// A fleet whose gifts on demand are bought over TLS, from who shows this certificate.
async fn over_tls(certificate: &str) -> Fleet {
    let fleet = fleet(Terms { call_timeout: Duration::from_secs(5), ..Terms::default() }).await;
    let front = front(certificate, fleet.partners()).await;
    let plain = fleet.simulator.base_url(Provider::GiftOnDemand);
    let private = plain.replace(&format!("http://{}", fleet.partners()), &front);
    fleet.configure(|text| text.replace(&plain, &private));
    fleet
}

fn keeps_away(worker: &Process, why: &str) -> bool {
    let log = fs::read_to_string(&worker.log).unwrap_or_default();
    log.lines().any(|line| line.contains("keeps away from the lane") && line.contains(&format!("\"why\":\"{why}\"")))
}

async fn closed(fleet: &Fleet) -> Option<String> {
    let closed = "select closed_code from noshi.lane where name = 'gift/gift_on_demand'";
    sqlx::query_scalar(closed).fetch_one(&fleet.pool).await.unwrap()
}

/// Gifts, one after the other, until that worker has met the partner.
async fn until_away(fleet: &Fleet, worker: &Process, why: &str) -> usize {
    let mut gifts = 0;
    until("it keeps away", SOON, async || {
        fleet.gift(&format!("g{gifts}"), "digital", 500).await;
        gifts += 1;
        tokio::time::sleep(Duration::from_millis(200)).await;
        keeps_away(worker, why)
    })
    .await;
    gifts
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authority_that_one_worker_lacks_closes_nothing_for_the_others() {
    let _turn = turn().await;
    let fleet = over_tls("right").await;
    let authority = authority();
    let (lacks, has) = (fleet.worker("lacks", &[], &[]), fleet.worker("has", &[(CA_FILE, &authority)], &[]));
    let both = "select count(*) = 2 from noshi.worker";
    until("both live", SOON, async || sqlx::query_scalar(both).fetch_one(&fleet.pool).await.unwrap()).await;
    let gifts = until_away(&fleet, &lacks, "trust").await;
    fleet.at_rest(SOON).await.unwrap();
    assert_eq!(closed(&fleet).await, None);
    let done = "select count(*) from noshi.job where status = 'completed'";
    let done: i64 = sqlx::query_scalar(done).fetch_one(&fleet.pool).await.unwrap();
    assert_eq!((usize::try_from(done).unwrap(), count(&fleet, "issued")), (gifts, gifts), "each once");
    assert!(lacks.stop().await.success() && has.stop().await.success());

    // Alone, there is nobody else to leave it to: a person is paged at once.
    let alone = fleet.worker("alone", &[], &[]);
    let job = fleet.gift("last", "digital", 500).await;
    until("the lane is closed", SOON, async || closed(&fleet).await.as_deref() == Some("tls_unknown_ca")).await;
    let waits =
        "select status not in ('completed', 'failed', 'needs_operator') and not in_doubt from noshi.job where id = $1";
    assert!(sqlx::query_scalar::<_, bool>(waits).bind(job).fetch_one(&fleet.pool).await.unwrap());
    assert!(alone.stop().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_is_over_by_a_wrong_clock_closes_nothing() {
    let _turn = turn().await;
    let fleet = over_tls("expired").await;
    let (authority, clock) = (authority(), fleet.dir.path().join("clock"));
    fs::write(&clock, "3600").unwrap();
    let environment = [(CA_FILE, authority.as_str()), ("NOSHI_CLOCK_OFF", clock.to_str().unwrap())];
    let wrong = fleet.worker("wrong", &environment, &[]);
    until_away(&fleet, &wrong, "clock").await;
    assert_eq!(closed(&fleet).await, None);

    // By a clock that is right it is over for everybody.
    let right = fleet.worker("right", &environment[..1], &[]);
    until("the lane is closed", SOON, async || closed(&fleet).await.as_deref() == Some("tls_expired")).await;
    let in_doubt = "select exists (select from noshi.job where in_doubt or status = 'completed')";
    assert!(!sqlx::query_scalar::<_, bool>(in_doubt).fetch_one(&fleet.pool).await.unwrap(), "nothing was sent");
    assert!(wrong.stop().await.success() && right.stop().await.success());
}
