//! The sink alone: what becomes of a body that cannot be posted before the run's time is up.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use bytes::Bytes;
use mimecast_sentinel::azure::credential::{AccessTokens, Credentials, Ways};
use mimecast_sentinel::azure::ingestion::LogsIngestion;
use mimecast_sentinel::http::RetryPolicy;
use mimecast_sentinel::pipeline::sink::{PostError, Posted};
use mimecast_sentinel::pipeline::{Interrupt, Sink};
use mimecast_sentinel::seams::{Clock, Deadline, Random};
use mimecast_sentinel::settings::{CredentialSettings, SecretSettings};
use mimecast_sentinel::simulator::{
    Endpoint, Fault, FaultPlan, Simulator, SimulatorOptions, World,
};
use mimecast_sentinel::table::CLOUD_INTEGRATED;
use tempfile::TempDir;
use tokio::net::TcpListener;

use crate::support::tls::Certificates;

/// What came of a post to `endpoint`, with as many attempts as `attempts`.
async fn post_to(endpoint: &str, simulator: &Simulator, attempts: u32) -> Posted {
    let folder = TempDir::new().unwrap();
    let certificates = Certificates::write(folder.path());
    let entra = certificates.serve(simulator).await;
    let ca = reqwest::Certificate::from_pem(&std::fs::read(&certificates.ca).unwrap()).unwrap();
    let http = reqwest::Client::builder().no_proxy().tls_certs_merge([ca]).build().unwrap();
    let credentials = Credentials {
        settings: CredentialSettings::ClientSecret {
            tenant_id: simulator.tenant_id().to_owned(),
            client_id: simulator.client_id().to_owned(),
            secret: SecretSettings::Given(simulator.client_secret().into()),
        },
        authority: entra.url().parse().unwrap(),
        ways: Ways {
            http: http.clone(),
            http_without_proxy: http.clone(),
            retry: RetryPolicy::default(),
            seams: (Clock::system(), Random::seeded(1)),
        },
    };
    let pause = Duration::from_millis(10);
    let retry = RetryPolicy {
        first: pause,
        longest: pause,
        attempts,
        throttled_at_least: pause,
        throttled: pause,
    };
    let sink = LogsIngestion::new(
        &endpoint.parse().unwrap(),
        simulator.rule_id(),
        [(CLOUD_INTEGRATED.name, simulator.stream().to_owned())].into(),
        http,
        AccessTokens::new(credentials, "https://monitor.azure.com/.default"),
        retry,
        (Clock::system(), Random::seeded(1)),
    );
    let deadline = Deadline::after(Duration::from_millis(500));
    sink.post(&CLOUD_INTEGRATED, Bytes::from_static(b"not looked at"), deadline).await
}

async fn simulator(plan: FaultPlan) -> Simulator {
    Simulator::start(World::default(), plan, SimulatorOptions::default()).await.unwrap()
}

/// Why a post ended that always meets `fault`, with many more attempts than there is time for.
async fn post(fault: Fault) -> Interrupt {
    let simulator = simulator(FaultPlan::none().times(usize::MAX, Endpoint::Post, fault)).await;
    match post_to(simulator.url(), &simulator, u32::MAX).await.answer {
        Err(PostError::Interrupt(interrupt)) => interrupt,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_post_that_fails_until_the_time_is_up_is_a_failure() {
    for (fault, said) in [(Fault::Unavailable, "503"), (Fault::Reset, "connection")] {
        let Interrupt::Fault(fault) = post(fault).await else { panic!("silent: {said}") };
        assert_eq!((fault.code.as_str(), fault.settings), ("ingestion-unreachable", false));
        assert!(fault.message.contains(said), "{fault}");
        assert!(fault.message.contains("until the run's time was up"), "{fault}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rate_that_is_limited_until_the_time_is_up_is_none() {
    let interrupt = post(Fault::TooManyRequests(Some(("Retry-After", "0".to_owned())))).await;
    assert!(matches!(interrupt, Interrupt::OutOfTime), "{interrupt:?}");
}

/// A page that a proxy or a firewall puts in Azure's place says nothing about rows or settings.
#[tokio::test(flavor = "multi_thread")]
async fn a_page_in_azures_place_refuses_no_row_and_no_setting() {
    let simulator = simulator(FaultPlan::none()).await;
    let page = "<!DOCTYPE html><html><title>Web Page Blocked</title></html>";
    for (status, body, said) in [
        (200, page, "200: an HTML page: Web Page Blocked"),
        (201, "{}", "201: {}"),
        (400, page, "400: an HTML page: Web Page Blocked"),
        (400, "<Error><Code>BadRequest</Code></Error>", "400: <Error><Code>BadRequest"),
        (400, "Bad Request", "400: Bad Request"),
        (401, page, "401: an HTML page: Web Page Blocked"),
        (403, page, "403: an HTML page: Web Page Blocked"),
        (404, page, "404: an HTML page: Web Page Blocked"),
    ] {
        let asked = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&asked);
        let app = Router::new().fallback(move || async move {
            count.fetch_add(1, Ordering::Relaxed);
            (StatusCode::from_u16(status).unwrap(), body)
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, app).await });
        let posted = post_to(&endpoint, &simulator, 3).await;
        let Err(PostError::Interrupt(Interrupt::Fault(fault))) = posted.answer else {
            panic!("{status}: {posted:?}");
        };
        assert_eq!(
            (fault.code.as_str(), fault.settings),
            ("ingestion-unreachable", false),
            "{fault}"
        );
        assert!(fault.message.contains(said), "{fault}");
        assert_eq!((asked.load(Ordering::Relaxed), posted.ambiguous), (3, 3), "{status}");
    }
}
