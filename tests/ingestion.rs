//! The sink by itself: what becomes of a body that cannot be posted before the run's time is up.
#![cfg(feature = "simulator")]
#![allow(clippy::panic, clippy::unwrap_used, reason = "tests")]

mod support;

use std::time::Duration;

use bytes::Bytes;
use mimecast_sentinel::azure::credential::{AccessTokens, Credentials};
use mimecast_sentinel::azure::ingestion::LogsIngestion;
use mimecast_sentinel::http::RetryPolicy;
use mimecast_sentinel::pipeline::sink::PostError;
use mimecast_sentinel::pipeline::{Interrupt, Sink};
use mimecast_sentinel::seams::{Clock, Deadline, Random};
use mimecast_sentinel::settings::CredentialSettings;
use mimecast_sentinel::simulator::{Endpoint, Fault, FaultPlan, Options, Simulator, World};
use support::tls::Certificates;
use tempfile::TempDir;

/// Why a post ended that always meets `fault`, with many more attempts than there is time for.
async fn post(fault: Fault) -> Interrupt {
    let plan = FaultPlan::none().times(usize::MAX, Endpoint::Post, fault);
    let simulator = Simulator::start(World::default(), plan, Options::default()).await.unwrap();
    let folder = TempDir::new().unwrap();
    let certificates = Certificates::write(folder.path());
    let entra = certificates.serve(&simulator).await;
    let ca = reqwest::Certificate::from_pem(&std::fs::read(&certificates.ca).unwrap()).unwrap();
    let http = reqwest::Client::builder().no_proxy().tls_certs_merge([ca]).build().unwrap();
    let credentials = Credentials {
        settings: CredentialSettings::ClientSecret {
            tenant_id: simulator.tenant_id().to_owned(),
            client_id: simulator.client_id().to_owned(),
            secret: simulator.client_secret().into(),
        },
        authority: entra.url().parse().unwrap(),
        http: http.clone(),
        http_without_proxy: http.clone(),
        retry: RetryPolicy::default(),
        seams: (Clock::system(), Random::seeded(1)),
    };
    let pause = Duration::from_millis(10);
    let retry = RetryPolicy {
        first: pause,
        longest: pause,
        attempts: u32::MAX,
        throttled_at_least: pause,
        throttled: pause,
    };
    let sink = LogsIngestion::new(
        &simulator.url().parse().unwrap(),
        simulator.rule_id(),
        simulator.stream(),
        http,
        AccessTokens::new(credentials, "https://monitor.azure.com/.default"),
        retry,
        (Clock::system(), Random::seeded(1)),
    );
    let deadline = Deadline::after(Duration::from_millis(500));
    match sink.post(Bytes::from_static(b"not looked at"), deadline).await.answer {
        Err(PostError::Interrupt(interrupt)) => interrupt,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_post_that_fails_until_the_time_is_up_is_a_failure() {
    for (fault, said) in [(Fault::Unavailable, "503"), (Fault::Reset, "connection")] {
        let Interrupt::Fault(fault) = post(fault).await else { panic!("silent: {said}") };
        assert_eq!((fault.code, fault.settings), ("ingestion-unreachable", false));
        assert!(fault.message.contains(said), "{fault}");
        assert!(fault.message.contains("until the run's time was up"), "{fault}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rate_that_is_limited_until_the_time_is_up_is_none() {
    let interrupt = post(Fault::TooManyRequests(Some(("Retry-After", "0".to_owned())))).await;
    assert!(matches!(interrupt, Interrupt::OutOfTime), "{interrupt:?}");
}
