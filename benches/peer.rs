//! The other end of a bench: the simulator in a process of its own, or a floor.
//!
//! `benches/run` starts it. Both make the same events from the same seed, so that their bytes are
//! the same.

use std::io::{BufRead, Read, Write, stdin, stdout};
use std::net::TcpStream;
use std::time::Duration;

use chrono::{DateTime, NaiveDate};
use clap::{Args, Parser, Subcommand};
use flate2::Compression;
use flate2::read::MultiGzDecoder;
use flate2::write::GzEncoder;
use mimecast_sentinel::pipeline::body::MAX_BODY_BYTES;
use mimecast_sentinel::simulator::{
    BatchFile, FaultPlan, GraphWorld, Keep, MadeUp, Page, Simulator, SimulatorOptions, World,
};
use mimecast_sentinel::table::{CLOUD_INTEGRATED, EventId};
use serde_json::{Value, json};
use url::Url;

const SEED: u64 = 1;
/// 2026-08-01T00:00:00Z, in milliseconds.
const FIRST_MS: i64 = 1_785_542_400_000;
/// The most files that a listing reply has.
const FILES_PER_PAGE: usize = 100;

#[path = "../tests/rivals/faulty.rs"]
mod faulty;

#[derive(Parser)]
struct Peer {
    #[command(subcommand)]
    role: Role,
    /// What `cargo bench` gives to every bench.
    #[arg(long, global = true, hide = true)]
    bench: bool,
}

#[derive(Subcommand)]
enum Role {
    /// Serves the events and takes the rows. Prints where as a line of JSON, then what it was asked
    /// at each line of its input, and ends with it
    Serve {
        #[command(flatten)]
        events: Events,
        /// How long every answer is held back, in milliseconds
        #[arg(long, default_value_t = 0)]
        latency_ms: u64,
        /// Takes bodies of any program: up to 1,100,000 bytes, also without gzip
        #[arg(long)]
        any_program: bool,
        /// Serves with TLS, but for the managed identity, which is never asked over it
        #[arg(long)]
        tls: bool,
        /// A directory of so many users beside the events
        #[arg(long, default_value_t = 0)]
        users: usize,
        /// with so many members of groups, of 200 each
        #[arg(long, default_value_t = 0)]
        members: usize,
    },
    /// Serves the events with a fault, and prints what became of each event
    Faulty(faulty::Faulty),
    /// Inflates the events' files, deflates the bytes of their rows, on one thread, and no more
    Floor {
        #[command(flatten)]
        events: Events,
        /// The gzip level
        #[arg(long)]
        level: u32,
    },
    /// Fetches each of the events' files over one connection, in a plain loop, on one thread, and no
    /// more
    Requests {
        #[command(flatten)]
        events: Events,
    },
}

/// Which events, in which files.
#[derive(Args)]
struct Events {
    /// How many, of all three streams: 60 % entities, 33 % mailflow, 7 % urlclick
    #[arg(long)]
    events: usize,
    #[arg(long, default_value_t = 10_000)]
    events_per_file: usize,
    /// How many events there are before they come again, under other files' names
    #[arg(long, default_value_t = 200_000)]
    distinct: usize,
    /// Pads each event with a field that no column takes, to this many bytes at least; below 400,
    /// events have few other fields
    #[arg(long, default_value_t = 0)]
    event_bytes: usize,
}

impl Events {
    /// The files of each stream.
    fn files(&self) -> Vec<(&'static str, Vec<BatchFile>)> {
        let shares = [("entities", 60), ("mailflow", 33), ("urlclick", 7)];
        let files = (0..).zip(shares).map(|(number, (stream, percent))| {
            let mut made_up = MadeUp::new(SEED * 3 + number);
            let mut pad = fastrand::Rng::with_seed(SEED);
            let (events, distinct) = (self.events * percent / 100, self.distinct * percent / 100);
            let mut files: Vec<BatchFile> = Vec::new();
            let mut left = events;
            while left > 0 {
                let (count, index) = (left.min(self.events_per_file), files.len());
                let name = format!("2026-08-01/{stream}-{index:06}.json.gz");
                // Only whole files come again.
                let again = index % (distinct / self.events_per_file).max(1);
                let file = match files.get(again) {
                    Some(file) if count == self.events_per_file => file.clone(),
                    _ => self.file(&mut made_up, &mut pad, stream, index, count),
                };
                files.push(BatchFile { name, ..file });
                left -= count;
            }
            (stream, files)
        });
        files.collect()
    }

    fn file(
        &self,
        made_up: &mut MadeUp,
        pad: &mut fastrand::Rng,
        stream: &str,
        index: usize,
        count: usize,
    ) -> BatchFile {
        let first = FIRST_MS + i64::try_from(index * self.events_per_file).unwrap_or_default();
        let lines = (first..).take(count).map(|at| {
            let mut line = match self.event_bytes {
                1..400 => {
                    let id = format!("{:032x}", pad.u128(..));
                    json!({"timestamp": at, "type": stream, "processingId": id}).to_string()
                }
                _ => made_up.event(stream, at),
            };
            let missing = self.event_bytes.saturating_sub(line.len());
            if missing > 12 {
                let filling = (12..missing).map(|_| pad.alphanumeric()).collect::<String>();
                line.insert_str(1, &format!("\"filling\":\"{filling}\","));
            }
            line
        });
        BatchFile::of_lines("", &lines.collect::<Vec<_>>())
    }

    fn world(&self) -> World {
        let day = NaiveDate::from_ymd_opt(2026, 8, 1).unwrap_or_default();
        let mut world = World::default();
        for (stream, files) in self.files() {
            for files in files.chunks(FILES_PER_PAGE) {
                let page = files.iter().cloned().fold(Page::new(day), Page::file);
                world = world.page(stream, page);
            }
        }
        world
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    match Peer::parse().role {
        Role::Serve { events, latency_ms, any_program, tls, users, members } => {
            let latency = Duration::from_millis(latency_ms);
            let options = SimulatorOptions { latency, keep: Keep::Count, ..options(any_program) };
            serve(&events, options, tls, (users, members)).await
        }
        Role::Faulty(faulty) => faulty.serve().await,
        Role::Floor { events, level } => floor(&events, level),
        Role::Requests { events } => requests(&events).await,
    }
}

/// The vendor's own clients send up to 1,050,891 bytes where Azure's documents say 1 MB.
fn options(any_program: bool) -> SimulatorOptions {
    let strict = SimulatorOptions::default();
    let max_body_bytes = if any_program { 1_100_000 } else { strict.max_body_bytes };
    SimulatorOptions { any_program, max_body_bytes, ..strict }
}

async fn serve(
    events: &Events,
    options: SimulatorOptions,
    tls: bool,
    (users, members): (usize, usize),
) -> Result<(), Box<dyn std::error::Error>> {
    let simulator = Simulator::start(events.world(), FaultPlan::none(), options).await?;
    simulator.graph(|graph| directory(graph, users, members));
    let mut given = settings(&simulator);
    let folder = tempfile::tempdir()?;
    // TLS ends with it.
    let _port = if tls {
        let certificates = faulty::tls::Certificates::write(folder.path());
        let port = certificates.serve(&simulator).await;
        simulator.serve_files_at(port.url());
        given["MIMECAST_BASE_URL"] = port.url().into();
        given["LOGS_INGESTION_ENDPOINT"] = port.url().into();
        given["SSL_CERT_FILE"] = certificates.ca.display().to_string().into();
        Some(port)
    } else {
        None
    };
    send(&given)?;
    let mut lines = tokio::task::spawn_blocking(|| stdin().lock().lines().next());
    while let Some(line) = lines.await? {
        line?;
        let calls = simulator.calls();
        send(&json!({
            "rows": simulator.landed_count(),
            "posts": calls.posts,
            "accepted_posts": calls.accepted_posts,
            "listings": calls.all_listings(),
            "downloads": calls.all_downloads(),
            "graph": calls.graph.values().sum::<u64>(),
            "row_bytes": calls.row_bytes,
            "violations": simulator.violations(),
        }))?;
        lines = tokio::task::spawn_blocking(|| stdin().lock().lines().next());
    }
    Ok(())
}

/// Users with about the properties that a company fills in, and groups of 200.
fn directory(graph: &mut GraphWorld, users: usize, members: usize) {
    const OF_GROUP: usize = 200;
    graph.page = 999;
    let id = |number: usize| format!("{number:08x}-0000-4000-8000-000000000000");
    for number in 0..users {
        let mail = format!("first.last.{number}@contoso.example");
        let user = json!({
            "displayName": format!("First Last {number}"), "givenName": "First",
            "surname": format!("Last {number}"), "userPrincipalName": mail, "mail": mail,
            "mailNickname": format!("first.last.{number}"), "jobTitle": "Something or other",
            "department": format!("Department {}", number % 100), "companyName": "Contoso",
            "officeLocation": "Building 7", "country": "Norway", "usageLocation": "NO",
            "employeeId": number.to_string(), "userType": "Member", "accountEnabled": true,
            "createdDateTime": "2020-01-01T00:00:00Z", "onPremisesSyncEnabled": true,
            "proxyAddresses": [format!("SMTP:{mail}"), format!("smtp:{number}@contoso.example")],
        });
        graph.put_user(&id(number), user);
    }
    for number in 0..members {
        let group = format!("{:08x}-0000-4000-9000-000000000000", number / OF_GROUP);
        if number % OF_GROUP == 0 {
            graph.put_group(&group, json!({"displayName": group, "securityEnabled": true}));
        }
        graph.join(&group, &id(number % users.max(1)), "user");
    }
}

fn settings(simulator: &Simulator) -> Value {
    json!({
        "MIMECAST_BASE_URL": simulator.url(),
        "MIMECAST_CLIENT_ID": simulator.client_id(),
        "MIMECAST_CLIENT_SECRET": simulator.client_secret(),
        "START_DATE": "2026-08-01",
        "LOGS_INGESTION_ENDPOINT": simulator.url(),
        "LOGS_INGESTION_RULE_ID": simulator.rule_id(),
        "LOGS_INGESTION_STREAM": simulator.stream(),
        "IDENTITY_ENDPOINT": simulator.identity_endpoint(),
        "IDENTITY_HEADER": simulator.identity_header(),
        "GRAPH_BASE_URL": simulator.url(),
    })
}

/// The CPU time is the caller's to measure, around `ready` and the answer.
fn floor(events: &Events, level: u32) -> Result<(), Box<dyn std::error::Error>> {
    let files: Vec<_> = events.files().into_iter().flat_map(|(_, files)| files).collect();
    let rows = rows(&files)?;
    send(&json!("ready"))?;
    stdin().lock().read_line(&mut String::new())?;
    let mut buffer = vec![0; 64 * 1024];
    let (mut read, mut inflated, mut sent) = (0, 0, 0);
    for file in &files {
        read += file.bytes.len();
        let mut decoder = MultiGzDecoder::new(&file.bytes[..]);
        loop {
            let count = decoder.read(&mut buffer)?;
            if count == 0 {
                break;
            }
            inflated += count;
        }
    }
    for body in rows.chunks(MAX_BODY_BYTES) {
        let mut gzip = GzEncoder::new(Vec::new(), Compression::new(level));
        gzip.write_all(body)?;
        sent += gzip.finish()?.len();
    }
    let deflated = rows.len();
    send(&json!({"bytes_read": read, "bytes_inflated": inflated, "bytes_deflated": deflated,
                 "bytes_sent": sent}))?;
    stdin().lock().read_line(&mut String::new())?;
    Ok(())
}

/// The CPU time is the caller's to measure, as above: that of the first thread, since the simulator
/// has others.
async fn requests(events: &Events) -> Result<(), Box<dyn std::error::Error>> {
    let options = SimulatorOptions { keep: Keep::Count, ..SimulatorOptions::default() };
    let simulator = Simulator::start(events.world(), FaultPlan::none(), options).await?;
    let requests = requests_of(&simulator).await?;
    let host = simulator.url().trim_start_matches("http://");
    let mut connection = TcpStream::connect(host)?;
    connection.set_nodelay(true)?;
    send(&json!("ready"))?;
    stdin().lock().read_line(&mut String::new())?;
    let mut buffer = vec![0; 64 * 1024];
    let mut read = 0;
    for request in &requests {
        connection.write_all(request.as_bytes())?;
        let mut filled = 0;
        while whole(&buffer[..filled]).is_none_or(|length| filled < length) {
            match connection.read(&mut buffer[filled..])? {
                0 => return Err("a reply broke off, or is larger than 64 KiB".into()),
                count => filled += count,
            }
        }
        if !buffer.starts_with(b"HTTP/1.1 200 ") {
            return Err("a file was refused".into());
        }
        read += filled;
    }
    send(&json!({"requests": requests.len(), "bytes_read": read}))?;
    stdin().lock().read_line(&mut String::new())?;
    Ok(())
}

/// How long a reply is, if its head is there.
fn whole(reply: &[u8]) -> Option<usize> {
    let head = memchr::memmem::find(reply, b"\r\n\r\n")? + 4;
    let name = b"content-length: ";
    let value = &reply[memchr::memmem::find(&reply[..head], name)? + name.len()..];
    let digits = value.split(|byte| !byte.is_ascii_digit()).next()?;
    Some(head + std::str::from_utf8(digits).ok()?.parse::<usize>().ok()?)
}

/// The least request for each file that the listings name.
async fn requests_of(simulator: &Simulator) -> Result<Vec<String>, Box<dyn std::error::Error>> {
    let http = reqwest::Client::builder().no_proxy().build()?;
    let form = [
        ("grant_type", "client_credentials"),
        ("client_id", simulator.client_id()),
        ("client_secret", simulator.client_secret()),
    ];
    let base = simulator.url();
    let granted = http.post(format!("{base}/oauth/token")).form(&form).send().await?;
    let granted: Value = serde_json::from_slice(&granted.bytes().await?)?;
    let token = granted["access_token"].as_str().unwrap_or_default();
    let mut requests = Vec::new();
    for stream in ["entities", "mailflow", "urlclick"] {
        let mut place = ("dateRangeStartsAt", "2026-08-01".to_owned());
        loop {
            let query = [("type", stream), ("pageSize", "100"), (place.0, &place.1)];
            let list = http.get(format!("{base}/siem/v1/batch/events/ci")).query(&query);
            let page = list.bearer_auth(token).send().await?.bytes().await?;
            let page: Value = serde_json::from_slice(&page)?;
            let files = page["value"].as_array().ok_or("a listing without files")?;
            for file in files {
                let url = Url::parse(file["url"].as_str().unwrap_or_default())?;
                let path = &url[url::Position::BeforePath..];
                requests.push(format!("GET {path} HTTP/1.1\r\nhost: {}\r\n\r\n", url.authority()));
            }
            if files.is_empty() {
                break;
            }
            place = ("nextPage", page["@nextPage"].as_str().unwrap_or_default().to_owned());
        }
    }
    Ok(requests)
}

/// The bytes of all bodies, which a pull deflates: the events' rows, each with a comma.
fn rows(files: &[BatchFile]) -> Result<Vec<u8>, Box<dyn std::error::Error>> {
    let mut rows = Vec::new();
    for file in files {
        let mut text = Vec::new();
        MultiGzDecoder::new(&file.bytes[..]).read_to_end(&mut text)?;
        for line in text.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()) {
            CLOUD_INTEGRATED.write_row(line, EventId::of(line), DateTime::UNIX_EPOCH, &mut rows)?;
            rows.push(b',');
        }
    }
    Ok(rows)
}

/// Prints one line for the program that started this one.
fn send(value: &Value) -> std::io::Result<()> {
    let mut out = stdout().lock();
    writeln!(out, "{value}")?;
    out.flush()
}
