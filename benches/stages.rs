//! What an event costs on its way, stage by stage, on one thread, and what the other choices would
//! cost: `cargo bench --bench stages`.
//!
//! Nanoseconds an event, the least of nine rounds over the same 20,000 events (fixed seed).

use std::collections::HashMap;
use std::error::Error;
use std::hint::black_box;
use std::io::{Read, Write};

use chrono::DateTime;
use flate2::bufread::MultiGzDecoder;
use flate2::write::GzEncoder;
use flate2::{Compress, Compression, FlushCompress, Status};
use mimecast_sentinel::pipeline::body::MAX_BODY_BYTES;
use mimecast_sentinel::simulator::MadeUp;
use mimecast_sentinel::table::{CLOUD_INTEGRATED, EventId};
use serde_json::value::RawValue;
use tokio::time::Instant;

const EVENTS: usize = 20_000;
const ROUNDS: usize = 9;
/// 2026-08-01T00:00:00Z, in milliseconds.
const FIRST_MS: i64 = 1_785_542_400_000;

type Outcome = Result<(), Box<dyn Error>>;

/// The same mixture as in `benches/peer.rs`: 60 % entities, 33 % mailflow, 7 % urlclick.
fn lines() -> Vec<String> {
    let shares = [("entities", 60), ("mailflow", 33), ("urlclick", 7)];
    let streams = (3..).zip(shares).flat_map(|(seed, (stream, percent))| {
        let mut made_up = MadeUp::new(seed);
        let times = (FIRST_MS..).take(EVENTS * percent / 100);
        times.map(move |at| made_up.event(stream, at)).collect::<Vec<_>>()
    });
    streams.collect()
}

fn row(line: &str, id: EventId, out: &mut Vec<u8>) -> Outcome {
    CLOUD_INTEGRATED.write_row(line.as_bytes(), id, DateTime::UNIX_EPOCH, out)?;
    Ok(())
}

/// Prints what `work` takes for one of `events`.
fn stage(name: &str, events: usize, mut work: impl FnMut() -> Outcome) -> Outcome {
    let mut least = u128::MAX;
    for _ in 0..ROUNDS {
        let began = Instant::now();
        work()?;
        least = least.min(began.elapsed().as_nanos());
    }
    println!("| {name} | {} |", least / events as u128);
    Ok(())
}

/// Deflates one body, so many bytes at a time.
fn deflate(body: &[u8], level: u32, at_a_time: usize, out: &mut Vec<u8>) -> Outcome {
    let mut compress = Compress::new_gzip(Compression::new(level), 15);
    out.clear();
    for mut piece in body.chunks(at_a_time) {
        while !piece.is_empty() {
            let before = compress.total_in();
            compress.compress_vec(piece, out, FlushCompress::None)?;
            piece = &piece[usize::try_from(compress.total_in() - before)?..];
        }
    }
    while compress.compress_vec(&[], out, FlushCompress::Finish)? != Status::StreamEnd {}
    Ok(())
}

fn main() -> Outcome {
    let lines = lines();
    let text = lines.join("\n");
    let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
    gzip.write_all(text.as_bytes())?;
    let gzip = gzip.finish()?;
    let (mut body, mut rows) = (Vec::with_capacity(MAX_BODY_BYTES + 4_096), 0);
    for line in &lines {
        if body.len() > MAX_BODY_BYTES {
            break;
        }
        // Ids of their own: they are a good part of what is left when rows are deflated.
        row(line, EventId::of(line.as_bytes()), &mut body)?;
        body.push(b',');
        rows += 1;
    }

    println!("| stage | ns an event of {} bytes |\n|---|---|", text.len() / lines.len());
    let mut buffer = vec![0; 64 * 1024];
    stage("inflate", lines.len(), || {
        let mut decoder = MultiGzDecoder::new(&gzip[..]);
        while decoder.read(&mut buffer)? > 0 {}
        Ok(())
    })?;
    stage("event id (SHA-256)", lines.len(), || {
        for line in &lines {
            black_box(EventId::of(line.as_bytes()));
        }
        Ok(())
    })?;
    let mut out = Vec::with_capacity(64 * 1024);
    stage("event to row", lines.len(), || {
        lines.iter().try_for_each(|line| {
            out.clear();
            row(line, EventId([7; 16]), &mut out)
        })
    })?;
    stage("instead: `serde_json`, fields as `RawValue`, no row", lines.len(), || {
        for line in &lines {
            black_box(serde_json::from_str::<HashMap<&str, &RawValue>>(line).is_ok());
        }
        Ok(())
    })?;
    stage("instead: `serde_json`, a tree and back", lines.len(), || {
        for line in &lines {
            let event: serde_json::Value = serde_json::from_str(line)?;
            black_box(event.to_string());
        }
        Ok(())
    })?;
    for level in [0, 1, 2, 3, 6, 9] {
        let mut sent = Vec::with_capacity(2 * MAX_BODY_BYTES);
        let name = format!("deflate, level {level}");
        stage(&name, rows, || deflate(&body, level, 16 * 1024, &mut sent))?;
        println!("| … bytes of a row sent | {} |", sent.len() / rows);
    }
    let mut sent = Vec::with_capacity(2 * MAX_BODY_BYTES);
    let each = body.len() / rows;
    stage("instead: level 2, a row at a time", rows, || deflate(&body, 2, each, &mut sent))
}
