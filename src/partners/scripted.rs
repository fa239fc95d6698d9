//! For tests: a listener that follows a script, one act a connection, byte by byte as written.

use std::{
    collections::VecDeque,
    io,
    sync::{Arc, Mutex},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

#[derive(Debug, Clone)]
pub enum Act {
    /// These bytes, then the end of the connection.
    Say(Vec<u8>),
    /// The request is read; then RST.
    Reset,
    /// RST before anything is read.
    ResetAtOnce,
    /// These bytes, then silence until the other side leaves.
    Hang(Vec<u8>),
}

impl Act {
    /// A whole answer. `head` is the status line's rest and further header lines, each but the last ending with CRLF.
    pub fn answer(head: &str, body: &str) -> Act {
        let length = body.len();
        Act::Say(format!("HTTP/1.1 {head}\r\nContent-Length: {length}\r\n\r\n{body}").into_bytes())
    }
}

pub struct Scripted {
    pub url: String,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Scripted {
    pub async fn start(acts: impl IntoIterator<Item = Act>) -> Scripted {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&requests);
        let mut acts: VecDeque<Act> = acts.into_iter().collect();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                // Connections beyond the script are counted, too: they are the retries that must not be.
                let act = acts.pop_front().unwrap_or(Act::ResetAtOnce);
                let seen = Arc::clone(&seen);
                tokio::spawn(async move {
                    // The client may be gone; what the test asserts is what the client made of it.
                    let _ = run(stream, act, &seen).await;
                });
            }
        });
        Scripted { url, requests }
    }

    /// Heads and bodies of all requests so far; a connection that was reset at once counts as an empty one.
    pub fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

async fn run(mut stream: TcpStream, act: Act, seen: &Mutex<Vec<String>>) -> io::Result<()> {
    if matches!(act, Act::ResetAtOnce) {
        seen.lock().unwrap().push(String::new());
        return stream.set_zero_linger();
    }
    let request = read(&mut stream).await?;
    seen.lock().unwrap().push(request);
    match act {
        Act::Say(bytes) => {
            stream.write_all(&bytes).await?;
            stream.shutdown().await
        }
        Act::Hang(bytes) => {
            stream.write_all(&bytes).await?;
            stream.read_to_end(&mut Vec::new()).await.map(drop)
        }
        Act::Reset | Act::ResetAtOnce => stream.set_zero_linger(),
    }
}

/// The head, and as much body as it announces.
async fn read(stream: &mut TcpStream) -> io::Result<String> {
    let mut bytes = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&bytes);
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length =
                head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
            if body.len() >= length.unwrap_or(0) {
                return Ok(text.into_owned());
            }
        }
        if stream.read_buf(&mut bytes).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}
