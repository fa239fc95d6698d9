//! The connection under the HTTP server, so that a call can end the way networks end calls.
//!
//! A handler orders its connection to be reset or cut; the next write obeys, the server drops the connection, and the
//! operating system sends a real RST, or a real end after half of an answer.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};

use super::lock::lock;

/// The caller's end of one connection: how the connection shall end.
#[derive(Clone)]
pub struct Caller {
    order: Arc<Mutex<Order>>,
}

#[derive(Clone, Copy, Default)]
enum Order {
    #[default]
    Pass,
    Reset,
    /// Let the head and this many bytes of the body through.
    Cut {
        body: usize,
    },
    /// The head went out; this many bytes are left.
    Cutting {
        left: usize,
    },
}

impl Caller {
    /// Instead of the next answer, the peer gets a TCP reset.
    pub fn reset(&self) {
        *lock(&self.order) = Order::Reset;
    }

    /// Of the next answer, the peer gets the head and `body` bytes, then the end of the connection.
    pub fn cut(&self, body: usize) {
        *lock(&self.order) = Order::Cut { body };
    }
}

impl Connected<IncomingStream<'_, Front>> for Caller {
    fn connect_info(stream: IncomingStream<'_, Front>) -> Self {
        stream.io().caller.clone()
    }
}

/// The listener whose connections carry a [`Caller`].
pub struct Front(pub TcpListener);

impl Listener for Front {
    type Io = Conn;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Conn, SocketAddr) {
        loop {
            match self.0.accept().await {
                Ok((stream, peer)) => {
                    // Only delays answers if it fails.
                    let _ = stream.set_nodelay(true);
                    let caller = Caller { order: Arc::default() };
                    return (Conn { stream, caller }, peer);
                }
                Err(error) => {
                    tracing::warn!(%error, "the simulator could not accept a connection");
                    // Out of file descriptors, most likely: nothing tells when there are some again.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

pub struct Conn {
    stream: TcpStream,
    caller: Caller,
}

impl AsyncRead for Conn {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Conn {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let order = *lock(&self.caller.order);
        let left = match order {
            Order::Pass => return Pin::new(&mut self.stream).poll_write(cx, buf),
            Order::Reset => {
                // Closing with zero linger throws away what is unsent and sends RST.
                self.stream.set_zero_linger()?;
                return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
            }
            // The server writes the whole head at once, alone or with the start of the body.
            Order::Cut { body } => match buf.windows(4).position(|at| at == b"\r\n\r\n") {
                Some(head) => head + 4 + body,
                None => return Pin::new(&mut self.stream).poll_write(cx, buf),
            },
            Order::Cutting { left: 0 } => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            Order::Cutting { left } => left,
        };
        let take = left.min(buf.len());
        let written = ready!(Pin::new(&mut self.stream).poll_write(cx, &buf[..take]))?;
        *lock(&self.caller.order) = Order::Cutting { left: left - written };
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
