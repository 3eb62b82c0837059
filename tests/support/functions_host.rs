//! A simulator of the Azure Functions host, for the side that a custom handler sees. It is not the
//! host: what it proves is that the program keeps to these rules. They are those of the host 4.1037,
//! as it was seen to behave when it was run, from its public source, with a stand-in for the program.
//!
//! [`HostClient`] is the HTTP half and talks to whatever listens on a port; [`HostSimulator`] starts
//! a program as the host does, and kills and restarts it by the host's rules. How long the host waits
//! is in [`Limits`], so that no test has to.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::http::StatusCode;
use futures::FutureExt as _;
use mimecast_sentinel::functions::{Does, Function, Job, Pages, Shown};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::ports::unused_port;

/// How often the host asks a worker that it started whether it is there.
const POLL: Duration = Duration::from_millis(25);
const HOST_VERSION: &str = "4.1037.0.0";
/// The size of the chunks in which a payload comes.
const CHUNK: usize = 1_024;
/// Application Insights cuts a line here.
const MAX_LINE_CHARACTERS: usize = 32_768;

/// What became of one invocation, as the host sees it.
#[derive(Clone, Debug, PartialEq)]
pub enum Invocation {
    /// The function succeeded.
    Succeeded { logs: Vec<String>, return_value: Value },
    /// The function failed, and why.
    Failed(String),
    /// No answer came: refused, reset or closed. The function failed.
    Disconnected(String),
    /// The function timeout passed without an answer that the host takes for one.
    TimedOut,
}

/// Reads an answer as strictly as the host. `None` is one that it takes for none: it goes on waiting
/// until the function timeout.
pub fn read_answer(status: u16, content_type: Option<&str>, body: &[u8]) -> Option<Invocation> {
    let failed = |why: &str| Some(Invocation::Failed(why.to_owned()));
    if !(200..300).contains(&status) {
        return failed(&format!("status {status}"));
    }
    if body.trim_ascii().is_empty() {
        return None;
    }
    let media_type = content_type.and_then(|value| value.split(';').next()).map(str::trim);
    if !media_type.is_some_and(|media_type| media_type.eq_ignore_ascii_case("application/json")) {
        return failed(&format!("Invalid HttpResponseMessage: content type {content_type:?}"));
    }
    let fields = match serde_json::from_slice(body) {
        Ok(Value::Object(fields)) => fields,
        Ok(Value::Null) => return None,
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
    Some(Invocation::Succeeded {
        logs: logs.into_iter().map(text).collect(),
        return_value: fields.remove("returnvalue").unwrap_or_default(),
    })
}

/// The host's rule for a value of `Data` or `Metadata`: an object stays one, everything else becomes
/// a string of JSON.
pub fn converted(value: &Value) -> Value {
    if value.is_object() { value.clone() } else { Value::String(value.to_string()) }
}

/// Why a timer's function is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timer {
    /// The schedule's first tick of all.
    First,
    /// A tick of the schedule.
    Scheduled,
    /// The host was not there when it was due.
    PastDue,
    /// By hand.
    ByHand,
    /// By hand, before the schedule's first tick.
    ByHandBeforeTheFirst,
    /// A schedule of more than one tick a minute, whose status the host does not keep.
    FasterThanAMinute,
}

impl Timer {
    pub const ALL: [Self; 6] = [
        Self::First,
        Self::Scheduled,
        Self::PastDue,
        Self::ByHand,
        Self::ByHandBeforeTheFirst,
        Self::FasterThanAMinute,
    ];

    /// What the host posts where the binding is named `timer`.
    pub fn payload(self) -> Value {
        const NEVER: &str = "0001-01-01T00:00:00+00:00";
        const BEFORE: &str = "2026-11-29T02:05:15.3987881+00:00";
        const DUE: &str = "2026-11-29T02:06:00+00:00";
        const AFTER: &str = "2026-11-29T03:00:00+00:00";
        let (last, next, last_updated, now) = match self {
            Self::First => (NEVER, DUE, NEVER, "2026-11-29T02:06:00.0176402Z"),
            Self::Scheduled | Self::FasterThanAMinute => {
                (BEFORE, DUE, BEFORE, "2026-11-29T02:06:00.0073392Z")
            }
            Self::PastDue => (BEFORE, DUE, BEFORE, "2026-11-29T02:21:15.5355038Z"),
            Self::ByHand => (BEFORE, AFTER, BEFORE, "2026-11-29T02:06:09.2248548Z"),
            Self::ByHandBeforeTheFirst => (NEVER, AFTER, BEFORE, "2026-11-29T02:06:16.3461481Z"),
        };
        let status = json!({ "Last": last, "Next": next, "LastUpdated": last_updated });
        let timer = json!({
            "Schedule": { "AdjustForDST": true },
            "ScheduleStatus": if self == Self::FasterThanAMinute { Value::Null } else { status },
            "IsPastDue": self == Self::PastDue,
        });
        let sys = json!({
            "MethodName": "CloudIntegrated",
            "UtcNow": now,
            "RandGuid": "de186d6b-6a02-4f6c-9a4b-1f0c3d1f7c11",
        });
        json!({ "Data": { "timer": converted(&timer) }, "Metadata": { "sys": converted(&sys) } })
    }
}

/// Whether the host takes this as a timer's schedule. If not, it starts the program all the same, and
/// there is never a tick.
pub fn takes_schedule(text: &str) -> bool {
    let fields: Vec<&str> = text.split(' ').filter(|field| !field.is_empty()).collect();
    let bounds = [(0, 59), (0, 59), (0, 23), (1, 31), (1, 12), (0, 6)];
    match fields.as_slice() {
        [span] => is_time_span(span),
        // Without the seconds.
        [_, _, _, _, _] => fields.iter().zip(&bounds[1..]).all(|(field, in_)| takes(field, *in_)),
        [_, _, _, _, _, _] => fields.iter().zip(&bounds).all(|(field, in_)| takes(field, *in_)),
        _ => false,
    }
}

/// `d`, `hh:mm[:ss]` or `d.hh:mm[:ss]`.
fn is_time_span(text: &str) -> bool {
    let number = |text: &str| text.parse::<u32>().ok();
    let (days, clock) = text.split_once('.').map_or((None, text), |(d, rest)| (Some(d), rest));
    let parts: Vec<Option<u32>> = clock.split(':').map(number).collect();
    match parts[..] {
        [Some(_)] => days.is_none(),
        [Some(..24), Some(..60)] | [Some(..24), Some(..60), Some(..60)] => {
            days.is_none_or(|days| number(days).is_some())
        }
        _ => false,
    }
}

/// One field of NCRONTAB: a list of values, names, ranges and steps.
fn takes(field: &str, (min, max): (u32, u32)) -> bool {
    let is_number = |text: &str| text.bytes().all(|b| b.is_ascii_digit()) && !text.is_empty();
    let is_value = |text: &str| match text.parse::<u32>() {
        Ok(value) if is_number(text) => (min..=max).contains(&value),
        _ => is_name(text, max),
    };
    field.split(',').all(|item| {
        let (base, step) = item.split_once('/').unwrap_or((item, "1"));
        let is_base = match base.split_once('-') {
            Some((from, to)) => is_value(from) && is_value(to),
            None => base == "*" || is_value(base),
        };
        is_base && is_number(step)
    })
}

/// Whether it is the beginning of the name of a month or a weekday, in the field that has them.
fn is_name(text: &str, max: u32) -> bool {
    let names = match max {
        12 => {
            "january february march april may june july august september october november december"
        }
        6 => "sunday monday tuesday wednesday thursday friday saturday",
        _ => return false,
    };
    let text = text.to_lowercase();
    !text.is_empty() && names.split(' ').any(|name| name.starts_with(&text))
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
        // A redirect is followed, as a GET: the answer to that counts.
        let http = reqwest::Client::builder().no_proxy().build().expect("a plain client");
        Self { http, port, invocations: Arc::default() }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// Asks `GET /` until something answers, whatever it says. Only while connections are refused
    /// does `listening` count, false once it has passed: one that is accepted is waited for, however
    /// long nothing is said.
    pub async fn ready(&self, listening: Duration) -> bool {
        let began = Instant::now();
        while let Err(error) = self.http.get(self.url("/")).send().await {
            if !error.is_connect() {
                break;
            }
            if began.elapsed() >= listening {
                return false;
            }
            sleep(POLL).await;
        }
        true
    }

    /// Calls a function as the host does: chunked, with its headers.
    pub async fn invoke(&self, function: &str, payload: &[u8], limit: Duration) -> Invocation {
        timeout(limit, self.post(function, payload)).await.unwrap_or(Invocation::TimedOut)
    }

    async fn post(&self, function: &str, payload: &[u8]) -> Invocation {
        let chunks: Vec<_> =
            payload.chunks(CHUNK).map(|chunk| Ok::<_, std::io::Error>(chunk.to_vec())).collect();
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
        let answer = match answer.bytes().await {
            Ok(body) => read_answer(status, content_type, &body),
            Err(error) => Some(Invocation::Disconnected(format!("{error:?}"))),
        };
        match answer {
            Some(end) => end,
            None => std::future::pending().await,
        }
    }

    fn next_invocation_id(&self) -> String {
        let number = self.invocations.fetch_add(1, Ordering::Relaxed) + 1;
        format!("6f1d7a52-0000-4000-8000-{number:012x}")
    }
}

/// How long the host waits; the defaults are the host's, with a `functionTimeout` of 10 minutes.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// For a started program to listen.
    pub listening: Duration,
    /// For an invocation.
    pub function: Duration,
    /// From there until it kills the program.
    pub kill_after: Duration,
    /// For a run in flight, when it shuts down.
    pub shutdown: Duration,
    /// The longest time between an error of the program and the one before that makes them count
    /// together.
    pub between_errors: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            listening: Duration::from_secs(34),
            function: Duration::from_secs(600),
            kill_after: Duration::from_secs(2),
            shutdown: Duration::from_secs(10),
            between_errors: Duration::from_secs(30 * 60),
        }
    }
}

/// The errors of the program, by which the host gives up. It is no window that moves on: each is
/// held against the one before.
#[derive(Clone, Copy, Debug, Default)]
pub struct Errors {
    count: u32,
    last: Option<Instant>,
}

impl Errors {
    /// One more, at this time: whether the host goes on.
    pub fn add(&mut self, now: Instant, between: Duration) -> bool {
        let apart = self.last.is_some_and(|last| now.duration_since(last) > between);
        self.count = if apart { 1 } else { self.count + 1 };
        self.last = Some(now);
        self.count < 3
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
    /// It exited with 0 once it had answered: the host does not start it again, and every invocation
    /// fails.
    NotRestarted,
    /// Too many errors: the host itself went down.
    HostStopped,
    /// It is not executable. That is no error, and every tick hangs.
    NeverStarted,
}

type Lines = Arc<Mutex<Vec<(Level, String)>>>;

/// The app's folder: the program starts there, and cannot write there, since it is a mounted package.
#[derive(Debug)]
struct AppRoot(TempDir);

impl AppRoot {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let package = Path::new(env!("CARGO_MANIFEST_DIR"));
        let function = folder.path().join("CloudIntegrated");
        std::fs::create_dir(&function).expect("a folder");
        for (name, to) in [("host.json", folder.path()), ("function.json", &function)] {
            std::fs::copy(package.join(name), to.join(name)).expect("a file of the package");
        }
        let root = Self(folder);
        root.set_mode(0o555);
        root
    }

    fn set_mode(&self, mode: u32) {
        let mode = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(self.0.path(), mode).expect("the mode");
    }

    fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.0.path()).expect("the folder");
        let name = |entry: std::io::Result<std::fs::DirEntry>| entry.expect("an entry").file_name();
        let mut names: Vec<_> =
            entries.map(|entry| name(entry).to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }
}

impl Drop for AppRoot {
    fn drop(&mut self) {
        self.set_mode(0o755);
    }
}

/// The host around one program.
#[derive(Debug)]
pub struct HostSimulator {
    program: PathBuf,
    args: Vec<String>,
    envs: Vec<(String, String)>,
    limits: Limits,
    root: AppRoot,
    port: u16,
    client: HostClient,
    worker: Option<Child>,
    readers: Vec<JoinHandle<()>>,
    lines: Lines,
    errors: Errors,
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
            program: std::fs::canonicalize(exe).expect("the program"),
            args: args.iter().map(|&arg| arg.to_owned()).collect(),
            envs: envs.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect(),
            limits,
            root: AppRoot::new(),
            port,
            client: HostClient::new(port),
            worker: None,
            readers: Vec::new(),
            lines: Arc::default(),
            errors: Errors::default(),
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

    /// What is in the app's folder.
    pub fn names_in_root(&self) -> Vec<String> {
        self.root.names()
    }

    /// One tick of the timer. After a function timeout the program is killed, with whatever else it
    /// does, and started again; if it exits during the invocation, the rules for its exit code are
    /// applied.
    pub async fn tick(&mut self, function: &str) -> Invocation {
        if self.state == State::NeverStarted {
            sleep(self.limits.function).await;
            return Invocation::TimedOut;
        }
        let payload = Timer::Scheduled.payload().to_string();
        let end = self.client.invoke(function, payload.as_bytes(), self.limits.function).await;
        match end {
            Invocation::TimedOut => {
                sleep(self.limits.kill_after).await;
                self.kill().await;
                self.restart().await;
            }
            Invocation::Disconnected(_) if self.worker.is_some() => self.exited().await,
            _ => {}
        }
        end
    }

    /// Waits until the program exits, and does what the host does then.
    pub async fn exited(&mut self) {
        let worker = self.worker.as_mut().expect("a program that was started");
        let status = timeout(Duration::from_secs(60), worker.wait()).await;
        let status = status.expect("the program should have exited").expect("its exit code");
        self.worker = None;
        match status.code() {
            Some(0) => self.state = State::NotRestarted,
            _ if self.goes_on_after(status) => self.restart().await,
            _ => {}
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

    /// `POST /admin/host/restart` during a run: the new program is there at once, and the old one,
    /// which is given back, goes on beside it.
    pub async fn restart_beside(&mut self) -> Child {
        let old = self.worker.take().expect("a program that runs");
        self.port = unused_port();
        self.restart().await;
        old
    }

    /// A graceful stop of the host with a run in flight, which it waits for only so long. What that
    /// ended with; none if it did not end, and the program was left behind.
    pub async fn shut_down(mut self, mut run: JoinHandle<Invocation>) -> Option<Invocation> {
        let ended = timeout(self.limits.shutdown, &mut run).await;
        match ended {
            Ok(end) => {
                self.kill().await;
                Some(end.expect("the run's task"))
            }
            Err(_) => {
                self.die().await;
                run.abort();
                None
            }
        }
    }

    /// The host is gone, and so is who reads the program's pipes. See [`start_apart`].
    pub async fn die(mut self) {
        self.stop_reading().await;
        self.kill().await;
    }

    /// Closes its ends of the program's pipes.
    pub async fn stop_reading(&mut self) {
        for reader in self.readers.drain(..) {
            reader.abort();
            drop(reader.await);
        }
    }

    async fn kill(&mut self) {
        if let Some(mut worker) = self.worker.take() {
            worker.kill().await.expect("the program's death");
        }
    }

    /// Starts the program until it answers, or until the rules forbid another start.
    async fn restart(&mut self) {
        loop {
            let given_up = Instant::now() + self.limits.listening;
            let Some(mut worker) = self.spawn() else {
                self.state = State::NeverStarted;
                return;
            };
            // A new one: connections to the process before this one are dead.
            self.client = HostClient::new(self.port);
            let goes_on = tokio::select! {
                ready = self.client.ready(self.limits.listening) => {
                    self.worker = Some(worker);
                    if ready {
                        return;
                    }
                    self.kill().await;
                    self.goes_on_after_error()
                }
                status = worker.wait() => {
                    let status = status.expect("its exit code");
                    if status.success() {
                        // That it has ended is not looked at, only that it does not listen.
                        sleep_until(given_up).await;
                    }
                    self.goes_on_after(status)
                }
            };
            if !goes_on {
                return;
            }
        }
    }

    /// `None` if the program is not executable.
    fn spawn(&mut self) -> Option<Child> {
        let port = self.port.to_string();
        let id = format!("6f1d7a52-0000-4000-9000-{:012x}", self.starts + 1);
        let worker = Command::new(&self.program)
            .args(&self.args)
            .current_dir(self.root.0.path())
            .env_clear()
            // As it is deployed: the timer's schedule is an app setting.
            .env("SCHEDULE", "0 */15 * * * *")
            .envs(self.envs.iter().map(|(name, value)| (name, value)))
            .env("FUNCTIONS_CUSTOMHANDLER_PORT", &port)
            .env("FUNCTIONS_HTTPWORKER_PORT", &port)
            .env("FUNCTIONS_CUSTOMHANDLER_WORKER_ID", &id)
            .env("FUNCTIONS_HTTPWORKER_ID", &id)
            .env("FUNCTIONS_APP_ROOT_PATH", self.root.0.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn();
        let mut worker = match worker {
            Err(error) if error.kind() == ErrorKind::PermissionDenied => return None,
            worker => worker.expect("the program should start"),
        };
        self.starts += 1;
        let stdout = worker.stdout.take().expect("a pipe");
        let stderr = worker.stderr.take().expect("a pipe");
        self.readers.push(tokio::spawn(collect(stdout, false, Arc::clone(&self.lines))));
        self.readers.push(tokio::spawn(collect(stderr, true, Arc::clone(&self.lines))));
        Some(worker)
    }

    /// Whether a program that ended so is to be started again.
    fn goes_on_after(&mut self, status: ExitStatus) -> bool {
        // 200 says that a restart is wanted.
        status.code() == Some(200) || self.goes_on_after_error()
    }

    fn goes_on_after_error(&mut self) -> bool {
        if !self.errors.add(Instant::now(), self.limits.between_errors) {
            self.state = State::HostStopped;
        }
        self.state == State::Running
    }
}

/// A host that can be gone while its program lives: a shell stands for its process, and is what
/// [`HostSimulator::worker`] gives. With it the program itself.
pub async fn start_apart(
    limits: Limits,
    exe: &Path,
    args: &[&str],
    envs: &[(&str, &str)],
) -> (HostSimulator, Handler) {
    let script = r#"pid=$1; shift; "$@" & echo $! >"$pid"; wait $!"#;
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("pid");
    let (file_name, exe) = (file.to_str().expect("a path"), exe.to_str().expect("a path"));
    let args = [&["-c", script, "host", file_name, exe], args].concat();
    let host = HostSimulator::start_with(limits, Path::new("/bin/sh"), &args, envs).await;
    let pid = loop {
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        match text.trim_end_matches('\n').parse() {
            Ok(pid) if text.ends_with('\n') => break pid,
            _ => sleep(POLL).await,
        }
    };
    (host, Handler { pid })
}

/// A program that is not this process's child. It is killed when this is dropped.
#[derive(Debug)]
pub struct Handler {
    pid: u32,
}

impl Handler {
    /// Whether it has not ended. One that nobody has taken note of yet has.
    pub fn is_running(&self) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid)).unwrap_or_default();
        stat.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with('Z'))
    }

    /// Waits until it has ended by itself.
    pub async fn ended(&self) {
        let began = Instant::now();
        while self.is_running() {
            assert!(began.elapsed() < Duration::from_secs(60), "it does not end");
            sleep(POLL).await;
        }
    }
}

impl Drop for Handler {
    fn drop(&mut self) {
        if self.is_running() {
            let id = self.pid.to_string();
            drop(std::process::Command::new("kill").args(["-s", "KILL", &id]).status());
        }
    }
}

/// Files the lines of a pipe as the host does: one that is too long is cut, a carriage return ends a
/// line too, and what is no text is replaced.
async fn collect(pipe: impl AsyncRead + Unpin, from_stderr: bool, lines: Lines) {
    let mut pipe = BufReader::new(pipe);
    let mut bytes = Vec::new();
    while pipe.read_until(b'\n', &mut bytes).await.is_ok_and(|length| length > 0) {
        let text =
            String::from_utf8_lossy(bytes.strip_suffix(b"\n").unwrap_or(&bytes)).into_owned();
        for line in text.split('\r') {
            let line: String = line.chars().take(MAX_LINE_CHARACTERS).collect();
            lines.lock().expect("lines").push((level(from_stderr, &line), line));
        }
        bytes.clear();
    }
}

/// Pages of a handler that is not asked for them.
/// Mimecast's function, which does this, and a source's that is off.
pub fn functions(job: Job) -> Vec<Function> {
    let off = "directory is off: SOURCES does not name it".to_owned();
    vec![
        Function { path: "/CloudIntegrated", does: Does::Run(job) },
        Function { path: "/Directory", does: Does::Nothing(off) },
    ]
}

pub fn no_pages() -> Pages {
    let show = |_| async { Shown::whole(StatusCode::NOT_FOUND, String::new()) }.boxed();
    Pages { show: Arc::new(show), policy: String::new() }
}
