//! Somebody who deserves to be served: an HTTP client outside and a server on the protected host, over real TCP.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sched::{CloneFlags, setns};

use crate::lab::{HOST, Lab};
use crate::netns::Namespace;

/// The port the server listens on.
pub const PORT: u16 = 8080;
/// A request that takes longer has failed: nobody waits longer for a page.
const PATIENCE: Duration = Duration::from_secs(1);
const BODY: &[u8] = &[b'x'; 4000];

/// Serves a page to whoever asks, one connection at a time, until dropped.
#[derive(Debug)]
pub struct Server {
    stop: Arc<AtomicBool>,
    namespace: Namespace,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// # Errors
    ///
    /// If the port is taken.
    pub fn start(lab: &Lab) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, PORT));
        let listener = lab.host.enter(|| TcpListener::bind(any).context("failed to listen"))?;
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                // A client that goes away is the client's loss, and counted there.
                let _ = stream.and_then(serve);
            }
        });
        Ok(Self { stop, namespace: lab.host.try_clone()?, thread: Some(thread) })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // Wakes it up.
        let woken = self.namespace.enter(|| Ok(TcpStream::connect((Ipv4Addr::LOCALHOST, PORT))?));
        if let (Ok(_), Some(thread)) = (woken, self.thread.take()) {
            let _ = thread.join();
        }
    }
}

fn serve(stream: TcpStream) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut request = BufReader::new(stream);
    let mut line = String::new();
    while request.read_line(&mut line)? > 2 {
        line.clear();
    }
    let mut stream = request.into_inner();
    write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", BODY.len())?;
    stream.write_all(BODY)
}

/// How a client fared.
#[derive(Debug, Clone, Default)]
pub struct Served {
    pub requests: u64,
    pub failed: u64,
    /// Of those that did not fail, from connecting to the last byte.
    pub latencies: Vec<Duration>,
    /// What went wrong last.
    pub problem: Option<String>,
}

impl Served {
    /// From 0 to 1.
    pub fn success(&self) -> f64 {
        if self.requests == 0 { 0.0 } else { 1.0 - self.failed as f64 / self.requests as f64 }
    }

    /// The latency that so many percent of the requests stayed within.
    pub fn latency(&self, percent: usize) -> Duration {
        let mut sorted = self.latencies.clone();
        sorted.sort_unstable();
        let at = sorted.len().saturating_sub(1) * percent / 100;
        sorted.get(at).copied().unwrap_or(PATIENCE)
    }
}

impl std::fmt::Display for Served {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} of {} requests served, median {:.1?}, 99 % within {:.1?}",
            self.requests - self.failed,
            self.requests,
            self.latency(50),
            self.latency(99)
        )
    }
}

/// Asks again and again, each time over a new connection, until stopped.
#[derive(Debug)]
pub struct Client {
    stop: Arc<AtomicBool>,
    served: Arc<Mutex<Served>>,
    thread: Option<JoinHandle<()>>,
}

impl Client {
    /// Asks the protected host at `address` from the outside, every `pause`.
    ///
    /// # Errors
    ///
    /// If the namespace cannot be entered.
    pub fn start(lab: &Lab, address: IpAddr, pause: Duration) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let served = Arc::new(Mutex::new(Served::default()));
        let server = SocketAddr::from((address, PORT));
        let (stopped, record) = (Arc::clone(&stop), Arc::clone(&served));
        let outside = lab.outside.try_clone()?;
        let thread = std::thread::spawn(move || {
            let inside = setns(&outside, CloneFlags::CLONE_NEWNET);
            while !stopped.load(Ordering::Relaxed) {
                let start = Instant::now();
                let outcome = match inside {
                    Ok(()) => request(server),
                    Err(error) => Err(error.into()),
                };
                let mut served = record.lock().unwrap_or_else(PoisonError::into_inner);
                served.requests += 1;
                match outcome {
                    Ok(()) => served.latencies.push(start.elapsed()),
                    Err(error) => {
                        served.failed += 1;
                        served.problem = Some(error.to_string());
                    }
                }
                drop(served);
                std::thread::park_timeout(pause.saturating_sub(start.elapsed()));
            }
        });
        Ok(Self { stop, served, thread: Some(thread) })
    }

    /// From the address of the outside end of the link to the IPv4 address of the host.
    ///
    /// # Errors
    ///
    /// As [`Self::start`].
    pub fn over_v4(lab: &Lab) -> Result<Self> {
        Self::start(lab, HOST.v4.into(), Duration::from_millis(5))
    }

    /// How it fared until now.
    pub fn served(&self) -> Served {
        self.served.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Ends it.
    pub fn stop(mut self) -> Served {
        self.end();
        self.served()
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            let _ = thread.join();
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.end();
    }
}

/// What a server in `namespace` says to `GET path`: the status line, and the body.
///
/// # Errors
///
/// If nobody answers.
pub fn get(namespace: &Namespace, server: SocketAddr, path: &str) -> Result<(String, String)> {
    let mut answer = String::new();
    namespace.enter(|| {
        let mut stream = TcpStream::connect_timeout(&server, PATIENCE)?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        write!(stream, "GET {path} HTTP/1.0\r\nHost: {server}\r\nAccept: */*\r\nConnection: close\r\n\r\n")?;
        stream.read_to_string(&mut answer)?;
        Ok(())
    })?;
    let (head, body) = answer.split_once("\r\n\r\n").context("half an answer")?;
    Ok((head.lines().next().unwrap_or_default().to_owned(), body.to_owned()))
}

fn request(server: SocketAddr) -> io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&server, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    write!(stream, "GET / HTTP/1.1\r\nHost: {server}\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    if answer.starts_with(b"HTTP/1.1 200 OK\r\n") && answer.ends_with(BODY) {
        Ok(())
    } else {
        Err(io::Error::new(io::ErrorKind::UnexpectedEof, "half an answer"))
    }
}
