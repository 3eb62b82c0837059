//! What is read from Mimecast, and with which application.

use chrono::{Days, NaiveDate};
use url::Url;

use super::identity::{Purpose, identity};
use super::origin::{https_host, is_loopback, origin};
use super::raw::RawSettings;
use super::reader::{Reader, Wrong, given, identifier, whole_number, wrong};
use super::secret::{Forms, SecretSettings};

const DEFAULT_BASE_URL: &str = "https://api.services.mimecast.com";
/// The event types of Cloud Integrated.
pub const EVENT_TYPES: [&str; 3] = ["entities", "mailflow", "urlclick"];
const DEFAULT_DAYS_BACK: u64 = 60;

/// How to reach Mimecast and what to read there.
#[derive(Clone, Debug)]
pub struct MimecastSettings {
    /// `https` under `services.mimecast.com`, or loopback; without a path.
    pub base_url: Url,
    /// Client id of the API 2.0 application.
    pub client_id: String,
    /// Its secret.
    pub client_secret: SecretSettings,
    /// The event types to read: some of `entities`, `mailflow` and `urlclick`, in this order, each
    /// once.
    pub types: Vec<&'static str>,
    /// The first day to read, in UTC; today at the latest.
    pub start_date: NaiveDate,
    /// Listing calls in 15 minutes, shared by all types; 1 to 50, which is the API's own limit.
    pub calls_per_15_minutes: u32,
    /// How much is read of a batch file.
    pub limits: FileLimits,
}

/// How much is read of a batch file.
#[derive(Clone, Copy, Debug)]
pub struct FileLimits {
    /// The longest line that is read as an event, in bytes without its line end.
    pub max_line_bytes: u64,
    /// The most that is read of one batch file, in bytes after decompression.
    pub max_file_bytes: u64,
}

/// `base_url` is what [`base_url`] gave.
pub(super) fn read(
    raw: &RawSettings,
    base_url: Option<Url>,
    today: NaiveDate,
    reader: &mut Reader<'_>,
) -> Option<MimecastSettings> {
    const CONSOLE: &str = "Create an API 2.0 application in the Mimecast console (Integrations > \
                           API 2.0 Applications)";
    let client_id = reader.required(
        "MIMECAST_CLIENT_ID",
        &raw.mimecast_client_id,
        &format!("{CONSOLE} and set its client id."),
        identifier,
    );
    let forms = Forms {
        itself: "MIMECAST_CLIENT_SECRET",
        file: ("MIMECAST_CLIENT_SECRET_FILE", &raw.mimecast_client_secret_file),
        url: ("MIMECAST_CLIENT_SECRET_URI", &raw.mimecast_client_secret_uri),
    };
    let fix = format!("{CONSOLE} and put its client secret into the environment.");
    let client_secret =
        forms.read(&fix, raw, reader, |reader| identity(raw, Purpose::Beside, reader));
    let types = event_types(raw, reader);
    let earliest = today.checked_sub_days(Days::new(DEFAULT_DAYS_BACK)).unwrap_or(today);
    let start_date =
        reader.optional("START_DATE", &raw.start_date, &earliest.to_string(), |text| {
            start_date(text, today)
        });
    let calls_per_15_minutes = reader.optional(
        "MIMECAST_CALLS_PER_15_MINUTES",
        &raw.mimecast_calls_per_15_minutes,
        "40",
        whole_number(1..=50, "number of calls"),
    );
    let limits = limits(raw, reader);
    Some(MimecastSettings {
        base_url: base_url?,
        client_id: client_id?,
        client_secret: client_secret?,
        types: types?,
        start_date: start_date?,
        calls_per_15_minutes: calls_per_15_minutes?,
        limits: limits?,
    })
}

/// `MIMECAST_TYPES`
pub(super) fn event_types(raw: &RawSettings, reader: &mut Reader<'_>) -> Option<Vec<&'static str>> {
    reader.optional("MIMECAST_TYPES", &raw.mimecast_types, &EVENT_TYPES.join(","), types)
}

pub(super) fn limits(raw: &RawSettings, reader: &mut Reader<'_>) -> Option<FileLimits> {
    let max_line_bytes = reader.optional(
        "MAX_LINE_BYTES",
        &raw.max_line_bytes,
        "2097152",
        whole_number(1 << 10..=16 << 20, "number of bytes"),
    );
    let max_file_bytes = reader.optional(
        "MAX_FILE_BYTES",
        &raw.max_file_bytes,
        "8589934592",
        whole_number(1 << 10..=1 << 40, "number of bytes"),
    );
    Some(FileLimits { max_line_bytes: max_line_bytes?, max_file_bytes: max_file_bytes? })
}

/// `MIMECAST_BASE_URL`
pub(super) fn base_url(raw: &RawSettings, reader: &mut Reader<'_>) -> Option<Url> {
    reader.optional("MIMECAST_BASE_URL", &raw.mimecast_base_url, DEFAULT_BASE_URL, parse_base_url)
}

/// Whether that is this machine, where some settings are laxer. A wrong one is a fault of its own, and must
/// not cause others.
pub(super) fn on_loopback(raw: &RawSettings) -> bool {
    let text = given(&raw.mimecast_base_url).unwrap_or(DEFAULT_BASE_URL);
    parse_base_url(text).map_or(true, |url| is_loopback(&url))
}

fn parse_base_url(text: &str) -> Result<Url, Wrong> {
    const FIX: &str = "Use https://api.services.mimecast.com, or a regional host like \
                       https://uk-api.services.mimecast.com or \
                       https://us-api.services.mimecast.com.";
    let url = origin(text).or_else(|problem| wrong(problem, FIX))?;
    if is_loopback(&url) {
        return Ok(url);
    }
    let host = https_host(&url).or_else(|problem| wrong(problem, FIX))?;
    if host.ends_with(".services.mimecast.com") {
        return Ok(url);
    }
    let old = ["mimecast.com", "mimecast-offshore.com"];
    if old.iter().any(|domain| host.strip_suffix(domain).is_some_and(|name| name.ends_with('.'))) {
        return wrong(
            format!("{host} is not a host of API 2.0; hosts without `.services.` are of API 1.0"),
            format!("{FIX} The keys of API 1.0 do not work there: create an API 2.0 application."),
        );
    }
    wrong(format!("{host} is not under services.mimecast.com"), FIX)
}

fn types(text: &str) -> Result<Vec<&'static str>, Wrong> {
    const FIX: &str = "Give some of entities, mailflow and urlclick, with commas between them.";
    let chosen: Vec<String> = text
        .split(',')
        .map(|name| name.trim().to_ascii_lowercase())
        .filter(|name| !name.is_empty())
        .collect();
    if let Some(unknown) = chosen.iter().find(|name| !EVENT_TYPES.contains(&name.as_str())) {
        return wrong(format!("{unknown:?} is not an event type"), FIX);
    }
    if chosen.is_empty() {
        return wrong("it names no event type", FIX);
    }
    Ok(EVENT_TYPES.into_iter().filter(|name| chosen.iter().any(|chosen| chosen == name)).collect())
}

pub(super) fn start_date(text: &str, today: NaiveDate) -> Result<NaiveDate, Wrong> {
    const FIX: &str = "Give the first day to read as YYYY-MM-DD, today or earlier in UTC.";
    // `parse` alone would take `2026-1-5` and `+2026-01-05` too.
    let day = text.parse::<NaiveDate>().ok().filter(|day| day.to_string() == text);
    let Some(day) = day else {
        return wrong(format!("{text:?} is not a day"), FIX);
    };
    if day > today { wrong(format!("{day} is in the future"), FIX) } else { Ok(day) }
}
