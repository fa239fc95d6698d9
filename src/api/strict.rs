//! A connection whose requests are read strictly: lines of a head end with CR LF.
//!
//! The parser behind takes a bare LF as well, and whatever stands before us may not: then the two disagree about where a head ends. A bare
//! LF becomes a zero byte, which no head may hold, so the parser refuses the request with 400 and closes the connection.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

pub struct Strict<S> {
    stream: S,
    at: At,
}

/// Where in the sequence of requests the next byte stands.
enum At {
    /// In a head: the line so far, in small letters, and what the head said of its body.
    Head { line: Vec<u8>, body: u64 },
    /// In a body of so many more bytes.
    Body(u64),
    /// Behind a body of chunks, whose end is not looked for: what comes after it is the last request of the connection.
    Beyond,
}

/// A line that is longer is refused by the parser, by the size of its head.
const LONGEST_LINE: usize = 16 * 1024;

impl<S> Strict<S> {
    pub fn new(stream: S) -> Self {
        Strict { stream, at: At::Head { line: vec![], body: 0 } }
    }
}

impl At {
    fn pass(&mut self, bytes: &mut [u8]) {
        let mut rest = bytes;
        while !rest.is_empty() {
            match self {
                At::Beyond => return,
                At::Body(left) => {
                    let passed = usize::try_from(*left).unwrap_or(usize::MAX).min(rest.len());
                    *left -= passed as u64;
                    if *left == 0 {
                        *self = At::Head { line: vec![], body: 0 };
                    }
                    rest = &mut rest[passed..];
                }
                At::Head { line, body } => {
                    let end = rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len());
                    let room = LONGEST_LINE.saturating_sub(line.len()).min(end);
                    line.extend(rest[..room].iter().map(u8::to_ascii_lowercase));
                    let Some(feed) = rest.get_mut(end) else { return };
                    if line.last() != Some(&b'\r') {
                        *feed = 0;
                        *self = At::Beyond;
                        return;
                    }
                    let next = after_line(line, body);
                    line.clear();
                    if let Some(next) = next {
                        *self = next;
                    }
                    rest = &mut rest[end + 1..];
                }
            }
        }
    }
}

/// Where the head leads, if this line was its last.
fn after_line(line: &[u8], body: &mut u64) -> Option<At> {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    if let Some(length) = line.strip_prefix(b"content-length:") {
        // What is no number the parser refuses.
        *body = str::from_utf8(length).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(*body);
    } else if line.starts_with(b"transfer-encoding:") {
        *body = u64::MAX;
    }
    if !line.is_empty() {
        return None;
    }
    Some(match *body {
        0 => At::Head { line: vec![], body: 0 },
        u64::MAX => At::Beyond,
        left => At::Body(left),
    })
}

impl<S: AsyncRead + Unpin> AsyncRead for Strict<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        self.at.pass(&mut buffer.filled_mut()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Strict<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the parser is given of these pieces.
    fn passed(pieces: &[&str]) -> String {
        let mut at = At::Head { line: vec![], body: 0 };
        let mut all = vec![];
        for piece in pieces {
            let mut bytes = piece.as_bytes().to_vec();
            at.pass(&mut bytes);
            all.extend(bytes);
        }
        String::from_utf8(all).unwrap()
    }

    #[test]
    fn a_bare_line_feed_is_spoilt_in_a_head_and_nowhere_else() {
        let post = "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\n";
        let whole = format!("{post}a\nb\n{post}\n\n\n\nGET / HTTP/1.1\r\nHost: x\r\n\r\n");
        assert_eq!(passed(&[&whole]), whole);
        // However it is cut.
        let pieces: Vec<String> = whole.chars().map(String::from).collect();
        assert_eq!(passed(&pieces.iter().map(String::as_str).collect::<Vec<_>>()), whole);
        let chunks = "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n\n\n\r\n0\r\n\r\n";
        assert_eq!(passed(&[chunks]), chunks);
        for (bad, spoilt) in [
            ("GET / HTTP/1.1\nHost: x\r\n\r\n", "GET / HTTP/1.1\0Host: x\r\n\r\n"),
            ("GET / HTTP/1.1\r\nHost: x\n\n", "GET / HTTP/1.1\r\nHost: x\0\n"),
            ("GET / HTTP/1.1\r\nHost: x\r\n\n", "GET / HTTP/1.1\r\nHost: x\r\n\0"),
        ] {
            assert_eq!(passed(&[bad]), spoilt);
            assert_eq!(passed(&[post, "a\nb\n", bad]), format!("{post}a\nb\n{spoilt}"));
        }
    }
}
