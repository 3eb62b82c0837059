//! The systems that events come from, a folder each.

pub mod graph;
pub mod mimecast;

use std::sync::Arc;

use chrono::{DateTime, Utc};

use crate::pipeline::source::Format;
use crate::table::Stream;
use mimecast::{BatchFile, Limits};

/// A stream, and what is known of it without its source.
#[derive(Clone, Copy, Debug)]
pub struct Known {
    /// Its source.
    pub source: &'static str,
    /// It.
    pub stream: Stream,
}

/// The streams of all sources.
pub fn streams() -> Vec<Known> {
    let of = |source, streams: Vec<Stream>| {
        streams.into_iter().map(move |stream| Known { source, stream })
    };
    of(mimecast::SOURCE, mimecast::streams())
        .chain(of(graph::ENTRA_RISK, graph::risk_streams()))
        .chain(of(graph::DIRECTORY, graph::directory_streams()))
        .collect()
}

impl Known {
    /// How its lines are read, which arrive now.
    pub fn format(&self, limits: Limits, now: DateTime<Utc>) -> Arc<dyn Format> {
        match self.source {
            mimecast::SOURCE => Arc::new(BatchFile::new(limits, self.stream.table, now)),
            _ => graph::Observations::of(self.stream.table, now),
        }
    }
}
