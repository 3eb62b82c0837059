//! A simulator of the Azure Functions host, for the side that a custom handler sees, written from
//! the behaviour of the host's source (4.1037 and later). It is not the host: what it proves is that
//! the program keeps to these rules.
//!
//! [`HostClient`] is the HTTP half and talks to whatever listens on a port; [`HostSimulator`] starts
//! a program as the host does, and kills and restarts it by the host's rules.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

/// How often the host asks a worker that it started whether it is there.
const POLL: Duration = Duration::from_millis(25);
const HOST_VERSION: &str = "4.1037.0.0";

/// What became of one invocation, as the host sees it.
#[derive(Clone, Debug, PartialEq)]
pub enum Invocation {
    /// The function succeeded.
    Succeeded { logs: Vec<String>, return_value: Value },
    /// The function failed, and why.
    Failed(String),
    /// No answer came: refused, reset or closed. The function failed.
    Disconnected(String),
    /// The function timeout passed, or the answer was one that makes the host wait for it.
    TimedOut,
}

/// Reads an answer as strictly as the host. An empty body and `null` are no failure in the host:
/// it goes on waiting until the function timeout.
pub fn read_answer(status: u16, content_type: Option<&str>, body: &[u8]) -> Invocation {
    let failed = |why: &str| Invocation::Failed(why.to_owned());
    if !(200..300).contains(&status) {
        return failed(&format!("status {status}"));
    }
    let media_type = content_type.and_then(|value| value.split(';').next()).map(str::trim);
    if !media_type.is_some_and(|media_type| media_type.eq_ignore_ascii_case("application/json")) {
        return failed(&format!("Invalid HttpResponseMessage: content type {content_type:?}"));
    }
    if body.trim_ascii().is_empty() {
        return Invocation::TimedOut;
    }
    let fields = match serde_json::from_slice(body) {
        Ok(Value::Object(fields)) => fields,
        Ok(Value::Null) => return Invocation::TimedOut,
        Ok(_) => return failed("the body is JSON, but no object"),
        Err(_) => return failed("the body is not JSON"),
    };
    let mut fields: HashMap<String, Value> =
        fields.into_iter().map(|(name, value)| (name.to_lowercase(), value)).collect();
    if !matches!(fields.remove("outputs"), None | Some(Value::Null | Value::Object(_))) {
        return failed("Outputs is no object");
    }
    let logs = match fields.remove("logs") {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::Array(logs)) => logs,
        Some(_) => return failed("Logs is no array"),
    };
    if logs.iter().any(|line| line.is_array() || line.is_object()) {
        return failed("a line of Logs is no scalar");
    }
    let text = |line: Value| line.as_str().map_or_else(|| line.to_string(), str::to_owned);
    Invocation::Succeeded {
        logs: logs.into_iter().map(text).collect(),
        return_value: fields.remove("returnvalue").unwrap_or_default(),
    }
}

/// The host's rule for a value of `Data` or `Metadata`: an object stays one, everything else becomes
/// a string of JSON.
pub fn converted(value: &Value) -> Value {
    if value.is_object() { value.clone() } else { Value::String(value.to_string()) }
}

/// What the host posts for a timer whose binding is named `timer`.
pub fn timer_payload(past_due: bool) -> Value {
    let timer = json!({
        "Schedule": { "AdjustForDST": true },
        "ScheduleStatus": {
            "Last": "2026-11-21T10:15:00+00:00",
            "Next": "2026-11-21T10:20:00+00:00",
            "LastUpdated": "0001-01-01T00:00:00+00:00",
        },
        "IsPastDue": past_due,
    });
    let sys = json!({
        "MethodName": "CloudIntegrated",
        "UtcNow": "2026-11-21T23:52:39.188555Z",
        "RandGuid": "de186d6b-6a02-4f6c-9a4b-1f0c3d1f7c11",
    });
    json!({ "Data": { "timer": converted(&timer) }, "Metadata": { "sys": converted(&sys) } })
}

/// The HTTP half of the host.
#[derive(Clone, Debug)]
pub struct HostClient {
    http: reqwest::Client,
    port: u16,
    invocations: Arc<AtomicU64>,
}

impl HostClient {
    pub fn new(port: u16) -> Self {
        let http = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .expect("a plain client");
        Self { http, port, invocations: Arc::default() }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// Asks `GET /` until something answers, whatever it says. Only a refused connection is waited
    /// out, for at most `initialization`; false once that has passed.
    pub async fn ready(&self, initialization: Duration) -> bool {
        let asked = async {
            while let Err(error) = self.http.get(self.url("/")).send().await {
                if !error.is_connect() {
                    break;
                }
                sleep(POLL).await;
            }
        };
        timeout(initialization, asked).await.is_ok()
    }

    /// Calls a function as the host does: chunked, with its headers.
    pub async fn invoke(&self, function: &str, payload: &[u8], limit: Duration) -> Invocation {
        timeout(limit, self.post(function, payload)).await.unwrap_or(Invocation::TimedOut)
    }

    async fn post(&self, function: &str, payload: &[u8]) -> Invocation {
        let chunks: Vec<_> =
            payload.chunks(100).map(|chunk| Ok::<_, std::io::Error>(chunk.to_vec())).collect();
        let answer = self
            .http
            .post(self.url(&format!("/{function}")))
            .header("X-Azure-Functions-HostVersion", HOST_VERSION)
            .header("X-Azure-Functions-InvocationId", self.next_invocation_id())
            .header("User-Agent", format!("Azure-Functions-Host/{HOST_VERSION}"))
            .header("Content-Type", "application/json; charset=utf-8")
            .body(reqwest::Body::wrap_stream(futures::stream::iter(chunks)))
            .send()
            .await;
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) => return Invocation::Disconnected(format!("{error:?}")),
        };
        let status = answer.status().as_u16();
        let content_type = answer.headers().get("content-type").cloned();
        let content_type = content_type.as_ref().and_then(|value| value.to_str().ok());
        match answer.bytes().await {
            Ok(body) => read_answer(status, content_type, &body),
            Err(error) => Invocation::Disconnected(format!("{error:?}")),
        }
    }

    fn next_invocation_id(&self) -> String {
        let number = self.invocations.fetch_add(1, Ordering::Relaxed) + 1;
        format!("6f1d7a52-0000-4000-8000-{number:012x}")
    }
}

/// The host's own settings; the defaults are the host's, with a `functionTimeout` of 10 minutes.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// How long a started program may take to listen.
    pub initialization: Duration,
    /// How long an invocation may take.
    pub function: Duration,
    /// The host goes down at `errors` errors of the program within `error_window`.
    pub errors: usize,
    pub error_window: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            initialization: Duration::from_secs(30),
            function: Duration::from_secs(600),
            errors: 3,
            error_window: Duration::from_secs(30 * 60),
        }
    }
}

/// How the host logs a line that the program printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    Information,
    Warning,
    Error,
    /// Taken for a line of the platform's own, which the customer does not see.
    System,
}

/// The level of a line from stdout or stderr.
pub fn level(from_stderr: bool, line: &str) -> Level {
    match from_stderr {
        true if line.to_lowercase().contains("warn") => Level::Warning,
        true => Level::Error,
        false if line.starts_with("LanguageWorkerConsoleLog") => Level::System,
        false => Level::Information,
    }
}

/// What the host does with the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Running,
    /// It exited with 0: the host does not start it again, and every invocation fails.
    NotRestarted,
    /// Too many errors: the host itself went down.
    HostStopped,
}

type Lines = Arc<Mutex<Vec<(Level, String)>>>;

/// The host around one program.
#[derive(Debug)]
pub struct HostSimulator {
    program: PathBuf,
    args: Vec<String>,
    envs: Vec<(String, String)>,
    limits: Limits,
    port: u16,
    client: HostClient,
    worker: Option<Child>,
    readers: Vec<JoinHandle<()>>,
    lines: Lines,
    errors: Vec<Instant>,
    starts: u32,
    state: State,
}

impl HostSimulator {
    /// Starts `exe` with the host's environment over `envs` and nothing else, and waits until it answers.
    pub async fn start(exe: &Path, args: &[&str], envs: &[(&str, &str)]) -> Self {
        Self::start_with(Limits::default(), exe, args, envs).await
    }

    pub async fn start_with(
        limits: Limits,
        exe: &Path,
        args: &[&str],
        envs: &[(&str, &str)],
    ) -> Self {
        let port = unused_port();
        let mut host = Self {
            program: exe.to_owned(),
            args: args.iter().map(|&arg| arg.to_owned()).collect(),
            envs: envs.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect(),
            limits,
            port,
            client: HostClient::new(port),
            worker: None,
            readers: Vec::new(),
            lines: Arc::default(),
            errors: Vec::new(),
            starts: 0,
            state: State::Running,
        };
        host.restart().await;
        host
    }

    pub fn state(&self) -> State {
        self.state
    }

    /// How often the program was started.
    pub fn starts(&self) -> u32 {
        self.starts
    }

    /// The HTTP half, for requests beside the invocations.
    pub fn client(&self) -> &HostClient {
        &self.client
    }

    /// The program, while it runs.
    pub fn worker(&self) -> &Child {
        self.worker.as_ref().expect("a program that runs")
    }

    /// The lines it printed so far.
    pub fn lines(&self) -> Vec<(Level, String)> {
        self.lines.lock().expect("lines").clone()
    }

    /// One tick of the timer. After a function timeout the program is killed and started again; if
    /// it exits during the invocation, the rules for its exit code are applied.
    pub async fn tick(&mut self, function: &str) -> Invocation {
        let payload = timer_payload(false).to_string();
        let end = self.client.invoke(function, payload.as_bytes(), self.limits.function).await;
        match end {
            Invocation::TimedOut => {
                self.kill().await;
                self.restart().await;
            }
            Invocation::Disconnected(_) if self.worker.is_some() => self.exited().await,
            _ => {}
        }
        end
    }

    /// Waits until the program exits by itself, and does what the host does then.
    pub async fn exited(&mut self) {
        let worker = self.worker.as_mut().expect("a program that was started");
        let status = timeout(Duration::from_secs(10), worker.wait()).await;
        let status = status.expect("the program should have exited").expect("its exit code");
        if self.ended(status) {
            self.restart().await;
        }
    }

    /// Takes the program down as a host that scales in does (SIGKILL, without a word before), and
    /// gives back all lines it printed.
    pub async fn scale_in(mut self) -> Vec<(Level, String)> {
        self.kill().await;
        for reader in self.readers.drain(..) {
            reader.await.expect("a reader of lines");
        }
        self.lines.lock().expect("lines").clone()
    }

    async fn kill(&mut self) {
        if let Some(mut worker) = self.worker.take() {
            worker.kill().await.expect("the program's death");
        }
    }

    /// Starts the program until it answers, or until the rules forbid another start.
    async fn restart(&mut self) {
        loop {
            let mut worker = self.spawn();
            // A new one: connections to the process before this one are dead.
            self.client = HostClient::new(self.port);
            let again = tokio::select! {
                ready = self.client.ready(self.limits.initialization) => {
                    self.worker = Some(worker);
                    if ready {
                        return;
                    }
                    self.kill().await;
                    self.may_go_on_after_error()
                }
                status = worker.wait() => self.ended(status.expect("its exit code")),
            };
            if !again {
                return;
            }
        }
    }

    fn spawn(&mut self) -> Child {
        let port = self.port.to_string();
        self.starts += 1;
        let id = format!("6f1d7a52-0000-4000-9000-{:012x}", self.starts);
        let mut worker = Command::new(&self.program)
            .args(&self.args)
            .env_clear()
            .envs(self.envs.iter().map(|(name, value)| (name, value)))
            .env("FUNCTIONS_CUSTOMHANDLER_PORT", &port)
            .env("FUNCTIONS_HTTPWORKER_PORT", &port)
            .env("FUNCTIONS_CUSTOMHANDLER_WORKER_ID", &id)
            .env("FUNCTIONS_HTTPWORKER_ID", &id)
            .env("FUNCTIONS_APP_ROOT_PATH", ".")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("the program should start");
        let stdout = worker.stdout.take().expect("a pipe");
        let stderr = worker.stderr.take().expect("a pipe");
        self.readers.push(tokio::spawn(collect(stdout, false, Arc::clone(&self.lines))));
        self.readers.push(tokio::spawn(collect(stderr, true, Arc::clone(&self.lines))));
        worker
    }

    /// The rules for exit codes: whether the program is to be started again.
    fn ended(&mut self, status: ExitStatus) -> bool {
        self.worker = None;
        match status.code() {
            Some(0) => {
                self.state = State::NotRestarted;
                false
            }
            Some(200) => true,
            _ => self.may_go_on_after_error(),
        }
    }

    fn may_go_on_after_error(&mut self) -> bool {
        let now = Instant::now();
        let window = self.limits.error_window;
        self.errors.push(now);
        self.errors.retain(|&error| now.duration_since(error) < window);
        if self.errors.len() >= self.limits.errors {
            self.state = State::HostStopped;
        }
        self.state == State::Running
    }
}

async fn collect(pipe: impl AsyncRead + Unpin, from_stderr: bool, lines: Lines) {
    let mut pipe = BufReader::new(pipe).lines();
    while let Ok(Some(line)) = pipe.next_line().await {
        lines.lock().expect("lines").push((level(from_stderr, &line), line));
    }
}

/// As the host does it: a port that was free a moment ago.
fn unused_port() -> u16 {
    let listener = std::net::TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
    listener.expect("a port").local_addr().expect("its address").port()
}
