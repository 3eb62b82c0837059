//! Invented events, in the shapes that Mimecast's have. Names are of the domains of RFC 2606,
//! addresses of the blocks of RFC 5737 and RFC 3849, so that none of them belongs to anybody.

use std::fmt::Write;
use std::ops::Range;

use chrono::{Days, NaiveDate, NaiveTime};
use fastrand::Rng;
use serde_json::{Value, json};

use super::{BatchFile, Page, World};

const MS_PER_DAY: u64 = 86_400_000;
/// The most files that a listing reply has.
const FILES_PER_PAGE: usize = 100;

const PEOPLE: [&str; 12] = [
    "amara.okafor",
    "b.lindqvist",
    "chen.wei",
    "d_moreau",
    "elif.yilmaz",
    "farid",
    "grace.o'neill",
    "helpdesk",
    "ines+lists",
    "jun.tanaka",
    "kofi",
    "newsletter",
];
const HOSTS: [&str; 6] = [
    "example.com",
    "example.org",
    "example.net",
    "mail.example.com",
    "eu.example.org",
    "lists.example.net",
];
const SUBJECTS: [&str; 14] = [
    "Quarterly figures, second draft",
    "Re: Re: Delivery of order 4711",
    "Your parcel could not be delivered",
    "Rechnung für September – bitte prüfen",
    "Réunion déplacée à jeudi",
    "会議の議事録",
    "Счёт на оплату № 1187",
    "فاتورة مستحقة الدفع",
    "חשבונית מצורפת",
    "การแจ้งเตือนความปลอดภัย",
    "🎉 You have won \"something\" \\ nothing",
    "",
    "Line one\u{2028}line two",
    "tab\there, and a bell\u{7}",
];
const FILES: [&str; 7] = [
    "invoice.pdf",
    "Übersicht 2026.xlsx",
    "photo (1).jpeg",
    "setup.exe",
    "archive.tar.gz",
    "報告書.docx",
    "smime.p7s",
];
const PATHS: [&str; 6] = [
    "/",
    "/login?next=%2Faccount&lang=en",
    "/a/very/long/path/that/goes/on/for/quite/a/while/index.html",
    "/download.php?id=4711#top",
    "/ünïcode/päth",
    "/?q=a+b&r=c%20d",
];

/// Makes up events. The same seed gives the same events.
#[derive(Debug, Clone)]
pub struct MadeUp {
    rng: Rng,
    partition: u8,
    offset: i64,
}

impl MadeUp {
    /// A generator for this seed.
    pub fn new(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let (partition, offset) = (rng.u8(..96), rng.i64(1_000_000..2_000_000));
        Self { rng, partition, offset }
    }

    /// One line, without its end: an event of `stream`, at `at_ms` milliseconds since 1970. A
    /// stream it does not know gets events that have the common fields only.
    pub fn event(&mut self, stream: &str, at_ms: i64) -> String {
        let mut event = self.common(stream, at_ms);
        let own = match stream {
            "entities" => self.entities(),
            "mailflow" => self.mailflow(),
            "urlclick" => self.urlclick(),
            _ => json!({}),
        };
        if let (Value::Object(event), Value::Object(own)) = (&mut event, own) {
            event.extend(own);
        }
        let line = event.to_string();
        if self.rng.u8(..20) == 0 { escaped(&line) } else { line }
    }

    fn common(&mut self, stream: &str, at_ms: i64) -> Value {
        self.offset += self.rng.i64(1..40);
        let seconds = at_ms.div_euclid(1000);
        let (high, low) = (self.rng.u128(..), self.rng.u128(..));
        let message = format!("<{:024x}@{}>", self.rng.u128(..) >> 32, self.host());
        json!({
            "_offset": self.offset,
            "_partition": self.partition,
            "accountId": "CUSA0A0",
            "aggregateId": format!("{:026x}_{seconds}", high >> 24),
            "messageId": message,
            "processingId": format!("{high:032x}{low:032x}_{seconds}"),
            "subtype": null,
            "timestamp": at_ms,
            "type": stream,
        })
    }

    fn entities(&mut self) -> Value {
        let rng = &mut self.rng;
        let threat = match rng.u8(..20) {
            0 => "MALWARE",
            1 => "PHISHING",
            2 => "SPAM",
            3 => "UNTRUSTWORTHY",
            4 => "POLICIES_DISABLED",
            _ => "NO_DETECTIONS",
        };
        let clean = matches!(threat, "NO_DETECTIONS" | "POLICIES_DISABLED");
        let state = match rng.u8(..4) {
            _ if !clean => "BLOCKED",
            0 => "DELIVERY_IN_PROGRESS",
            _ => "DELIVERED",
        };
        let direction = ["INBOUND", "INBOUND", "OUTBOUND", "INTERNAL", "Inbound"][rng.usize(..5)];
        let tags = match (clean, rng.bool()) {
            (true, true) => Value::Null,
            (true, false) => json!([]),
            (false, true) => json!([threat]),
            (false, false) => json!([threat, "UNTRUSTWORTHY"]),
        };
        let attachments = some_of(rng, &FILES, 0..3);
        let policy = if clean {
            json!({"action": "DO_NOTHING", "mode": "ACTIVE", "name": "Default mail policy"})
        } else {
            json!({"action": "BLOCK", "mode": null, "name": "Made-up policy \"Strict\""})
        };
        let policies = vec![policy; rng.usize(0..3)];
        let subject = SUBJECTS[rng.usize(..SUBJECTS.len())];
        // A bounce has no envelope sender.
        let bounce = rng.u8(..12) == 0;
        let historical = rng.u8(..30) == 0;
        let sender = self.address();
        json!({
            "attachments": attachments,
            "direction": direction,
            "historicalMail": historical,
            "policiesApplied": policies,
            "recipients": self.recipients(),
            "senderEnvelope": if bounce { "" } else { &sender },
            "senderHeader": if bounce { self.address() } else { sender.clone() },
            "senderIp": self.ip(),
            "source": "OFFICE_365_MAIL",
            "subject": subject,
            "subtype": threat,
            "tags": tags,
            "threatState": state,
            "threatType": threat,
        })
    }

    fn mailflow(&mut self) -> Value {
        let rng = &mut self.rng;
        let mut check = |kind: &str| {
            let result = ["pass", "pass", "pass", "fail", "none", "softfail"][rng.usize(..6)];
            let aligned = if kind == "DMARC" { Value::Null } else { rng.bool().into() };
            json!({"aligned": aligned, "result": result, "type": kind})
        };
        let results = ["SPF", "DKIM", "DMARC"].map(&mut check);
        json!({"authResults": results})
    }

    fn urlclick(&mut self) -> Value {
        let action = ["BLOCK", "BLOCK", "WARN", "ALLOW"][self.rng.usize(..4)];
        let (original, redirect) = (self.link(), self.link());
        // Both shapes are in use.
        let recipients =
            if self.rng.u8(..6) == 0 { self.address().into() } else { json!(self.recipients()) };
        json!({
            "action": action,
            "originalUrl": original,
            "recipients": recipients,
            "redirectUrl": redirect,
            "sourceIp": self.ip(),
        })
    }

    fn host(&mut self) -> &'static str {
        HOSTS[self.rng.usize(..HOSTS.len())]
    }

    fn address(&mut self) -> String {
        format!("{}@{}", PEOPLE[self.rng.usize(..PEOPLE.len())], self.host())
    }

    fn recipients(&mut self) -> Vec<String> {
        (0..self.rng.usize(1..4)).map(|_| self.address()).collect()
    }

    fn link(&mut self) -> String {
        format!("https://{}{}", self.host(), PATHS[self.rng.usize(..PATHS.len())])
    }

    fn ip(&mut self) -> String {
        let block = ["192.0.2", "198.51.100", "203.0.113"][self.rng.usize(..3)];
        match self.rng.u8(..8) {
            0 => format!("2001:db8:{:x}::{:x}", self.rng.u16(..), self.rng.u16(1..)),
            _ => format!("{block}.{}", self.rng.u8(1..)),
        }
    }
}

impl World {
    /// The three streams, each with so many made-up events, spread evenly over the days (the last
    /// one excluded) and split into files and pages as a listing would be, 100 files to a page.
    pub fn made_up(
        seed: u64,
        days: Range<NaiveDate>,
        events_per_stream: usize,
        events_per_file: usize,
    ) -> Self {
        let mut world = Self::default();
        for (number, stream) in (0..).zip(["entities", "mailflow", "urlclick"]) {
            let mut made_up = MadeUp::new(seed.wrapping_mul(3).wrapping_add(number));
            let pages = pages(&mut made_up, stream, &days, events_per_stream, events_per_file);
            world = pages.into_iter().fold(world, |world, page| world.page(stream, page));
        }
        world
    }
}

fn pages(
    made_up: &mut MadeUp,
    stream: &str,
    days: &Range<NaiveDate>,
    events: usize,
    events_per_file: usize,
) -> Vec<Page> {
    let start = days.start.and_time(NaiveTime::MIN).and_utc();
    let span = days.end.signed_duration_since(days.start).num_days().max(1).unsigned_abs();
    let step = (span * MS_PER_DAY / events.max(1) as u64).max(1);
    let mut pages: Vec<Page> = Vec::new();
    for first in (0..events).step_by(events_per_file.max(1)) {
        let mut lines = Vec::new();
        for event in first..events.min(first + events_per_file.max(1)) {
            let since = event as u64 * step + made_up.rng.u64(..step);
            let at = start.timestamp_millis().saturating_add_unsigned(since);
            lines.push(made_up.event(stream, at));
        }
        let ms = first as u64 * step;
        let day = days.start.checked_add_days(Days::new(ms / MS_PER_DAY)).unwrap_or(days.end);
        let name = format!("{day}/{stream}-{first:09}-{:08x}.json.gz", made_up.rng.u32(..));
        let file = BatchFile::of_lines(&name, &lines);
        match pages.last_mut() {
            Some(page) if page.files.len() < FILES_PER_PAGE => {
                page.files.push(file);
            }
            _ => pages.push(Page::new(day).file(file)),
        }
    }
    pages
}

/// The same JSON in ASCII, as some writers put it.
fn escaped(line: &str) -> String {
    let mut ascii = String::with_capacity(line.len());
    for char in line.chars() {
        if char.is_ascii() {
            ascii.push(char);
            continue;
        }
        for unit in char.encode_utf16(&mut [0; 2]) {
            // Writing to a string cannot fail.
            write!(ascii, "\\u{unit:04x}").unwrap_or_default();
        }
    }
    ascii
}

fn some_of<'a>(rng: &mut Rng, from: &[&'a str], count: Range<usize>) -> Vec<&'a str> {
    (0..rng.usize(count)).map(|_| from[rng.usize(..from.len())]).collect()
}
