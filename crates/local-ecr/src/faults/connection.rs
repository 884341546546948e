//! Faults of connections.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use tokio::net::TcpStream;

use crate::util::lock;

/// A rule that makes connections fail, whatever is asked over them. It counts connections in the order they are accepted.
///
/// ```
/// use local_ecr::{ConnectionAction, ConnectionFault};
/// // No TLS handshake gets further than its first byte, three times.
/// let fault = ConnectionFault::new(ConnectionAction::Close { after: 1 }).times(3);
/// ```
#[derive(Clone, Debug)]
pub struct ConnectionFault {
    /// How many connections pass first.
    pub skip: usize,
    /// How many connections it hits.
    pub times: usize,
    /// How long after it first broke a connection it ends. A stall heals then.
    pub lasting: Duration,
    /// What happens to them.
    pub action: ConnectionAction,
}

impl ConnectionFault {
    /// A fault that hits every connection, always.
    pub fn new(action: ConnectionAction) -> Self {
        Self { skip: 0, times: usize::MAX, lasting: Duration::MAX, action }
    }

    /// Lets this many connections pass first.
    #[must_use]
    pub fn skip(mut self, skip: usize) -> Self {
        self.skip = skip;
        self
    }

    /// Hits no more than this many connections.
    #[must_use]
    pub fn times(mut self, times: usize) -> Self {
        self.times = times;
        self
    }

    /// Ends so long after it first broke a connection; a stall heals then.
    #[must_use]
    pub fn lasting(mut self, time: Duration) -> Self {
        self.lasting = time;
        self
    }
}

/// What happens to a connection. Bytes are those from the client, below TLS, in all requests of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectionAction {
    /// Closed after this many bytes; with 0 before anything is read, with 1 in the middle of a TLS handshake. The kernel
    /// makes a reset of it if more had arrived.
    Close {
        /// Bytes that are read first.
        after: u64,
    },
    /// The first bytes are answered with some that are neither TLS nor HTTP, then it is closed.
    Garbage,
    /// Reset after this many bytes.
    Reset {
        /// Bytes that are read first.
        after: u64,
    },
    /// Reset after a number of bytes that is drawn for each connection: every byte is as likely to be the last one.
    ResetAtRandom {
        /// Bytes between two resets, in the mean.
        mean: u64,
        /// The same seed draws the same numbers.
        seed: u64,
    },
    /// After this many bytes nothing is read or written any more, or not before the fault ends.
    Stall {
        /// Bytes that are read first.
        after: u64,
    },
}

/// When a fault acts: from the first time it does, for as long as it lasts.
#[derive(Debug)]
pub(crate) struct Window {
    began: OnceLock<Instant>,
    lasting: Duration,
}

impl Window {
    pub fn new(lasting: Duration) -> Self {
        Self { began: OnceLock::new(), lasting }
    }

    /// Whether it had begun and is over.
    pub fn is_over(&self) -> bool {
        self.began.get().is_some_and(|began| began.elapsed() >= self.lasting)
    }

    /// Begins, if it has not yet, and says how much of it is left; `None` once it is over.
    pub fn act(&self) -> Option<Duration> {
        let began = self.began.get_or_init(Instant::now);
        self.lasting.checked_sub(began.elapsed()).filter(|left| !left.is_zero())
    }
}

/// What a connection has met.
#[derive(Clone, Debug)]
pub(crate) struct ConnectionHit {
    pub action: ConnectionAction,
    window: Arc<Window>,
    /// Shared by all connections.
    broken: Arc<AtomicUsize>,
    /// Connections that stall for good, as long as the script is there.
    dead: Dead,
    counted: bool,
}

/// Connections that nobody closes: a link that is dead does not carry the end of a connection either.
pub(crate) type Dead = Arc<Mutex<Vec<TcpStream>>>;

impl ConnectionHit {
    pub fn new(action: ConnectionAction, window: Arc<Window>, broken: Arc<AtomicUsize>, dead: Dead) -> Self {
        Self { action, window, broken, dead, counted: false }
    }

    /// Takes a connection that has stalled and is of no more use here. It ends when the stall heals, or with the server.
    pub fn bury(&self, tcp: TcpStream) {
        match (self.window.act(), tokio::runtime::Handle::try_current()) {
            (Some(left), Ok(runtime)) if self.window.lasting < Duration::MAX => {
                runtime.spawn(async move {
                    tokio::time::sleep(left).await;
                    drop(tcp);
                });
            }
            (Some(_), _) => lock(&self.dead).push(tcp),
            (None, _) => drop(tcp),
        }
    }

    /// Says how long it acts now that the connection has come so far; `None` if its time is over. Met is not yet broken: only
    /// from here on it counts as a hit.
    pub fn act(&mut self) -> Option<Duration> {
        let left = self.window.act()?;
        if !std::mem::replace(&mut self.counted, true) {
            self.broken.fetch_add(1, Ordering::Relaxed);
        }
        Some(left)
    }
}

/// The n-th draw of a number whose mean is given, each next byte being as likely as any other to end the wait.
pub(super) fn draw(mean: u64, seed: u64, n: u64) -> u64 {
    // SplitMix64: good enough to be even, and the same everywhere.
    let mut z = seed.wrapping_add(n.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    let even = ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64;
    // Rust saturates what does not fit.
    (-(1.0 - even).ln() * mean as f64) as u64
}

#[cfg(test)]
mod tests {
    use super::draw;

    #[test]
    fn draws_are_repeatable_and_have_their_mean() {
        let numbers: Vec<u64> = (0..10_000).map(|n| draw(1_000_000, 7, n)).collect();
        let mean = numbers.iter().sum::<u64>() / 10_000;
        assert!((960_000..1_040_000).contains(&mean), "{mean}");
        assert_eq!(draw(1_000_000, 7, 3), numbers[3]);
        assert_ne!(draw(1_000_000, 8, 3), numbers[3]);
    }
}
