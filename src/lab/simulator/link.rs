//! A network link that can be slow, silent or cut: a TCP relay on loopback, for tests and the lab.
//!
//! What makes it unlike a firewall's refusal is silence: a silent flow keeps its sockets open and delivers nothing more, as when
//! a host is lost or a NAT entry is forgotten. Nobody is told.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream, UnixStream},
    sync::{Notify, mpsc},
    task::JoinHandle,
};

/// Which of the two ways a chunk of bytes goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// From the side that connected.
    Up,
    /// To it.
    Down,
}

/// What a link leads to.
#[derive(Debug, Clone)]
pub enum Upstream {
    Tcp(SocketAddr),
    /// A server that listens on a socket of the file system alone.
    Unix(PathBuf),
}

/// A relay to one address. It ends, and with it every flow, when it is dropped.
pub struct Link {
    address: SocketAddr,
    inner: Arc<Inner>,
    accepts: JoinHandle<()>,
}

#[derive(Default)]
struct Inner {
    state: Mutex<State>,
    /// Chunks that passed, by way, since the beginning.
    up: AtomicU64,
    down: AtomicU64,
    accepted: AtomicU64,
}

#[derive(Default)]
struct State {
    upstream: Option<Upstream>,
    /// One way; a round trip takes twice that.
    delay: Duration,
    refuses: bool,
    mutes_new: bool,
    /// The flow over which this chunk, counted from the beginning, would pass goes silent instead.
    silent_at: Option<(Way, u64)>,
    flows: Vec<Arc<Flow>>,
}

#[derive(Default)]
struct Flow {
    silent: AtomicBool,
    cut: Notify,
    gone: AtomicBool,
}

impl Link {
    /// Relays to `upstream` from a free port of loopback.
    pub async fn start(upstream: SocketAddr) -> std::io::Result<Link> {
        Link::start_to(Upstream::Tcp(upstream)).await
    }

    /// The same, to wherever that is.
    pub async fn start_to(upstream: Upstream) -> std::io::Result<Link> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let inner = Arc::new(Inner::default());
        inner.with(|state| state.upstream = Some(upstream));
        let accepts = tokio::spawn(accept(listener, Arc::clone(&inner)));
        Ok(Link { address, inner, accepts })
    }

    /// Where to connect.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// New flows go there, as after a failover of what a name points to.
    pub fn lead_to(&self, upstream: SocketAddr) {
        self.lead(Upstream::Tcp(upstream));
    }

    pub fn lead(&self, upstream: Upstream) {
        self.inner.with(|state| state.upstream = Some(upstream));
    }

    /// Every chunk is half of this on its way, in order, however many there are.
    pub fn round_trip(&self, time: Duration) {
        self.inner.with(|state| state.delay = time / 2);
    }

    /// Whether new connections are closed at once.
    pub fn refuse(&self, refuses: bool) {
        self.inner.with(|state| state.refuses = refuses);
    }

    /// The flows there are deliver nothing more, either way. New ones work.
    pub fn silence(&self) {
        self.inner.with(|state| state.flows.iter().for_each(|flow| flow.silent.store(true, Ordering::Release)));
    }

    /// Whether new flows are silent from the start: the whole link is lost.
    pub fn silence_new(&self, silent: bool) {
        self.inner.with(|state| state.mutes_new = silent);
    }

    /// The flow that would carry the `nth` chunk from now (0 is the next) in this way goes silent right before it.
    pub fn silence_at(&self, way: Way, nth: u64) {
        let passed = self.passed(way);
        self.inner.with(|state| state.silent_at = Some((way, passed + nth)));
    }

    /// Whether what [`Self::silence_at`] waits for has not come yet.
    pub fn waits(&self) -> bool {
        self.inner.with(|state| state.silent_at.is_some())
    }

    /// Closes every flow there is.
    pub fn cut(&self) {
        self.inner.with(|state| {
            for flow in state.flows.drain(..) {
                flow.gone.store(true, Ordering::Release);
                flow.cut.notify_waiters();
            }
        });
    }

    /// Chunks that have passed in this way.
    pub fn passed(&self, way: Way) -> u64 {
        self.inner.counter(way).load(Ordering::Acquire)
    }

    /// Connections taken so far.
    pub fn accepted(&self) -> u64 {
        self.inner.accepted.load(Ordering::Acquire)
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.accepts.abort();
        self.cut();
    }
}

impl Inner {
    fn with<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    const fn counter(&self, way: Way) -> &AtomicU64 {
        match way {
            Way::Up => &self.up,
            Way::Down => &self.down,
        }
    }

    /// Counts a chunk, and says whether its flow delivers it.
    fn delivers(&self, flow: &Flow, way: Way) -> bool {
        self.with(|state| {
            let number = self.counter(way).load(Ordering::Acquire);
            if state.silent_at == Some((way, number)) {
                state.silent_at = None;
                flow.silent.store(true, Ordering::Release);
            }
            if flow.silent.load(Ordering::Acquire) {
                return false;
            }
            self.counter(way).store(number + 1, Ordering::Release);
            true
        })
    }
}

async fn accept(listener: TcpListener, inner: Arc<Inner>) {
    while let Ok((near, _)) = listener.accept().await {
        inner.accepted.fetch_add(1, Ordering::AcqRel);
        let flow = Arc::new(Flow::default());
        let upstream = inner.with(|state| {
            flow.silent.store(state.mutes_new, Ordering::Release);
            state.flows.retain(|flow| !flow.gone.load(Ordering::Acquire));
            (!state.refuses).then(|| state.flows.push(Arc::clone(&flow))).and(state.upstream.clone())
        });
        if let Some(upstream) = upstream {
            tokio::spawn(relay(near, upstream, Arc::clone(&inner), flow));
        }
    }
}

async fn relay(near: TcpStream, upstream: Upstream, inner: Arc<Inner>, flow: Arc<Flow>) {
    let cut = flow.cut.notified();
    tokio::pin!(cut);
    cut.as_mut().enable();
    let both = async {
        let Ok((far_in, far_out)) = reach(&upstream).await else { return };
        let _ = near.set_nodelay(true);
        let (near_in, near_out) = near.into_split();
        tokio::join!(
            pass(near_in, far_out, Arc::clone(&inner), &flow, Way::Up),
            pass(far_in, near_out, Arc::clone(&inner), &flow, Way::Down)
        );
    };
    tokio::select! {
        () = both => {}
        () = cut => {}
    }
    flow.gone.store(true, Ordering::Release);
}

type Halves = (Box<dyn AsyncRead + Send + Unpin>, Box<dyn AsyncWrite + Send + Unpin>);

async fn reach(upstream: &Upstream) -> std::io::Result<Halves> {
    Ok(match upstream {
        Upstream::Tcp(address) => {
            let far = TcpStream::connect(address).await?;
            far.set_nodelay(true)?;
            let (far_in, far_out) = far.into_split();
            (Box::new(far_in), Box::new(far_out))
        }
        Upstream::Unix(path) => {
            let (far_in, far_out) = UnixStream::connect(path).await?.into_split();
            (Box::new(far_in), Box::new(far_out))
        }
    })
}

/// One way of a flow. Chunks wait side by side, so that a long way does not make a narrow one.
async fn pass(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    inner: Arc<Inner>,
    flow: &Flow,
    way: Way,
) {
    let (sender, mut on_the_way) = mpsc::channel::<(Instant, Vec<u8>)>(1024);
    let taken = async {
        let mut chunk = vec![0; 16 * 1024];
        while let Ok(read) = from.read(&mut chunk).await {
            let arrives = Instant::now() + inner.with(|state| state.delay);
            let end = read == 0;
            if sender.send((arrives, chunk[..read].to_vec())).await.is_err() || end {
                break;
            }
        }
        drop(sender);
    };
    let given = async {
        while let Some((arrives, bytes)) = on_the_way.recv().await {
            tokio::time::sleep_until(arrives.into()).await;
            // The end of a silent flow is not told either.
            if !inner.delivers(flow, way) {
                std::future::pending::<()>().await;
            }
            if bytes.is_empty() || to.write_all(&bytes).await.is_err() {
                break;
            }
        }
        let _ = to.shutdown().await;
    };
    tokio::join!(taken, given);
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn echo() -> SocketAddr {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut from, mut to) = stream.split();
                    tokio::io::copy(&mut from, &mut to).await
                });
            }
        });
        address
    }

    async fn echoed(stream: &mut TcpStream, byte: u8) -> std::io::Result<bool> {
        stream.write_all(&[byte]).await?;
        let mut back = [0];
        match tokio::time::timeout(Duration::from_millis(300), stream.read_exact(&mut back)).await {
            Err(_) => Ok(false),
            Ok(read) => read.map(|_| back[0] == byte),
        }
    }

    #[tokio::test]
    async fn it_delays_falls_silent_and_is_cut() {
        let link = Link::start(echo().await).await.unwrap();
        let mut one = TcpStream::connect(link.address()).await.unwrap();
        assert!(echoed(&mut one, 1).await.unwrap());
        link.round_trip(Duration::from_millis(100));
        let begun = Instant::now();
        assert!(echoed(&mut one, 2).await.unwrap());
        assert!(begun.elapsed() >= Duration::from_millis(100));
        link.round_trip(Duration::ZERO);
        link.silence();
        assert!(!echoed(&mut one, 3).await.unwrap(), "a silent flow answers nothing, and is not closed");
        let mut two = TcpStream::connect(link.address()).await.unwrap();
        assert!(echoed(&mut two, 4).await.unwrap(), "a new one works");
        link.silence_at(Way::Down, 1);
        assert!(echoed(&mut two, 5).await.unwrap());
        assert!(link.waits() && !echoed(&mut two, 6).await.unwrap() && !link.waits());
        link.cut();
        assert!(one.read(&mut [0]).await.map_or(true, |read| read == 0), "a cut is told");
    }
}
