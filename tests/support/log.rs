//! What is logged, for a test to read.

use std::io;
use std::sync::{Arc, LazyLock, Mutex};

use tracing::subscriber::{DefaultGuard, NoSubscriber};
use tracing::{Dispatch, Level};
use tracing_subscriber::fmt::MakeWriter;

/// While there is but one subscriber, `tracing` asks that of the thread which comes to a line first
/// whether anybody wants it: a test without one, in another thread, would answer for all.
static ANOTHER: LazyLock<Dispatch> = LazyLock::new(|| Dispatch::new(NoSubscriber::new()));

#[derive(Clone, Default)]
pub struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    /// Hears this thread from now on, as lines of JSON, up to `level`. A test's runtime has one
    /// thread, so that this is the whole run.
    pub fn listen(&self, level: Level) -> DefaultGuard {
        LazyLock::force(&ANOTHER);
        let format = tracing_subscriber::fmt().json().with_max_level(level);
        tracing::subscriber::set_default(format.with_writer(self.clone()).finish())
    }

    pub fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Log {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}
