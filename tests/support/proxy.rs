//! An HTTP proxy whose tunnels all lead to one place.

use std::sync::{Arc, Mutex};

use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};

/// An HTTP proxy on loopback.
pub struct Proxy {
    pub port: u16,
    /// The heads of the requests that it got.
    asked: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    /// All tunnels lead to this port.
    pub async fn start(leads_to: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let heads = Arc::clone(&asked);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let heads = Arc::clone(&heads);
                tokio::spawn(async move {
                    let mut stream = BufReader::new(stream);
                    let mut head = String::new();
                    while !head.ends_with("\r\n\r\n") {
                        if stream.read_line(&mut head).await.unwrap_or(0) == 0 {
                            return;
                        }
                    }
                    heads.lock().unwrap().push(head);
                    let mut there = TcpStream::connect(("127.0.0.1", leads_to)).await.unwrap();
                    stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
                    copy_bidirectional(&mut stream, &mut there).await.ok();
                });
            }
        });
        Self { port, asked }
    }

    pub fn asked_for(&self, place: &str) -> bool {
        self.asked.lock().unwrap().iter().any(|head| head.starts_with(place))
    }
}
