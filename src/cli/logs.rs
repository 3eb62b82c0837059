//! Logs: one line of JSON per record in Functions, plain text elsewhere, unless `LOG_FORMAT` says
//! otherwise. Normal lines on stdout, failures on stderr, which the Functions host takes for errors.
//!
//! Whatever a record holds (a server's words, a key, a setting), it is written as one line that
//! nothing in it can break up: see [`finished`].

use std::borrow::Cow;
use std::fmt::{self, Debug};
use std::io::{self, IsTerminal as _};
use std::ops::Range;
use std::panic;

use tracing::field::Field;
use tracing::{Level, Metadata};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::field::MakeExt as _;
use tracing_subscriber::fmt::format::{Writer, debug_fn};
use tracing_subscriber::fmt::time::ChronoUtc;
use tracing_subscriber::fmt::{MakeWriter, layer};
use tracing_subscriber::prelude::*;

use super::escape::{escaped_json, printable};
use super::output::note;
use super::progress;
use crate::settings::{FUNCTIONS_PORT, LogFormat, RawSettings, process_env};

/// The target of the line that has a run's summary. It is written at every log level: the alert on
/// silence and the workbook read it.
pub(super) const RUN_FINISHED: &str = "mimecast_sentinel::run_finished";

/// The longest line, its end included. Application Insights cuts a longer one at so many characters,
/// and what is left of its JSON cannot be read.
const MAX_LINE_BYTES: usize = 32_768;
/// Marks where something was cut off.
const CUT: &str = " … (cut)";

/// Where normal lines go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stdout {
    /// To stdout.
    Logs,
    /// To stderr as well: stdout is for the command's own output.
    Taken,
}

/// Sends each record where its level belongs.
struct ByLevel {
    stdout: Stdout,
    /// Fields of text are escaped already.
    form: LogFormat,
    /// Whether the Functions host reads the lines.
    for_host: bool,
}

impl ByLevel {
    fn lines<'a>(&self, out: impl io::Write + 'a, level: Level) -> Lines<'a> {
        let hides_warn = self.for_host && level == Level::ERROR;
        Lines { out: Box::new(out), form: self.form, hides_warn }
    }
}

impl<'a> MakeWriter<'a> for ByLevel {
    type Writer = Lines<'a>;

    fn make_writer(&'a self) -> Self::Writer {
        self.lines(io::stderr(), Level::ERROR)
    }

    fn make_writer_for(&'a self, meta: &Metadata<'_>) -> Self::Writer {
        let level = *meta.level();
        if level <= Level::WARN || self.stdout == Stdout::Taken {
            self.lines(io::stderr(), level)
        } else {
            self.lines(io::stdout(), level)
        }
    }
}

/// Takes whole records, and writes each as its line beside the progress bar.
struct Lines<'a> {
    out: Box<dyn io::Write + 'a>,
    form: LogFormat,
    hides_warn: bool,
}

impl io::Write for Lines<'_> {
    fn write(&mut self, record: &[u8]) -> io::Result<usize> {
        let line = finished(&String::from_utf8_lossy(record), self.form, self.hides_warn);
        progress::aside(|| self.out.write_all(line.as_bytes()))?;
        Ok(record.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// The line that a record becomes: none is too long, and with `hides_warn` nothing in it makes it pass
/// for a warning with the Functions host.
fn finished(record: &str, form: LogFormat, hides_warn: bool) -> String {
    let mut record = Cow::Borrowed(record);
    loop {
        let mut line = match form {
            LogFormat::Json => escaped_json(&record).into_owned(),
            LogFormat::Text => record.clone().into_owned(),
        };
        if hides_warn {
            line = without_warn(&line, form);
        }
        if line.len() <= MAX_LINE_BYTES {
            return line;
        }
        match longest_text(&record, form) {
            Some(text) if text.len() > CUT.len() => {
                // In proportion, since escapes make a text longer. Each round takes something off.
                let share = text.len() * MAX_LINE_BYTES / line.len();
                let kept = whole(&record[text.clone()], form, share.saturating_sub(CUT.len()));
                let end = text.start + kept;
                record = Cow::Owned([&record[..end], CUT, &record[text.end..]].concat());
            }
            _ => {
                line.truncate(whole(&line, form, MAX_LINE_BYTES - 1));
                return line + "\n";
            }
        }
    }
}

/// The place of the longest text that may be cut: in JSON the inside of a string.
fn longest_text(record: &str, form: LogFormat) -> Option<Range<usize>> {
    if form == LogFormat::Text {
        return Some(0..record.trim_end_matches('\n').len());
    }
    let (mut longest, mut start, mut escaped) = (None::<Range<usize>>, None, false);
    for (at, byte) in record.bytes().enumerate() {
        match (start, byte) {
            _ if escaped => escaped = false,
            (Some(_), b'\\') => escaped = true,
            (None, b'"') => start = Some(at + 1),
            (Some(from), b'"') => {
                start = None;
                if longest.as_ref().is_none_or(|longest| longest.len() < at - from) {
                    longest = Some(from..at);
                }
            }
            _ => {}
        }
    }
    longest
}

/// The longest beginning of `text` of at most `most` bytes that ends in no character, and in JSON in
/// no escape.
fn whole(text: &str, form: LogFormat, most: usize) -> usize {
    let mut end = 0;
    while let Some(c) = text[end..].chars().next() {
        let length = match (form, c, text[end..].chars().nth(1)) {
            (LogFormat::Json, '\\', Some('u')) => 6,
            (LogFormat::Json, '\\', Some(_)) => 2,
            _ => c.len_utf8(),
        };
        if end + length > most {
            break;
        }
        end += length;
    }
    end
}

/// The same line without the letters "warn" in any case, by which the Functions host takes a line of
/// stderr for a warning. Read as JSON it means the same; in text the `w` is shown as its number.
fn without_warn(text: &str, form: LogFormat) -> String {
    let mut line = String::with_capacity(text.len());
    for (at, c) in text.char_indices() {
        let word = text.as_bytes().get(at..at + 4).unwrap_or_default();
        if word.eq_ignore_ascii_case(b"warn") {
            match form {
                LogFormat::Json => line.push_str(&format!("\\u{:04x}", u32::from(c))),
                LogFormat::Text => line.extend(c.escape_unicode()),
            }
        } else {
            line.push(c);
        }
    }
    line
}

/// Writes a field of a line of plain text.
fn text_field(out: &mut Writer<'_>, field: &Field, value: &dyn Debug) -> fmt::Result {
    let value = escaped(&format!("{value:?}"));
    match field.name() {
        "message" => out.write_str(&value),
        // Where a line of another logging library was written.
        name if name.starts_with("log.") => Ok(()),
        name => write!(out, "{}={value}", name.trim_start_matches("r#")),
    }
}

/// Text in which nothing drives a terminal or begins another line.
fn escaped(text: &str) -> String {
    printable(text.as_bytes())
}

/// Starts logging. Of other crates only warnings and errors are logged: their debug lines may hold
/// secrets.
pub(super) fn start(settings: &RawSettings, stdout: Stdout) {
    let level = settings.log_level();
    let filter =
        EnvFilter::new(format!("warn,mimecast_sentinel={level},{RUN_FINISHED}={}", Level::INFO));
    let registry = tracing_subscriber::registry().with(filter);
    let for_host = process_env(FUNCTIONS_PORT).is_some();
    let usual = if for_host { LogFormat::Json } else { LogFormat::Text };
    let form = settings.log_format().unwrap_or(usual);
    let lines = layer().with_writer(ByLevel { stdout, form, for_host }).with_target(false);
    // A log that nobody reads any more ends nothing.
    let lines = lines.log_internal_errors(false);
    let started = if form == LogFormat::Json {
        registry.with(lines.json().flatten_event(true).with_span_list(false)).try_init()
    } else {
        let on_terminal =
            io::stderr().is_terminal() && (stdout == Stdout::Taken || io::stdout().is_terminal());
        let plain = lines.with_ansi(on_terminal).fmt_fields(debug_fn(text_field).delimited(" "));
        registry.with(plain.with_timer(ChronoUtc::new("%F %T".to_owned()))).try_init()
    };
    match started {
        // Its own report has several lines, one of them blank, and no level.
        Ok(()) => panic::set_hook(Box::new(|panic| tracing::error!("{panic}"))),
        Err(error) => note(&format!("logging was started before: {error}")),
    }
    if for_host && form == LogFormat::Text {
        tracing::warn!(
            "LOG_FORMAT is text: the alerts and the workbook read JSON, and see nothing of this \
             connector's log; unset LOG_FORMAT"
        );
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn error_line(record: &Value) -> (String, Value) {
        let line = finished(&format!("{record}\n"), LogFormat::Json, true);
        let read = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
        (line, read)
    }

    #[test]
    fn an_error_never_passes_for_a_warning_and_reads_as_it_was() {
        for words in ["warn", "WARNING: x", "swArNed", "wwarn warnwarn", r"\warn", "\u{1b}warn"] {
            let record = json!({ "level": "ERROR", "message": words, "warning": [words] });
            let (line, read) = error_line(&record);
            assert!(!line.to_lowercase().contains("warn"), "{line}");
            assert_eq!(read, record);
        }
        let line = finished("ERROR a WARNING: x\n", LogFormat::Text, true);
        assert_eq!(line, "ERROR a \\u{57}ARNING: x\n");
        let warning = r#"{"level":"WARN","message":"warned"}"#;
        assert_eq!(finished(warning, LogFormat::Json, false), warning);
    }

    const HOSTILE: &str = "a\r\n\n\u{0}\u{1b}[2J\u{7f}\u{9b}\u{202e}\u{2066}\u{85}\u{2028}warnz";

    #[test]
    #[ignore = "the program that the tests below start"]
    fn child() {
        let log_level = Some("ERROR".to_owned());
        start(&RawSettings { log_level, ..RawSettings::default() }, Stdout::Logs);
        tracing::error!(r#where = HOSTILE, detail = %HOSTILE, "{HOSTILE}");
        panic!("made by the test: {HOSTILE}");
    }

    /// The two lines of stderr.
    fn lines_of_child(under_functions: bool) -> [String; 2] {
        let mut child = std::process::Command::new(std::env::current_exe().unwrap());
        child.args(["cli::logs::tests::child", "--exact", "--ignored", "--nocapture"]);
        child.env_remove(FUNCTIONS_PORT).envs(under_functions.then_some((FUNCTIONS_PORT, "1")));
        let stderr = String::from_utf8(child.output().unwrap().stderr).unwrap();
        assert!(stderr.chars().all(|c| c == '\n' || (' '..='~').contains(&c)), "{stderr}");
        let lines: Vec<String> = stderr.lines().map(str::to_owned).collect();
        lines.try_into().unwrap_or_else(|lines| panic!("not two lines: {lines:#?}"))
    }

    #[test]
    fn a_record_is_one_line_that_drives_no_terminal() {
        let [line, panic] = lines_of_child(false);
        let escaped = escaped(HOSTILE);
        assert!(line.contains(&format!(" ERROR {escaped} where=\"a\\r\\n\\n")), "{line}");
        assert!(line.ends_with(&format!(" detail={escaped}")), "{line}");
        assert!(panic.contains(" ERROR panicked at src/cli/logs.rs:"), "{panic}");
        assert!(panic.ends_with(&escaped), "{panic}");
    }

    /// A panic too, whose own report has several lines, one of them blank.
    #[test]
    fn a_record_is_one_line_of_an_error_for_the_host() {
        let [line, panic] = lines_of_child(true).map(|line| {
            assert!(!line.to_lowercase().contains("warn"), "{line}");
            serde_json::from_str::<Value>(&line).unwrap()
        });
        assert_eq!((&line["level"], &panic["level"]), (&json!("ERROR"), &json!("ERROR")));
        for name in ["message", "where", "detail"] {
            assert_eq!(line[name], HOSTILE, "{name}");
        }
        let message = panic["message"].as_str().unwrap();
        assert!(message.starts_with("panicked at src/cli/logs.rs:"), "{message}");
        assert!(message.ends_with(HOSTILE), "{message}");
    }

    /// What is cut is the longest text, and what is left is still JSON.
    #[test]
    fn no_line_is_longer_than_application_insights_takes() {
        for unit in
            ["x", "é", "😀", "\"", "\\", "\n", "\u{1}", "\u{9b}", "\u{e0001}", "warn", r"\uxé"]
        {
            for count in [1_000, 5_000, 32_700, 32_768, 40_000] {
                let long = unit.repeat(count);
                let record = json!({ "level": "ERROR", "message": long, "fix": "restart it" });
                let (line, read) = error_line(&record);
                assert!(line.len() <= MAX_LINE_BYTES && line.ends_with('\n'), "{unit:?} {count}");
                let message = read["message"].as_str().unwrap();
                match message.strip_suffix(CUT) {
                    Some(kept) => assert!(long.starts_with(kept) && kept.len() < long.len()),
                    None => assert_eq!(message, long),
                }
                assert_eq!((&read["level"], &read["fix"]), (&json!("ERROR"), &json!("restart it")));
                let text =
                    finished(&format!("12:00:00 {}\n", escaped(&long)), LogFormat::Text, true);
                assert!(text.len() <= MAX_LINE_BYTES && text.ends_with('\n'), "{unit:?} {count}");
                assert!(text.starts_with("12:00:00 ") && text.matches('\n').count() == 1);
            }
        }
        let two = json!({ "a": "x".repeat(60_000), "b": "y".repeat(60_000), "c": "z" });
        let (line, read) = error_line(&two);
        assert!(line.len() > MAX_LINE_BYTES / 2 && line.len() <= MAX_LINE_BYTES, "{}", line.len());
        assert_eq!(read["c"], "z");
    }
}
