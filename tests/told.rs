//! Nothing is silent: what a run cannot deliver is in its log.
#![cfg(feature = "simulator")]
#![allow(clippy::panic, clippy::unwrap_used, reason = "tests")]

mod support;

use std::io;
use std::sync::{Arc, Mutex};

use chrono::NaiveDate;
use mimecast_sentinel::simulator::{BatchFile, Endpoint, Fault, FaultPlan, MadeUp, Page, World};
use support::rig::Rig;

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn a_damaged_file_is_told_with_its_name_its_line_and_where_it_lies() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .json()
        .with_max_level(tracing::Level::ERROR)
        .with_writer(move || writer.clone())
        .finish();
    // The test's runtime has one thread, so that this subscriber hears the whole run.
    let _guard = tracing::subscriber::set_default(subscriber);
    let mut made_up = MadeUp::new(1);
    let lines: Vec<String> =
        (0..50).map(|n| made_up.event("entities", 1_800_000_000_000 + n)).collect();
    let page = Page::new(NaiveDate::from_ymd_opt(2027, 1, 15).unwrap());
    let world =
        World::default().page("entities", page.file(BatchFile::of_lines("a.json.gz", &lines)));
    let faults = FaultPlan::none().once(Endpoint::File, Fault::Corrupt(200));
    let rig = Rig::new(world, faults).await.only("entities");

    let run = rig.pull_one().await;

    assert_eq!(run.error, None);
    let record = rig.quarantined().remove(0);
    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    let lines: Vec<&str> = log.lines().filter(|line| line.contains("corrupt-file")).collect();
    assert_eq!(lines.len(), 1, "{log}");
    for told in [record["file"].as_str().unwrap(), &format!("\"line\":{}", record["line"])] {
        assert!(lines[0].contains(told), "{told} is not in {log}");
    }
    assert!(lines[0].contains(rig.state().to_str().unwrap()), "{log}");
}
