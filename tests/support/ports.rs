//! Ports for programs that must be told which one to listen on.

use std::net::TcpListener;
use std::sync::atomic::{AtomicU16, Ordering};

/// Below the ports that systems give out by themselves (Linux from 32768 on, others from 49152 on), so
/// that nothing else takes one between its choice and its use.
const FIRST: u16 = 12_000;
const COUNT: u16 = 20_000;

/// A port of this machine that nobody listens on. No two calls of a process get the same one, and two
/// processes begin at different places.
pub fn unused_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let begin = (std::process::id().wrapping_mul(7_919) & 0xffff) as u16;
    loop {
        let next = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = FIRST + begin.wrapping_add(next) % COUNT;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
