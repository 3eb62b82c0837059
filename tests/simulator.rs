//! What the other tests rely on: the simulator serves its world, is strict, and breaks as planned.

use std::collections::HashSet;
use std::io::{Read, Write};
use std::sync::Arc;
use std::time::Duration;

use azure_core::cloud::{CloudConfiguration, CustomConfiguration};
use azure_core::credentials::{Secret, TokenCredential};
use azure_core::http::{ClientOptions, Transport};
use azure_identity::{ClientSecretCredential, ClientSecretCredentialOptions};
use chrono::{DateTime, NaiveDate};
use flate2::Compression;
use flate2::read::MultiGzDecoder;
use flate2::write::GzEncoder;
use mimecast_sentinel::seams::Clock;
use mimecast_sentinel::simulator::{
    BatchFile, Drawn, Endpoint, Fault, FaultPlan, Keep, MadeUp, NextToken, Page, Simulator,
    SimulatorOptions, World,
};
use reqwest::{Client, RequestBuilder, Response};
use serde_json::{Value, json};

const LISTING: &str = "/siem/v1/batch/events/ci";

fn day(text: &str) -> NaiveDate {
    text.parse().unwrap()
}

async fn start(world: World, faults: FaultPlan) -> Peer {
    start_with(world, faults, SimulatorOptions::default()).await
}

async fn start_with(world: World, faults: FaultPlan, options: SimulatorOptions) -> Peer {
    let simulator = Simulator::start(world, faults, options).await.unwrap();
    let client = Client::builder().no_proxy().build().unwrap();
    Peer { simulator, client }
}

/// A client that does as it should.
struct Peer {
    simulator: Simulator,
    client: Client,
}

impl Peer {
    fn get(&self, path: &str) -> RequestBuilder {
        self.client.get(format!("{}{path}", self.simulator.url()))
    }

    fn token_request(&self, secret: &str) -> RequestBuilder {
        let form = [
            ("client_id", self.simulator.client_id()),
            ("client_secret", secret),
            ("grant_type", "client_credentials"),
        ];
        self.client.post(format!("{}/oauth/token", self.simulator.url())).form(&form)
    }

    async fn token(&self) -> String {
        let answer = self.token_request(self.simulator.client_secret()).send().await.unwrap();
        access_token(answer).await
    }

    fn list(&self, bearer: &str, stream: &str, next: Option<&str>) -> RequestBuilder {
        let query = [("type", stream), ("pageSize", "100")];
        let next = next.map(|token| [("nextPage", token)]);
        self.get(LISTING).query(&query).query(&next.as_slice().concat()).bearer_auth(bearer)
    }

    async fn listed(&self, bearer: &str, stream: &str, next: Option<&str>) -> Value {
        json_of(self.list(bearer, stream, next).send().await.unwrap()).await
    }

    async fn download(&self, url: &Value) -> Vec<u8> {
        let answer = self.client.get(url.as_str().unwrap()).send().await.unwrap();
        answer.error_for_status().unwrap().bytes().await.unwrap().to_vec()
    }

    async fn identity_token(&self, resource: &str) -> String {
        let query = [("api-version", "2019-08-01"), ("resource", resource)];
        let header = self.simulator.identity_header();
        let request = self.client.get(self.simulator.identity_endpoint()).query(&query);
        access_token(request.header("X-IDENTITY-HEADER", header).send().await.unwrap()).await
    }

    fn post(&self, bearer: &str, body: &[u8]) -> RequestBuilder {
        let Self { simulator, client } = self;
        let url = format!(
            "{}/dataCollectionRules/{}/streams/{}?api-version=2023-01-01",
            simulator.url(),
            simulator.rule_id(),
            simulator.stream()
        );
        let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
        gzip.write_all(body).unwrap();
        let request = client.post(url).header("Content-Encoding", "gzip").bearer_auth(bearer);
        request.header("Content-Type", "application/json").body(gzip.finish().unwrap())
    }
}

async fn json_of(answer: Response) -> Value {
    serde_json::from_slice(&answer.error_for_status().unwrap().bytes().await.unwrap()).unwrap()
}

async fn access_token(answer: Response) -> String {
    json_of(answer).await["access_token"].as_str().unwrap().to_owned()
}

async fn status(request: RequestBuilder) -> u16 {
    request.send().await.unwrap().status().as_u16()
}

fn gunzip(bytes: &[u8]) -> Vec<u8> {
    let mut text = Vec::new();
    MultiGzDecoder::new(bytes).read_to_end(&mut text).unwrap();
    text
}

fn row(number: u128) -> Value {
    json!({"TimeGenerated": "2026-08-01T00:00:00Z", "EventId": format!("{number:032x}")})
}

fn body(rows: &[Value]) -> Vec<u8> {
    serde_json::to_vec(rows).unwrap()
}

fn small_world() -> World {
    let file =
        |name: &str| BatchFile::of_lines(name, &[format!(r#"{{"n":"{name}"}}"#), String::new()]);
    World::default()
        .page("entities", Page::new(day("2026-08-01")).file(file("a.gz")).file(file("b.gz")))
        .page("entities", Page::new(day("2026-08-02")))
        .page("entities", Page::new(day("2026-08-03")).file(file("c.gz")))
}

#[tokio::test]
async fn a_chain_of_tokens_reads_a_stream_to_its_end_and_on() {
    let world = World::made_up(7, day("2026-08-01")..day("2026-08-04"), 700, 20);
    let peer = start(world.clone(), FaultPlan::none()).await;
    let bearer = peer.token().await;
    let (mut next, mut text) = (None::<String>, Vec::new());
    loop {
        let page = peer.listed(&bearer, "mailflow", next.as_deref()).await;
        next = Some(page["@nextPage"].as_str().unwrap().to_owned());
        for file in page["value"].as_array().unwrap() {
            text.extend(gunzip(&peer.download(&file["url"]).await));
        }
        if page["isCaughtUp"] == true {
            break;
        }
    }
    let lines: Vec<_> = text.split_inclusive(|&byte| byte == b'\n').collect();
    let made: Vec<_> =
        world.lines("mailflow").into_iter().map(|l| [&l[..], b"\n"].concat()).collect();
    assert_eq!(lines.len(), 700);
    assert_eq!(lines, made);

    let news = BatchFile::of_lines("news.json.gz", &["{}"]);
    peer.simulator.add_page("mailflow", Page::new(day("2026-08-04")).file(news));
    let page = peer.listed(&bearer, "mailflow", next.as_deref()).await;
    assert_eq!(page["value"].as_array().unwrap().len(), 1);
    assert_eq!(page["isCaughtUp"], false);

    let calls = peer.simulator.calls();
    assert_eq!(calls.mimecast_tokens, 1);
    assert_eq!(calls.listings["mailflow"], world.page_count("mailflow") as u64 + 2);
    assert_eq!(calls.all_downloads(), 35);
    assert_eq!(peer.simulator.violations(), Vec::<String>::new());
}

#[tokio::test]
async fn pages_end_in_all_the_ways_mimecast_ends_them() {
    let page = |next| Page::new(day("2026-08-01")).caught_up(None).next(next);
    let world = World::default()
        .page("entities", page(NextToken::Unmoved))
        .page("mailflow", page(NextToken::Missing).caught_up(Some(true)))
        .page("urlclick", page(NextToken::Empty))
        .page("other", Page::new(day("2026-08-01")).verbatim(json!({"value": null})));
    let peer = start(world, FaultPlan::none()).await;
    let bearer = peer.token().await;
    let unmoved = peer.simulator.page_token("entities", 0);
    for (stream, reply) in [
        ("entities", json!({"value": [], "@nextPage": unmoved})),
        ("mailflow", json!({"value": [], "isCaughtUp": true})),
        ("urlclick", json!({"value": [], "@nextPage": ""})),
        ("other", json!({"value": null})),
    ] {
        assert_eq!(peer.listed(&bearer, stream, None).await, reply);
    }
}

#[tokio::test]
async fn a_listing_starts_at_a_day_that_is_still_kept() {
    let now: DateTime<chrono::Utc> = "2026-08-10T12:00:00Z".parse().unwrap();
    let options = SimulatorOptions {
        clock: Clock::from_fn(move || now),
        retention_days: Some(8),
        ..SimulatorOptions::default()
    };
    let peer = start_with(small_world(), FaultPlan::none(), options).await;
    let bearer = peer.token().await;
    let from = |date| peer.list(&bearer, "entities", None).query(&[("dateRangeStartsAt", date)]);

    let refused = from("2026-08-01").send().await.unwrap();
    assert_eq!(refused.status(), 400);
    assert!(refused.text().await.unwrap().contains("7-day retention period"));
    assert_eq!(json_of(from("2026-08-03").send().await.unwrap()).await["value"][0]["size"], {
        peer.listed(&bearer, "entities", Some(&peer.simulator.page_token("entities", 2))).await
            ["value"][0]["size"]
            .clone()
    });
    // Without a date it starts at the oldest day that is kept, which has an empty page.
    let oldest = peer.listed(&bearer, "entities", None).await;
    assert_eq!(oldest["@nextPage"], peer.simulator.page_token("entities", 2));

    let token = peer.simulator.page_token("entities", 1);
    peer.simulator.forget_page_tokens();
    let refused = peer.list(&bearer, "entities", Some(&token)).send().await.unwrap();
    assert_eq!(refused.status(), 400);
    assert!(refused.text().await.unwrap().contains(&token));
    assert_eq!(peer.simulator.violations(), Vec::<String>::new());
}

#[tokio::test]
async fn what_no_client_may_ask_mimecast_is_refused_and_remembered() {
    let peer = start(small_world(), FaultPlan::none()).await;
    let bearer = peer.token().await;
    let page = peer.listed(&bearer, "entities", None).await;
    let url = page["value"][0]["url"].as_str().unwrap();
    let other = page["value"][1]["url"].as_str().unwrap();
    let forged = format!("{}?{}", url.split_once('?').unwrap().0, other.split_once('?').unwrap().1);
    let token = page["@nextPage"].as_str().unwrap();
    let list = |stream: &str, next| peer.list(&bearer, stream, next);
    let bare = |query: &[(&str, &str)]| peer.get(LISTING).query(query).bearer_auth(&bearer);

    let requests = [
        (401, peer.token_request("wrong")),
        (400, peer.client.post(format!("{}/oauth/token", peer.simulator.url())).body("{}")),
        (401, peer.get(LISTING).query(&[("type", "entities"), ("pageSize", "1")])),
        (401, peer.list("somebody else's", "entities", None)),
        (400, bare(&[("pageSize", "100")])),
        (400, bare(&[("type", "entities"), ("pageSize", "101")])),
        (400, bare(&[("type", "entities,mailflow"), ("pageSize", "100")])),
        (400, list("entities", Some(""))),
        (400, list("mailflow", Some(token))),
        (400, list("entities", Some(token)).query(&[("dateRangeStartsAt", "2026-08-01")])),
        (400, list("entities", None).query(&[("dateRangeStartsAt", "2026-08-01T00:00:00Z")])),
        (500, list("entities", None).header("Accept-Encoding", "gzip, zstd")),
        (400, peer.client.get(url).bearer_auth(&bearer)),
        (403, peer.client.get(url.split_once('?').unwrap().0)),
        (403, peer.client.get(forged)),
        (404, peer.get("/siem/v1/events/ci")),
    ];
    for (number, (expected, request)) in requests.into_iter().enumerate() {
        let request_text = format!("{request:?}");
        assert_eq!(status(request).await, expected, "{request_text}");
        let violations = peer.simulator.violations();
        assert_eq!(violations.len(), number + 1, "{request_text}: {violations:?}");
    }
}

#[tokio::test]
async fn what_no_client_may_send_azure_is_refused_and_remembered() {
    let peer = start(World::default(), FaultPlan::none()).await;
    let bearer = peer.identity_token("https://monitor.azure.com").await;
    let storage = peer.identity_token("https://storage.azure.com").await;
    let good = body(&[row(1)]);
    let exact = |size: usize| [&b"["[..], &vec![b' '; size - 2], b"]"].concat();
    let mut no_time = row(2);
    no_time.as_object_mut().unwrap().remove("TimeGenerated");
    let identity = || peer.client.get(peer.simulator.identity_endpoint());
    let header = peer.simulator.identity_header();
    let plain = peer.client.post(peer.post(&bearer, b"").build().unwrap().url().clone());

    assert_eq!(status(peer.post(&bearer, b"[]")).await, 204);
    assert_eq!(status(peer.post(&bearer, &exact(1_000_000))).await, 204);
    assert_eq!(peer.simulator.violations(), Vec::<String>::new());
    let requests = [
        (401, peer.post(&storage, &good)),
        (401, peer.post("nobody's", &good)),
        (
            400,
            plain
                .header("Content-Type", "application/json")
                .bearer_auth(&bearer)
                .body(good.clone()),
        ),
        (400, peer.post(&bearer, b"{}")),
        (400, peer.post(&bearer, b"[1]")),
        (400, peer.post(&bearer, &body(&[row(1), no_time]))),
        (400, peer.post(&bearer, br#"[{"TimeGenerated":"2026-08-01T00:00:00Z"}]"#)),
        (413, peer.post(&bearer, &exact(1_000_001))),
        (401, identity().query(&[("api-version", "2019-08-01"), ("resource", "r")])),
        (400, identity().query(&[("resource", "r")]).header("X-IDENTITY-HEADER", header)),
    ];
    for (number, (expected, request)) in requests.into_iter().enumerate() {
        let request_text = format!("{request:?}");
        assert_eq!(status(request).await, expected, "{request_text}");
        let violations = peer.simulator.violations();
        assert_eq!(violations.len(), number + 1, "{request_text}: {violations:?}");
    }
    assert_eq!(peer.simulator.landed_count(), 0);
}

#[tokio::test]
async fn rows_land_in_order_and_a_poisoned_body_does_not() {
    let plan = FaultPlan::none().poison(|row| row["EventId"] == format!("{:032x}", 3));
    let peer = start(World::default(), plan).await;
    let bearer = peer.identity_token("https://monitor.azure.com").await;
    assert_eq!(status(peer.post(&bearer, &body(&[row(1), row(2)]))).await, 204);
    assert_eq!(status(peer.post(&bearer, &body(&[row(3), row(4)]))).await, 400);
    assert_eq!(status(peer.post(&bearer, &body(&[row(4)]))).await, 204);
    assert_eq!(peer.simulator.landed(), [row(1), row(2), row(4)]);
    assert_eq!(peer.simulator.violations(), Vec::<String>::new());
}

#[tokio::test]
async fn rows_can_land_in_a_file_or_only_be_counted() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("Cloud_Integrated_CL.ndjson");
    for keep in [Keep::Folder(folder.path().to_owned()), Keep::Count] {
        let options = SimulatorOptions { keep, ..SimulatorOptions::default() };
        let peer = start_with(World::default(), FaultPlan::none(), options).await;
        let bearer = peer.identity_token("https://monitor.azure.com").await;
        assert_eq!(status(peer.post(&bearer, &body(&[row(1), row(2)]))).await, 204);
        assert_eq!((peer.simulator.landed_count(), peer.simulator.landed().len()), (2, 0));
    }
    assert_eq!(std::fs::read_to_string(path).unwrap(), format!("{}\n{}\n", row(1), row(2)));
}

#[tokio::test]
async fn any_program_may_send_plain_json_of_any_columns_up_to_the_limit_it_is_given() {
    let options = SimulatorOptions {
        any_program: true,
        max_body_bytes: 2_000,
        ..SimulatorOptions::default()
    };
    let peer = start_with(World::default(), FaultPlan::none(), options).await;
    let bearer = peer.identity_token("https://monitor.azure.com").await;
    let row = |size: usize| {
        let empty = r#"[{"a":""}]"#.len();
        format!(r#"[{{"a":"{}"}}]"#, "x".repeat(size - empty)).into_bytes()
    };
    let plain = |body| {
        let url = peer.post(&bearer, b"").build().unwrap().url().clone();
        let request = peer.client.post(url).bearer_auth(&bearer);
        request.header("Content-Type", "application/json").body(body)
    };
    assert_eq!(status(peer.post(&bearer, &row(2_000))).await, 204);
    assert_eq!(status(plain(row(1_999))).await, 204);
    assert_eq!(peer.simulator.calls().largest_body, 2_000);
    assert_eq!(peer.simulator.take_landed().len(), 2);
    assert_eq!(peer.simulator.take_landed(), Vec::<Value>::new());
    assert_eq!(status(peer.post(&bearer, &row(2_001))).await, 413);
    assert_eq!(status(plain(row(2_001))).await, 413);
    assert_eq!(peer.simulator.landed_count(), 2);
}

#[tokio::test]
async fn faults_break_answers_as_planned() {
    let bytes: Vec<u8> = (0..100_000_u32).map(|n| n as u8).collect();
    let page = Page::new(day("2026-08-01")).file(BatchFile::raw("a.gz", bytes.clone()));
    let plan = FaultPlan::none()
        .once(Endpoint::Post, Fault::Reset)
        .once(Endpoint::Post, Fault::LostReply)
        .once(Endpoint::Post, Fault::Slow(Duration::from_millis(1)))
        .once(Endpoint::Listing, Fault::TooManyRequests(Some(("X-RateLimit-Reset", "7".into()))))
        .once(Endpoint::File, Fault::Slow(Duration::from_micros(1)))
        .once(Endpoint::File, Fault::CutShort(70_000))
        .once(Endpoint::File, Fault::CutShort(0))
        .matching("other", 1, Endpoint::File, Fault::NotFound)
        .once(Endpoint::File, Fault::Corrupt(50_000));
    let peer = start(World::default().page("entities", page), plan).await;

    let azure = peer.identity_token("https://monitor.azure.com").await;
    assert!(peer.post(&azure, &body(&[row(1)])).send().await.is_err());
    assert_eq!(peer.simulator.landed(), Vec::<Value>::new());
    assert!(peer.post(&azure, &body(&[row(1)])).send().await.is_err());
    assert_eq!(peer.simulator.landed(), [row(1)]);
    assert_eq!(status(peer.post(&azure, &body(&[row(1)]))).await, 204);
    let calls = peer.simulator.calls();
    assert_eq!((calls.posts, calls.accepted_posts), (3, 2));
    assert_eq!((calls.lost_replies, calls.lost_rows), (1, 1));

    let bearer = peer.token().await;
    let limited = peer.list(&bearer, "entities", None).send().await.unwrap();
    assert_eq!(
        (limited.status().as_u16(), &limited.headers()["X-RateLimit-Reset"]),
        (429, &"7".parse().unwrap())
    );
    let url = peer.listed(&bearer, "entities", None).await["value"][0]["url"].clone();
    assert_eq!(peer.download(&url).await, bytes);
    for cut in [70_000, 0] {
        let mut answer = peer.client.get(url.as_str().unwrap()).send().await.unwrap();
        assert_eq!(answer.content_length(), Some(100_000));
        let mut arrived = Vec::new();
        let end = loop {
            match answer.chunk().await {
                Ok(Some(chunk)) => arrived.extend(chunk),
                end => break end,
            }
        };
        assert!(end.is_err());
        assert_eq!(arrived, bytes[..cut]);
    }
    // A damaged file stays damaged.
    for _ in 0..2 {
        let damaged = peer.download(&url).await;
        assert_eq!(damaged[..50_000], bytes[..50_000]);
        assert_eq!(damaged[50_000..], [0xff; 50_000]);
    }
    assert_eq!(peer.simulator.faults().len(), 8);
    assert_eq!(peer.simulator.violations(), Vec::<String>::new());
}

#[tokio::test]
async fn a_signature_expires_after_so_many_listings() {
    let options = SimulatorOptions { signature_listings: Some(1), ..SimulatorOptions::default() };
    let peer = start_with(small_world(), FaultPlan::none(), options).await;
    let bearer = peer.token().await;
    let first = peer.listed(&bearer, "entities", None).await["value"][0]["url"].clone();
    peer.download(&first).await;
    let second = peer.listed(&bearer, "entities", None).await["value"][0]["url"].clone();
    let expired = peer.client.get(first.as_str().unwrap()).send().await.unwrap();
    assert_eq!(expired.status(), 403);
    assert!(expired.text().await.unwrap().contains("<Code>AccessDenied</Code>"));
    peer.download(&second).await;
    assert_eq!(peer.simulator.violations(), Vec::<String>::new());
}

#[tokio::test]
async fn a_seed_draws_the_same_faults_again() {
    async fn drawn(seed: u64) -> Vec<Drawn> {
        let world = World::default()
            .page("entities", Page::new(day("2026-08-01")))
            .page("mailflow", Page::new(day("2026-08-01")));
        let peer = start(world, FaultPlan::seeded(seed, 300)).await;
        for number in 0..60 {
            // Whatever comes of it: only the faults are compared.
            let stream = ["entities", "mailflow"][number % 2];
            drop(peer.list("nobody's", stream, None).send().await);
            drop(peer.token_request("wrong").send().await);
        }
        peer.simulator.faults()
    }
    let first = drawn(1).await;
    assert!((15..60).contains(&first.len()), "{} faults in 120 requests", first.len());
    assert_eq!(first, drawn(1).await);
    assert_ne!(first, drawn(2).await);
}

#[tokio::test]
async fn entra_gives_tokens_over_tls_to_the_identity_library() {
    let folder = tempfile::tempdir().unwrap();
    let certificates = crate::support::tls::Certificates::write(folder.path());
    let peer = start(World::default(), FaultPlan::none()).await;
    let port = certificates.serve(&peer.simulator).await;
    let ca = std::fs::read(&certificates.ca).unwrap();
    let ca = reqwest::Certificate::from_pem(&ca).unwrap();
    let client = Client::builder().no_proxy().tls_certs_only([ca]).build().unwrap();

    let credential = |secret: &str| {
        let mut authority = CustomConfiguration::default();
        authority.authority_host = port.url();
        let client_options = ClientOptions {
            transport: Some(Transport::new(Arc::new(client.clone()))),
            cloud: Some(Arc::new(CloudConfiguration::Custom(authority))),
            ..ClientOptions::default()
        };
        ClientSecretCredential::new(
            peer.simulator.tenant_id(),
            peer.simulator.client_id().to_owned(),
            Secret::new(secret.to_owned()),
            Some(ClientSecretCredentialOptions { client_options }),
        )
        .unwrap()
    };
    let scope = ["https://monitor.azure.com/.default"];
    let token = credential(peer.simulator.client_secret()).get_token(&scope, None).await.unwrap();
    assert_eq!(status(peer.post(token.token.secret(), b"[]")).await, 204);
    assert_eq!(peer.simulator.calls().azure_tokens["https://monitor.azure.com"], 1);
    assert_eq!(peer.simulator.violations(), Vec::<String>::new());

    let refused = credential("wrong").get_token(&scope, None).await.unwrap_err();
    assert!(format!("{refused:?}").contains("AADSTS7000215"), "{refused:?}");
}

#[test]
fn made_up_events_repeat_and_vary() {
    let range = day("2026-08-01")..day("2026-08-03");
    let world = World::made_up(42, range.clone(), 1000, 50);
    for stream in ["entities", "mailflow", "urlclick"] {
        let lines = world.lines(stream);
        assert_eq!(lines, World::made_up(42, range.clone(), 1000, 50).lines(stream));
        assert_eq!(lines.iter().collect::<HashSet<_>>().len(), 1000);
        let (mut offset, mut time) = (0, 0);
        for line in &lines {
            let event: Value = serde_json::from_slice(line).unwrap();
            assert_eq!(event["type"], stream);
            assert!(event["_offset"].as_i64().unwrap() > offset);
            assert!(event["timestamp"].as_i64().unwrap() >= time);
            offset = event["_offset"].as_i64().unwrap();
            time = event["timestamp"].as_i64().unwrap();
            let at = DateTime::from_timestamp_millis(time).unwrap().date_naive();
            assert!(range.contains(&at), "{at}");
        }
    }
    assert_ne!(MadeUp::new(1).event("entities", 0), MadeUp::new(2).event("entities", 0));
    assert_eq!(world.page_count("entities"), 1);
}
