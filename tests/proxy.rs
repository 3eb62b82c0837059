//! The real binary behind a proxy that has a private name, which leads to the simulator whatever it
//! is asked for.

use std::time::Duration;

use mimecast_sentinel::simulator::{FaultPlan, Simulator};
use tempfile::TempDir;
use url::Url;

use crate::support::program::{Ended, Program, events, simulator};
use crate::support::proxy::Proxy;
use crate::support::tls::{Certificates, FILES, MIMECAST};

/// A dry run of the real Mimecast's address, with files at `files`, behind a proxy that is named by
/// `variables`.
async fn dry_run(
    simulator: &Simulator,
    files: impl Fn(&Proxy) -> String,
    variables: impl Fn(&Proxy, Program) -> Program,
) -> (Ended, Proxy) {
    let folder = TempDir::new().unwrap();
    let certificates = Certificates::write(folder.path());
    let tls = certificates.serve(simulator).await;
    let proxy = Proxy::start(Url::parse(&tls.url()).unwrap().port().unwrap()).await;
    simulator.serve_files_at(files(&proxy));
    let program = Program::of(simulator)
        .set("MIMECAST_BASE_URL", &format!("https://{MIMECAST}"))
        .set("MIMECAST_TYPES", "entities")
        .set("SSL_CERT_FILE", &certificates.ca.display().to_string());
    let ended = variables(&proxy, program).run(&["pull", "--dry-run"]).await;
    (ended, proxy)
}

async fn one_page() -> Simulator {
    simulator(1, FaultPlan::none(), Duration::ZERO).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_may_have_a_private_name() {
    for upper in [true, false] {
        let simulator = one_page().await;
        let (ended, proxy) = dry_run(
            &simulator,
            |_| format!("https://{FILES}"),
            |proxy, program| {
                let own = format!("http://me:proxy-canary@localhost:{}", proxy.port);
                // An empty one is unset, as each setting is; and no CGI script is meant.
                match upper {
                    true => program.set("HTTPS_PROXY", &own).set("REQUEST_METHOD", "GET"),
                    false => program.set("HTTPS_PROXY", "").set("https_proxy", &own),
                }
            },
        )
        .await;
        ended.assert_code(0);
        assert_eq!(ended.stdout.lines().count() as u64, events(1) / 3, "{ended:#?}");
        assert!(proxy.asked_for(&format!("CONNECT {MIMECAST}:443")));
        assert!(proxy.asked_for(&format!("CONNECT {FILES}:443")));
        assert!(!ended.said().contains("canary"), "{ended:#?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_at_the_proxys_own_name_or_at_a_private_one_is_refused() {
    type At = fn(&Proxy) -> String;
    let own: At = |proxy| format!("https://localhost:{}", proxy.port);
    let other_port: At = |_| "https://LOCALHOST.".to_owned();
    let number: At = |proxy| format!("https://127.0.0.1:{}", proxy.port);
    for (proxy_host, files) in [
        ("localhost", own),
        ("localhost", other_port),
        ("127.0.0.1", other_port),
        ("localhost", number),
    ] {
        let simulator = one_page().await;
        let (ended, proxy) = dry_run(&simulator, files, |proxy, program| {
            program.set("HTTPS_PROXY", &format!("http://{proxy_host}:{}", proxy.port))
        })
        .await;
        ended.assert_code(1).assert_stderr(&["file-address-refused"]);
        assert_eq!(simulator.calls().all_downloads(), 0);
        assert!(!proxy.asked_for("CONNECT localhost"), "{ended:#?}");
        assert!(!proxy.asked_for("CONNECT 127.0.0.1"), "{ended:#?}");
    }
}

#[tokio::test]
async fn a_proxy_that_cannot_be_used_ends_the_run_before_it_begins() {
    let simulator = one_page().await;
    for (name, proxy) in [
        ("HTTPS_PROXY", "socks5://me:proxy-canary@localhost:1080"),
        ("all_proxy", "http://me:proxy-canary@localhost:port"),
        ("http_proxy", "http://wpad/proxy-canary.pac"),
    ] {
        let ended = Program::of(&simulator).set(name, proxy).run(&["pull"]).await;
        ended.assert_code(2).assert_stderr(&[name, "proxy"]);
        assert!(!ended.said().contains("canary"), "{ended:#?}");
    }
    assert_eq!(simulator.calls().mimecast_tokens, 0);
}
