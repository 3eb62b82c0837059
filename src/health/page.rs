//! The status page: one HTML document without a script and with nothing from elsewhere.
//!
//! That of a connection test is made in pieces, so that each verdict can be sent as it comes.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use chrono::{DateTime, TimeDelta, Utc};
use maud::{DOCTYPE, Markup, PreEscaped, html};
use sha2::{Digest as _, Sha256};

use super::seen::sum;
use super::status::{LastGap, State, Status, StreamStatus, length};
use crate::check::Rung;
use crate::pipeline::Gap;
use crate::version::BUILD;

/// Its looks. Colours have a contrast of 4.5 at least to what is behind them, in dark and in light.
const STYLE: &str = include_str!("page.css");

/// What is shown.
#[derive(Debug)]
pub struct Page<'a> {
    /// How the streams are, or why that is not known.
    pub status: Result<&'a Status, String>,
    /// What is wrong with the settings, a line each.
    pub faults: Vec<String>,
    /// When it is made.
    pub now: DateTime<Utc>,
    /// Whether the connection can be tested from here: only where the page is served.
    pub has_test: bool,
}

/// The page's `Content-Security-Policy`: no script, no font, no image, and of styles its own alone.
pub fn content_security_policy() -> String {
    let style = BASE64.encode(Sha256::digest(STYLE));
    format!(
        "default-src 'none'; style-src 'sha256-{style}'; form-action 'self'; base-uri 'none'; \
         frame-ancestors 'none'"
    )
}

impl Page<'_> {
    /// The whole document.
    pub fn html(&self) -> String {
        let body = html! {
            header {
                h1 { "Mimecast connector" }
                p.summary { (self.summary()) }
                p.small {
                    "Read at " (time(self.now)) ", version " (BUILD)
                    @if let Ok(status) = &self.status { ", state in " code { (status.state_at) } }
                }
                @if let Ok(status) = &self.status {
                    @for warning in &status.warnings {
                        p.warning { strong { "Warning: " } (warning) }
                    }
                }
                @if let Ok(status) = &self.status { (overview(&status.streams)) }
                @if self.has_test { (test_form()) }
            }
            @if !self.faults.is_empty() {
                section.bad aria-labelledby="settings" {
                    h2 id="settings" { "The settings are wrong" }
                    p { "No run begins until they are corrected and the program is started again." }
                    ul { @for fault in &self.faults { li { (fault) } } }
                }
            }
            @match &self.status {
                Ok(status) => {
                    @for stream in worst_first(&status.streams) { (self.stream(stream)) }
                }
                Err(why) => {
                    section.bad aria-labelledby="unknown" {
                        h2 id="unknown" { "How the streams are cannot be read" }
                        p { (why) }
                    }
                }
            }
        };
        begin(&self.title()) + &body.into_string() + END
    }

    fn title(&self) -> String {
        let word = match &self.status {
            Ok(status) if self.faults.is_empty() && status.is_fine() => "works",
            _ => "needs attention",
        };
        format!("Mimecast connector: {word}")
    }

    fn summary(&self) -> String {
        let Ok(status) = &self.status else { return "Nothing is known.".to_owned() };
        let all = status.streams.len();
        let fine = status.streams.iter().filter(|stream| stream.state.is_fine()).count();
        match fine == all {
            true => format!("All {all} streams work."),
            false if all - fine == 1 => format!("1 of {all} streams needs attention."),
            false => format!("{} of {all} streams need attention.", all - fine),
        }
    }

    fn stream(&self, of: &StreamStatus) -> Markup {
        html! {
            section class=(class(of.state)) aria-labelledby=(of.stream) {
                h2 id=(of.stream) { (of.stream) " " (state_word(of.state)) }
                @if let Some(reason) = &of.reason {
                    p { (prose(reason)) @if let Some(code) = &of.code { " " code.at { (code) } } }
                }
                @if let Some(fix) = &of.fix { p { strong { "What to do: " } (prose(fix)) } }
                @if let Some(LastGap { at, gap: Gap { from, to } }) = of.last_gap {
                    p.warning {
                        "Events from " (time(from)) " to " (time(to)) " may be missing, seen at " (time(at)) "."
                    }
                }
                @if let Some(held_up) = &of.held_up {
                    p {
                        "Held up by " (held_up.what) " since " (time(held_up.since)) ", tried in "
                        (held_up.tries) @if held_up.tries == 1 { " run." } @else { " runs." }
                        @if let Some(at) = held_up.passed_at {
                            " It is passed into quarantine at " (time(at)) "."
                        }
                        @if let Some(command) = &held_up.command {
                            " This passes it at the next run: " code { (command) }
                        }
                    }
                }
                dl {
                    (fact("Last success", self.ago(of.last_success)))
                    (fact("Next run", html! {
                        @if let Some(since) = of.running_since { "in progress since " (time(since)) }
                        @else { (self.ago(of.next_run)) }
                    }))
                    (fact("Last rows", self.ago(of.last_row)))
                    (fact("Newest event", html! {
                        @match of.lag_seconds {
                            Some(lag) => { (length(TimeDelta::seconds(lag))) " old" }
                            None => "none yet"
                        }
                    }))
                    (fact("Files waiting", html! { (grouped(of.files_waiting)) }))
                    (fact("In quarantine", html! { (of.quarantine.words(grouped)) }))
                    @if let Some(failure) = &of.last_failure {
                        div.wide {
                            dt { "Last failure" }
                            dd {
                                (self.ago(Some(failure.at)))
                                // The reason above is not said twice.
                                @if of.reason.as_ref() != Some(&failure.message) {
                                    br; (prose(&failure.message)) " " code.at { (failure.code) }
                                }
                            }
                        }
                    }
                }
                div.charts {
                    (self.chart("hour", TimeDelta::hours(1), &of.rows_by_hour))
                    (self.chart("day", TimeDelta::days(1), &of.rows_by_day))
                }
            }
        }
    }

    /// How long ago, which a person wants to know, and when, which stands in logs.
    fn ago(&self, at: Option<DateTime<Utc>>) -> Markup {
        let Some(at) = at else { return html! { "never" } };
        let ago = self.now - at;
        html! {
            @if ago < TimeDelta::zero() { "in " (length(-ago)) } @else { (length(ago)) " ago" }
            " " span.at { (time(at)) }
        }
    }

    /// The rows of each `unit`, which is `step` long, the last on the right; and as numbers, for who
    /// cannot see the bars or wants to know more.
    fn chart(&self, unit: &str, step: TimeDelta, rows: &[u64]) -> Markup {
        const WIDTH: u64 = 240;
        const HEIGHT: u64 = 48;
        let span = format!("{} {unit}s", rows.len());
        let sum = sum(rows);
        let word = if sum == 1 { "row" } else { "rows" };
        let sum = grouped(sum);
        let most = rows.iter().copied().max().unwrap_or_default();
        if most == 0 {
            return html! { p { "No rows in " (span) } };
        }
        let width = WIDTH / rows.len() as u64;
        let bars = (0..).zip(rows).map(|(at, rows)| {
            // A bar that stands for any row is seen.
            let height = (u128::from(*rows) * u128::from(HEIGHT)).div_ceil(u128::from(most)) as u64;
            (at * width, height)
        });
        let most = format!("at most {} in one {unit}", grouped(most));
        let numbers =
            (1..).zip(rows.iter().rev()).map(|(ago, rows)| (self.now - step * ago, *rows));
        html! {
            figure {
                figcaption { strong { (sum) } " " (word) " in " (span) " " span.at { (most) } }
                svg role="img" aria-label=(format!("Rows of the last {span}: {sum}, {most}"))
                    viewBox=(format!("0 0 {WIDTH} {}", HEIGHT + 1)) {
                    @for (x, height) in bars {
                        rect x=(x) y=(HEIGHT - height) width=(width - 1) height=(height) {}
                    }
                    line x1="0" y1=(HEIGHT) x2=(WIDTH) y2=(HEIGHT) {}
                }
                p.axis aria-hidden="true" { span { (span) " ago" } span { "now" } }
                details {
                    summary { "By " (unit) }
                    table {
                        thead { tr { th scope="col" { (unit) " from" } th scope="col" { "rows" } } }
                        @for (from, rows) in numbers {
                            tr { th scope="row" { (time(from)) } td { (grouped(rows)) } }
                        }
                    }
                }
            }
        }
    }
}

/// The document's beginning, up to what is in it.
fn begin(title: &str) -> String {
    let head = html! {
        meta charset="utf-8";
        meta name="viewport" content="width=device-width, initial-scale=1";
        meta name="color-scheme" content="light dark";
        // A page that was saved has no headers. (Frames cannot be forbidden here.)
        meta http-equiv="Content-Security-Policy"
            content=(content_security_policy().replace("; frame-ancestors 'none'", ""));
        title { (title) }
        style { (PreEscaped(STYLE)) }
    };
    let (doctype, head) = (DOCTYPE.into_string(), head.into_string());
    format!("{doctype}<html lang=\"en\"><head>{head}</head><body><main>")
}

const END: &str = "</main></body></html>\n";

/// All streams in a few lines, which fit on a phone.
fn overview(streams: &[StreamStatus]) -> Markup {
    html! {
        nav aria-label="Streams" {
            ul {
                @for of in worst_first(streams) {
                    li class=(class(of.state)) {
                        a href={ "#" (of.stream) } { (of.stream) } " " (state_word(of.state))
                    }
                }
            }
        }
    }
}

/// What does not work before what works in part, and that before what works.
fn worst_first(streams: &[StreamStatus]) -> Vec<&StreamStatus> {
    let mut sorted: Vec<_> = streams.iter().collect();
    sorted.sort_by_key(|of| match of.state {
        State::Disconnected | State::Unavailable => 0,
        State::Degraded => 1,
        State::Connecting | State::Connected => 2,
    });
    sorted
}

/// The form that begins a connection test.
fn test_form() -> Markup {
    html! {
        // To the address of this page, which may have a key in it.
        form method="post" {
            button type="submit" aria-describedby="about" { "Test connection" }
            p.small id="about" {
                "Tries everything that a run needs; changes nothing, and reads no event. It takes up to a \
                 minute."
            }
        }
    }
}

/// The beginning of the page of a connection test, up to the first verdict.
pub fn test_begin() -> String {
    begin("Mimecast connector: connection test") + "<h1>Connection test</h1><ul class=\"rungs\">"
}

/// One verdict.
pub fn test_verdict(of: &Rung) -> String {
    let item = html! {
        li class=(of.verdict) {
            p { span.state { (of.verdict) } " " strong { (of.rung) } }
            p { @if !of.tried.is_empty() { (of.tried) ": " } (prose(&of.answer)) }
            @if let Some(fix) = &of.fix { p { strong { "What to do: " } (prose(fix)) } }
        }
    };
    item.into_string()
}

/// The end of that page, which says what came of it all.
pub fn test_end(result: &str) -> String {
    let after = html! {
        p.summary { (result) }
        // The address is that of the status page, with a key where it has one.
        p { a href="" { "Show the status" } }
    };
    format!("</ul>{}{END}", after.into_string())
}

fn class(state: State) -> &'static str {
    match state {
        State::Connecting | State::Connected => "good",
        State::Degraded => "warn",
        State::Disconnected | State::Unavailable => "bad",
    }
}

fn state_word(state: State) -> Markup {
    html! { span.state { span aria-hidden="true" { (mark(state)) " " } (state.as_str()) } }
}

/// A sign beside the word, for those who see no colours.
fn mark(state: State) -> &'static str {
    match state {
        State::Connected => "✓",
        State::Connecting => "…",
        State::Degraded => "!",
        State::Disconnected | State::Unavailable => "✗",
    }
}

/// A sentence of ours or of a server, in which what is between backticks is to be typed.
fn prose(text: &str) -> Markup {
    let is_paired = text.matches('`').count().is_multiple_of(2);
    html! {
        @if is_paired {
            @for (at, part) in text.split('`').enumerate() {
                @if at % 2 == 1 { code { (part) } } @else { (part) }
            }
        } @else { (text) }
    }
}

fn fact(name: &str, value: Markup) -> Markup {
    html! { div { dt { (name) } dd { (value) } } }
}

fn time(at: DateTime<Utc>) -> Markup {
    html! { time datetime=(at.format("%FT%TZ")) { (at.format("%F %R UTC")) } }
}

/// With a space between thousands.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut shown = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            shown.push('\u{202f}');
        }
        shown.push(digit);
    }
    shown
}
